"""Cross-entropy against the labels as they are, and the ground on which the other losses stand."""

import torch

from w2s_ray.training.feed import FloatArray
from w2s_ray.training.losses.formulas import soft_cross_entropy
from w2s_ray.training.losses.protocol import OptimizerBatch


class Naive:
    """CE(w, p)."""

    reads_batch = False

    def targets(self, batch: OptimizerBatch) -> FloatArray:
        """Return the labels."""
        return batch.labels_NC

    def value(self, logits_BC: torch.Tensor, targets_BC: torch.Tensor, progress: float) -> torch.Tensor:
        """Return the summed cross-entropy against the targets."""
        return soft_cross_entropy(logits_BC, targets_BC)
