"""The training loop: optimizer steps from the last checkpoint to the last planned step.

One optimizer batch is one step. Each step ends with one small all-reduce of the loss and of rank 0's decisions (stop,
checkpoint), so all ranks act alike and a stage can stop at any step. Reading its result is the only time in a step that
our code waits for the device (DeepSpeed has waits of its own); the inputs of the next step are prepared meanwhile. So a
step with a loss that is not finite has been taken when it is found; its weights are dropped.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from w2s_ray.errors import TrainingError
from w2s_ray.science import IntArray
from w2s_ray.spec.stage import Optimisation, StageSpec
from w2s_ray.training.checkpoints import Checkpoints, seconds_between
from w2s_ray.training.feed import Examples, Feeder, MicroBatch, to_device
from w2s_ray.training.losses import BatchLoss
from w2s_ray.training.objectives import ACCURACY, AGREEMENT
from w2s_ray.training.progress import Journal, TrainState
from w2s_ray.training.zero import Engine

_SECONDS_BETWEEN_LOOKS = 5.0
"""Between looks at the store, which may be a network file system."""
_IDS_SHOWN = 5


@dataclass(frozen=True)
class _Agreed:
    """Values that all ranks share after the all-reduce that ends a step."""

    mean_loss: float
    gradient_norm: float
    stop: bool
    checkpoint: bool
    superseded: bool


@dataclass
class Loop:
    """One stage's training. stage.py wires it together."""

    spec: StageSpec
    engine: Engine
    loss: BatchLoss
    feeder: Feeder[Examples]
    validate: Callable[[], dict[str, float]] | None
    """Returns the network's metrics on Vi; None without a validation split."""
    steps: Sequence[IntArray]
    """Positions of each step's examples."""
    checkpoints: Checkpoints
    checkpoint_every_seconds: float | None
    """None: as often as their cost allows (checkpoints.py)."""
    journal: Journal
    names: Callable[[IntArray], list[str]]
    """Returns the ids of examples by their positions, for messages."""
    save_snapshot: Callable[[float], None]
    """Keeps the current model under this share of the training."""
    is_superseded: Callable[[], bool]
    """Whether another run has started the stage meanwhile; a look into the store, on rank 0 now and then."""
    num_reports: int = 0
    """Validation reports, evenly over the steps; they do not change the result."""
    _looked_at: float = -math.inf

    def run(self, state: TrainState) -> tuple[TrainState, bool]:
        """Take the remaining steps; return the state, and whether the stage stopped before its last step.

        A stage that is asked to stop leaves a checkpoint; one that is superseded leaves the other run's files alone.
        """
        workers, num_steps = self.feeder.workers, len(self.steps)
        last_checkpoint = time.monotonic()
        prepared = self.feeder.in_advance(self.steps[state.step :])
        for step in range(state.step, num_steps):
            if self._has_stopped_improving(state):
                break
            began = time.perf_counter()
            torch.manual_seed(self.spec.order_seed + step)  # dropout, if any, is the same after a resume
            positions_N = self.steps[step]
            batches = next(prepared)
            scale = workers.size / self.loss.num_units(positions_N)
            shares: list[torch.Tensor] = []
            for loss in self.loss.values(self.engine, batches, positions_N, step, num_steps):
                shares.append(loss.detach())
                self.engine.backward(loss * scale, is_last=len(shares) == len(batches))
            loss_sum = sum(shares[1:], shares[0])
            is_due = time.monotonic() - last_checkpoint >= self._checkpoint_seconds
            learning_rate = learning_rate_at(self.spec.optimisation, step, num_steps)
            norm = self.engine.step(learning_rate)
            agreed = self._agree(loss_sum.double() * scale / workers.size, norm, is_due)
            if not math.isfinite(agreed.mean_loss):
                raise self._not_finite("loss", agreed.mean_loss, step, self._examples_of(batches, shares))
            if agreed.superseded:
                return state, True
            if not math.isfinite(agreed.gradient_norm):
                raise self._not_finite("gradient norm", agreed.gradient_norm, step, [])
            state = state.model_copy(
                update={
                    "step": step + 1,
                    "train_tokens": state.train_tokens + int(self.feeder.examples.lengths_N[positions_N].sum()),
                    "train_seconds": state.train_seconds + time.perf_counter() - began,
                }
            )
            values = {"learning_rate": learning_rate, "grad_norm": agreed.gradient_norm}
            self.journal.step(state, {"loss": agreed.mean_loss, **values})
            state = self._check_early_stopping(state)
            self._report(state)
            for share in self.spec.optimisation.keep_at:
                if state.step == max(1, round(share * num_steps)):
                    self.save_snapshot(share)
            if agreed.stop or agreed.checkpoint:
                self.checkpoints.save(self.engine, state)
                last_checkpoint = time.monotonic()
            if agreed.stop and state.step < num_steps:
                self.checkpoints.wait()
                return state, True
        self.checkpoints.wait()
        if self.spec.optimisation.early_stopping is not None and state.best_step not in (0, state.step):
            self.checkpoints.restore_best(self.engine, state.best_step)
        return state, False

    @property
    def _checkpoint_seconds(self) -> float:
        wanted = self.checkpoint_every_seconds
        return seconds_between(self.checkpoints.cost) if wanted is None else wanted

    def _agree(self, loss_share: torch.Tensor, norm: torch.Tensor, is_due: bool) -> _Agreed:
        """Share the mean loss, of which this rank has a share, and rank 0's norm and decisions."""
        workers = self.feeder.workers
        flags = [self.journal.should_stop(), is_due, self._is_superseded(is_due)] if workers.is_rank_0 else [False] * 3
        on_host = to_device(np.array([*flags, self.checkpoints.is_syncing], dtype=np.float64), workers.device)
        own_norm = norm.to(workers.device, torch.float64) if workers.is_rank_0 else torch.zeros_like(loss_share)
        shared = torch.cat([torch.stack([loss_share, own_norm]), on_host])
        loss, gradient_norm, stop, checkpoint, superseded, syncing = workers.sum(shared).tolist()
        if not syncing:
            self.checkpoints.all_synced()
            self.journal.saved(self.checkpoints.last_step)
        return _Agreed(loss, gradient_norm, stop > 0, checkpoint > 0, superseded > 0)

    def _is_superseded(self, is_due: bool) -> bool:
        """Return whether the stage is superseded, as of the last look; a checkpoint is never due without a new one."""
        now = time.monotonic()
        if is_due or now - self._looked_at >= _SECONDS_BETWEEN_LOOKS:
            self._looked_at = now
            return self.is_superseded()
        return False

    def _examples_of(self, batches: Sequence[MicroBatch], shares: Sequence[torch.Tensor]) -> list[str]:
        """Return the ids of the examples in the micro-batches whose loss is not finite. Collective."""
        positions = [batch.positions for batch, loss in zip(batches, shares, strict=True) if not loss.isfinite().all()]
        own_N = np.concatenate([*positions, np.array([], dtype=np.int64)])
        return [name for names in self.feeder.workers.on_every_rank(lambda: self.names(own_N)) for name in names]

    def _not_finite(self, name: str, value: float, step: int, examples: list[str]) -> TrainingError:
        more = f" and {len(examples) - _IDS_SHOWN} more" if len(examples) > _IDS_SHOWN else ""
        source = f", from the examples {', '.join(examples[:_IDS_SHOWN])}{more}" if examples else ""
        return TrainingError(
            f"the {name} of {self.spec.slug} is {value} at step {step + 1}{source}",
            f"lower optimisation.learning_rate (now {self.spec.optimisation.learning_rate:g}), or check the data",
        )

    def _report(self, state: TrainState) -> None:
        """Report the metrics on Vi if a validation report is due."""
        if self.num_reports == 0 or self.validate is None:
            return
        before, now = ((step * self.num_reports) // len(self.steps) for step in (state.step - 1, state.step))
        if now != before:
            self.journal.validated(state, now, self.validate())

    def _has_stopped_improving(self, state: TrainState) -> bool:
        rule = self.spec.optimisation.early_stopping
        return rule is not None and state.evaluations_since_best >= rule.patience

    def _check_early_stopping(self, state: TrainState) -> TrainState:
        """Compare with the labels of Vi, which are the arm's own (weak labels for students), or with the truth."""
        rule = self.spec.optimisation.early_stopping
        if rule is None or self.validate is None:
            return state
        if state.step % rule.every_steps and state.step != len(self.steps):
            return state
        name = ACCURACY if rule.by == "oracle" else AGREEMENT
        accuracy = self.validate()[name]
        self.journal.step(state, {name: accuracy})
        if accuracy <= state.best_accuracy:
            return state.model_copy(update={"evaluations_since_best": state.evaluations_since_best + 1})
        better = {"best_accuracy": accuracy, "best_step": state.step, "evaluations_since_best": 0}
        state = state.model_copy(update=better)
        self.checkpoints.save_best(self.engine, state)
        return state


def learning_rate_at(optimisation: Optimisation, step: int, num_steps: int) -> float:
    """Return the learning rate of `step`: linear warm-up, then a cosine to `final_lr_fraction` of the peak."""
    warmup = round(optimisation.warmup_fraction * num_steps)
    if step < warmup:
        return optimisation.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, num_steps - warmup)
    floor = optimisation.final_lr_fraction
    return optimisation.learning_rate * (floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * done)))
