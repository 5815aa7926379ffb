"""`w2s status`: how far each stage of a study is, read from the store alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from rich.table import Table

from w2s_ray.cli.opening import open_for_reading
from w2s_ray.cli.terminal import MOST_ROWS, terminal
from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import PlannedStage, distinct_stages
from w2s_ray.spec.identity import short
from w2s_ray.store import lease
from w2s_ray.store.artifacts import CHECKPOINTS, ArtifactStore
from w2s_ray.store.run_status import read_under_way
from w2s_ray.store.search_result import every_chain

State = Literal["done", "predictions lack", "running", "stopped", "waiting"]


class StageStatus(Spec):
    """One distinct stage as the store shows it."""

    identity: str
    task: str
    level: str
    arm: str
    loss: str
    state: State
    steps: int
    """Optimizer steps that it has taken, as far as its journal tells."""
    attempts: int
    seconds: float | None
    """Seconds of training, once it is done."""


def print_status(path: Path, store_folder: Path, overrides: Sequence[str], *, as_json: bool) -> None:
    """Print a line per distinct stage."""
    study, store = open_for_reading(path, store_folder, overrides, "status")
    from w2s_ray.planning.resolve import locked

    stages = distinct_stages(every_chain(study, locked(study, store), store)).values()
    found = [stage_status(store, stage) for stage in stages]
    if as_json:
        text = json.dumps([status.model_dump(mode="json") for status in found], indent=2)
        terminal.out.print(text, markup=False, soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("identity", "task", "level", "arm", "loss", "state", "steps", "attempts", "training seconds"):
        table.add_column(heading, justify="right" if heading in ("steps", "attempts", "training seconds") else "left")
    urgent_first = sorted(found, key=lambda status: status.state in ("done", "waiting"))
    for status in urgent_first[:MOST_ROWS] if len(found) > MOST_ROWS else found:
        seconds = "" if status.seconds is None else f"{status.seconds:.1f}"
        names = (short(status.identity), status.task, status.level, status.arm, status.loss, status.state)
        table.add_row(*names, str(status.steps), str(status.attempts), seconds)
    terminal.out.print(table)
    terminal.say_left_out(len(found), "stage")
    num_done = sum(status.state == "done" for status in found)
    terminal.out.print(f"{num_done} of {len(found)} stages done", markup=False)
    now = read_under_way(study, store)
    for crew in now.worker_groups if now is not None else ():
        terminal.out.print(crew, markup=False, soft_wrap=True)
    for name, reason in now.waiting.items() if now is not None else ():
        terminal.out.print(f"waiting: {name}: {reason}", markup=False, soft_wrap=True)


def stage_status(store: ArtifactStore, stage: PlannedStage) -> StageStatus:
    """Return what the store shows of one stage."""
    record = store.find(stage.identity)
    folder = store.folder(stage.spec.slug, stage.identity)
    journal = journal_lines(folder)
    return StageStatus(
        identity=stage.identity,
        task=stage.task,
        level=stage.level,
        arm=stage.arm,
        loss=stage.spec.description,
        state=_state(store, stage, folder, finished=record is not None),
        steps=int(journal[-1].get("step", 0)) if journal else 0,
        attempts=store.num_attempts(stage.identity),
        seconds=record.metrics.get("train_seconds") if record is not None else None,
    )


def journal_lines(folder: Path) -> list[dict[str, float]]:
    """Return what a stage measured at its steps; the last line of a running one may be half-written and is left out."""
    try:
        text = (folder / "metrics.jsonl").read_text(encoding="utf-8")
    except OSError:
        return []
    lines: list[dict[str, float]] = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return lines


def _state(store: ArtifactStore, stage: PlannedStage, folder: Path, *, finished: bool) -> State:
    if lease.holder(folder) is not None:
        return "running"
    if finished:
        lacking = any(store.find(prediction.identity) is None for prediction in stage.predicts)
        return "predictions lack" if lacking else "done"
    return "stopped" if (folder / CHECKPOINTS).is_dir() else "waiting"
