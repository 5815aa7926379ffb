"""The divergence between label and prediction, in either direction."""

import torch
from torch.nn.functional import kl_div, log_softmax

from w2s_ray.spec.losses import KLLoss
from w2s_ray.training.losses.naive import Naive

_LEAST_LABEL = 1e-6
"""A class to which the supervisor gives less is weighed like this; at 0 the reverse divergence has no end."""


class KL(Naive):
    """KL(w ‖ p), or KL(p ‖ w)."""

    def __init__(self, spec: KLLoss) -> None:
        self._spec = spec

    def value(self, logits_BC: torch.Tensor, targets_BC: torch.Tensor, progress: float) -> torch.Tensor:
        """Return the summed divergence."""
        log_own_BC = log_softmax(logits_BC.float(), dim=-1)
        if self._spec.direction == "forward":
            return kl_div(log_own_BC, targets_BC, reduction="sum")
        log_weak_BC = targets_BC.clamp(min=_LEAST_LABEL).log()
        return kl_div(log_weak_BC, log_own_BC, reduction="sum", log_target=True)
