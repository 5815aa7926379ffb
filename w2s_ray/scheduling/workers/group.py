"""Starting worker groups: each is a Ray task that stays in `trainer.fit()` until its workers have ended.

Train places the workers and connects them (process_group.py); worker.py is what they do. When one of them dies the
whole group ends, and the policy opens another. Train's own checkpoints are not used: a stage's are in the store.
"""

import asyncio
import logging
import shutil
import socket
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.exceptions import RayError
from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig

from w2s_ray.scheduling import ray_adapter, ray_errors
from w2s_ray.scheduling.core.queue import Crash, CrashKind
from w2s_ray.scheduling.core.scheduler import GroupEnded
from w2s_ray.scheduling.workers.failures import log_has_timeout
from w2s_ray.scheduling.workers.process_group import ProcessGroupConfig
from w2s_ray.scheduling.workers.worker import GroupPlan, run_worker
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.execution import GroupShape
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.run_status import log_path

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from w2s_ray.scheduling.dispatcher.dispatcher import Dispatcher

logger = logging.getLogger(__name__)

_MAX_PLACEMENTS = 3
"""Times that Train waits for room, a minute each, before the group ends and the policy decides again."""
_ANSWER_SECONDS = 2.0
"""How long a node may take to accept a connection."""
_TASK_BYTES = 200 * 2**20
"""Memory of the process that stays with a group."""


class NoRoomError(Exception):
    """Ray did not place a group's workers in time, because others use the cluster too."""


@dataclass
class RayGroupLauncher:
    """Starts groups as Ray tasks of the process that it is used in, which should be the dispatcher's."""

    store: ArtifactStore
    study: str
    runner: str
    """See `RunSettings`."""
    collective_seconds: float
    """See `RunSettings`."""

    def __post_init__(self) -> None:
        self._tasks: dict[str, ray.ObjectRef[None]] = {}

    async def run(self, group: str, shape: GroupShape, running: Callable[[], PlannedStage | None]) -> GroupEnded:
        """Start a group, stay with it until it is gone, and return how it ended; `running` returns its stage."""
        dispatcher: ActorHandle[Dispatcher] = ray.get_runtime_context().current_actor
        plan = GroupPlan(group, shape, dispatcher, self.store, self.study, self.runner, self.collective_seconds)
        nodes = frozenset(node["NodeID"] for node in ray.nodes() if node["Alive"])
        # One call per process: Train leaves a handle on its controller behind, which would keep that alive.
        options = {"num_cpus": 0, "memory": _TASK_BYTES, "max_calls": 1, "max_retries": 0}
        self._tasks[group] = ray.remote(**options, scheduling_strategy="SPREAD")(run_group).remote(plan)
        try:
            await self._tasks[group]
        except RayError as error:
            found_room = not isinstance(getattr(error, "cause", error), NoRoomError)
            crash, stage = ray_errors.group_crash(error), running()
            if crash.kind is CrashKind.KILLED and stage is not None:
                reason = await asyncio.to_thread(self._why_killed, stage, nodes)
                crash = reason or crash
            return GroupEnded(group, crash.cause, found_room, crash.kind)
        finally:
            del self._tasks[group]
        return GroupEnded(group)

    def _why_killed(self, stage: PlannedStage, nodes: Collection[str]) -> Crash | None:
        """Return what killed a process of a group that ran `stage` with these nodes alive; None if it is unknown.

        Ray notices the loss of a node later than the end of its processes, and NCCL's watchdog ends them like a signal.
        """
        lost = lost_nodes(nodes)
        if lost:
            return Crash(f"the node on {', '.join(lost)} was lost", CrashKind.NODE)
        log = log_path(self.store, self.study, stage)
        if log_has_timeout(log):
            cause = f"a worker did not join a collective of the others in time (log: {log})"
            return Crash(cause, CrashKind.TIMEOUT)
        return None

    def cancel(self, group: str) -> None:
        """Kill a group."""
        if group in self._tasks:
            ray.cancel(self._tasks[group], force=True)

    async def remove_orphans(self) -> None:
        """Free placement groups of dead groups."""
        try:
            await asyncio.to_thread(ray_adapter.remove_orphaned_placement_groups)
        except Exception:  # Ray does not answer at the moment
            logger.exception("resources of dead worker groups were not freed")


def lost_nodes(before: Collection[str]) -> list[str]:
    """Return the addresses of those of the nodes `before`, by id, that are dead or do not answer."""
    try:
        nodes = [node for node in ray.nodes() if node["NodeID"] in before]
    except Exception:  # Ray does not answer at the moment
        return []
    return [node["NodeManagerAddress"] for node in nodes if not (node["Alive"] and _answers(node))]


def _answers(node: Mapping[str, Any]) -> bool:
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), _ANSWER_SECONDS).close()
    except OSError:
        return False
    return True


def run_group(plan: GroupPlan) -> None:
    """Start a worker group and stay with it until it ends; the body of a Ray task that takes no CPU.

    Raises:
        NoRoomError: when Ray does not place its workers in time.
        TrainingFailedError: when they cannot start, or one of them died.
    """
    shape, folder = plan.shape, plan.store.study_folder(plan.study) / "groups"
    name = f"{plan.group}-{time.time_ns()}"
    on_gpus = shape.gpus_per_worker > 0
    resources = {"CPU": shape.cpus_per_worker} | ({"GPU": shape.gpus_per_worker} if on_gpus else {})
    trainer = ray_adapter.WorkerGroupTrainer(
        run_worker,
        train_loop_config={"plan": plan},
        backend_config=ProcessGroupConfig(
            timeout_seconds=plan.collective_seconds,
            num_threads=max(1, int(shape.cpus_per_worker)),
            on_gpus=on_gpus,
        ),
        scaling_config=ScalingConfig(num_workers=shape.workers, use_gpu=on_gpus, resources_per_worker=resources),
        run_config=RunConfig(
            name=name,
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=0, controller_failure_limit=_MAX_PLACEMENTS),
        ),
    )
    try:
        trainer.fit()
    except ControllerError as error:
        if ray_adapter.is_startup_timeout(error):
            raise NoRoomError(f"no room for {shape.workers} workers on the cluster") from None
        raise
    finally:
        shutil.rmtree(folder / name, ignore_errors=True)
