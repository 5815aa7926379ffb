"""`w2s export`: a stage's model as a folder that transformers loads."""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from w2s_ray.cli.opening import open_for_reading
from w2s_ray.cli.stage_names import describe, find_stage
from w2s_ray.cli.terminal import terminal
from w2s_ray.errors import StoreError
from w2s_ray.spec.stage import Prompt
from w2s_ray.store.artifacts import AGES
from w2s_ray.store.files import writing
from w2s_ray.store.search_result import every_chain

MODEL = "model"
"""Where a stage's artifact keeps its model."""


def export(
    path: Path, store_folder: Path, overrides: Sequence[str], name: str, target: Path, at: float | None = None
) -> None:
    """Copy the model of the stage that `name` names to `target`, checked against its record.

    Its classes get the task's names. `at` takes the model as it was after that share of training.

    Raises:
        StoreError: when the stage is not finished, kept no such model, fails its checksums, or `target` is in use.
    """
    study, store = open_for_reading(path, store_folder, overrides, "export")
    from w2s_ray.planning.resolve import locked

    resolution = locked(study, store)
    chains = every_chain(study, resolution, store)
    stage = find_stage(chains, name)
    record = store.find(stage.identity)
    if record is None:
        raise StoreError(
            f"{describe(chains, stage)} is not finished", "only a finished stage can be exported", "run the study"
        )
    if isinstance(stage.spec.trainable, Prompt):
        raise StoreError(
            f"{describe(chains, stage)} is a prompt",
            "what trains nothing has no model of its own",
            f"take {stage.spec.starts_from.name} itself",
        )
    folder = store.verify(record)
    asked = stage.spec.optimisation.keep_at
    kept = [share for share in asked if (folder / AGES / f"{share:g}").is_dir()]
    ages = ", ".join(f"{share:g}" for share in kept) or "none"
    if at is not None and at not in asked:
        raise StoreError(
            f"{describe(chains, stage)} kept no model at {at:g}; it kept {ages}",
            "models are kept at the shares of training that the level names",
            f"add `keep_at: [{at:g}]` to its optimisation and run the study again",
        )
    if at is not None and at not in kept:
        steps, planned = (record.metrics[name] for name in ("num_steps", "planned_steps"))
        raise StoreError(
            f"{describe(chains, stage)} stopped early, at step {steps:g} of {planned:g}, before {at:g}; it kept {ages}",
            "models are kept at the shares that training came to",
            "name one that was kept, or leave --at out for the model at its end",
        )
    source = folder / (MODEL if at is None else f"{AGES}/{at:g}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise StoreError(f"{target} is not empty", "an export never overwrites", "choose a new or empty folder")
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target, dirs_exist_ok=True)
        task = resolution.tasks[stage.task]
        if task.kind == "classes" and not stage.spec.is_language_model:
            _name_classes(target / "config.json", task.class_names)
    terminal.out.print(f"{describe(chains, stage)} → {target}", markup=False, soft_wrap=True)
    for file in sorted(target.rglob("*")):
        terminal.out.print(f"  {file.relative_to(target)}", markup=False, soft_wrap=True)


def _name_classes(config: Path, names: Sequence[str]) -> None:
    """Give the classes the task's names, where the store's artifact, which knows no task, has LABEL_0, LABEL_1, …."""
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}
    config.write_text(json.dumps(json.loads(config.read_text()) | labels, indent=2, ensure_ascii=False) + "\n")
