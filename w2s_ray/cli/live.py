"""The live view of a run, and Ctrl-C.

On a terminal the running stages are redrawn in place; elsewhere each stage prints a line when it starts and ends. The
first Ctrl-C asks the run to stop at its next step with a checkpoint, the second ends the process at once. SIGTERM and
SIGHUP only ask, even if repeated: a dropped connection sends SIGHUP twice.
"""

import os
import signal
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import FrameType, TracebackType
from typing import Self, cast

import psutil
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from w2s_ray.scheduling.status import PlainView, RunningStage, StudyStatus, StudyView

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HARD_EXIT_CODE = 130
_RAY_PROCESSES = ("raylet", "gcs_server")
_SECONDS_TO_LEAVE = 10.0
"""Time for a run to end by itself after the Ray processes that it started; ordinarily it ends them last."""


def view_for(console: Console) -> AbstractContextManager[StudyView]:
    """Return the view that suits the console."""
    if console.is_terminal:
        return cast(AbstractContextManager[StudyView], LiveView(console))
    return nullcontext(PlainView(lambda line: console.print(line, markup=False, soft_wrap=True)))


class LiveView:
    """Shows one line per running stage and a line of counts, redrawn in place; a context manager."""

    def __init__(self, console: Console) -> None:
        self._live = Live(console=console, transient=True, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def update(self, status: StudyStatus) -> None:
        self._live.update(status_lines(status), refresh=True)


def status_lines(status: StudyStatus) -> Group:
    """Return the table of running stages, and the counts below it."""
    table = Table(box=None, pad_edge=False)
    for name in ("arm", "model", "task", "method"):
        table.add_column(name, no_wrap=True)
    for name in ("step", "tokens/s", "loss", "left"):
        table.add_column(name, justify="right", no_wrap=True)
    for stage in status.running:
        table.add_row(*_cells(stage))
    counts = Text(_counts(status), style="dim")
    return Group(table, counts) if status.running else Group(counts)


def _counts(status: StudyStatus) -> str:
    parts = [f"{status.num_done}/{status.num_stages} stages done", f"{status.num_shared} shared"]
    parts += [f"{len(status.running)} running", f"{status.num_waiting} waiting"]
    if status.num_failed:
        parts.append(f"{status.num_failed} failed")
    if not status.running and status.groups:
        parts.append(status.groups[0])
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


class Interrupt:
    """A context manager in which signals set `event` instead of raising.

    A batch system may send a signal to every process of a job. Those that Ray runs on this machine then end, and calls
    to them would hang for a minute: the process is ended instead, after a call of `explain`.
    """

    def __init__(self, explain: Callable[[], None]) -> None:
        self.event = threading.Event()
        self._explain = explain
        self._previous: dict[int, object] = {}
        self._left = threading.Event()

    def __enter__(self) -> Self:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # `nohup` ignores SIGHUP: leave it so
                self._previous[number] = signal.signal(number, self._handle)
        threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        """Print nothing: the interrupted code may be printing. `InterruptibleView` prints the message."""
        if self.event.is_set() and number == signal.SIGINT:
            os._exit(HARD_EXIT_CODE)
        self.event.set()

    def _watch(self) -> None:
        """End the process if the signal has ended Ray's processes and the run does not end."""
        while not self.event.wait(0.5):
            if self._left.is_set():
                return
        started = [child for child in psutil.Process().children() if child.name() in _RAY_PROCESSES]
        while started and all(map(_is_alive, started)):
            if self._left.wait(0.5):
                return
        if started and not self._left.wait(_SECONDS_TO_LEAVE):
            self._explain()
            os._exit(1)


def _is_alive(process: psutil.Process) -> bool:
    return bool(process.is_running() and process.status() != psutil.STATUS_ZOMBIE)


class InterruptibleView:
    """A view that also prints, once, that the run was asked to stop."""

    def __init__(self, view: StudyView, console: Console, event: threading.Event) -> None:
        self._view, self._console, self._event = view, console, event
        self._announced = False

    def update(self, status: StudyStatus) -> None:
        if self._event.is_set() and not self._announced:
            self._announced = True
            self._console.print("stopping at the next step, with a checkpoint; press Ctrl-C again to end at once")
        self._view.update(status)
