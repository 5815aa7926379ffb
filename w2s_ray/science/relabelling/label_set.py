"""The set of labelled examples that transforms work on.

Chance is a coin per example, hash(seed, purpose, id): it does not depend on the order of the examples, on which others
there are, or on what was drawn before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from w2s_ray.spec.identity import seeded_hash

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class LabelSet:
    """N examples and what is known of them."""

    ids: Sequence[str]
    targets_NC: FloatArray
    """The label of each: a probability per class."""
    coin_seed: int = 0
    truth_N: IntArray | None = None
    """True classes, for the transforms that read them."""
    features_ND: FloatArray | None = None
    """The student's hidden states, for the transforms that look at them."""

    @property
    def hard_N(self) -> IntArray:
        """The most probable class of each; between equal ones a coin decides, so that no class gets all ties."""
        is_best_NC = self.targets_NC == self.targets_NC.max(axis=1, keepdims=True)
        chosen_N = self.coins("tie") % is_best_NC.sum(axis=1)
        return np.asarray((is_best_NC.cumsum(axis=1) > chosen_N[:, None]).argmax(axis=1), dtype=np.int64)

    def coins(self, purpose: str) -> IntArray:
        """Return a 63-bit integer per example."""
        return np.array([seeded_hash(self.coin_seed, purpose, id_) for id_ in self.ids], dtype=np.int64)

    def first(self, num: int, *keys: npt.NDArray[np.generic]) -> BoolArray:
        """Mark the `num` examples that come first by `keys`, the most important key first."""
        chosen_N = np.zeros(len(self.ids), dtype=np.bool_)
        chosen_N[np.lexsort(keys[::-1])[:num]] = True
        return chosen_N

    def num_of(self, fraction: float) -> int:
        """Return how many examples a share of them is, alike for every transform."""
        return round(fraction * len(self.ids))

    def num_kept(self, fraction: float) -> int:
        """Return how many examples a filter keeps: at least one, because a stage learns on something."""
        return max(self.num_of(fraction), 1)

    def only(self, kept_N: BoolArray) -> "LabelSet":
        """Return the examples that are marked."""
        return LabelSet(
            ids=[id_ for id_, is_kept in zip(self.ids, kept_N, strict=True) if is_kept],
            targets_NC=self.targets_NC[kept_N],
            coin_seed=self.coin_seed,
            truth_N=None if self.truth_N is None else self.truth_N[kept_N],
            features_ND=None if self.features_ND is None else self.features_ND[kept_N],
        )

    def relabelled(self, targets_NC: FloatArray) -> "LabelSet":
        """Return the same examples with other labels."""
        return replace(self, targets_NC=targets_NC)


def one_hot(classes_N: IntArray, num_classes: int) -> FloatArray:
    """Return all probability on the given class."""
    return np.eye(num_classes)[classes_N]
