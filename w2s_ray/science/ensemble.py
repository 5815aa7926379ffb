"""One label from several supervisors."""

import numpy as np

from w2s_ray.science import FloatArray
from w2s_ray.spec.labels import Combination


def combine(
    probs_SNC: FloatArray, how: Combination, errors_S: FloatArray | None = None, num_judged: int = 0
) -> FloatArray:
    """Return the combined labels (N × C, float64) of S supervisors.

    Args:
        probs_SNC: a probability per supervisor, example and class.
        how: `mean`, `vote` or `weighted`; see `spec.labels.Combination`.
        errors_S: for `weighted`, the share of `num_judged` labelled examples on which each supervisor is wrong.
        num_judged: how many labelled examples there are.
    """
    if how == "mean":
        return np.asarray(probs_SNC.mean(axis=0, dtype=np.float64))
    num_classes = probs_SNC.shape[2]
    votes_SNC = np.eye(num_classes)[probs_SNC.argmax(axis=2)]
    if how == "vote":
        return np.asarray(votes_SNC.mean(axis=0))
    assert errors_S is not None and num_judged > 0
    return np.asarray(np.average(votes_SNC, axis=0, weights=samme_weights(errors_S, num_judged, num_classes)))


def samme_weights(errors_S: FloatArray, num_judged: int, num_classes: int) -> FloatArray:
    """Return α_s = max(0, log((1 − err_s) / err_s) + log(K − 1)), normalised to sum to 1 (Zhu et al. 2009).

    An error is at least that of half an example, so that no weight is infinite. A supervisor no better than chance
    weighs nothing; if all are, they weigh the same.
    """
    least = 0.5 / num_judged
    errors_S = np.clip(errors_S, least, 1 - least)
    alpha_S = np.maximum(np.log((1 - errors_S) / errors_S) + np.log(num_classes - 1), 0.0)
    total = alpha_S.sum()
    return np.asarray(alpha_S / total if total > 0 else np.full(len(alpha_S), 1 / len(alpha_S)))
