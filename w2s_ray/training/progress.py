"""Progress of a running stage, and requests to stop it. Loads no torch, so that scheduling can import it.

`Journal` writes every step to the stage's metrics.jsonl and, at most twice a second, a `StageProgress` to the observer.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

from w2s_ray.spec.base import Spec
from w2s_ray.store.files import write_file, writing
from w2s_ray.store.json_lines import whole_lines

Activity = Literal["loading", "reading", "training", "saving", "predicting"]
"""`reading`: the frozen model of a probe reads texts."""

_SECONDS_BETWEEN_REPORTS = 0.5


@dataclass(frozen=True)
class StageProgress:
    """One moment of a running stage, and the metrics measured at it."""

    identity: str
    activity: Activity
    step: int
    """While loading, that of the checkpoint from which the stage continues; 0 without one."""
    num_steps: int
    values: Mapping[str, float] = field(default_factory=dict)
    seconds_left: float | None = None
    report: int = 0
    """Number of this validation report, from 1; 0 when it is none (PlannedStage.num_reports)."""
    saved_step: int = 0
    """Step of the last complete checkpoint, from which another attempt would resume."""


@dataclass(frozen=True)
class StageResult:
    """How a stage ended on its workers.

    A stage that was asked to stop leaves a checkpoint. One that another run has started meanwhile leaves nothing.
    """

    identity: str
    stopped: bool
    attempts_trained: bool
    """Whether this run started training (False: the stage was finished, at most predictions were missing)."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall time by activity: total, reading, training, evaluation, labelling, features."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: int = 0
    """Resident memory of rank 0's process after the stage; 0 when it was not measured."""


class Observer(Protocol):
    """Receives progress and answers whether to stop. Used on rank 0 only."""

    def should_stop(self) -> bool:
        """Return whether the stage should stop at its next step; called at every step, so it must not block."""
        ...

    def report(self, point: StageProgress) -> None:
        """Pass progress on; must not block or raise."""
        ...


class NullObserver:
    """Never stops a stage and drops its progress."""

    def should_stop(self) -> bool:
        return False

    def report(self, point: StageProgress) -> None:
        pass


class TrainState(Spec):
    """How far training has got. Stored in checkpoints."""

    step: int = 0
    """Optimizer steps taken."""
    train_tokens: int = 0
    train_seconds: float = 0.0
    best_accuracy: float = -1.0
    """Best validation agreement (or accuracy, for `by: oracle`) so far, for early stopping."""
    best_step: int = 0
    evaluations_since_best: int = 0


class Journal:
    """The log of one stage. Does nothing on ranks other than 0, which have no observer."""

    def __init__(self, identity: str, path: Path, observer: Observer | None, num_steps: int) -> None:
        self._identity, self._path, self._observer, self._num_steps = identity, path, observer, num_steps
        self._last_report = 0.0
        self._first_step = 0
        self._first_step_at: float | None = None
        self._saved_step = 0

    def should_stop(self) -> bool:
        return self._observer is not None and self._observer.should_stop()

    def resume_at(self, step: int) -> None:
        """Delete the lines after `step`, the last checkpoint, so that the file reads as if training never stopped.

        A step above 0 is reported.
        """
        self._saved_step = step
        if step:
            self._report("loading", step, {})
        if self._observer is None or not self._path.exists():
            return
        kept = [line + "\n" for line in whole_lines(self._path) if json.loads(line)["step"] <= step]
        write_file(self._path, "".join(kept).encode())

    def saved(self, step: int) -> None:
        """Record that the checkpoint of `step` is complete."""
        self._saved_step = step

    def step(self, state: TrainState, values: Mapping[str, float]) -> None:
        """Write one step's values; report them if the last report is old enough or this is the last step."""
        if self._observer is None:
            return
        with writing(self._path), self._path.open("a") as file:
            file.write(json.dumps({"step": state.step, **values}) + "\n")
        now = time.monotonic()
        if self._first_step_at is None:
            self._first_step, self._first_step_at = state.step, now
        if now - self._last_report < _SECONDS_BETWEEN_REPORTS and state.step < self._num_steps:
            return
        self._last_report = now
        speed = state.train_tokens / state.train_seconds if state.train_seconds else 0.0
        steps_timed = state.step - self._first_step
        seconds_per_step = (now - self._first_step_at) / steps_timed if steps_timed else None
        seconds_left = None if seconds_per_step is None else seconds_per_step * (self._num_steps - state.step)
        self._report("training", state.step, {**values, "tokens_per_second": speed}, seconds_left)

    def validated(self, state: TrainState, report: int, values: Mapping[str, float]) -> None:
        """Report validation metrics, as number `report` of those that a search scheduler waits for."""
        self._report("training", state.step, values, report=report)

    def activity(self, activity: Activity) -> None:
        """Report an activity outside the steps."""
        self._report(activity, 0, {})

    def _report(
        self,
        activity: Activity,
        step: int,
        values: Mapping[str, float],
        seconds_left: float | None = None,
        report: int = 0,
    ) -> None:
        if self._observer is None:
            return
        progress = StageProgress(
            identity=self._identity,
            activity=activity,
            step=step,
            num_steps=self._num_steps,
            values=dict(values),
            seconds_left=seconds_left,
            report=report,
            saved_step=self._saved_step,
        )
        self._observer.report(progress)


@contextmanager
def timed(seconds: dict[str, float], activity: str) -> Iterator[None]:
    """Add the wall time of the block to `seconds[activity]`."""
    began = time.perf_counter()
    yield
    seconds[activity] = seconds.get(activity, 0.0) + time.perf_counter() - began
