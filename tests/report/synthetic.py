"""A study in a real store whose stages have predictions of chosen accuracy, without any training.

A model of accuracy a is right on the first a·N examples of a split, in the split's own order, so models are nested:
whatever the weaker one knows, the stronger one knows too.
"""

import io
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from rich.console import Console

from w2s_ray.data.labels import targets
from w2s_ray.data.prepare import PreparedTask, prepare_task
from w2s_ray.data.splits import num_test, rows_of_split
from w2s_ray.report.evidence import Evidence, gather
from w2s_ray.report.findings import ArmSummary, Estimate, Summary
from w2s_ray.report.page import write_report
from w2s_ray.report.results import read_results, read_stages
from w2s_ray.report.summary import summarise
from w2s_ray.report.terminal import render, render_details
from w2s_ray.spec.chain import PlannedStage, Resolution, ResolvedModel, ResolvedTask, distinct_stages
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.stage import PredictionSpec
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.predictions import LABELS_NAME, write
from w2s_ray.tasks.task import SCHEMA, Kind, TaskData

Skill = Callable[[PlannedStage], float]
"""The accuracy that a stage is to have."""
CEILING = {"easy": 0.8, "harder": 0.9, "flat": 0.6}
NAIVE = {"easy": 0.65, "harder": 0.75, "flat": 0.57}
"""Accuracies by task, for `skill_by_task`; the floor has .6."""
THREE_METHODS = {"naive": {}, "confident": {"losses": {"large": {"kind": "confidence"}}}, "same": {"arms": ["chain"]}}


def skill_by_task(stage: PlannedStage) -> float:
    """The confident student is .03 above the naive one."""
    match stage.arm:
        case "floor":
            return 0.6
        case "ceiling":
            return CEILING[stage.task]
    return NAIVE[stage.task] + (0.03 if stage.spec.loss.kind == "confidence" else 0.0)


@dataclass(frozen=True)
class ToyTask:
    """Numbered texts of two classes, or with one of forty answers; those of class 1 are longer, in three strata."""

    name: str
    num: int
    kind: Kind = "classes"

    def fingerprint(self) -> str:
        return f"{self.name}-{self.num}-{self.kind}"

    def read(self) -> TaskData:
        rows = [
            {
                "id": f"e{n}",
                "text": f"text {self.name} {n:06}" + " and more" * (n % 2),
                "other": f"answer {n % 40}" if self.kind == "answers" else None,
                "label": 0 if self.kind == "answers" else n % 2,
                "group": f"g{n}",
                "stratum": f"band {n % 3}",
                "origin": "pool",
            }
            for n in range(self.num)
        ]
        names = ("answer",) if self.kind == "answers" else ("no", "yes")
        return TaskData(pa.Table.from_pylist(rows, schema=SCHEMA), names)


