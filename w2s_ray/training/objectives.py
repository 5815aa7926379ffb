"""What a stage learns: classes from the last token, or what is written next.

An objective turns the engine's logits into one summed loss per micro-batch and says by how many units (examples or
tokens) the whole optimizer batch is divided, so that the result does not depend on how the batch was cut.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from w2s_ray.spec.stage import ConfidenceLoss, StageSpec
from w2s_ray.training.feed import IntArray, Labelled, MicroBatch, Written
from w2s_ray.training.language import learnt_from, written_cross_entropy
from w2s_ray.training.losses import (
    FloatArray,
    alpha_at,
    confidence_targets,
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


class Writing:
    """Cross-entropy of every token that is learnt, given those before it."""

    def __init__(self, examples: Written) -> None:
        self._examples = examples

    def units(self, positions_N: IntArray) -> int:
        """Count the tokens that are learnt."""
        return self._examples.num_learnt(positions_N)

    def losses(
        self, engine: Engine, group: Sequence[MicroBatch], positions_N: IntArray, step: int, num_steps: int
    ) -> Iterator[torch.Tensor]:
        """Yield one loss a micro-batch."""
        for batch in group:
            logits_RTV = engine(batch.tokens_RT, batch.last_R)
            yield written_cross_entropy(logits_RTV, batch, learnt_from(self._examples, batch))


class Classification:
    """Cross-entropy against soft targets; the confidence loss makes its targets from the whole optimizer batch."""

    def __init__(self, spec: StageSpec, examples: Labelled, workers: Workers) -> None:
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
                yield self._against(engine(batch.tokens_RT, batch.last_R), batch, self._examples.targets_NC)
            return
        alpha = alpha_at(self._loss, step, num_steps)
        if len(group) == 1:
            logits_BC = engine(group[0].tokens_RT, group[0].last_R)
            targets_NC = self._confident(group, [logits_BC.detach()], positions_N, alpha)
            yield self._against(logits_BC, group[0], targets_NC)
            return
        with torch.no_grad():
            logits = [engine(batch.tokens_RT, batch.last_R) for batch in group]
        targets_NC = self._confident(group, logits, positions_N, alpha)
        for batch in group:
            yield self._against(engine(batch.tokens_RT, batch.last_R), batch, targets_NC)

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
