"""What several losses share: cross-entropy, the share α, hardening by a threshold, balancing labels."""

import math
from typing import Literal

import numpy as np
import torch
from torch.nn.functional import log_softmax

from w2s_ray.training.feed import FloatArray, IntArray

_LEAST_LABEL = 1e-7
"""Keeps the log-odds of a label finite (EleutherAI/w2s)."""


def soft_cross_entropy(logits_BC: torch.Tensor, target_BC: torch.Tensor) -> torch.Tensor:
    """Return -Σ target · log softmax(logits), summed over the micro-batch, in fp32."""
    return -(target_BC * log_softmax(logits_BC.float(), dim=-1)).sum()


def alpha_at(
    progress: float, alpha_max: float, warmup_fraction: float, schedule: Literal["linear", "openai"] = "linear"
) -> float:
    """Return α at a share of training: rising linearly to `alpha_max`, or with openai's jump at the warm-up's end."""
    if schedule == "openai":
        return alpha_max * (progress if progress <= warmup_fraction else 1.0)
    return alpha_max * (min(1.0, progress / warmup_fraction) if warmup_fraction > 0 else 1.0)


def one_hot(classes_N: IntArray, num_classes: int) -> FloatArray:
    """Return rows of zeros with a one at each class."""
    return np.eye(num_classes, dtype=np.float32)[classes_N]


def most_probable(probs_NC: FloatArray) -> FloatArray:
    """Return one-hot rows of the most probable class; of equal ones the first."""
    return one_hot(probs_NC.argmax(axis=1), probs_NC.shape[1])


def above_threshold(probs_NC: FloatArray, ties_N: IntArray, share: float) -> FloatArray:
    """Return one-hot rows of two classes: class 1 above the threshold that leaves `share` of the batch above it.

    The threshold is the (1 - share) quantile of the probability of class 1, interpolated linearly, so ⌈share · (N - 1)⌉
    examples lie above it, as in public code. Equal probabilities are ordered by `ties_N`, so that this number holds
    then too (a head that starts at zero makes all equal), and whatever the order of the batch.
    """
    assert probs_NC.shape[1] == 2, probs_NC.shape
    ranked_N = np.lexsort((ties_N, -probs_NC[:, 1].astype(np.float64)))
    classes_N = np.zeros(len(probs_NC), dtype=np.int64)
    classes_N[ranked_N[: math.ceil(share * (len(probs_NC) - 1))]] = 1
    return one_hot(classes_N, 2)


def balanced(labels_NC: FloatArray) -> FloatArray:
    """Return two-class labels whose log-odds are shifted alike so that their mean over the batch is 0."""
    assert labels_NC.shape[1] == 2, labels_NC.shape
    labels_N = labels_NC[:, 1].astype(np.float64)
    log_odds_N = np.log(labels_N + _LEAST_LABEL) - np.log(1 - labels_N + _LEAST_LABEL)
    shifted_N = 1 / (1 + np.exp(log_odds_N.mean() - log_odds_N))
    return np.stack([1 - shifted_N, shifted_N], axis=1).astype(np.float32)
