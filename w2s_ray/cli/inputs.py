"""First steps of most verbs: read the study, open the store, start the log. Also how a user names a stage."""

import importlib.util
import os
import sys
import tempfile
import traceback
from collections.abc import Sequence
from pathlib import Path

from w2s_ray.cli.terminal import count_text, terminal
from w2s_ray.errors import StudyError, W2SError, first_line
from w2s_ray.spec.chain import Chain, PlannedStage, distinct_stages
from w2s_ray.spec.identity import short
from w2s_ray.spec.load import load_study
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore, existing_store, num_finished_stages

MIN_DIGITS = 4
"""The fewest digits of an identity that name a stage."""
_MAX_NAMED = 20
"""Stages that an error lists."""


def import_file(path: Path) -> None:
    """Run a Python file of the user's that registers losses, metrics or tasks.

    Raises:
        StudyError: when it does not exist or raises an exception.
    """
    if not path.is_file() or path.suffix != ".py":
        raise StudyError(f"--import {path} is not a Python file that exists")
    spec = importlib.util.spec_from_file_location(f"w2s_import_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except W2SError:
        raise
    except (Exception, SystemExit) as error:
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path.resolve())]
        line = f", line {frames[-1].lineno}" if frames else ""
        raise StudyError(f"--import {path}{line}: {type(error).__name__}: {first_line(error)}") from error


def open_for_writing(
    path: Path, store_folder: Path, overrides: Sequence[str], verb: str, *, as_json: bool = False
) -> tuple[Study, ArtifactStore]:
    """Read the study and prepare the store; libraries print to the study's `logs/<verb>.log` from now on."""
    study = load_study(path, overrides)
    store = ArtifactStore(store_folder)
    print_store(store, as_json=as_json)
    store.prepare()
    terminal.capture(store.study_folder(study.name) / "logs" / f"{verb}.log")
    return study, store


def open_for_reading(
    path: Path, store_folder: Path, overrides: Sequence[str], verb: str, *, as_json: bool = False
) -> tuple[Study, ArtifactStore]:
    """Read the study and open the store, which may be read-only; the log is then written to a temporary folder."""
    study = load_study(path, overrides)
    store = existing_store(store_folder)
    print_store(store, as_json=as_json)
    logs = store.root / "studies" / study.name / "logs"
    log = logs / f"{verb}.log"
    if not os.access(log if log.exists() else logs, os.W_OK):
        log = Path(tempfile.mkdtemp(prefix="w2s-")) / log.name
    terminal.capture(log)
    return study, store


def print_store(store: ArtifactStore, *, as_json: bool = False) -> None:
    """Print where the store is and how many stages it has, as the first line; not among JSON on standard output."""
    is_new = not (store.root / "artifacts").is_dir()
    content = "new" if is_new else count_text(num_finished_stages(store), "stage")
    console = terminal.err if as_json else terminal.out
    console.print(f"store {store.root} ({content})", markup=False, soft_wrap=True)


def find_stage(chains: Sequence[Chain], text: str) -> PlannedStage:
    """Return the stage with this identity (or its first digits), or named `arm:level[:method][:seed][:task]`.

    Raises:
        StudyError: when `text` names no stage, or several.
    """
    matching = _by_place(chains, text) if ":" in text else _by_identity(chains, text)
    if len(matching) == 1:
        return next(iter(matching.values()))
    candidates = tuple((matching or distinct_stages(chains)).values())
    names = [describe(chains, stage) for stage in candidates[:_MAX_NAMED]]
    if len(candidates) > _MAX_NAMED:
        names.append(f"… and {len(candidates) - _MAX_NAMED:,} more")
    raise StudyError(
        f"{text!r} matches {len(matching) or 'no'} stages; a stage is named by {MIN_DIGITS} or more digits of its "
        "identity, or as arm:level[:method][:seed][:task]",
        "one of: " + "; ".join(names),
    )


def describe(chains: Sequence[Chain], stage: PlannedStage) -> str:
    """Return the first digits of a stage's identity, and a name that `find_stage` understands."""
    users = [chain for chain in chains if any(other.identity == stage.identity for other in chain.stages)]
    methods = {chain.method for chain in users}
    seeds = {chain.seed for chain in users}
    parts = [stage.arm, stage.level]
    parts += methods if len(methods) == 1 else []
    parts += map(str, seeds) if len(seeds) == 1 else []
    parts += [stage.task] if len({chain.task for chain in chains}) > 1 else []
    return f"{short(stage.identity)} ({':'.join(parts)})"


def _by_identity(chains: Sequence[Chain], digits: str) -> dict[str, PlannedStage]:
    if len(digits) < MIN_DIGITS:
        return {}
    return {identity: stage for identity, stage in distinct_stages(chains).items() if identity.startswith(digits)}


def _by_place(chains: Sequence[Chain], text: str) -> dict[str, PlannedStage]:
    """Match arm and level in this order; method, seed and task may follow in any order."""
    arm, level, *rest = text.split(":")
    matching = [chain for chain in chains if all(part in (chain.method, str(chain.seed), chain.task) for part in rest)]
    stages = (stage for chain in matching for stage in chain.stages if (stage.arm, stage.level) == (arm, level))
    return {stage.identity: stage for stage in stages}
