"""What a run under way lets others know: what its crews do, and why stages wait. A file of its own, gone at the end."""

import time

from pydantic import ValidationError

from w2s_ray.spec.base import Spec
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
    crews: tuple[str, ...]
    waiting: dict[str, str]
    """Why a stage waits, by its name; of the most urgent ones."""


def say_under_way(crews: tuple[str, ...], waiting: dict[str, str], study: Study, store: ArtifactStore) -> None:
    """Let others know."""
    now = UnderWay(at=time.time(), crews=crews, waiting=waiting)
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
