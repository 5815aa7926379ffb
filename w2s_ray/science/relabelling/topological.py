"""Clean labels hang together: examples of one class that lie close form one large component, wrong ones lie scattered.

Wu et al. 2020, "A Topological Filter for Learning with Label Noise": the largest connected component of each class
first, then what differs most from its neighbours in the components is dropped too.
"""

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

from w2s_ray.science.relabelling.label_set import BoolArray, FloatArray, IntArray, LabelSet
from w2s_ray.science.relabelling.trust import nearest, trust
from w2s_ray.spec.transforms import Topological


def topological(transform: Topological, examples: LabelSet) -> LabelSet:
    """Propose the mean label of the k nearest members; trust members alone."""
    assert examples.features_ND is not None
    members_N = components(examples.features_ND, examples.hard_N, transform.k)
    assert members_N.sum() > 1, "the two that lie closest are each other's neighbours"
    return trust(transform, examples, _proposed(transform.k, examples, members_N), members_N)


def components(features_ND: FloatArray, hard_N: IntArray, k: int) -> BoolArray:
    """Mark the largest connected component of each class's mutual k-nearest-neighbour graph; of equal ones the first.

    Raises:
        DataError: when an example has fewer than k others.
    """
    count = len(features_ND)
    columns = nearest(features_ND, k).reshape(-1)
    points_to_NN = csr_array((np.ones(count * k), (np.repeat(np.arange(count), k), columns)), shape=(count, count))
    mutual_NN = csr_array(points_to_NN.multiply(points_to_NN.T))
    members_N = np.zeros(count, dtype=np.bool_)
    for each in np.unique(hard_N):
        of_class = np.flatnonzero(hard_N == each)
        _, component = connected_components(mutual_NN[of_class][:, of_class], directed=False)
        members_N[of_class[component == np.bincount(component).argmax()]] = True
    return members_N


def _proposed(k: int, examples: LabelSet, members_N: BoolArray) -> FloatArray:
    """The mean label of the k nearest other members, or of all where there are fewer."""
    assert examples.features_ND is not None
    features_MD, targets_MC = examples.features_ND[members_N], examples.targets_NC[members_N]
    k = min(k, len(features_MD) - 1)
    proposed_NC = np.empty_like(examples.targets_NC)
    proposed_NC[members_N] = targets_MC[nearest(features_MD, k)].mean(axis=1)
    if not members_N.all():
        outside_MD = examples.features_ND[~members_N]
        proposed_NC[~members_N] = targets_MC[nearest(features_MD, k, outside_MD)].mean(axis=1)
    return proposed_NC
