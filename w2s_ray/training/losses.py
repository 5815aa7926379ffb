"""What a student aims at: soft targets, and the cross-entropy against them.

Both losses of the paper are one cross-entropy against different targets, so a loss is a function from the optimizer
batch to its targets. The confidence loss (Burns et al. 2023, appendix A.4) mixes the weak labels with the student's own
hardened predictions; its threshold is taken over the *whole* optimizer batch, all ranks and micro-batches, because a
threshold per micro-batch degenerates (at size one it always picks class 0).

Shapes: B a micro-batch, N an optimizer batch, C classes.
"""

import numpy as np
import numpy.typing as npt
import torch
from torch.nn.functional import log_softmax

from w2s_ray.spec.stage import ConfidenceLoss

FloatArray = npt.NDArray[np.float32]


def soft_cross_entropy(logits_BC: torch.Tensor, target_BC: torch.Tensor) -> torch.Tensor:
    """Return -Σ target · log softmax(logits), summed over the micro-batch, in fp32."""
    return -(target_BC * log_softmax(logits_BC.float(), dim=-1)).sum()


def alpha_at(loss: ConfidenceLoss, step: int, num_steps: int) -> float:
    """Return α at `step` of `num_steps`: linear from 0 to `alpha_max` over the first `warmup_fraction`."""
    warmup = loss.warmup_fraction * num_steps
    return loss.alpha_max * (min(1.0, step / warmup) if warmup > 0 else 1.0)


def share_above(loss: ConfidenceLoss, mean_weak_label: float) -> float:
    """Return which share of an optimizer batch lies above the threshold."""
    return 0.5 if loss.prior == "half" else mean_weak_label


def hardened(probs_NC: FloatArray, ties_N: npt.NDArray[np.int64], share: float) -> FloatArray:
    """Return one-hot self-predictions of a whole optimizer batch.

    Two classes: the `share` of examples with the highest probability of class 1 become class 1, equal probabilities
    ordered by `ties_N` (a zero-initialised head makes all equal at step 0). More classes: the most probable one.
    """
    count, num_classes = probs_NC.shape
    if num_classes == 2:
        ranked_N = np.lexsort((ties_N, -probs_NC[:, 1].astype(np.float64)))
        classes_N = np.zeros(count, dtype=np.int64)
        classes_N[ranked_N[: round(share * count)]] = 1
    else:
        classes_N = probs_NC.argmax(axis=1)
    return np.eye(num_classes, dtype=np.float32)[classes_N]


def confidence_targets(
    probs_NC: FloatArray, weak_NC: FloatArray, ties_N: npt.NDArray[np.int64], *, alpha: float, share: float
) -> FloatArray:
    """Return (1 - α)·weak + α·hardened(student) for a whole optimizer batch."""
    return ((1 - alpha) * weak_NC + alpha * hardened(probs_NC, ties_N, share)).astype(np.float32)
