"""Which view of a run fits the terminal: redrawn lines, or where there is no terminal, a line at each turn."""

from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Self, cast

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from w2s_ray.scheduling.status import RunningStage, StudyStatus, StudyView
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.identity import short


def view_for(console: Console) -> AbstractContextManager[StudyView]:
    """Return the view to show a run with."""
    if console.is_terminal:
        return cast(AbstractContextManager[StudyView], LiveView(console))
    return nullcontext(PlainView(console))


class PlainView:
    """Prints a line when a stage begins and when it is over, and none in between."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._running: set[str] = set()
        self._noticed = ""

    def update(self, status: StudyStatus) -> None:
        """Print what has turned since the update before."""
        counts = f"{status.num_done}/{status.num_stages} done, {status.num_waiting} waiting, {status.num_shared} shared"
        if status.notice and not self._noticed:
            self._line(status.notice)
        self._noticed = status.notice
        for turn in status.turns:
            identity, named = turn.stage.identity, _named(turn.stage)
            if turn.began and identity not in self._running:
                self._running.add(identity)
                self._line(f"started  {named}")
            elif not turn.began and identity in self._running:
                self._running.remove(identity)
                self._line(f"ended    {named} · {counts}")

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


def _named(stage: PlannedStage) -> str:
    return f"{stage.task} {stage.level} {stage.arm} {stage.spec.description} {short(stage.identity)}"


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


def _cells(stage: RunningStage) -> tuple[str, ...]:
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
