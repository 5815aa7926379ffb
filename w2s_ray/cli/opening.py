"""What the verbs do first: read the study, open the store, turn foreign output to a log."""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from w2s_ray.cli.terminal import terminal
from w2s_ray.spec.load import load_study
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore, existing_store


def open_for_writing(
    path: Path, store_folder: Path, overrides: Sequence[str], verb: str
) -> tuple[Study, ArtifactStore]:
    """Read the study and make the store ready; from here on libraries print to the study's `logs/<verb>.log`."""
    study = load_study(path, overrides)
    store = ArtifactStore(store_folder)
    store.prepare()
    terminal.capture(store.study_folder(study.name) / "logs" / f"{verb}.log")
    return study, store


def open_for_reading(
    path: Path, store_folder: Path, overrides: Sequence[str], verb: str
) -> tuple[Study, ArtifactStore]:
    """Read the study and find the store, which may be read-only."""
    study = load_study(path, overrides)
    store = existing_store(store_folder)
    logs = store.root / "studies" / study.name / "logs"
    log = logs / f"{verb}.log"
    if not os.access(log if log.exists() else logs, os.W_OK):
        log = Path(tempfile.mkdtemp(prefix="w2s-")) / log.name
    terminal.capture(log)
    return study, store
