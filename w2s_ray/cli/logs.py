"""`w2s logs`: what a stage measured at its steps, and what it and its libraries printed."""

import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table

from w2s_ray.cli.stage_names import find_stage
from w2s_ray.cli.status import journal_lines
from w2s_ray.cli.terminal import terminal
from w2s_ray.errors import StudyError
from w2s_ray.spec.load import load_study
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ATTEMPTS_NAME, ArtifactStore, artifact_folders, existing_store
from w2s_ray.store.search_result import every_chain


def print_logs(
    name: str, store_folder: Path, study_file: Path | None, overrides: Sequence[str], *, last: int, as_json: bool
) -> None:
    """Print the attempts and the last steps of the stage that `name` names."""
    store = existing_store(store_folder)
    folder = (
        _folder(store, name) if study_file is None else _folder_in_study(store, name, load_study(study_file, overrides))
    )
    lines = journal_lines(folder)
    if as_json:
        for line in lines:
            terminal.out.print(json.dumps(line), markup=False, soft_wrap=True)
        return
    terminal.out.print(str(folder), markup=False, soft_wrap=True)
    written = (folder / ATTEMPTS_NAME).read_text(encoding="utf-8", errors="replace").splitlines()
    attempts = [json.loads(line) for line in written if line.endswith("}")]  # a writer may have died in its line
    terminal.out.print(
        f"started: {', '.join(attempt['started_at'] for attempt in attempts)}", markup=False, soft_wrap=True
    )
    for log in sorted(store.root.glob(f"studies/*/logs/{folder.name}.log")):
        terminal.out.print(f"log: {log}", markup=False, soft_wrap=True)
        printed = log.read_text(encoding="utf-8", errors="replace").splitlines()
        for text in printed[-last:]:
            terminal.out.print(f"  {text}", markup=False, soft_wrap=True)
    terminal.out.print(_table(lines[-last:]) if lines else "no steps yet")


def _table(lines: list[dict[str, float]]) -> Table:
    keys = list(dict.fromkeys(key for line in lines for key in line))
    table = Table(box=None, pad_edge=False)
    for key in keys:
        table.add_column(key, justify="right")
    for line in lines:
        table.add_row(*(f"{line[key]:.6g}" if key in line else "" for key in keys))
    return table


def _folder_in_study(store: ArtifactStore, name: str, study: Study) -> Path:
    from w2s_ray.planning.resolve import locked

    stage = find_stage(every_chain(study, locked(study, store), store), name)
    folder = store.folder(stage.spec.slug, stage.identity)
    if not (folder / ATTEMPTS_NAME).is_file():
        raise StudyError(f"{name} was not started yet", "a stage that ran has logs", "see `w2s status`")
    return folder


def _folder(store: ArtifactStore, name: str) -> Path:
    """Return the one stage's folder whose digest begins with `name`, or whose slug contains it."""
    stages = [folder for folder in artifact_folders(store.root) if (folder / ATTEMPTS_NAME).is_file()]
    found = [folder for folder in stages if folder.name.rpartition("-")[2].startswith(name[:12])]
    found = found or [folder for folder in stages if name in folder.name]
    if len(found) != 1:
        raise StudyError(
            f"{name!r} names {len(found)} stages in {store.root}",
            "a stage is named by its identity's first digits or a part of its slug",
            f"one of: {', '.join(folder.name for folder in found or stages) or 'nothing was started yet'}",
        )
    return found[0]
