"""What a run leaves for others to read: its status while it is under way, and the logs of its stages."""

import time
from pathlib import Path

from pydantic import ValidationError

from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import write_file

_NAME = "under-way.json"
_STALE_SECONDS = 30.0
"""A file older than this was left by a run that was killed."""


class UnderWay(Spec):
    """A run at one moment."""

    at: float
    """Seconds since the epoch."""
    worker_groups: tuple[str, ...]
    """One line each: its size and what it does."""
    waiting: dict[str, str]
    """Why a stage waits, by its name; of the most urgent ones."""


def say_under_way(worker_groups: tuple[str, ...], waiting: dict[str, str], study: Study, store: ArtifactStore) -> None:
    """Let others know."""
    now = UnderWay(at=time.time(), worker_groups=worker_groups, waiting=waiting)
    write_file(store.study_folder(study.name) / _NAME, now.model_dump_json(indent=1).encode())


def say_over(study: Study, store: ArtifactStore) -> None:
    """Nothing is under way any more."""
    (store.study_folder(study.name) / _NAME).unlink(missing_ok=True)


def read_under_way(study: Study, store: ArtifactStore) -> UnderWay | None:
    """Return what a run of the study said last; None where none is under way."""
    try:
        found = UnderWay.model_validate_json((store.root / "studies" / study.name / _NAME).read_bytes())
    except (FileNotFoundError, ValidationError):  # another version's run says it in its own way
        return None
    return found if time.time() - found.at < _STALE_SECONDS else None


def logs_folder(store: ArtifactStore, study: str) -> Path:
    """Return the folder of a study's logs."""
    return store.study_folder(study) / "logs"


def log_path(store: ArtifactStore, study: str, stage: PlannedStage) -> Path:
    """Return the log of one stage, named like the stage's folder; each attempt appends to it."""
    return logs_folder(store, study) / f"{store.folder(stage.spec.slug, stage.identity).name}.log"
