"""Keep the labels that the supervisor is surest of."""

from w2s_ray.science.relabelling.label_set import LabelSet
from w2s_ray.spec.transforms import KeepConfident


def keep_confident(transform: KeepConfident, examples: LabelSet) -> LabelSet:
    """Keep the examples whose most probable class is the most probable; a coin orders equal ones."""
    num = examples.num_kept(transform.fraction)
    return examples.only(examples.first(num, -examples.targets_NC.max(axis=1), examples.coins(transform.kind)))
