"""Apply transforms one after another."""

from collections.abc import Sequence
from typing import assert_never

import numpy as np

from w2s_ray.science.relabelling.confident import keep_confident
from w2s_ray.science.relabelling.harden import harden
from w2s_ray.science.relabelling.knn import knn
from w2s_ray.science.relabelling.label_set import FloatArray, IntArray, LabelSet
from w2s_ray.science.relabelling.logistic import logistic
from w2s_ray.science.relabelling.mix_ground_truth import mix_ground_truth
from w2s_ray.science.relabelling.permute import permute
from w2s_ray.science.relabelling.random_subset import keep_random
from w2s_ray.science.relabelling.synthetic_errors import synthetic_errors
from w2s_ray.science.relabelling.topological import topological
from w2s_ray.spec.transforms import (
    Harden,
    KeepConfident,
    KeepRandom,
    Knn,
    Logistic,
    MixGroundTruth,
    Permute,
    SyntheticErrors,
    Topological,
    Transform,
)


def apply(transforms: Sequence[Transform], examples: LabelSet) -> tuple[FloatArray, IntArray]:
    """Return the labels of the K examples that are kept, and their K places among those given, in their order.

    Raises:
        DataError: when a transform is left with too few examples.
    """
    left = examples
    for transform in transforms:
        left = _applied(transform, left)
    place = {id_: number for number, id_ in enumerate(examples.ids)}
    return left.targets_NC, np.array([place[id_] for id_ in left.ids], dtype=np.int64)


def _applied(transform: Transform, examples: LabelSet) -> LabelSet:
    match transform:
        case Harden():
            return harden(examples)
        case KeepConfident():
            return keep_confident(transform, examples)
        case KeepRandom():
            return keep_random(transform, examples)
        case Knn():
            return knn(transform, examples)
        case Logistic():
            return logistic(transform, examples)
        case Topological():
            return topological(transform, examples)
        case MixGroundTruth():
            return mix_ground_truth(transform, examples)
        case SyntheticErrors():
            return synthetic_errors(transform, examples)
        case Permute():
            return permute(transform, examples)
    assert_never(transform)
