"""Files that a run writes for other processes: its status while it is active, and the logs of its stages."""

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
"""A file older than this is that of a killed run."""


class RunStatus(Spec):
    """The status of an active run."""

    at: float
    """Seconds since the epoch."""
    worker_groups: tuple[str, ...]
    """One line per worker group: its size and activity."""
    waiting: dict[str, str]
    """Why stages wait, by stage name; the most urgent ones only."""


def write_run_status(
    worker_groups: tuple[str, ...], waiting: dict[str, str], study: Study, store: ArtifactStore
) -> None:
    """Write the status of the study's run."""
    status = RunStatus(at=time.time(), worker_groups=worker_groups, waiting=waiting)
    write_file(store.study_folder(study.name) / _NAME, status.model_dump_json(indent=1).encode())


def clear_run_status(study: Study, store: ArtifactStore) -> None:
    """Remove the status of a run that has ended."""
    (store.study_folder(study.name) / _NAME).unlink(missing_ok=True)


def read_run_status(study: Study, store: ArtifactStore) -> RunStatus | None:
    """Return the status of the study's run, or None if none is active."""
    try:
        status = RunStatus.model_validate_json((store.root / "studies" / study.name / _NAME).read_bytes())
    except (FileNotFoundError, ValidationError):  # no run, or one of another version
        return None
    return status if time.time() - status.at < _STALE_SECONDS else None


def logs_folder(store: ArtifactStore, study: str) -> Path:
    """Return the folder of a study's logs."""
    return store.study_folder(study) / "logs"


def log_path(store: ArtifactStore, study: str, stage: PlannedStage) -> Path:
    """Return the log of one stage, named like the stage's folder; each attempt appends to it."""
    return logs_folder(store, study) / f"{store.folder(stage.spec.slug, stage.identity).name}.log"
