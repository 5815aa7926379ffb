"""The writer: an actor that owns the tracker, so that no worker waits for a dashboard.

Callers send and do not wait; the actor works in order. An error of a tracker is logged, and the run goes on.
"""

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from w2s_ray.spec.chain import Chain
from w2s_ray.tracking.tracker import RunInfo, Tracker, chain_run, chain_run_id, stage_run_id
from w2s_ray.training.progress import StageProgress

if TYPE_CHECKING:
    from ray.actor import ActorHandle

logger = logging.getLogger(__name__)

TrackerFactory = Callable[[Callable[[str], None]], Tracker]
"""Makes a tracker, given a function that takes messages for people."""
ChainJudge = Callable[[Chain], Mapping[str, float]]
"""Returns the metrics of a chain that has ended."""


@dataclass(frozen=True)
class ActorName:
    """Where Ray finds an actor."""

    name: str
    namespace: str


class Writer:
    """Passes progress on to a tracker, which is made in the actor's process."""

    def __init__(self, factory: TrackerFactory, judge: ChainJudge | None = None) -> None:
        """`factory` makes the tracker; both have to pickle."""
        self._messages: list[str] = []
        self._tracker, self._judge = factory(self._messages.append), judge

    def begin(self, run: RunInfo) -> None:
        """Open a run, or continue it."""
        with _errors_logged():
            self._tracker.begin(run)

    def log(self, reports: Sequence[StageProgress]) -> None:
        """Log the values of running stages."""
        for progress in reports:
            if progress.values:
                with _errors_logged():
                    self._tracker.log(stage_run_id(progress.identity), progress.step, dict(progress.values))

    def finish(self, run_id: str, summary: Mapping[str, float], *, ended_well: bool) -> None:
        with _errors_logged():
            self._tracker.finish(run_id, summary, ended_well=ended_well)

    def finish_chain(self, chain: Chain, metrics: Mapping[str, float], *, ended_well: bool) -> None:
        """Close a chain's summary run with its stages' metrics and its own."""
        summary = dict(metrics)
        self.begin(chain_run(chain))  # again: a writer that was restarted does not know it
        with _errors_logged():
            summary |= self._judge(chain) if self._judge is not None else {}
        self.finish(chain_run_id(chain), summary, ended_well=ended_well)

    def close(self) -> list[str]:
        """Close the tracker after everything that was sent before; return its messages for people."""
        with _errors_logged():
            self._tracker.close()
        return self._messages


def find_writer(name: ActorName | None) -> "ActorHandle[Writer] | None":
    """Return the writer of this name, or None if there is none."""
    if name is None:
        return None
    import ray

    try:
        return ray.get_actor(name.name, name.namespace)
    except ValueError:
        return None


@contextlib.contextmanager
def _errors_logged() -> Iterator[None]:
    try:
        yield
    except Exception:
        logger.exception("the tracker failed; the run continues without this entry")
