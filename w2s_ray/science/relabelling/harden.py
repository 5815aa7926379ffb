"""Hard labels: all probability on the most probable class."""

from w2s_ray.science.relabelling.label_set import LabelSet, one_hot


def harden(examples: LabelSet) -> LabelSet:
    """Return one-hot labels; a coin decides between equal classes."""
    return examples.relabelled(one_hot(examples.hard_N, examples.targets_NC.shape[1]))
