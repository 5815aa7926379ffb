"""A task of numbers, and a stage runner whose models are as good as their learning rate is near to 1e-3.

Nothing is trained; what a real stage leaves in the store is left there, predictions for the real examples included, so
that searches judge candidates as they do in earnest.
"""

import json
import math
import os
import time
from pathlib import Path

import numpy as np

from w2s_ray.data.prepare import load_prepared
from w2s_ray.data.splits import rows_of_split
from w2s_ray.errors import TrainingError
from w2s_ray.planning.resolve import resolve_whole, save_study
from w2s_ray.spec.chain import PlannedStage, Resolution
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import write_file
from w2s_ray.training.progress import Observer, StageProgress, StageResult

STEPS = 12
STEP_SECONDS = 0.05
"""In each epoch."""
TOO_HIGH = 0.5
"""The learning rate from which on training comes apart, until the store has a file of the name FORGIVEN."""
FORGIVEN = "forgiven"


def judged_study(folder: Path, **changes: object) -> Study:
    """A study whose task really exists, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("numbers", "others"):
        rows = [{"text": f"{name} {number}", "label": number % 2} for number in range(1500)]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    task = {"text": "text", "label": "label", "test_examples": 50}
    return parse_study(
        {
            "name": "judged",
            "tasks": {"numbers": {"files": str(folder / "numbers.jsonl"), **task}},
            "ladder": {"s": {"model": "w2s:small"}, "l": {"model": "w2s:large"}},
            "splits": {"train_examples": 40, "validation_examples": 40},
            "tracking": {"wandb": "disabled"},
            **changes,
        }
    )


def others(folder: Path) -> dict[str, object]:
    """The second task."""
    return {"files": str(folder / "others.jsonl"), "text": "text", "label": "label", "test_examples": 50}


def resolved(study: Study, store: ArtifactStore) -> Resolution:
    """Prepare the study's data, and put it down as a run does."""
    resolution = resolve_whole(study, store)
    save_study(study, resolution, store)
    return resolution


def quality(stage: PlannedStage, share: float = 1.0) -> float:
    """Accuracy of a stage's model after a `share` of its training."""
    distance = abs(math.log10(stage.spec.optimisation.learning_rate) + 3)
    return 0.5 + 0.45 * share * max(0.0, 1 - 0.4 * distance)


def run_stage(stage: PlannedStage, *, store: ArtifactStore, workers: object, observer: Observer) -> StageResult:
    """Take steps that cost time, report as asked, and predict as well as the learning rate allows."""
    import torch
    import torch.distributed as dist

    began, spec = time.perf_counter(), stage.spec
    leads = workers.rank == 0  # type: ignore[attr-defined]
    trains = store.find(spec.identity) is None
    folder = store.folder(spec.slug, spec.identity)
    checkpoint = folder / "checkpoints" / "step"
    dist.barrier()
    first = int(checkpoint.read_text()) if checkpoint.exists() else 0
    if leads and trains:
        store.begin("stage", spec.slug, spec.identity)
        (folder / "attempts_seen.jsonl").open("a").write(json.dumps({"from": first, "pid": os.getpid()}) + "\n")
        checkpoint.parent.mkdir(exist_ok=True)
    for step in range(first + 1, STEPS + 1) if trains else ():
        time.sleep(STEP_SECONDS * spec.optimisation.epochs)
        stop = torch.tensor([float(leads and observer.should_stop())])
        dist.all_reduce(stop)
        if spec.optimisation.learning_rate >= TOO_HIGH and not (store.root / FORGIVEN).exists():
            raise TrainingError("the loss is nan")
        if leads:
            write_file(checkpoint, str(step).encode())
            report = step * stage.num_reports // STEPS
            is_due = report != (step - 1) * stage.num_reports // STEPS
            figure = quality(stage, step / STEPS)
            values = {"validation_agreement": figure, "validation_accuracy": figure} if is_due else {"loss": 1.0}
            observer.report(
                StageProgress(spec.identity, "training", step, STEPS, values, report=report if is_due else 0)
            )
        if stop.item():
            return StageResult(spec.identity, True, True)
    if leads:
        leave_in_store(stage, store)
    dist.barrier()
    return StageResult(spec.identity, False, trains, {"total": time.perf_counter() - began})


def leave_in_store(stage: PlannedStage, store: ArtifactStore) -> None:
    """Leave what the stage comes to: its model, unless that is there already, and what it predicts."""
    spec = stage.spec
    if store.find(spec.identity) is None:
        folder = store.folder(spec.slug, spec.identity)
        (folder / "model").mkdir(parents=True, exist_ok=True)
        (folder / "model" / "weights").write_text(spec.identity)
        metrics = {"train_tokens": 1000 * spec.optimisation.epochs, "train_seconds": 1.0}
        parents = tuple(sorted(stage.requires))
        store.commit(kind="stage", slug=spec.slug, spec=spec, identity=spec.identity, parents=parents, metrics=metrics)
    prepared = load_prepared(store, spec.train[0].split.task)
    for prediction in stage.predicts:
        rows_N = rows_of_split(prepared, prediction.split)
        truth_N = prepared.labels(rows_N)
        wrong_N = np.arange(len(rows_N)) >= round(quality(stage) * len(rows_N))
        said_N = np.where(wrong_N, 1 - truth_N, truth_N)
        store.write_predictions(prediction, prepared.ids(rows_N), np.eye(2, dtype=np.float32)[said_N])
