"""The training loop: optimizer steps from the last checkpoint on.

One group of micro-batches is one optimizer update. Each step ends with one small all-reduce that carries the loss and
rank 0's wishes (stop, checkpoint), so all ranks act alike and a stage can be stopped at any step.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from w2s_ray.errors import TrainingError
from w2s_ray.spec.stage import Optimisation, StageSpec
from w2s_ray.training.checkpoints import Checkpoints, Progress
from w2s_ray.training.feed import Examples, Feeder, IntArray
from w2s_ray.training.journal import Journal
from w2s_ray.training.lessons import ACCURACY, AGREEMENT
from w2s_ray.training.objectives import Objective
from w2s_ray.training.zero import Engine


@dataclass
class Loop:
    """All that one stage's training needs, wired together by stage.py."""

    spec: StageSpec
    engine: Engine
    objective: Objective
    feeder: Feeder[Examples]
    check: Callable[[], dict[str, float]] | None
    """The network's figures on Vi."""
    steps: Sequence[IntArray]
    checkpoints: Checkpoints
    checkpoint_every_seconds: float
    journal: Journal
    keep: Callable[[float], None]
    """Keeps the model as it is now, under the share of training that is done."""
    taken_up: Callable[[], bool]
    """Whether another run has begun the stage meanwhile; rank 0 asks it at every step."""
    num_reports: int = 0
    """Reports on the validation examples, evenly over the steps; they change nothing."""

    def run(self, progress: Progress) -> tuple[Progress, bool]:
        """Take the steps that remain; return the progress made and whether the stage stopped before the last one.

        Asked to, it leaves a checkpoint; where another run has taken it up, it leaves that run's files alone.
        """
        workers, num_steps = self.feeder.workers, len(self.steps)
        last_checkpoint = time.monotonic()
        for step in range(progress.step, num_steps):
            if self._gave_up(progress):
                break
            began = time.perf_counter()
            torch.manual_seed(self.spec.order_seed + step)  # dropout, if any, is the same after a resume
            positions_N = self.steps[step]
            group = self.feeder.group(positions_N)
            scale = workers.size / self.objective.units(positions_N)
            loss_sum = torch.zeros((), device=workers.device)
            losses = self.objective.losses(self.engine, group, positions_N, step, num_steps)
            for index, loss in enumerate(losses):
                self.engine.backward(loss * scale, is_last=index == len(group) - 1)
                loss_sum += loss.detach()
            due = time.monotonic() - last_checkpoint >= self.checkpoint_every_seconds
            mean_loss, stop, due, lost = self._agree(loss_sum, scale, due)
            if lost:
                return progress, True
            learning_rate = learning_rate_at(self.spec.optimisation, step, num_steps)
            norm = self.engine.step(learning_rate)
            self._check_finite("gradient norm", norm)
            progress = progress.model_copy(
                update={
                    "step": step + 1,
                    "train_tokens": progress.train_tokens + int(self.feeder.examples.lengths_N[positions_N].sum()),
                    "train_seconds": progress.train_seconds + time.perf_counter() - began,
                }
            )
            self.journal.step(progress, {"loss": mean_loss, "learning_rate": learning_rate, "grad_norm": norm})
            progress = self._evaluate(progress)
            self._report(progress)
            self._keep(progress.step)
            if stop or due:
                self.checkpoints.save(self.engine, progress)
                self.journal.saved(progress.step)
                last_checkpoint = time.monotonic()
            if stop and step + 1 < num_steps:
                return progress, True
        if self.spec.optimisation.early_stopping is not None and progress.best_step not in (0, progress.step):
            self.checkpoints.restore_best(self.engine, progress.best_step)
        return progress, False

    def _agree(self, loss_sum: torch.Tensor, scale: float, due: bool) -> tuple[float, bool, bool, bool]:
        """Share the loss, and rank 0's wishes and whether it lost the stage.

        Raises:
            TrainingError: on every rank, before the step is taken, when the loss is not finite.
        """
        workers = self.feeder.workers
        wishes = [self.journal.should_stop(), due, self.taken_up()] if workers.leads else [False, False, False]
        told = torch.tensor([float(loss_sum) * scale / workers.size, *wishes], dtype=torch.float64)
        loss, stop, due_, lost = workers.sum(told.to(workers.device)).tolist()
        self._check_finite("loss", loss)
        return loss, stop > 0, due_ > 0, lost > 0

    def _check_finite(self, name: str, value: float) -> None:
        """Refuse a value, the same on every rank, that says that training has come apart."""
        if not math.isfinite(value):
            raise TrainingError(
                f"the {name} of {self.spec.slug} is {value}",
                f"a {name} must be finite",
                f"lower optimisation.learning_rate (now {self.spec.optimisation.learning_rate:g}) or look at the data",
            )

    def _report(self, progress: Progress) -> None:
        """Judge the model as it is now, if a report is due: agreement with its labels, and accuracy."""
        if self.num_reports == 0 or self.check is None:
            return
        before, now = ((step * self.num_reports) // len(self.steps) for step in (progress.step - 1, progress.step))
        if now != before:
            self.journal.judged(progress, now, self.check())

    def _keep(self, step: int) -> None:
        for share in self.spec.optimisation.keep_at:
            if step == max(1, round(share * len(self.steps))):
                self.keep(share)

    def _gave_up(self, progress: Progress) -> bool:
        rule = self.spec.optimisation.early_stopping
        return rule is not None and progress.evaluations_since_best >= rule.patience

    def _evaluate(self, progress: Progress) -> Progress:
        """Early stopping: compare with the labels of Vi, which are the arm's own (weak ones for students)."""
        rule = self.spec.optimisation.early_stopping
        if rule is None or self.check is None:
            return progress
        if progress.step % rule.every_steps and progress.step != len(self.steps):
            return progress
        name = ACCURACY if rule.by == "oracle" else AGREEMENT
        figure = self.check()[name]
        self.journal.step(progress, {name: figure})
        if figure <= progress.best_accuracy:
            return progress.model_copy(update={"evaluations_since_best": progress.evaluations_since_best + 1})
        self.checkpoints.save_best(self.engine, progress.step)
        return progress.model_copy(
            update={"best_accuracy": figure, "best_step": progress.step, "evaluations_since_best": 0}
        )


def learning_rate_at(optimisation: Optimisation, step: int, num_steps: int) -> float:
    """Return the learning rate of `step`: linear warm-up, then a cosine to `final_lr_fraction` of the peak."""
    warmup = round(optimisation.warmup_fraction * num_steps)
    if step < warmup:
        return optimisation.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    floor = optimisation.final_lr_fraction
    return optimisation.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
