"""A stage runner that trains nothing but leaves in the store what a real one leaves: attempts, records, predictions.

How a level behaves is read from `behaviour.json` in the store's folder: `{loss, level or "all": {"steps": 5, ...}}`.
"""

import builtins
import json
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from w2s_ray.errors import OutOfMemory, TrainingError
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import write_file
from w2s_ray.training.progress import Observer, StageProgress, StageResult

BEHAVIOUR = "behaviour.json"


@dataclass(frozen=True)
class Behaviour:
    steps: int = 3
    step_seconds: float = 0.02
    fails_at: int | None = None
    """Step at which all ranks raise the same error."""
    raises_at: int | None = None
    """Step at which all ranks raise an exception that is none of ours."""
    raises: str = "ZeroDivisionError"
    """Name of the built-in class that is raised there."""
    killed: tuple[int, ...] = ()
    """Ranks whose processes are killed at step 1, each time."""
    hangs_at: int | None = None
    """Step at which the last rank joins no collective any more."""
    crashes_at: int | None = None
    """Step at which the last rank alone raises, each time."""
    runs_out_at: int | None = None
    """Step at which memory runs out, in the first four attempts: twice on all ranks, then twice on the last alone."""


def behave(store: ArtifactStore, **behaviours: Behaviour) -> None:
    """Say how losses or levels behave from now on."""
    store.root.mkdir(parents=True, exist_ok=True)
    (store.root / BEHAVIOUR).write_text(json.dumps({name: vars(one) for name, one in behaviours.items()}))


def behaviour_of(stage: PlannedStage, store: ArtifactStore) -> Behaviour:
    path = store.root / BEHAVIOUR
    known = json.loads(path.read_text()) if path.exists() else {}
    names = (stage.spec.loss.label, stage.level, "all")
    return Behaviour(**next((known[name] for name in names if name in known), {}))


def run_stage(stage: PlannedStage, *, store: ArtifactStore, workers: object, observer: Observer) -> StageResult:
    """Take steps that cost time, keep a checkpoint of their number, and write what a stage writes."""
    import torch
    import torch.distributed as dist

    began = time.perf_counter()
    spec, behaviour = stage.spec, behaviour_of(stage, store)
    leads, size = workers.rank == 0, workers.size  # type: ignore[attr-defined]
    folder = store.folder(spec.slug, spec.identity)
    checkpoint = folder / "checkpoints" / "step"
    trains = store.find(spec.identity) is None
    dist.barrier()
    first = int(checkpoint.read_text()) if checkpoint.exists() else 0
    if leads and trains:
        store.begin("stage", spec.slug, spec.identity)
        for required in stage.requires:
            store.read_predictions(required)
        (folder / "attempts_seen.jsonl").open("a").write(json.dumps({"from": first, "pid": os.getpid()}) + "\n")
        checkpoint.parent.mkdir(exist_ok=True)
    dist.barrier()  # every rank counts the attempts that rank 0 has just written
    for step in range(first, behaviour.steps) if trains else ():
        time.sleep(behaviour.step_seconds)
        if behaviour.crashes_at == step and workers.rank == size - 1:  # type: ignore[attr-defined]
            raise RuntimeError("this rank alone")
        if behaviour.raises_at == step:
            raise getattr(builtins, behaviour.raises)(f"all ranks, {os.getpid()}")
        if step == 1 and workers.rank in behaviour.killed:  # type: ignore[attr-defined]
            os.kill(os.getpid(), signal.SIGKILL)
        if behaviour.hangs_at == step and workers.rank == size - 1:  # type: ignore[attr-defined]
            time.sleep(600)
        if behaviour.runs_out_at == step:
            attempts = len((folder / "attempts_seen.jsonl").read_text().splitlines())
            if attempts <= 2 or (attempts <= 4 and workers.rank == size - 1):  # type: ignore[attr-defined]
                raise OutOfMemory("micro-batches are too large")
        stop = torch.tensor([float(leads and observer.should_stop())])
        dist.all_reduce(stop)
        if behaviour.fails_at == step:
            raise TrainingError("the loss is nan")
        if leads:
            write_file(checkpoint, str(step + 1).encode())  # this process may be killed while it writes
            values = {"loss": 1.0 / (step + 1), "tokens_per_second": 100.0, "pid": float(os.getpid())}
            observer.report(StageProgress(spec.identity, "training", step + 1, behaviour.steps, values, 0.1))
        if stop.item():
            return StageResult(spec.identity, True, True, {"total": time.perf_counter() - began})
    if leads:
        _write(stage, store, trains, folder)
    dist.barrier()
    seconds = time.perf_counter() - began
    return StageResult(
        spec.identity, False, trains, {"total": seconds, "training": seconds}, {"num_steps": behaviour.steps}
    )


def _write(stage: PlannedStage, store: ArtifactStore, trains: bool, folder: Path) -> None:
    spec = stage.spec
    if trains:
        (folder / "model").mkdir(exist_ok=True)
        (folder / "model" / "weights").write_text(spec.identity)
        metrics = {"num_steps": 3.0}
        parents = tuple(sorted(stage.requires))
        store.commit(kind="stage", slug=spec.slug, spec=spec, identity=spec.identity, parents=parents, metrics=metrics)
    for prediction in stage.predicts:
        store.write_predictions(prediction, ["a", "b"], np.array([[0.4, 0.6], [0.9, 0.1]], dtype=np.float32))
