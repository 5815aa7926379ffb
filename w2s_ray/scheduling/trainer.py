"""Ray Train for crews: a worker group that restarts its workers, and nothing else.

`TorchTrainer` is a `DataParallelTrainer` with a torch process group, and so is this. What it leaves out is what a crew
has no use for and would wait for at its start, on two cores half of its cold start:

- torch in the process that calls `fit` and in Train's controller (the group is group.py's);
- the autoscaling coordinator, an actor that the controller waits for before it asks for workers. Placement groups that
  wait for room tell the autoscaler as much;
- the actor that hands out Ray Data sets, of which there are none;
- on a single machine, the actors that watch for machines that leave and clean up after controllers that die there.
"""

import os
from typing import Any

import ray
from ray.train import Result
from ray.train.v2._internal.callbacks import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.execution.context import TrainRunContext
from ray.train.v2._internal.execution.scaling_policy import FixedScalingPolicy
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

POLL_SECONDS = 0.5
"""How often Train looks after the workers: a dead one is noticed within this time."""


class CrewTrainer(DataParallelTrainer):
    """Places workers, connects them, and starts them again when one dies."""

    def fit(self) -> Result:
        """Stay with the workers until they end of themselves, or have died too often."""
        os.environ["RAY_TRAIN_HEALTH_CHECK_INTERVAL_S"] = str(POLL_SECONDS)
        os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
        os.environ["RAY_TRAIN_METRICS_ENABLED"] = "0"
        os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = "0" if _alone() else "1"
        return super().fit()

    def _initialize_and_run_controller(self, **parts: Any) -> Result:
        unused = (DatasetsCallback, PlacementGroupCleanerCallback) if _alone() else (DatasetsCallback,)
        parts["callbacks"] = [callback for callback in parts["callbacks"] if not isinstance(callback, unused)]
        parts["scaling_policy"] = _AsManyAsAsked(self.scaling_config)
        return super()._initialize_and_run_controller(**parts)


class _AsManyAsAsked(FixedScalingPolicy):
    """Always the same number of workers, without a word to the autoscaling coordinator."""

    def after_controller_start(self, train_run_context: TrainRunContext) -> None:
        """Register nothing."""

    def _maybe_send_resource_request(self) -> None:
        """Ask for nothing."""

    def _cancel_resource_request(self) -> None:
        """Nothing was asked for."""


def _alone() -> bool:
    return len([node for node in ray.nodes() if node["Alive"]]) == 1
