"""As many errors of each kind as the supervisor makes, on examples that have nothing to do with them.

Where a student recovers more from these than from the supervisor's own hard labels, it is the kind of example that the
supervisor gets wrong which holds it back, not their number.
"""

import numpy as np

from w2s_ray.science.relabelling.label_set import LabelSet, one_hot
from w2s_ray.spec.transforms import SyntheticErrors


def synthetic_errors(transform: SyntheticErrors, examples: LabelSet) -> LabelSet:
    """Return the supervisor's hard labels, shuffled by coins among the examples of one true class."""
    assert examples.truth_N is not None
    coins_N, hard_N = examples.coins(transform.kind), examples.hard_N
    classes_N = np.empty_like(hard_N)
    for truth in np.unique(examples.truth_N):
        members_M = np.flatnonzero(examples.truth_N == truth)
        classes_N[members_M[np.argsort(coins_N[members_M])]] = np.sort(hard_N[members_M])
    return examples.relabelled(one_hot(classes_N, examples.targets_NC.shape[1]))