@dataclass
class SyntheticStudy:
    """A study whose stages can be given any accuracy."""

    study: Study
    resolution: Resolution
    store: ArtifactStore
    prepared: dict[str, PreparedTask]
    cut_examples: float = 0.0
    """Texts that each stage found longer than its context."""
    lack_bf16: tuple[str, ...] = ()
    """Levels whose stages were computed on devices without bf16."""

    def evidence(self) -> Evidence:
        return gather(self.study, self.resolution, self.store)

    def summary(self) -> Summary:
        return summarise(self.study, self.resolution, self.store)

    def frame(self) -> pd.DataFrame:
        return read_results(self.study, self.resolution, self.store)

    def stages_frame(self) -> pd.DataFrame:
        return read_stages(self.study, self.resolution, self.store)

    def write_report(self) -> Path:
        return write_report(self.study, self.resolution, self.store)

    @property
    def stages(self) -> dict[str, PlannedStage]:
        return distinct_stages(compile_study(self.study, self.resolution))

    def stages_of(self, seed: int) -> list[PlannedStage]:
        chains = compile_study(self.study, self.resolution)
        return [stage for chain in chains if chain.seed == seed for stage in chain.stages]

    def finish(self, skill: Skill, *, leave_out: Callable[[PlannedStage], bool] = lambda stage: False) -> None:
        """Write a record and predictions of this accuracy for every stage."""
        for stage in self.stages.values():
            if not leave_out(stage):
                self._train(stage)
                for prediction in stage.predicts:
                    self._predict(stage, prediction, skill(stage))

    def _predict(self, stage: PlannedStage, prediction: PredictionSpec, skill: float) -> None:
        if self.prepared[stage.task].kind == "answers":
            self.store.write_answers(prediction, *self.answers(prediction, skill))
        else:
            self.store.write_predictions(prediction, *self.predictions(stage, prediction, skill))

    def answers(self, spec: PredictionSpec, skill: float) -> tuple[list[str], list[str], np.ndarray]:
        """Answers that are right on the first examples; all others are the same, half of them forbidden."""
        (prepared,) = (task for task in self.prepared.values() if task.fingerprint == spec.split.task)
        rows = rows_of_split(prepared, spec.split)
        num_right = round(skill * len(rows))
        texts = [*prepared.others(rows[:num_right]), *["wrong"] * (len(rows) - num_right)]
        return prepared.ids(rows), texts, np.arange(len(rows)) < (num_right + len(rows)) / 2

    def predictions(self, stage: PlannedStage, spec: PredictionSpec, skill: float) -> tuple[list[str], np.ndarray]:
        """Predictions that are right on the first examples and wrong on the others."""
        prepared = self.prepared[stage.task]
        rows = rows_of_split(prepared, spec.split)
        labels_N = prepared.labels(rows)
        right_N = np.arange(len(rows)) < round(skill * len(rows))
        predicted_N = np.where(right_N, labels_N, 1 - labels_N)
        probs_NC = np.full((len(rows), 2), 0.2, dtype=np.float32)
        probs_NC[np.arange(len(rows)), predicted_N] = 0.8
        return prepared.ids(rows), probs_NC

    def _train(self, stage: PlannedStage) -> None:
        spec = stage.spec
        folder = self.store.begin("stage", spec.slug, spec.identity)
        (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5}\n')
        if spec.keeps_labels:
            prepared = self.prepared[stage.task]
            rows_N, labels_NC = targets(self.store, prepared, spec.train[0], spec.num_classes)
            write(folder, prepared.ids(rows_N), labels_NC, LABELS_NAME)
        metrics = {"train_seconds": 10.0, "train_tokens": 40000.0, "tokens_per_second": 4000.0, "num_steps": 50.0}
        metrics["cut_examples"] = self.cut_examples
        metrics["fell_back_to_fp32"] = float(stage.level in self.lack_bf16)
        self.store.commit(kind="stage", slug=spec.slug, spec=spec, identity=spec.identity, parents=(), metrics=metrics)


def make(
    folder: Path, *, num: int = 4000, tasks: tuple[str, ...] = ("code",), kind: Kind = "classes", **keys: object
) -> SyntheticStudy:
    """A study on toy tasks in a new store; `keys` are the study file's."""
    store = ArtifactStore(folder)
    store.prepare()
    raw: Mapping[str, object] = {
        "name": "demo",
        "tasks": {task: {"builtin": "code_continuation"} for task in tasks},
        "ladder": {"small": "w2s:small", "medium": "w2s:medium", "large": "w2s:large"},
        "splits": {"train_examples": 100, "validation_examples": 20},
        "report": {"bootstrap_samples": 400},
        **keys,
    }
    study = parse_study(dict(raw))
    prepared = {task: prepare_task(store, task, ToyTask(task, num, kind), 0.25) for task in tasks}
    resolution = Resolution(
        tasks={
            task: ResolvedTask(
                fingerprint=data.fingerprint, kind=kind, num_classes=data.num_classes, num_test=num_test(data)
            )
            for task, data in prepared.items()
        },
        models={level: ResolvedModel(revision="1", num_parameters=1000) for level in study.ladder},
    )
    return SyntheticStudy(study, resolution, store, prepared)


def arm_of(summary: Summary, level: str, label: str, task: str = "code") -> ArmSummary:
    """The arm of this label, or of this kind where no label is so called."""
    arms = [arm for arm in summary.arms if (arm.task, arm.level) == (task, level)]
    (arm,) = [arm for arm in arms if arm.label == label] or [arm for arm in arms if arm.arm == label]
    return arm


def value(estimate: Estimate | None) -> float:
    assert estimate is not None
    return estimate.value


def printed(summary: Summary, width: int, *, details: bool = False) -> str:
    """The results, or the tables behind them, in a terminal of this width."""
    console = Console(width=width, record=True, file=io.StringIO())
    console.print((render_details if details else render)(summary, width=width))
    return console.export_text()
