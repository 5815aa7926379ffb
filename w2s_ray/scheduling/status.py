"""The status of a run at one moment, and the protocol of what shows it."""

from dataclasses import dataclass, field
from typing import Protocol

from w2s_ray.spec.chain import PlannedStage
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
    crew: str = ""


@dataclass(frozen=True)
class Turn:
    """A stage is in a crew's hands, or no longer is."""

    stage: PlannedStage
    began: bool
    result: StageResult | None = None
    """What it came to, where it is over and did not fail."""
    seconds: float = 0.0
    """Where it is over: since it was given to the crew."""


@dataclass(frozen=True)
class StudyStatus:
    """A run at one moment."""

    running: tuple[RunningStage, ...] = ()
    turns: tuple[Turn, ...] = ()
    """Since the status before, in order."""
    num_done: int = 0
    num_waiting: int = 0
    num_failed: int = 0
    num_shared: int = 0
    """Stages that chains ask for beyond the distinct ones: trainings that sharing saves."""
    num_stages: int = 0
    """Distinct stages."""
    crews: tuple[str, ...] = ()
    """One line per crew: its shape and what it does."""
    waiting: dict[str, str] = field(default_factory=dict)
    """Why the next few stages wait, by name."""
    notice: str = ""
    """Why the run itself waits."""


class StudyView(Protocol):
    """Shows a run; called twice a second from one thread."""

    def update(self, status: StudyStatus) -> None:
        """Show the newest status."""
        ...


class NullView:
    """Shows nothing."""

    def update(self, status: StudyStatus) -> None:
        """Forget the status."""
