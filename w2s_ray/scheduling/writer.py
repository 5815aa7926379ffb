"""The one writer: an actor that owns the tracker, so that no worker ever waits for a dashboard.

Whoever has something to tell sends it and goes on; the actor takes it in order. What goes wrong in a tracker stays
here: it is logged, and the run goes on without that point.
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
"""Makes a tracker that says what people should know to whom it is given."""
ChainJudge = Callable[[Chain], Mapping[str, float]]
"""Says what came of a chain that has ended."""


@dataclass(frozen=True)
class ActorName:
    """Where Ray finds an actor."""

    name: str
    namespace: str


class Writer:
    """Takes points for a tracker that is made in its own process."""

    def __init__(self, factory: TrackerFactory, judge: ChainJudge | None = None) -> None:
        """`factory` makes the tracker; both have to pickle."""
        self._said: list[str] = []
        self._tracker, self._judge = factory(self._said.append), judge

    def begin(self, run: RunInfo) -> None:
        """Open a run, or go on in it."""
        with _undisturbed():
            self._tracker.begin(run)

    def log(self, points: Sequence[StageProgress]) -> None:
        """Put down the points of running stages."""
        for point in points:
            if point.values:
                with _undisturbed():
                    self._tracker.log(stage_run_id(point.identity), point.step, dict(point.values))

    def finish(self, run_id: str, summary: Mapping[str, float], *, ended_well: bool) -> None:
        """Close a run."""
        with _undisturbed():
            self._tracker.finish(run_id, summary, ended_well=ended_well)

    def finish_chain(self, chain: Chain, metrics: Mapping[str, float], *, ended_well: bool) -> None:
        """Close a chain's summary run with its stages' metrics and what came of it."""
        summary = dict(metrics)
        self.begin(chain_run(chain))  # once more: a writer that was started anew does not know of it
        with _undisturbed():
            summary |= self._judge(chain) if self._judge is not None else {}
        self.finish(chain_run_id(chain), summary, ended_well=ended_well)

    def close(self) -> list[str]:
        """Close the tracker when all that was sent before is written; return what it has said."""
        with _undisturbed():
            self._tracker.close()
        return self._said


def find_writer(name: ActorName | None) -> "ActorHandle[Writer] | None":
    """Return the writer of this name; None where there is none, or none any more."""
    if name is None:
        return None
    import ray

    try:
        return ray.get_actor(name.name, name.namespace)
    except ValueError:
        return None


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    try:
        yield
    except Exception:
        logger.exception("the tracker failed; the run goes on without it")
