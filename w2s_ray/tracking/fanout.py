"""The tracker of a study: several trackers behind one, of which each may fail alone."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from w2s_ray.errors import first_line
from w2s_ray.spec.study import TrackingSpec
from w2s_ray.tracking.jsonl import JsonLinesTracker
from w2s_ray.tracking.tracker import RunInfo, Tracker

logger = logging.getLogger(__name__)

POINTS = "points"
"""Folder of the JSON lines inside a study's folder; W&B writes to `wandb` beside it."""


def open_tracker(spec: TrackingSpec, folder: Path, say: Callable[[str], None]) -> Tracker:
    """Make the tracker of a study, in the process that writes.

    Args:
        spec: the study's `tracking:` section.
        folder: the study's folder in the store.
        say: prints a line for the user.
    """
    trackers: list[Tracker] = [JsonLinesTracker(folder / POINTS)]
    if spec.wandb != "disabled":
        from w2s_ray.tracking.wandb import WandbTracker  # importing wandb takes half a second

        trackers.append(WandbTracker(spec, folder, say=say))
    return Fanout(trackers, say)


class Fanout:
    """Passes everything on to each of its trackers. An exception in one is logged, and the first one reported."""

    def __init__(self, trackers: Sequence[Tracker], say: Callable[[str], None]) -> None:
        self._trackers, self._say = tuple(trackers), say
        self._failed: set[str] = set()

    def begin(self, run: RunInfo) -> None:
        self._call_all(lambda tracker: tracker.begin(run))

    def log(self, run_id: str, step: int, values: Mapping[str, float]) -> None:
        self._call_all(lambda tracker: tracker.log(run_id, step, values))

    def finish(self, run_id: str, summary: Mapping[str, float], *, ended_well: bool) -> None:
        self._call_all(lambda tracker: tracker.finish(run_id, summary, ended_well=ended_well))

    def close(self) -> None:
        self._call_all(lambda tracker: tracker.close())

    def _call_all(self, call: Callable[[Tracker], None]) -> None:
        for tracker in self._trackers:
            try:
                call(tracker)
            except Exception as error:
                name = type(tracker).__name__
                logger.exception("%s failed; the other trackers continue", name)
                if name not in self._failed:
                    self._failed.add(name)
                    self._say(f"{name} has lost metrics: {first_line(error)}; the study's results are complete")
