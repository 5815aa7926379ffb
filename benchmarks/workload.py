"""A workload of the scheduling simulator: a study, a cluster, the speed of its devices and how often they fail.

Read from YAML with the same strict checks as a study. The models need not exist: the file gives each level's number of
parameters, from which a stage's time follows.
"""

from pathlib import Path
from typing import Any

import yaml
from pydantic import Field, ValidationError

from w2s_ray.errors import StudyError
from w2s_ray.planning.nodes import Node
from w2s_ray.spec.base import Positive, Spec
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution, ResolvedModel, ResolvedTask
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.study import Study

_FLOPS_TRAINING = 6.0
"""Floating-point operations per token and parameter: forward 2, backward 4."""
_FLOPS_PREDICTING = 2.0

WORKLOADS = {path.stem: path for path in sorted(Path(__file__).with_name("workloads").glob("*.yaml"))}
"""The committed workloads, by name."""


class Cluster(Spec):
    """Machines of one kind."""

    nodes: Positive
    gpus_per_node: Positive
    cpus_per_node: Positive

    @property
    def num_gpus(self) -> int:
        return self.nodes * self.gpus_per_node

    @property
    def all_nodes(self) -> tuple[Node, ...]:
        return (Node(cpus=self.cpus_per_node, gpus=self.gpus_per_node),) * self.nodes


class Device(Spec):
    """Speed of one GPU, and the fixed costs of worker groups and stages."""

    tflops: float = Field(gt=0)
    """Sustained, in units of 10^12 floating-point operations per second."""
    group_start_seconds: float = Field(ge=0)
    """From the decision to start a worker group until it is ready."""
    group_end_seconds: float = Field(ge=0)
    """From the decision to stop a worker group until its devices are free."""
    stage_start_seconds: float = Field(ge=0)
    """Loading the model and the data, once per stage."""


class Failures(Spec):
    """How often devices fail. The node is back at once; the worker group is lost."""

    gpu_hours_between: float = Field(gt=0)
    """Mean time between failures of one GPU."""
    checkpoint_seconds: float = Field(gt=0)
    """Time between two checkpoints: the most training that a failure loses."""


class Workload(Spec):
    """One simulated run."""

    study: Study
    parameters: dict[str, float]
    """Number of parameters of each level's model."""
    test_examples: Positive = 2000
    cluster: Cluster
    device: Device
    failures: Failures | None = None

    def chains(self) -> tuple[Chain, ...]:
        """Compile the study with made-up fingerprints and revisions."""
        task = ResolvedTask(fingerprint="0" * 64, num_classes=2, num_test=self.test_examples)
        models = {name: ResolvedModel(revision="0", num_parameters=None) for name in self.study.ladder}
        tasks = {name: task.model_copy(update={"fingerprint": name}) for name in self.study.tasks}
        return compile_study(self.study, Resolution(tasks=tasks, models=models))

    def seconds(self, stage: PlannedStage) -> float:
        """Return the time of a stage: loading, training, and predictions for the test set and for students."""
        settings = stage.spec.optimisation
        trained = sum(part.split.num_examples for part in stage.spec.train) * settings.epochs
        predicted = sum(prediction.split.num_examples for prediction in stage.predicts)
        operations = _FLOPS_TRAINING * trained + _FLOPS_PREDICTING * predicted
        work = operations * settings.context_tokens * self.parameters[stage.level]
        return self.device.stage_start_seconds + work / (self.device.tflops * 1e12 * stage.execution.workers)


def load_workload(path: Path, num_gpus: int | None = None, num_seeds: int | None = None) -> Workload:
    """Read a workload, and replace its number of GPUs or seeds if given.

    Raises:
        StudyError: when the file is missing, is not YAML, or breaks a rule.
    """
    try:
        raw: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise StudyError(f"workload {path} cannot be read: {error}") from None
    try:
        raw["study"] = parse_study(raw["study"], source=str(path))
        seeds = raw["study"].seeds if num_seeds is None else tuple(range(num_seeds))
        raw["study"] = raw["study"].model_copy(update={"seeds": seeds})
        workload = Workload.model_validate(raw)
    except (KeyError, TypeError, ValidationError) as error:
        raise StudyError(f"workload {path}: {error}", "benchmarks/workload.py documents the keys") from None
    if num_gpus is None:
        return workload
    per_node = workload.cluster.gpus_per_node
    if num_gpus % per_node:
        raise StudyError(f"{num_gpus} GPUs are not a multiple of {per_node}, the GPUs per node of {path.stem}")
    cluster = workload.cluster.model_copy(update={"nodes": num_gpus // per_node})
    return workload.model_copy(update={"cluster": cluster})
