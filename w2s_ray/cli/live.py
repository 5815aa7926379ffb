"""Which view of a run fits the terminal: redrawn lines, or where there is no terminal, a line at each turn."""

from contextlib import AbstractContextManager, nullcontext
from typing import cast

from rich.console import Console

from w2s_ray.scheduling.view import LiveView, StageStatus, StudyStatus, StudyView
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
        self._running: dict[str, StageStatus] = {}

    def update(self, status: StudyStatus) -> None:
        """Print what has changed since the update before."""
        running = {stage.identity: stage for stage in status.running}
        counts = f"{status.num_done}/{status.num_stages} done, {status.num_waiting} waiting, {status.num_shared} shared"
        for identity, stage in self._running.items():
            if identity not in running:
                self._line(f"ended    {_named(stage)} · {counts}")
        for identity, stage in running.items():
            if identity not in self._running:
                self._line(f"started  {_named(stage)}")
        self._running = running

    def _line(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)


def _named(stage: StageStatus) -> str:
    return f"{stage.task} {stage.level} {stage.arm} {stage.loss_name} {short(stage.identity)}"
