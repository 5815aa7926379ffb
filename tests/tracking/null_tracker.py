"""A tracker that keeps nothing, for tests that do not look at it."""

from collections.abc import Mapping

from w2s_ray.tracking.tracker import RunInfo


class NullTracker:
    def begin(self, run: RunInfo) -> None:
        pass

    def log(self, run_id: str, step: int, values: Mapping[str, float]) -> None:
        pass

    def finish(self, run_id: str, summary: Mapping[str, float], *, ended_well: bool) -> None:
        pass

    def close(self) -> None:
        pass
