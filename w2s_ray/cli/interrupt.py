"""Ctrl-C: the first asks the run to stop at its next step with a checkpoint, the second ends the process at once.

SIGTERM and SIGHUP ask as well, however often they come: a connection that drops sends SIGHUP twice.
"""

import os
import signal
import threading
from types import FrameType, TracebackType
from typing import Self

from rich.console import Console

from w2s_ray.scheduling.status import StudyStatus, StudyView

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
HARD_EXIT_CODE = 130


class Interrupt:
    """While it is entered, signals set `event` instead of raising."""

    def __init__(self) -> None:
        self.event = threading.Event()
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        """Take the signals over, except those that are ignored, as `nohup` has it."""
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        """Print nothing: the code that was interrupted may be printing itself. `Announcing` says it."""
        if self.event.is_set() and number == signal.SIGINT:
            os._exit(HARD_EXIT_CODE)
        self.event.set()


class Announcing:
    """A view that also says, once, that the run has been asked to stop."""

    def __init__(self, view: StudyView, console: Console, event: threading.Event) -> None:
        self._view, self._console, self._event = view, console, event
        self._said = False

    def update(self, status: StudyStatus) -> None:
        """Show the newest status."""
        if self._event.is_set() and not self._said:
            self._said = True
            self._console.print("stopping at the next step, with a checkpoint; Ctrl-C once more ends at once")
        self._view.update(status)
