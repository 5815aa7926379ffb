"""Labels held against what the student's own features propose: drop those that differ, or put the proposal there."""

import numpy as np

from w2s_ray.errors import DataError
from w2s_ray.science.relabelling.label_set import BoolArray, FloatArray, IntArray, LabelSet
from w2s_ray.spec.transforms import Knn, Logistic, Topological

_DECIMALS = 9
"""Differences below this are rounding, and a coin decides."""


def trust(
    transform: Knn | Logistic | Topological,
    examples: LabelSet,
    proposed_NC: FloatArray,
    eligible_N: BoolArray | None = None,
) -> LabelSet:
    """Trust the labels that differ least from those proposed, and filter or relabel the others.

    Of `eligible_N` alone, where it is given, even if that is fewer than the transform's fraction.
    """
    filters = transform.mode == "filter"
    num = examples.num_kept(transform.fraction) if filters else examples.num_of(transform.fraction)
    if eligible_N is None:
        eligible_N = np.ones(len(examples.ids), dtype=np.bool_)
    differs_N = distance(examples.targets_NC, proposed_NC).round(_DECIMALS)
    trusted_N = examples.first(min(num, int(eligible_N.sum())), ~eligible_N, differs_N, examples.coins(transform.kind))
    if filters:
        return examples.only(trusted_N)
    return examples.relabelled(np.where(trusted_N[:, None], examples.targets_NC, proposed_NC))


def distance(first_NC: FloatArray, second_NC: FloatArray) -> FloatArray:
    """Return d(p, q) = ½ Σ_c |p_c − q_c| of each pair, in [0, 1]."""
    return np.asarray(0.5 * np.abs(first_NC - second_NC).sum(axis=1))


def nearest(features_ND: FloatArray, k: int, queries_MD: FloatArray | None = None) -> IntArray:
    """Return the row numbers of the k nearest features (Euclidean) of each query, the nearest first.

    Without queries each feature asks for itself and is no neighbour of its own: its label would vote for itself.

    Raises:
        DataError: when there are fewer than k others.
    """
    from sklearn.neighbors import NearestNeighbors  # slow to load, and whoever judges trials has no use for it

    num_others = len(features_ND) - (queries_MD is None)
    if k > num_others:
        raise DataError(
            f"the {k} nearest of {num_others} examples",
            "a label is compared with those of k other examples",
            "lower the transform's k, keep more examples before it, or train on more",
        )
    index = NearestNeighbors(n_neighbors=k, algorithm="brute").fit(features_ND)
    return np.asarray(index.kneighbors(queries_MD, return_distance=False), dtype=np.int64)
