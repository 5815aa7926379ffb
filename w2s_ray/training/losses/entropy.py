"""Labels mixed with what the student itself says, unhardened."""

import torch

from w2s_ray.spec.losses import EntropyLoss
from w2s_ray.training.feed import FloatArray
from w2s_ray.training.losses.formulas import alpha_at, balanced, soft_cross_entropy
from w2s_ray.training.losses.naive import Naive
from w2s_ray.training.losses.protocol import OptimizerBatch


class Entropy(Naive):
    """CE((1 - α)·w + α·p', p), p' without gradients."""

    def __init__(self, spec: EntropyLoss) -> None:
        self._spec = spec

    def targets(self, batch: OptimizerBatch) -> FloatArray:
        """Return the labels, balanced where that is asked for."""
        return balanced(batch.labels_NC) if self._spec.balance_labels else batch.labels_NC

    def value(self, logits_BC: torch.Tensor, targets_BC: torch.Tensor, progress: float) -> torch.Tensor:
        """Return the summed cross-entropy against the mixture; each example needs its own prediction only."""
        alpha = alpha_at(progress, self._spec.alpha_max, self._spec.warmup_fraction)
        own_BC = logits_BC.detach().float().softmax(dim=-1)
        return soft_cross_entropy(logits_BC, (1 - alpha) * targets_BC + alpha * own_BC)
