"""What a stage learns: classes from the last token, or each next token.

An objective turns the engine's logits into one summed loss per micro-batch and says by how many units (examples or
tokens) the whole optimizer batch is divided, so that the result does not depend on how the batch was cut.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from w2s_ray.spec.stage import ConfidenceLoss, StageSpec
from w2s_ray.training.feed import Examples, IntArray, MicroBatch
from w2s_ray.training.losses import (
    FloatArray,
    alpha_at,
    confidence_targets,
    next_token_cross_entropy,
    share_above,
    soft_cross_entropy,
)
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine


class Objective(Protocol):
    """How the loop gets its losses."""

    def units(self, positions_N: IntArray) -> int:
        """Return by how many examples or tokens the loss of these examples is divided."""
        ...

    def losses(
        self, engine: Engine, group: Sequence[MicroBatch], positions_N: IntArray, step: int, num_steps: int
    ) -> Iterator[torch.Tensor]:
        """Yield the summed loss of each micro-batch of this rank, with its graph; one graph is alive at a time."""
        ...


class NextToken:
    """Cross-entropy of every token given those before it."""

    def __init__(self, examples: Examples) -> None:
        self._examples = examples

    def units(self, positions_N: IntArray) -> int:
        """Count the predicted tokens."""
        return int(self._examples.lengths_N[positions_N].sum() - len(positions_N))

    def losses(
        self, engine: Engine, group: Sequence[MicroBatch], positions_N: IntArray, step: int, num_steps: int
    ) -> Iterator[torch.Tensor]:
        """Yield one loss a micro-batch."""
        for batch in group:
            yield next_token_cross_entropy(engine(batch.tokens_BT, batch.last_B), batch.tokens_BT, batch.real_B)


class Classification:
    """Cross-entropy against soft targets; the confidence loss makes its targets from the whole optimizer batch."""

    def __init__(self, spec: StageSpec, examples: Examples, workers: Workers) -> None:
        self._loss = spec.loss
        self._examples = examples
        self._workers = workers
        self._mean_weak_label = float(examples.targets_NC[:, -1].mean())

    def units(self, positions_N: IntArray) -> int:
        """Count the examples."""
        return len(positions_N)

    def losses(
        self, engine: Engine, group: Sequence[MicroBatch], positions_N: IntArray, step: int, num_steps: int
    ) -> Iterator[torch.Tensor]:
        """Yield one loss a micro-batch.

        With one micro-batch on each rank the confidence loss reuses its forward pass; with more, a pass without
        gradients comes first, so that only one graph is held.
        """
        if not isinstance(self._loss, ConfidenceLoss):
            for batch in group:
                yield self._against(engine(batch.tokens_BT, batch.last_B), batch, self._examples.targets_NC)
            return
        alpha = alpha_at(self._loss, step, num_steps)
        if len(group) == 1:
            logits_BC = engine(group[0].tokens_BT, group[0].last_B)
            targets_NC = self._confident(group, [logits_BC.detach()], positions_N, alpha)
            yield self._against(logits_BC, group[0], targets_NC)
            return
        with torch.no_grad():
            logits = [engine(batch.tokens_BT, batch.last_B) for batch in group]
        targets_NC = self._confident(group, logits, positions_N, alpha)
        for batch in group:
            yield self._against(engine(batch.tokens_BT, batch.last_B), batch, targets_NC)

    def _confident(
        self, group: Sequence[MicroBatch], logits: Sequence[torch.Tensor], positions_N: IntArray, alpha: float
    ) -> FloatArray:
        """Gather the whole batch's probabilities and return targets, indexed like all examples of the stage."""
        assert isinstance(self._loss, ConfidenceLoss)
        weak_NC = self._examples.targets_NC
        slot = {int(position): index for index, position in enumerate(positions_N)}
        probs_NC = torch.zeros((len(positions_N), weak_NC.shape[1]), device=self._workers.device)
        for batch, logits_BC in zip(group, logits, strict=True):
            if len(batch.positions):
                slots = torch.tensor([slot[int(position)] for position in batch.positions], device=probs_NC.device)
                probs_NC[slots] = logits_BC.float().softmax(dim=-1)
        gathered_NC = self._workers.sum(probs_NC).cpu().numpy()
        targets_NC = np.zeros_like(weak_NC)
        targets_NC[positions_N] = confidence_targets(
            gathered_NC,
            weak_NC[positions_N],
            self._examples.ties_N[positions_N],
            alpha=alpha,
            share=share_above(self._loss, self._mean_weak_label),
        )
        return targets_NC

    def _against(self, logits_BC: torch.Tensor, batch: MicroBatch, targets_NC: FloatArray) -> torch.Tensor:
        if not len(batch.positions):
            return logits_BC.sum() * 0.0  # a filler: it takes part in the collectives and weighs nothing
        target_BC = torch.from_numpy(targets_NC[batch.positions]).to(logits_BC.device)
        return soft_cross_entropy(logits_BC, target_BC)
