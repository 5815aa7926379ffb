"""The foreman's clock: how long a crew takes to begin, and how long stages are in its hands."""

import time
from collections.abc import Sequence

from w2s_ray.training.progress import Point


class Clock:
    """Measures; decides nothing."""

    def __init__(self) -> None:
        """Nothing is measured yet."""
        self.cold_start_seconds: float | None = None
        """From the first crew's being asked for to the first optimizer step that was heard of."""
        self._crew_asked_for: float | None = None
        self._handed_out: dict[str, float] = {}

    def crew_asked_for(self) -> None:
        """The policy wants a crew."""
        if self._crew_asked_for is None:
            self._crew_asked_for = time.monotonic()

    def handed_out(self, identity: str) -> None:
        """A stage was given to a crew."""
        self._handed_out[identity] = time.monotonic()

    def heard(self, points: Sequence[Point]) -> None:
        """Points came in."""
        stepped = any(point.activity == "training" and point.step > 0 for point in points)
        if stepped and self.cold_start_seconds is None and self._crew_asked_for is not None:
            self.cold_start_seconds = time.monotonic() - self._crew_asked_for

    def seconds_in_hand(self, identity: str) -> float:
        """Return how long ago a stage was handed out; 0 where that was before a restart."""
        return time.monotonic() - self._handed_out.pop(identity, time.monotonic())
