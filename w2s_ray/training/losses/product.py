"""Labels multiplied with what the student itself says: where both are sure of one class, the target is surer still."""

import torch

from w2s_ray.spec.losses import ProductLoss
from w2s_ray.training.losses.formulas import soft_cross_entropy
from w2s_ray.training.losses.naive import Naive


class Product(Naive):
    """CE(q, p), q ∝ w^weak_power · p^student_power without gradients."""

    def __init__(self, spec: ProductLoss) -> None:
        self._spec = spec

    def value(self, logits_BC: torch.Tensor, targets_BC: torch.Tensor, progress: float) -> torch.Tensor:
        """Return the summed cross-entropy; q is made of logarithms, where powers of small numbers would vanish."""
        log_own_BC = logits_BC.detach().float().log_softmax(dim=-1)
        log_product_BC = self._spec.weak_power * targets_BC.log() + self._spec.student_power * log_own_BC
        return soft_cross_entropy(logits_BC, log_product_BC.softmax(dim=-1))
