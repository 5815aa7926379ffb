"""A crew: one Ray Train worker group that stays warm and runs stage after stage.

Train places the workers, connects them and starts them again when one dies (trainer.py, group.py); what the workers do
is worker.py. Run names are unique, and Train's own checkpoints are not used: a stage's are in the store.
"""

import shutil
import time

from ray.train import ControllerError, FailureConfig, RunConfig, ScalingConfig
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError

from w2s_ray.scheduling.group import GroupConfig
from w2s_ray.scheduling.trainer import CrewTrainer
from w2s_ray.scheduling.worker import CrewPlan, work
from w2s_ray.spec.stage import GroupShape

MAX_RESTARTS = 3
"""Times that Train starts a crew's workers again before the crew is given up and another is opened."""
MAX_FAILED_PLACEMENTS = 3
"""Times that Train waits for room again, a minute each, before the crew is given up and the policy decides anew."""


class NoRoomError(Exception):
    """Ray did not place a crew's workers in time: others have the room."""


def run_crew(plan: CrewPlan) -> None:
    """Open a crew and stay with it until it leaves; the body of a Ray task that takes no CPU.

    Raises:
        NoRoomError: when its workers are not placed in time.
        TrainingFailedError: when they cannot start, or died too often.
    """
    shape, folder = plan.shape, plan.store.study_folder(plan.study) / "crews"
    name = f"{plan.crew}-{time.time_ns()}"
    trainer = CrewTrainer(
        work,
        train_loop_config={"plan": plan},
        backend_config=GroupConfig(
            timeout_seconds=plan.collective_seconds,
            num_threads=max(1, int(shape.cpus_per_worker)),
            on_gpus=shape.gpus_per_worker > 0,
        ),
        scaling_config=ScalingConfig(
            num_workers=shape.workers, use_gpu=shape.gpus_per_worker > 0, resources_per_worker=_resources(shape)
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(folder),
            failure_config=FailureConfig(max_failures=MAX_RESTARTS, controller_failure_limit=MAX_FAILED_PLACEMENTS),
        ),
    )
    try:
        trainer.fit()
    except ControllerError as error:
        if isinstance(error.controller_failure, WorkerGroupStartupTimeoutError):
            raise NoRoomError(f"no room for {shape.workers} workers on the cluster") from None
        raise
    finally:
        shutil.rmtree(folder / name, ignore_errors=True)


def _resources(shape: GroupShape) -> dict[str, float]:
    resources = {"CPU": shape.cpus_per_worker}
    return {**resources, "GPU": shape.gpus_per_worker} if shape.gpus_per_worker > 0 else resources
