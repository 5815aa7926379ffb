"""A crew's line to the dispatcher: rank 0 asks and answers, and a thread of its own speaks while a stage runs.

The stage itself never waits for the line: points are left in a list, and whether to stop is read from a flag. Twice a
second the thread passes the points on and comes back with the flag. A dispatcher that is being restarted only makes the
line slow; where it is gone for good the stage is stopped and the crew ends.
"""

import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import ray
from ray.exceptions import GetTimeoutError, RayActorError

from w2s_ray.errors import W2SError
from w2s_ray.scheduling.messages import LEAVE, CrewCard, Order
from w2s_ray.training.progress import StageProgress, StageResult

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from w2s_ray.scheduling.dispatcher import Dispatcher

logger = logging.getLogger(__name__)

BEAT_SECONDS = 0.5
"""Between two words to the dispatcher while a stage runs."""
ANSWER_SECONDS = 120.0
"""How long a dispatcher that is being restarted may take to answer."""
_POINTS_KEPT = 1000


class Line:
    """The observer of the stages that a crew runs; only rank 0 has one."""

    def __init__(self, dispatcher: "ActorHandle[Dispatcher]", card: CrewCard) -> None:
        """Nothing is said yet."""
        self._dispatcher, self._card = dispatcher, card
        self._stop = False
        self._points: list[StageProgress] = []

    # The observer that a stage sees.

    def should_stop(self) -> bool:
        """Say whether the dispatcher wants the stage stopped, as far as is known here."""
        return self._stop

    def report(self, point: StageProgress) -> None:
        """Leave a point for the next beat."""
        if len(self._points) < _POINTS_KEPT:
            self._points.append(point)

    # What the crew says itself.

    def next_stage(self) -> Order:
        """Ask for work; waits a few seconds at most."""
        try:
            order: Order = ray.get(self._dispatcher.next_stage.remote(self._card), timeout=ANSWER_SECONDS)
        except (RayActorError, GetTimeoutError):
            logger.exception("the dispatcher does not answer; this crew ends")
            return LEAVE
        return order

    def finished(self, identity: str, outcome: StageResult | W2SError, leaving: bool) -> None:
        """Hand a stage's outcome back, whatever becomes of its last points."""
        try:
            self._beat(identity)
        except (RayActorError, GetTimeoutError):
            logger.exception("the dispatcher does not answer; the last points of the stage are lost")
        try:
            told = self._dispatcher.stage_finished.remote(self._card, identity, outcome, leaving)
            ray.get(told, timeout=ANSWER_SECONDS)
        except (RayActorError, GetTimeoutError):
            logger.exception("the dispatcher does not answer; the store knows what was done")

    @contextmanager
    def observing(self, identity: str) -> Iterator["Line"]:
        """Speak for the stage as long as the context lasts."""
        self._stop = False
        self._points.clear()
        done = threading.Event()
        thread = threading.Thread(target=self._speak, args=(identity, done), name="w2s-line", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()

    def _speak(self, identity: str, done: threading.Event) -> None:
        while not done.wait(BEAT_SECONDS):
            try:
                self._stop = self._beat(identity)
            except (RayActorError, GetTimeoutError):
                logger.exception("the dispatcher does not answer; the stage is stopped")
                self._stop = True

    def _beat(self, identity: str) -> bool:
        points, self._points = self._points, []
        stop: bool = ray.get(self._dispatcher.beat.remote(self._card, identity, points), timeout=ANSWER_SECONDS)
        return stop
