"""The status of a run at one moment, and the events of its stages."""

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.identity import short
from w2s_ray.training.progress import StageResult


@dataclass(frozen=True)
class RunningStage:
    """One stage that runs now."""

    identity: str
    arm: str
    level: str
    task: str
    loss_name: str
    activity: str
    """`starting`, `loading`, `training`, `predicting` or `stopping`."""
    step: int = 0
    num_steps: int = 0
    loss: float | None = None
    tokens_per_second: float | None = None
    seconds_left: float | None = None
    num_chains: int = 1
    """Chains that wait for it."""
    group: str = ""


class EventKind(StrEnum):
    """Moments in the life of a stage."""

    ASSIGNED = "assigned"
    """A worker group has it."""
    RESUMED = "resumed"
    """It continues from a checkpoint."""
    FIRST_STEP = "first step"
    """The first report of an optimizer step arrived."""
    ENDED = "ended"
    """Finished, stopped, failed, or its group died."""


@dataclass(frozen=True)
class StageEvent:
    """Something happened to a stage."""

    kind: EventKind
    stage: PlannedStage
    at: float
    """Seconds since the epoch."""
    result: StageResult | None = None
    """With ENDED, unless the stage failed."""
    step: int = 0
    """With RESUMED, the step of the checkpoint."""


@dataclass(frozen=True)
class StudyStatus:
    """A run at one moment."""

    running: tuple[RunningStage, ...] = ()
    events: tuple[StageEvent, ...] = ()
    """Since the status before, in order."""
    num_done: int = 0
    num_waiting: int = 0
    num_failed: int = 0
    failures: dict[str, str] = field(default_factory=dict)
    """Errors of the first stages that failed, by identity, without those whose supervisor failed."""
    num_shared: int = 0
    """Trainings that sharing saves: stages that chains name beyond the distinct ones."""
    num_stages: int = 0
    """Distinct stages."""
    groups: tuple[str, ...] = ()
    """One line per worker group: its size and what it does."""
    is_opening: bool = False
    """Whether there are worker groups and none of them has started yet."""
    waiting: dict[str, str] = field(default_factory=dict)
    """Why the next few stages wait, by name."""
    notice: str = ""
    """Why the run itself waits."""


class StudyView(Protocol):
    """Shows a run; called several times a second from one thread."""

    def update(self, status: StudyStatus) -> None:
        """Show the newest status."""
        ...


class NullView:
    """Shows nothing."""

    def update(self, status: StudyStatus) -> None:
        """Ignore the status."""


class PlainView:
    """Writes a line when a stage starts, continues from a checkpoint, and ends."""

    def __init__(self, write: Callable[[str], object]) -> None:
        self._write = write
        self._running: set[str] = set()
        self._notice = ""

    def update(self, status: StudyStatus) -> None:
        """Write a line for each event since the status before."""
        failed = f"{status.num_failed} failed, " if status.num_failed else ""
        waiting = f"{failed}{status.num_waiting} waiting, {status.num_shared} shared"
        counts = f"{status.num_done}/{status.num_stages} done, {waiting}"
        if status.notice and not self._notice:
            self._write(status.notice)
        self._notice = status.notice
        for event in status.events:
            stage, identity = event.stage, event.stage.identity
            name = f"{stage.task} {stage.level} {stage.arm} {stage.spec.description} {short(identity)}"
            if event.kind is EventKind.ASSIGNED and identity not in self._running:
                self._running.add(identity)
                self._write(f"started  {name}")
            elif event.kind is EventKind.RESUMED:
                self._write(f"resumed  {name} from step {event.step}")
            elif event.kind is EventKind.ENDED and identity in self._running:
                self._running.remove(identity)
                error = status.failures.get(identity)
                self._write(f"{'ended ' if error is None else 'failed'}   {name} · {counts}")
                if error is not None:
                    self._write(f"  {error.partition(chr(10))[0]}")
