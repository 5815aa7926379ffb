"""The tracker that keeps nothing: for tests, and for studies that want the store alone."""

from collections.abc import Mapping

from w2s_ray.tracking.tracker import RunInfo


class NullTracker:
    """Takes every point and forgets it."""

    def begin(self, run: RunInfo) -> None:
        """Forget the run."""

    def log(self, run_id: str, step: int, values: Mapping[str, float]) -> None:
        """Forget the values."""

    def finish(self, run_id: str, summary: Mapping[str, float], *, ended_well: bool) -> None:
        """Forget the summary."""

    def close(self) -> None:
        """There is nothing to close."""
