"""The paired bootstrap: one set of resamples of test groups and seeds serves every arm.

Floor, arm and ceiling are evaluated on the same test examples and, seed by seed, on the same splits, so they are
resampled together: a resample takes seeds with replacement as whole blocks, then groups of related test examples with
replacement, and every model is scored on it. Variation that the models share cancels, as in the estimate. Over several
tasks the seeds are resampled once for all of them, and the groups of each task by themselves.

Shapes: B resamples, K models, S seeds, N examples, G groups.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from w2s_ray.science import BoolArray, FloatArray
from w2s_ray.spec.identity import seeded_hash

CONFIDENCE = 0.95
FEWEST_GROUPS = 2
"""Every resample of a single group is the estimate itself, however uncertain that is."""
FEW_GROUPS = 30
"""With fewer groups intervals are too narrow, and the report warns."""
_RESAMPLES_AT_ONCE = 256
_SEED_STREAM, _GROUP_STREAM = 1, 2


@dataclass(frozen=True)
class Interval:
    """A percentile interval."""

    low: float
    high: float


class Resamples:
    """The resamples of one test set: they depend on `seed`, its name and its groups, and not on the models scored."""

    def __init__(
        self, group_of_N: npt.NDArray[np.generic], *, num_resamples: int, test_set: str = "", seed: int = 0
    ) -> None:
        """Prepare the resamples.

        Args:
            group_of_N: which examples are related; a group is resampled as a whole.
            num_resamples: B.
            test_set: a name; test sets with different names are resampled independently.
            seed: another seed gives other resamples.
        """
        assert len(group_of_N) > 0 and num_resamples > 0
        self._groups, self._group_of_N = np.unique(group_of_N, return_inverse=True)
        self._sizes_G = np.bincount(self._group_of_N).astype(np.float32)
        self.num_resamples, self._seed, self._test_set = num_resamples, seed, test_set

    @property
    def num_groups(self) -> int:
        """How many groups there are."""
        return len(self._groups)

    def accuracies(self, correct_KN: BoolArray) -> FloatArray:
        """Return the accuracy of each of K models on each resample of groups (B × K)."""
        assert correct_KN.shape[1] == len(self._group_of_N), "every model is scored on the same examples"
        columns = [np.bincount(self._group_of_N, weights=row_N, minlength=self.num_groups) for row_N in correct_KN]
        sums_GK = np.stack([*columns, self._sizes_G], axis=1).astype(np.float32)
        random = np.random.default_rng([self._seed, _GROUP_STREAM, seeded_hash(self._test_set)])
        parts = []
        for start in range(0, self.num_resamples, _RESAMPLES_AT_ONCE):
            size = min(_RESAMPLES_AT_ONCE, self.num_resamples - start)
            totals_BK = (self._counts(random, size) @ sums_GK).astype(np.float64)  # whole numbers, so exact
            parts.append(totals_BK[:, :-1] / totals_BK[:, -1:])
        return np.concatenate(parts)

    def seed_weights(self, num_seeds: int) -> FloatArray:
        """Return the share of each seed in each resample (B × S, rows sum to 1)."""
        if num_seeds == 1:
            return np.ones((self.num_resamples, 1))
        random = np.random.default_rng([self._seed, _SEED_STREAM, num_seeds])
        return random.multinomial(num_seeds, np.full(num_seeds, 1 / num_seeds), size=self.num_resamples) / num_seeds

    def over_seeds(self, accuracy_BS: FloatArray) -> FloatArray:
        """Return the mean accuracy over the seeds of each resample (B); the same for equal numbers of seeds."""
        return np.asarray((accuracy_BS * self.seed_weights(accuracy_BS.shape[1])).sum(axis=1))

    def _counts(self, random: np.random.Generator, size: int) -> FloatArray:
        """Return how often each group occurs in each of `size` resamples (B × G)."""
        num_groups = self.num_groups
        drawn_BG = random.integers(num_groups, size=(size, num_groups), dtype=np.int32)
        drawn_BG += np.arange(size, dtype=np.int32)[:, None] * num_groups
        return np.bincount(drawn_BG.ravel(), minlength=size * num_groups).reshape(size, num_groups).astype(np.float32)


def interval(values_B: FloatArray) -> Interval:
    """Return the 95 % percentile interval of a value over the resamples; those without a value (NaN) are left out."""
    tail = (1 - CONFIDENCE) / 2
    low, high = np.nanquantile(values_B, [tail, 1 - tail])
    return Interval(float(low), float(high))
