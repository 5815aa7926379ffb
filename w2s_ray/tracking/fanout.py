"""One tracker made of several; what goes wrong in one is logged and does not reach the others."""

import logging
from collections.abc import Callable, Mapping, Sequence

from w2s_ray.tracking.tracker import RunInfo, Tracker

logger = logging.getLogger(__name__)


class Fanout:
    """Passes everything on to each of its trackers."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        """Take the trackers in the order in which they are told."""
        self._trackers = tuple(trackers)

    def begin(self, run: RunInfo) -> None:
        """Open the run everywhere."""
        self._each(lambda tracker: tracker.begin(run))

    def log(self, run_id: str, step: int, values: Mapping[str, float]) -> None:
        """Put the values down everywhere."""
        self._each(lambda tracker: tracker.log(run_id, step, values))

    def finish(self, run_id: str, summary: Mapping[str, float], *, ended_well: bool) -> None:
        """Close the run everywhere."""
        self._each(lambda tracker: tracker.finish(run_id, summary, ended_well=ended_well))

    def close(self) -> None:
        """Close every tracker."""
        self._each(lambda tracker: tracker.close())

    def _each(self, tell: Callable[[Tracker], None]) -> None:
        for tracker in self._trackers:
            try:
                tell(tracker)
            except Exception:
                logger.exception("%s failed; the others go on", type(tracker).__name__)
