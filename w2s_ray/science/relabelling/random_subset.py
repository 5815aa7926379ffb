"""Keep examples by chance: the control of every filter, and the bags of an ensemble."""

from w2s_ray.science.relabelling.label_set import LabelSet
from w2s_ray.science.relabelling.topological import topological
from w2s_ray.spec.transforms import KeepRandom


def keep_random(transform: KeepRandom, examples: LabelSet) -> LabelSet:
    """Keep the examples with the lowest coins: a share of them, or as many as another filter would."""
    if transform.as_many_as is not None:
        num = len(topological(transform.as_many_as, examples).ids)
    else:
        num = examples.num_kept(transform.fraction or 1.0)
    return examples.only(examples.first(num, examples.coins(transform.kind)))
