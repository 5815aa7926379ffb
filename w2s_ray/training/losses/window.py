"""Cross-entropy where the student is unsure; what it is sure of already is left alone."""

import numpy as np
import torch

from w2s_ray.spec.losses import WindowLoss
from w2s_ray.training.feed import FloatArray
from w2s_ray.training.losses.formulas import soft_cross_entropy
from w2s_ray.training.losses.naive import Naive


class Window(Naive):
    """CE(w, p) where max p < 1/2 + radius, else 0."""

    def __init__(self, spec: WindowLoss, labels_NC: FloatArray) -> None:
        """`labels_NC` are all labels that the student learns from."""
        self._radius = float(np.median(np.abs(labels_NC[:, 1] - 0.5))) if spec.radius == "midweak" else spec.radius

    def value(self, logits_BC: torch.Tensor, targets_BC: torch.Tensor, progress: float) -> torch.Tensor:
        """Return the summed cross-entropy of the examples inside the window."""
        surest_B = logits_BC.detach().float().softmax(dim=-1).amax(dim=-1, keepdim=True)
        return soft_cross_entropy(logits_BC, targets_BC * (surest_B < 0.5 + self._radius))
