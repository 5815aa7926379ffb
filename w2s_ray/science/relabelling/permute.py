"""Labels without anything to learn: whatever a student still gains, it did not learn from its supervisor."""

import numpy as np

from w2s_ray.science.relabelling.label_set import LabelSet
from w2s_ray.spec.transforms import Permute


def permute(transform: Permute, examples: LabelSet) -> LabelSet:
    """Deal the labels out again: those ranked by one coin go to the examples ranked by another."""
    targets_NC = np.empty_like(examples.targets_NC)
    taken_from_N = np.argsort(examples.coins(f"{transform.kind} from"))
    targets_NC[np.argsort(examples.coins(f"{transform.kind} to"))] = examples.targets_NC[taken_from_N]
    return examples.relabelled(targets_NC)
