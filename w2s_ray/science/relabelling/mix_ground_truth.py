"""Weak labels of which a share is the truth: how much is a little ground truth worth?"""

import numpy as np

from w2s_ray.science.relabelling.label_set import LabelSet, one_hot
from w2s_ray.spec.transforms import MixGroundTruth


def mix_ground_truth(transform: MixGroundTruth, examples: LabelSet) -> LabelSet:
    """Give the examples with the lowest coins their true label; a larger share includes a smaller one's examples."""
    assert examples.truth_N is not None
    told_N = examples.first(examples.num_of(transform.fraction), examples.coins(transform.kind))
    truth_NC = one_hot(examples.truth_N, examples.targets_NC.shape[1])
    return examples.relabelled(np.where(told_N[:, None], truth_NC, examples.targets_NC))
