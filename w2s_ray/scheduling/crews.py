"""The run's crews: Ray tasks that it starts when the dispatcher asks, and whose end it tells the dispatcher."""

from collections.abc import Callable

import ray
from ray.exceptions import RayError

from w2s_ray.scheduling.crew import NoRoomError, run_crew
from w2s_ray.scheduling.messages import CrewEnd, CrewRequest
from w2s_ray.scheduling.orphans import remove_orphans
from w2s_ray.scheduling.worker import CrewPlan
from w2s_ray.spec.stage import GroupShape

_ERROR_CHARS = 600
_TASK_BYTES = 200 * 2**20
"""What the process takes that stays with a crew."""


class Crews:
    """Opens crews and notices when they end. They belong to this process: Ray ends them should it die."""

    def __init__(self, plan_of: Callable[[CrewRequest], CrewPlan]) -> None:
        """`plan_of` tells what a crew has to know."""
        self._plan_of = plan_of
        self._open: dict[str, tuple[GroupShape, ray.ObjectRef[None]]] = {}
        self._ended: dict[str, CrewEnd] = {}

    @property
    def shapes(self) -> dict[str, GroupShape]:
        """The crews that are there, or on their way."""
        return {crew: shape for crew, (shape, _) in self._open.items()}

    @property
    def ended(self) -> dict[str, CrewEnd]:
        """Every crew that has ended, and how."""
        return self._ended

    def open(self, request: CrewRequest) -> None:
        """Start a crew, unless it was started already."""
        if request.crew in self._open or request.crew in self._ended:
            return
        # One call per process: Train leaves a handle on its controller behind, which would keep that alive.
        options = {"num_cpus": 0, "memory": _TASK_BYTES, "max_calls": 1, "max_retries": 0}
        start = ray.remote(**options, scheduling_strategy="SPREAD")(run_crew)
        self._open[request.crew] = (request.shape, start.remote(self._plan_of(request)))

    def give_up(self, request: CrewRequest) -> None:
        """End a crew that is still on its way."""
        if request.crew in self._open:
            ray.cancel(self._open[request.crew][1], force=True)

    def look_after(self) -> None:
        """Notice which crews have ended."""
        for crew, (_, task) in list(self._open.items()):
            done, _ = ray.wait([task], timeout=0)
            if done:
                del self._open[crew]
                self._ended[crew] = _end_of(task)
        if any(end.error is not None for end in self._ended.values()):
            remove_orphans()  # its controller may have been killed, now or a little later

    def end_now(self) -> None:
        """End every crew that is left, ready or not."""
        for _, task in self._open.values():
            ray.cancel(task, force=True)
        for _, task in self._open.values():
            ray.wait([task], timeout=10)
        self.look_after()


def _end_of(task: "ray.ObjectRef[None]") -> CrewEnd:
    try:
        ray.get(task)
    except RayError as error:
        cause = getattr(error, "cause", None) or error
        text = f"{type(cause).__name__}: {cause}"[-_ERROR_CHARS:]
        return CrewEnd(text, found_room=not isinstance(cause, NoRoomError))
    return CrewEnd()
