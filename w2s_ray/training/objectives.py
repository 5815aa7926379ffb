"""What a stage learns: classes from the last token, or what is written next.

An objective turns the engine's logits into one summed loss per micro-batch and says by how many units (examples or
tokens) the whole optimizer batch is divided, so that the result does not depend on how the batch was cut.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch

from w2s_ray.spec.stage import StageSpec
from w2s_ray.training.feed import FloatArray, IntArray, Labelled, MicroBatch, Written
from w2s_ray.training.language import learnt_from, written_cross_entropy
from w2s_ray.training.losses import OptimizerBatch, student_loss
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
    """Soft labels, and a loss of losses/: its targets come from the whole optimizer batch, its value micro by micro."""

    def __init__(self, spec: StageSpec, examples: Labelled, workers: Workers) -> None:
        self._loss = student_loss(spec.loss, examples.targets_NC)
        self._examples = examples
        self._workers = workers

    def units(self, positions_N: IntArray) -> int:
        """Count the examples."""
        return len(positions_N)

    def losses(
        self, engine: Engine, group: Sequence[MicroBatch], positions_N: IntArray, step: int, num_steps: int
    ) -> Iterator[torch.Tensor]:
        """Yield one loss a micro-batch.

        A loss that reads the whole batch's predictions gets them from a pass without gradients, so that only one graph
        is held; where each rank has one micro-batch, from the pass that learns.
        """
        places = {int(position): place for place, position in enumerate(positions_N)}
        only_BC, probs_NC = None, None
        if self._loss.reads_batch:
            only_BC = self._logits(engine, group[0]) if len(group) == 1 else None
            probs_NC = self._predictions(engine, group, only_BC, places)
        batch = OptimizerBatch(
            labels_NC=self._examples.targets_NC[positions_N],
            ties_N=self._examples.ties_N[positions_N],
            progress=step / num_steps,
            probs_NC=probs_NC,
        )
        targets_NC = self._loss.targets(batch)
        for micro in group:
            logits_BC = self._logits(engine, micro) if only_BC is None else only_BC
            if not len(micro.positions):
                yield logits_BC.sum() * 0.0  # a filler: it takes part in the collectives and weighs nothing
                continue
            targets_BC = torch.from_numpy(targets_NC[_rows(micro, places)]).to(logits_BC.device)
            yield self._loss.value(logits_BC, targets_BC, batch.progress)

    def _logits(self, engine: Engine, micro: MicroBatch) -> torch.Tensor:
        return engine(micro.tokens_RT, micro.last_R)

    def _predictions(
        self, engine: Engine, group: Sequence[MicroBatch], only_BC: torch.Tensor | None, places: dict[int, int]
    ) -> FloatArray:
        """Return probs_NC of the whole optimizer batch, from all ranks, the same on each."""
        probs_NC = torch.zeros((len(places), self._examples.targets_NC.shape[1]), device=self._workers.device)
        with torch.no_grad():
            for micro in group:
                logits_BC = self._logits(engine, micro) if only_BC is None else only_BC
                if len(micro.positions):
                    probs_NC[_rows(micro, places)] = logits_BC.float().softmax(dim=-1)
        gathered_NC: FloatArray = self._workers.sum(probs_NC).cpu().numpy()
        return gathered_NC


def _rows(micro: MicroBatch, places: dict[int, int]) -> list[int]:
    """Return where the examples of a micro-batch stand in their optimizer batch."""
    return [places[int(position)] for position in micro.positions]
