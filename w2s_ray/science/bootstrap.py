"""The bootstrap over test examples: one set of resamples serves every model that is scored on a test set.

A resample takes groups of related test examples with replacement, and every model is scored on it, so variation that
the models share cancels in their differences. Test sets of several tasks are resampled independently. Variation over
seeds is not resampled: estimates.py adds it.

Shapes: B resamples, K models, N examples, G groups.
"""

import numpy as np
import numpy.typing as npt

from w2s_ray.science import BoolArray, FloatArray
from w2s_ray.spec.identity import seeded_hash

FEWEST_GROUPS = 2
"""Every resample of a single group is the estimate itself, however uncertain that is."""
FEW_GROUPS = 30
"""With fewer groups intervals are too narrow, and the report warns."""
_RESAMPLES_AT_ONCE = 256
_GROUP_STREAM = 2


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

    def _counts(self, random: np.random.Generator, size: int) -> FloatArray:
        """Return how often each group occurs in each of `size` resamples (B × G)."""
        num_groups = self.num_groups
        drawn_BG = random.integers(num_groups, size=(size, num_groups), dtype=np.int32)
        drawn_BG += np.arange(size, dtype=np.int32)[:, None] * num_groups
        return np.bincount(drawn_BG.ravel(), minlength=size * num_groups).reshape(size, num_groups).astype(np.float32)
