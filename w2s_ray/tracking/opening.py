"""Make the tracker that a study asks for, in the process that is to write."""

from collections.abc import Callable
from pathlib import Path

from w2s_ray.spec.study import TrackingSpec
from w2s_ray.tracking.fanout import Fanout
from w2s_ray.tracking.jsonl import JsonLinesTracker
from w2s_ray.tracking.tracker import Tracker

POINTS = "points"
"""Folder of the JSON lines inside a study's folder; W&B's run folders lie beside it, in `wandb`."""


def open_tracker(spec: TrackingSpec, folder: Path, say: Callable[[str], None]) -> Tracker:
    """Return the tracker of the study whose folder in the store is `folder`; `say` takes what people should know."""
    trackers: list[Tracker] = [JsonLinesTracker(folder / POINTS)]
    if spec.wandb != "disabled":
        from w2s_ray.tracking.wandb import WandbTracker  # half a second of imports that others do without

        trackers.append(WandbTracker(spec, folder, say=say))
    return Fanout(trackers)
