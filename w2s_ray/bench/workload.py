"""A workload for the scheduler's simulator: a study, a cluster, and how fast and how frail its devices are.

Read from YAML like a study, and as strictly. Its models need not exist: a level's size is stated, and a stage's time
follows from it.
"""

from importlib import resources
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


class Cluster(Spec):
    """Machines of one kind."""

    nodes: Positive
    gpus_per_node: Positive
    cpus_per_node: Positive

    @property
    def num_gpus(self) -> int:
        """GPUs in all."""
        return self.nodes * self.gpus_per_node

    @property
    def all_nodes(self) -> tuple[Node, ...]:
        """Each machine."""
        return (Node(cpus=self.cpus_per_node, gpus=self.gpus_per_node),) * self.nodes


class Device(Spec):
    """How fast one GPU works through a stage, and what comes before."""

    tflops: float = Field(gt=0)
    """Sustained, in units of 10^12 floating-point operations per second."""
    crew_start_seconds: float = Field(ge=0)
    """From the decision to open a crew to its first word."""
    crew_end_seconds: float = Field(ge=0)
    """From the decision to let a crew go to its room being free."""
    stage_start_seconds: float = Field(ge=0)
    """Loading the model and the data, for each stage."""


class Failures(Spec):
    """How often devices fail; their node comes back at once, the crew is lost."""

    gpu_hours_between: float = Field(gt=0)
    """Mean time between failures of one GPU."""
    checkpoint_seconds: float = Field(gt=0)
    """Between two checkpoints: what is lost at most, besides the crew's start."""


class Workload(Spec):
    """One simulated run."""

    study: Study
    parameters: dict[str, float]
    """Parameters of each level's model."""
    test_examples: Positive = 2000
    cluster: Cluster
    device: Device
    failures: Failures | None = None

    def chains(self) -> tuple[Chain, ...]:
        """The study's chains, with names that resolve to nothing real."""
        task = ResolvedTask(fingerprint="0" * 64, num_classes=2, num_test=self.test_examples)
        models = {name: ResolvedModel(revision="0", num_parameters=None) for name in self.study.ladder}
        tasks = {name: task.model_copy(update={"fingerprint": name}) for name in self.study.tasks}
        return compile_study(self.study, Resolution(tasks=tasks, models=models))

    def seconds(self, stage: PlannedStage) -> float:
        """How long a crew has a stage in hand: loading, training, and predictions for test set and students."""
        settings = stage.spec.optimisation
        trained = sum(part.split.num_examples for part in stage.spec.train) * settings.epochs
        predicted = sum(prediction.split.num_examples for prediction in stage.predicts)
        operations = _FLOPS_TRAINING * trained + _FLOPS_PREDICTING * predicted
        work = operations * settings.context_tokens * self.parameters[stage.level]
        return self.device.stage_start_seconds + work / (self.device.tflops * 1e12 * stage.execution.workers)


def committed_workloads() -> dict[str, Path]:
    """The workloads that come with the package, by name."""
    with resources.as_file(resources.files("w2s_ray.bench") / "workloads") as folder:
        return {path.stem: path for path in sorted(folder.glob("*.yaml"))}


def load_workload(path: Path, num_gpus: int | None = None, num_seeds: int | None = None) -> Workload:
    """Read a workload; with another number of GPUs or seeds where they are given.

    Raises:
        StudyError: when the file is missing, is not YAML, or breaks a rule.
    """
    try:
        raw: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise StudyError(f"workload {path}: {error}", "a workload is a readable YAML file", "check the path") from None
    try:
        raw["study"] = parse_study(raw["study"], source=str(path))
        seeds = raw["study"].seeds if num_seeds is None else tuple(range(num_seeds))
        raw["study"] = raw["study"].model_copy(update={"seeds": seeds})
        workload = Workload.model_validate(raw)
    except (KeyError, TypeError, ValidationError) as error:
        raise StudyError(f"workload {path}: {error}", "see w2s_ray/bench/workload.py for its keys", "mend it") from None
    if num_gpus is None:
        return workload
    each = workload.cluster.gpus_per_node
    if num_gpus % each:
        raise StudyError(f"{num_gpus} GPUs", f"{path.stem} has {each} on a node", f"name a multiple of {each}")
    return workload.model_copy(update={"cluster": workload.cluster.model_copy(update={"nodes": num_gpus // each})})
