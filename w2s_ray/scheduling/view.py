"""The live view of a run: what it shows, and two ways to show it."""

from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from w2s_ray.spec.chain import PlannedStage
from w2s_ray.training.progress import StageResult


@dataclass(frozen=True)
class StageStatus:
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

    running: tuple[StageStatus, ...] = ()
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


class LiveView:
    """Shows one line per running stage and a line of counts, redrawn in place; a context manager."""

    def __init__(self, console: Console) -> None:
        """Show on `console`, a terminal; nothing is drawn before the first update."""
        self._live = Live(console=console, transient=True, auto_refresh=False)

    def __enter__(self) -> Self:
        """Begin to draw."""
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the screen as it was."""
        self._live.stop()

    def update(self, status: StudyStatus) -> None:
        """Show the newest status."""
        self._live.update(status_lines(status), refresh=True)


def status_lines(status: StudyStatus) -> Group:
    """Return the whole view."""
    table = Table(box=None, pad_edge=False)
    for name in ("arm", "model", "task", "method"):
        table.add_column(name, no_wrap=True)
    for name in ("step", "tokens/s", "loss", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in status.running:
        table.add_row(*_cells(stage))
    counts = Text(counts_line(status), style="dim")
    return Group(table, counts) if status.running else Group(counts)


def counts_line(status: StudyStatus) -> str:
    """Return the counter of stages in one line."""
    parts = [f"{status.num_done}/{status.num_stages} stages done", f"{status.num_shared} shared"]
    parts.append(f"{len(status.running)} running")
    parts.append(f"{status.num_waiting} waiting")
    if status.num_failed:
        parts.append(f"{status.num_failed} failed")
    if not status.running and status.crews:
        parts.append(status.crews[0])
    if status.notice:
        parts.append(status.notice)
    return " · ".join(parts)


def _cells(stage: StageStatus) -> tuple[str, ...]:
    training = stage.activity == "training" and stage.num_steps
    return (
        stage.arm,
        stage.level,
        stage.task,
        stage.loss_name,
        f"{stage.step}/{stage.num_steps}" if training else stage.activity,
        f"{stage.tokens_per_second:,.0f}" if stage.tokens_per_second is not None else "",
        f"{stage.loss:.4f}" if stage.loss is not None else "",
        _clock(stage.seconds_left),
    )


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return ""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if minutes >= 60 else f"{minutes}:{rest:02d}"
