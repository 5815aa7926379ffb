"""Each private name of Ray that the adapter uses, with the behaviour that we rely on."""

import inspect
import time
from typing import Any

import pytest
import ray
from ray._private.state import state
from ray.core.generated.gcs_pb2 import PlacementGroupTableData
from ray.exceptions import ActorDiedError
from ray.train import ControllerError, Result, ScalingConfig, WorkerGroupError
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)
from ray.train.v2._internal.execution.callback import RayTrainCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import PlacementGroup, placement_group

from w2s_ray.scheduling.ray_adapter import (
    is_startup_timeout,
    remove_orphaned_placement_groups,
    wait_for_placement_groups,
    worker_failures,
)


@pytest.mark.parametrize("callback", [DatasetsCallback, PlacementGroupCleanerCallback])
def test_callbacks_that_are_removed_are_train_callbacks(callback: type) -> None:
    assert issubclass(callback, RayTrainCallback)


@pytest.mark.usefixtures("ray_of_two_cpus")
def test_the_trainer_starts_its_controller_with_callbacks_and_a_scaling_policy() -> None:
    started: dict[str, Any] = {}

    class Trainer(DataParallelTrainer):
        def _initialize_and_run_controller(self, **parts: Any) -> Result:
            started.update(parts)
            raise NotImplementedError

    with pytest.raises(NotImplementedError):
        Trainer(lambda: None, scaling_config=ScalingConfig(num_workers=2)).fit()
    assert any(isinstance(callback, DatasetsCallback) for callback in started["callbacks"])
    assert "scaling_policy" in started


def test_the_scaling_policy_has_the_hooks_that_are_switched_off() -> None:
    hooks = ("after_controller_start", "_maybe_send_resource_request", "_cancel_resource_request")
    assert [name for name in hooks if not callable(getattr(FixedScalingPolicy, name, None))] == []
    (_, parameter) = inspect.signature(FixedScalingPolicy.after_controller_start).parameters.values()
    assert parameter.annotation in (TrainRunContext, "TrainRunContext")


def test_a_startup_timeout_is_recognised() -> None:
    assert is_startup_timeout(ControllerError(WorkerGroupStartupTimeoutError(2)))
    assert not is_startup_timeout(ControllerError(RuntimeError("no module named torch")))


def test_what_ended_a_worker_is_unwrapped() -> None:
    raised, died = ValueError("odd"), ActorDiedError()
    wrapped = {0: UserExceptionWithTraceback(raised, "its traceback"), 1: WorkerHealthCheckFailedError("", died)}
    assert worker_failures(WorkerGroupError("", wrapped)) == {0: raised, 1: died}


def test_the_placement_group_table_has_the_fields_of_the_creator() -> None:
    fields = {field.name for field in PlacementGroupTableData.DESCRIPTOR.fields}
    needed = {"state", "creator_actor_dead", "creator_actor_id", "creator_job_id", "is_detached", "placement_group_id"}
    assert needed <= fields
    assert callable(state._connect_and_get_accessor)


@pytest.mark.usefixtures("ray_of_two_cpus")
def test_only_placement_groups_of_train_controllers_that_died_are_removed() -> None:
    class Creator:
        def create(self) -> str:
            group = placement_group([{"CPU": 1}])
            ray.get(group.ready())
            return str(group.id.hex())

    class TrainController(Creator): ...

    TrainController.__qualname__ = TrainController.__name__  # as for a class of a module
    host, controller = (ray.remote(num_cpus=0)(own).remote() for own in (Creator, TrainController))
    of_host, of_run = ray.get([host.create.remote(), controller.create.remote()])
    assert remove_orphaned_placement_groups() == 0
    ray.kill(controller)
    began = time.monotonic()
    wait_for_placement_groups(20)
    assert time.monotonic() - began < 10, "the group of the program around the run stays"
    table = ray.util.placement_group_table()
    assert (table[of_run]["state"], table[of_host]["state"]) == ("REMOVED", "CREATED")
    ray.util.remove_placement_group(PlacementGroup(ray.PlacementGroupID.from_hex(of_host)))
    ray.kill(host)
