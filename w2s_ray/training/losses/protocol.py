"""What the training loop asks of a loss, and what a loss is given."""

from dataclasses import dataclass
from typing import Protocol

import torch

from w2s_ray.training.feed import FloatArray, IntArray


@dataclass(frozen=True)
class OptimizerBatch:
    """All examples of one optimizer update, over all ranks and micro-batches, in the order of the plan."""

    labels_NC: FloatArray
    ties_N: IntArray
    """hash(example id), which orders equal probabilities."""
    progress: float
    """Share of the training's steps that are done, in [0, 1)."""
    probs_NC: FloatArray | None = None
    """The student's predictions before this update; None for losses that do not read them."""


class StudentLoss(Protocol):
    """One kind of loss with its settings."""

    @property
    def reads_batch(self) -> bool:
        """Whether `targets` needs the student's predictions for the whole optimizer batch."""
        ...

    def targets(self, batch: OptimizerBatch) -> FloatArray:
        """Return targets_NC, on which no gradient falls."""
        ...

    def value(self, logits_BC: torch.Tensor, targets_BC: torch.Tensor, progress: float) -> torch.Tensor:
        """Return the loss of a micro-batch, summed over its examples, in fp32; `progress` as in OptimizerBatch."""
        ...
