"""The dispatcher's clock: how long a crew takes to begin, and how long stages are in its hands."""

import time
from collections.abc import Sequence

from w2s_ray.training.progress import StageProgress


class Clock:
    """Measures; decides nothing."""

    def __init__(self) -> None:
        """Nothing is measured yet."""
        self.cold_start_seconds: float | None = None
        """From the first crew's being asked for to the first optimizer step that was heard of."""
        self.first_step: float | None = None
        """When the first optimizer step was heard of."""
        self.last_result: float | None = None
        """When the newest result came in."""
        self._crew_asked_for: float | None = None
        self._handed_out: dict[str, float] = {}

    def crew_asked_for(self) -> None:
        """The policy wants a crew."""
        if self._crew_asked_for is None:
            self._crew_asked_for = time.monotonic()

    def handed_out(self, identity: str) -> None:
        """A stage was given to a crew."""
        self._handed_out[identity] = time.monotonic()

    def heard(self, points: Sequence[StageProgress]) -> None:
        """Points came in."""
        stepped = any(point.activity == "training" and point.step > 0 for point in points)
        if stepped and self.first_step is None:
            self.first_step = time.monotonic()
            if self._crew_asked_for is not None:
                self.cold_start_seconds = self.first_step - self._crew_asked_for

    def result_came(self) -> None:
        """A crew handed a stage back."""
        self.last_result = time.monotonic()

    @property
    def working_seconds(self) -> float:
        """From the first optimizer step to the newest result, as far as both were heard of."""
        if self.first_step is None or self.last_result is None:
            return 0.0
        return self.last_result - self.first_step

    def seconds_in_hand(self, identity: str) -> float:
        """Return how long ago a stage was handed out; 0 where that was before a restart."""
        return time.monotonic() - self._handed_out.pop(identity, time.monotonic())
