"""Everything that uses private names of Ray, each with its reason.

`tests/scheduling/test_ray_adapter.py` has one test per name that fails when Ray changes it.

`WorkerGroupTrainer` (ray.train.v2): with `TorchTrainer` a cold start takes 1.4 times as long on two cores, because

- it imports torch in the process that calls `fit` and in Train's controller; our process group is connected by the
  workers alone (workers/process_group.py);
- its controller waits for the autoscaling coordinator, an actor, before it requests workers. Placement groups that wait
  for resources tell the autoscaler the same;
- it starts an actor for Ray Data, which we do not use;
- on a single machine it starts actors that watch for other machines.

There is no public setting for any of these.

`remove_orphaned_placement_groups` (ray._private.state, gcs_pb2): when a Train controller is killed its placement group
keeps the CPUs until the job ends (https://github.com/ray-project/ray/issues/58515). Ray's public tables do not show who
created a placement group.

`worker_failures` (exceptions of ray.train.v2): what a worker raised, or how its process ended, is wrapped in classes
that have no public name.
"""

import os
import time
from typing import Any

import ray
from ray._private.state import actors, state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.train import ControllerError, Result, WorkerGroupError
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import PlacementGroup, remove_placement_group

POLL_SECONDS = 0.5
"""How often Train looks after the workers: a dead one is noticed within this time."""
_FREEING_SECONDS = 0.2
"""Between two looks for placement groups whose actor has ended."""


class WorkerGroupTrainer(DataParallelTrainer):
    """Places and connects workers, and ends when they have ended or one of them has died."""

    def fit(self) -> Result:
        """Stay with the workers until they have ended."""
        os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = str(POLL_SECONDS)
        os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
        os.environ["RAY_TRAIN_METRICS_ENABLED"] = "0"
        os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0" if _is_single_machine() else "1"
        return super().fit()

    def _initialize_and_run_controller(self, **parts: Any) -> Result:
        unused = (DatasetsCallback, PlacementGroupCleanerCallback) if _is_single_machine() else (DatasetsCallback,)
        parts["callbacks"] = [callback for callback in parts["callbacks"] if not isinstance(callback, unused)]
        parts["scaling_policy"] = _FixedSize(self.scaling_config)
        return super()._initialize_and_run_controller(**parts)


class _FixedSize(FixedScalingPolicy):
    """The same number of workers always, without the autoscaling coordinator."""

    def after_controller_start(self, train_run_context: TrainRunContext) -> None: ...

    def _maybe_send_resource_request(self) -> None: ...

    def _cancel_resource_request(self) -> None: ...


def is_startup_timeout(error: ControllerError) -> bool:
    """Return whether Train gave up because Ray did not place the workers in time."""
    return isinstance(error.controller_failure, WorkerGroupStartupTimeoutError)


def worker_failures(error: WorkerGroupError) -> dict[int, BaseException]:
    """Return by rank what a worker raised, or Ray's error for the end of its process."""
    failures: dict[int, BaseException] = {}
    for rank, failure in error.worker_failures.items():
        inner: Any = failure
        if isinstance(failure, UserExceptionWithTraceback):
            inner = failure._base_exc
        elif isinstance(failure, WorkerHealthCheckFailedError):
            inner = failure.health_check_failure
        failures[rank] = inner
    return failures


def remove_orphaned_placement_groups() -> int:
    """Remove this job's placement groups whose Train controller is dead; return how many those were."""
    orphans = [group for group in _groups_of_controllers() if group.creator_actor_dead]
    for orphan in orphans:
        remove_placement_group(PlacementGroup(ray.PlacementGroupID(orphan.placement_group_id)))
    return len(orphans)


def wait_for_placement_groups(seconds: float) -> None:
    """Remove this job's placement groups of Train controllers as these end, for at most `seconds`."""
    deadline = time.monotonic() + seconds
    while _groups_of_controllers() and time.monotonic() < deadline:
        remove_orphaned_placement_groups()
        time.sleep(_FREEING_SECONDS)


def _groups_of_controllers() -> list[PlacementGroupTableData]:
    """Return this job's placement groups that a Train controller created; a program around the run may have others."""
    job = ray.get_runtime_context().get_job_id()
    table = state._connect_and_get_accessor().get_placement_group_table()
    return [
        group
        for group in map(PlacementGroupTableData.FromString, table)
        if group.state != PlacementGroupTableData.REMOVED
        and group.creator_job_id.hex() == job
        and actors(group.creator_actor_id.hex()).get("ActorClassName") == TrainController.__name__
    ]


def _is_single_machine() -> bool:
    return len([node for node in ray.nodes() if node["Alive"]]) == 1
