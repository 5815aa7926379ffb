"""Which view of a run fits the terminal: redrawn lines, or where there is no terminal, a line at each turn."""

from contextlib import AbstractContextManager, nullcontext
from typing import cast

from rich.console import Console

from w2s_ray.scheduling.view import LiveView, StudyStatus, StudyView
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
    return f"{stage.task} {stage.level} {stage.arm} {stage.spec.way} {short(stage.identity)}"
