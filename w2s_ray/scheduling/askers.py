"""Which processes ask for a trial, as far as they are heard.

There may be two for one trial: Tune keeps the process of a trial that pauses or ends for another one, and it withdraws
only when it takes that up; by then another process may have gone on with the first. Whoever leaves takes nothing along
as long as another is there. One that was killed says nothing at all, so whoever leaves beside one that was heard of
late has to look again when that one would have spoken.
"""

import time

SILENT_SECONDS = 60.0
"""After which a process that said nothing is taken for dead."""


class Askers:
    """By trial, the processes that ask for it, and when each was last heard."""

    def __init__(self) -> None:
        """Nobody has asked for anything."""
        self._heard: dict[str, dict[str, float]] = {}

    def heard(self, trial: str, asker: str | None) -> None:
        """A process speaks for a trial; None for somebody who asks once and is not heard again."""
        if asker is not None:
            self._heard.setdefault(trial, {})[asker] = time.monotonic()

    def left(self, trial: str, asker: str | None) -> bool:
        """A process asks for a trial no more; say whether nobody else does."""
        others = self._heard.get(trial, {})
        others.pop(asker or "", None)
        if any(time.monotonic() - heard < SILENT_SECONDS for heard in others.values()):
            return False
        self._heard.pop(trial, None)
        return True
