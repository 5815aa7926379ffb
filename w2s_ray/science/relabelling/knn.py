"""A label is trusted where the nearest other examples have such labels too."""

from w2s_ray.science.relabelling.label_set import LabelSet
from w2s_ray.science.relabelling.trust import nearest, trust
from w2s_ray.spec.transforms import Knn


def knn(transform: Knn, examples: LabelSet) -> LabelSet:
    """Propose the mean label of each example's k nearest neighbours."""
    assert examples.features_ND is not None
    neighbours_NK = nearest(examples.features_ND, transform.k)
    return trust(transform, examples, examples.targets_NC[neighbours_NK].mean(axis=1))
