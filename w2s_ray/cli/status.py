"""`w2s status` and `w2s logs`: the state of each stage, its steps and its output, all read from the store."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from w2s_ray.cli.inputs import find_stage, open_for_reading, print_store
from w2s_ray.cli.terminal import MAX_ROWS, plain_table, terminal
from w2s_ray.errors import StudyError
from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import PlannedStage, distinct_stages, point_labels
from w2s_ray.spec.identity import short
from w2s_ray.spec.load import load_study
from w2s_ray.store import lease
from w2s_ray.store.artifacts import ATTEMPTS_NAME, CHECKPOINTS, ArtifactStore, artifact_folders, existing_store
from w2s_ray.store.json_lines import whole_lines
from w2s_ray.store.run_status import read_run_status
from w2s_ray.store.search_result import every_chain, read_failures

State = Literal["done", "predictions missing", "running", "failed", "stopped", "waiting"]
_NUMBERS = ("steps", "attempts", "training seconds")


class StageStatus(Spec):
    """One distinct stage as it is in the store."""

    identity: str
    task: str
    level: str
    arm: str
    loss: str
    point: str
    """The searched values that tell it from other stages; empty without a search."""
    state: State
    steps: int
    """Optimizer steps in its journal."""
    attempts: int
    """How often it was started."""
    seconds: float | None
    """Seconds of training; None until it is done."""
    error: str | None = None
    """Why it failed in the last run."""


def print_status(path: Path, store_folder: Path, overrides: Sequence[str], *, as_json: bool) -> None:
    """Print a line per distinct stage, and why stages wait if a run is in progress."""
    study, store = open_for_reading(path, store_folder, overrides, "status", as_json=as_json)
    from w2s_ray.planning.resolve import locked
    from w2s_ray.planning.versions import notice_of_other_version

    resolution = locked(study, store)
    notice = notice_of_other_version(study, resolution, store)
    if notice is not None and not as_json:
        terminal.line(notice)
    chains = every_chain(study, resolution, store)
    labels = point_labels(chains)
    stages = distinct_stages(chains).values()
    errors = read_failures(study, store).stages
    statuses = [stage_status(store, stage, labels.get(stage.identity, ""), errors) for stage in stages]
    if as_json:
        terminal.json(statuses)
        return
    point = ("search",) if any(labels.values()) else ()
    table = plain_table("identity", "task", "level", "arm", "loss", *point, "state", *_NUMBERS, right=_NUMBERS)
    active_first = sorted(statuses, key=lambda status: status.state in ("done", "waiting"))
    for status in active_first[:MAX_ROWS] if len(statuses) > MAX_ROWS else statuses:
        seconds = "" if status.seconds is None else f"{status.seconds:.1f}"
        names = (short(status.identity), status.task, status.level, status.arm, status.loss)
        values = (status.point or "all",) if point else ()
        table.add_row(*names, *values, status.state, str(status.steps), str(status.attempts), seconds)
    terminal.out.print(table)
    terminal.omitted(len(statuses), "stage")
    failed = [status for status in statuses if status.error is not None]
    summary = f"{sum(status.state == 'done' for status in statuses)} of {len(statuses)} stages done"
    terminal.line(f"{summary}, {len(failed)} failed" if failed else summary)
    for status in failed:
        terminal.line(f"failed in the last run: {status.error}")
    if failed:
        terminal.line("`w2s logs IDENTITY` prints a stage's log; `w2s run` tries again what failed")
    run = read_run_status(study, store)
    if run is not None:
        for group in run.worker_groups:
            terminal.line(group)
        for name, reason in run.waiting.items():
            terminal.line(f"waiting: {name}: {reason}")


def stage_status(store: ArtifactStore, stage: PlannedStage, point: str, errors: Mapping[str, str]) -> StageStatus:
    """Return the status of one stage.

    Args:
        store: where it is looked up.
        stage: the stage.
        point: the searched values that tell it from others.
        errors: of stages that failed in the last run, by identity.
    """
    record = store.find(stage.identity)
    folder = store.folder(stage.spec.slug, stage.identity)
    journal = _read_journal(folder)
    state = _state(store, stage, folder, finished=record is not None)
    error = errors.get(stage.identity) if state in ("stopped", "waiting") else None
    return StageStatus(
        identity=stage.identity,
        task=stage.task,
        level=stage.level,
        arm=stage.arm,
        loss=stage.spec.description,
        point=point,
        state="failed" if error is not None else state,
        steps=int(journal[-1].get("step", 0)) if journal else 0,
        attempts=store.num_attempts(stage.identity),
        seconds=record.metrics.get("train_seconds") if record is not None else None,
        error=error,
    )


def _state(store: ArtifactStore, stage: PlannedStage, folder: Path, *, finished: bool) -> State:
    if lease.holder(folder) is not None:
        return "running"
    if finished:
        missing = any(store.find(prediction.identity) is None for prediction in stage.predicts)
        return "predictions missing" if missing else "done"
    return "stopped" if (folder / CHECKPOINTS).is_dir() else "waiting"


def _read_journal(folder: Path) -> list[dict[str, float]]:
    """Return the metrics of each step."""
    return [json.loads(line) for line in whole_lines(folder / "metrics.jsonl")]


def print_logs(
    name: str, store_folder: Path, study_file: Path | None, overrides: Sequence[str], *, last: int, as_json: bool
) -> None:
    """Print the attempts, the last lines of the log and the last steps of the stage with this name."""
    store = existing_store(store_folder)
    print_store(store, as_json=as_json)
    if study_file is None:
        folder = _folder_by_name(store, name)
    else:
        folder = _folder_in_study(store, name, study_file, overrides)
    steps = _read_journal(folder)
    if as_json:
        for step in steps:
            terminal.line(json.dumps(step))
        return
    terminal.line(str(folder))
    attempts = [json.loads(line) for line in whole_lines(folder / ATTEMPTS_NAME)]
    terminal.line(f"started: {', '.join(attempt['started_at'] for attempt in attempts)}")
    for log in sorted(store.root.glob(f"studies/*/logs/{folder.name}.log")):
        terminal.line(f"log: {log}")
        for line in log.read_text(encoding="utf-8", errors="replace").splitlines()[-last:]:
            terminal.line(f"  {line}")
    if not steps:
        terminal.line("no steps yet")
        return
    keys = tuple(dict.fromkeys(key for step in steps[-last:] for key in step))
    table = plain_table(*keys, right=keys)
    for step in steps[-last:]:
        table.add_row(*(f"{step[key]:.6g}" if key in step else "" for key in keys))
    terminal.out.print(table)


def _folder_in_study(store: ArtifactStore, name: str, study_file: Path, overrides: Sequence[str]) -> Path:
    from w2s_ray.planning.resolve import locked

    study = load_study(study_file, overrides)
    stage = find_stage(every_chain(study, locked(study, store), store), name)
    folder = store.folder(stage.spec.slug, stage.identity)
    if not (folder / ATTEMPTS_NAME).is_file():
        raise StudyError(f"{name} was not started yet", "`w2s status` lists all stages")
    return folder


def _folder_by_name(store: ArtifactStore, name: str) -> Path:
    """Return the folder of the one stage whose digest starts with `name`, or whose slug contains it."""
    stages = [folder for folder in artifact_folders(store.root) if (folder / ATTEMPTS_NAME).is_file()]
    matching = [folder for folder in stages if folder.name.rpartition("-")[2].startswith(name[:12])]
    matching = matching or [folder for folder in stages if name in folder.name]
    if not matching and ":" in name:
        raise StudyError(
            f"{name!r} names a stage by arm and level, which only its study file knows",
            "add --study STUDY.yaml, or name the stage by the first digits of its identity (`w2s status` lists them)",
        )
    if len(matching) != 1:
        raise StudyError(
            f"{name!r} matches {len(matching)} stages in {store.root}; a stage is named by the first digits of its "
            "identity or by a part of its slug",
            f"one of: {', '.join(folder.name for folder in matching or stages) or '(no stage was started yet)'}",
        )
    return matching[0]
