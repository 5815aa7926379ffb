"""`w2s report` and `w2s export`: the results of a study, and its models, from the store alone."""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from w2s_ray.cli.inputs import describe, find_stage, open_for_reading
from w2s_ray.cli.model_card import model_card
from w2s_ray.cli.terminal import terminal
from w2s_ray.errors import StoreError
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.stage import Prompt
from w2s_ray.store.artifacts import MODEL, SNAPSHOTS, ArtifactStore
from w2s_ray.store.files import writing
from w2s_ray.store.record import Record
from w2s_ray.store.search_result import every_chain
from w2s_ray.training.models.exports import renew_export

if TYPE_CHECKING:
    from w2s_ray.report.findings import Summary

Format = Literal["table", "json", "html"]
CARD = "README.md"
"""The file of a model card, by the convention of the Hugging Face hub."""


def report(
    path: Path, store_folder: Path, overrides: Sequence[str], format_: Format, version: int | None = None
) -> None:
    """Print the results, or those of a former version, as a table or as JSON, or write the page and its figures."""
    study, store = open_for_reading(path, store_folder, overrides, "report", as_json=format_ == "json")
    from w2s_ray.planning.resolve import locked
    from w2s_ray.planning.versions import notice_of_other_version, version_of
    from w2s_ray.report.page import write_report
    from w2s_ray.report.summary import summarise
    from w2s_ray.report.terminal import render_details

    if version is not None:
        study = version_of(study, version, store)
    resolution = locked(study, store)
    notice = notice_of_other_version(study, resolution, store) if version is None else None
    if notice is not None and format_ != "json":
        terminal.line(notice)
    if format_ == "html":
        page = write_report(study, resolution, store)
        for file in sorted(page.parent.iterdir()):
            terminal.line(str(file))
        return
    summary = summarise(study, resolution, store)
    if format_ == "json":
        terminal.json(summary.model_dump(mode="json"))
        return
    print_summary(summary)
    terminal.out.print(render_details(summary, width=terminal.out.width))


def print_summary(summary: "Summary") -> None:
    """Print the headline results as tables that fit the terminal."""
    from w2s_ray.report.terminal import render

    terminal.out.print(render(summary, width=terminal.out.width))


def export(
    path: Path, store_folder: Path, overrides: Sequence[str], name: str, target: Path, at: float | None = None
) -> None:
    """Copy the model of the stage called `name` to `target`, after comparing it with its record; add a model card.

    Files and folders get the permissions of new ones (umask). Classes get the task's names. `at` exports the snapshot
    after that share of training.

    Raises:
        StoreError: when the stage is not finished, has no such model or fails its checksums, or `target` is in use.
    """
    study, store = open_for_reading(path, store_folder, overrides, "export")
    from w2s_ray.planning.resolve import locked

    resolution = locked(study, store)
    chains = every_chain(study, resolution, store)
    stage = find_stage(chains, name)
    full_name = describe(chains, stage)
    stored = _model_folder(store, stage, full_name, at)
    record = store.find(stage.identity)
    assert record is not None
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{target} is not empty, and an export does not overwrite", "choose a new or empty folder")
    with writing(target), _merged(store, stage, record, stored) as source:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target, dirs_exist_ok=True, copy_function=shutil.copyfile)
        renew_export(target, stage.spec)
        task = resolution.tasks[stage.task]
        if task.kind == "classes" and not stage.spec.is_language_model:
            _name_classes(target / "config.json", task.class_names)
        (target / CARD).write_text(model_card(study, stage, task, record, at), encoding="utf-8")
        _open_folders(target)
    terminal.line(f"{full_name} → {target}")
    for file in sorted(target.rglob("*")):
        terminal.line(f"  {file.relative_to(target)}")


@contextmanager
def _merged(store: ArtifactStore, stage: PlannedStage, record: Record, stored: Path) -> Iterator[Path]:
    """Yield the folder of the whole model of a stage, for one that keeps its adapters a merged copy."""
    if record.base is None:
        yield stored
        return
    from w2s_ray.training.inputs import StageInputs
    from w2s_ray.training.workers import Workers

    inputs = StageInputs(stage, store, Workers.alone())
    try:
        yield inputs.merged(stage.spec, stored, record.base)
    finally:
        inputs.close()


def _open_folders(folder: Path) -> None:
    """Give folders the permissions of new ones; `copytree` copies those of the source, which may be private."""
    mask = os.umask(0)
    os.umask(mask)
    for path in (folder, *(inner for inner in folder.rglob("*") if inner.is_dir())):
        path.chmod(0o777 & ~mask)


def _model_folder(store: ArtifactStore, stage: PlannedStage, name: str, at: float | None) -> Path:
    """Return the verified folder of the stage's model, or of its snapshot at share `at` of training."""
    record = store.find(stage.identity)
    if record is None:
        raise StoreError(f"{name} is not finished", "run the study first")
    if isinstance(stage.spec.trainable, Prompt):
        raise StoreError(f"{name} is a prompt and trains no model", f"use {stage.spec.starts_from.name} itself")
    folder = store.verify(record)
    if at is None:
        return folder / MODEL
    planned = stage.spec.optimisation.keep_at
    kept = [share for share in planned if (folder / SNAPSHOTS / f"{share:g}").is_dir()]
    kept_text = ", ".join(f"{share:g}" for share in kept) or "none"
    if at not in planned:
        raise StoreError(
            f"{name} has no snapshot at {at:g}; it kept {kept_text}",
            f"add `keep_at: [{at:g}]` to its optimisation and run the study again",
        )
    if at not in kept:
        step, num_steps = (record.metrics[key] for key in ("num_steps", "planned_steps"))
        raise StoreError(
            f"{name} stopped early, at step {step:g} of {num_steps:g}, before {at:g}; it kept {kept_text}",
            "choose one of these, or omit --at for the final model",
        )
    return folder / SNAPSHOTS / f"{at:g}"


def _name_classes(config: Path, names: Sequence[str]) -> None:
    """Replace LABEL_0, LABEL_1, … of the stored model by the task's class names."""
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    config.write_text(json.dumps(json.loads(config.read_text()) | labels, indent=2, ensure_ascii=False) + "\n")
