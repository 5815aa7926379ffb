"""Garbage collection: what in a store could be removed. Listing removes nothing.

Garbage is work that no living owner will finish, and finished artifacts and prepared data that no study names.
"""

import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from w2s_ray.spec.identity import short
from w2s_ray.spec.stage import PredictionSpec
from w2s_ray.store import lease
from w2s_ray.store.artifacts import CHECKPOINTS, ArtifactStore, artifact_folders
from w2s_ray.store.files import RECORD_NAME, TEMPORARY_MARK, folder_bytes, writing

LEFTOVER_SECONDS = 3600.0
"""Minimum age of garbage among temporary files and prepared data: younger ones may be in use."""
FEATURES = "features-*"
"""Folders of a probe's features in a task's folder (training/features.py)."""
_UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Waste:
    """A folder or file that could be removed, and why."""

    path: Path
    reason: str
    num_bytes: int

    @property
    def is_unfinished(self) -> bool:
        """Whether it is an artifact without a record."""
        return self.reason == _UNFINISHED


def abandoned(store: ArtifactStore) -> list[Waste]:
    """Return unfinished work without a living owner, whose checkpoints could still be resumed from.

    While any run is active, unfinished work with checkpoints is not listed: a run has leases only on the stages that
    train at the moment, and may resume any other.
    """
    waste = []
    studies = store.root / "studies"
    is_running = any(lease.holder(study) is not None for study in (studies.iterdir() if studies.is_dir() else ()))
    for folder in artifact_folders(store.root):
        if not folder.is_dir() or _is_leased(store, folder):
            continue
        if not (folder / RECORD_NAME).exists():
            if not (is_running and (folder / CHECKPOINTS).exists()):
                waste.append(_waste(folder, _UNFINISHED))
        elif (folder / CHECKPOINTS).exists():
            waste.append(_waste(folder / CHECKPOINTS, "checkpoints of a finished stage"))
    return waste + [_waste(path, "temporary file of a killed process") for path in _leftovers(store.root)]


def unreferenced(store: ArtifactStore, keep: Collection[str]) -> list[Waste]:
    """Return finished artifacts and prepared tasks that nothing in `keep` needs, and features of probes.

    `keep` has identities and fingerprints; the ancestors of its artifacts are kept too. A recently prepared task is
    kept, because a study that is being resolved has no file yet. Features save time while a study runs; afterwards
    only another arm of a level would read them.
    """
    records = {record.identity: record for record in store.records()}
    needed: set[str] = set()
    waiting = list(keep)
    while waiting:
        identity = waiting.pop()
        if identity not in needed:
            needed.add(identity)
            waiting += records[identity].parents if identity in records else ()
    waste = [
        _waste(store.folder(record.slug, identity), "no study names it")
        for identity, record in records.items()
        if identity not in needed
    ]
    digests = {short(identity) for identity in needed}
    data, limit = store.root / "data", time.time() - LEFTOVER_SECONDS
    for folder in sorted(data.iterdir()) if data.is_dir() else []:
        is_needed = folder.name.startswith(".") or folder.name.rpartition("-")[2] in digests
        unused = folder.glob(FEATURES) if is_needed else [folder]
        reason = "a probe's features, read again if needed" if is_needed else "no study reads it"
        waste += [_waste(path, reason) for path in sorted(unused) if path.lstat().st_mtime < limit]
    return waste


def remove(store: ArtifactStore, waste: Iterable[Waste]) -> int:
    """Remove listed garbage, except what has been leased or finished meanwhile; return the bytes that were freed.

    A folder is renamed before it is removed, so that no reader sees half of it.
    """
    freed = 0
    for item in waste:
        assert store.root in item.path.parents, f"{item.path} is outside of {store.root}"
        if _is_leased(store, item.path) or not item.path.exists():
            continue
        if item.is_unfinished and (item.path / RECORD_NAME).exists():
            continue
        doomed = item.path.with_name(f".removed{TEMPORARY_MARK}{os.getpid()}-{secrets.token_hex(4)}")
        with writing(item.path):
            os.rename(item.path, doomed)
            if doomed.is_dir():
                shutil.rmtree(doomed)
            else:
                doomed.unlink()
        freed += item.num_bytes
    return freed


def _is_leased(store: ArtifactStore, path: Path) -> bool:
    """Return whether a living owner works on an artifact's folder, or on the folder of these checkpoints.

    Predictions are made under the lease of their stage.
    """
    stage = PredictionSpec.stage_of(path.name)
    folders = [
        path.parent if path.name == CHECKPOINTS else path,
        *(artifact_folders(store.root, stage) if stage else ()),
    ]
    return any(lease.holder(folder) is not None for folder in folders)


def _leftovers(root: Path) -> Iterator[Path]:
    """Yield old temporary files and folders, without the content of the folders."""
    limit = time.time() - LEFTOVER_SECONDS
    for inner, folders, files in os.walk(root):
        for name in sorted(folders + files):
            path = Path(inner, name)
            if name.startswith(".") and TEMPORARY_MARK in name and path.lstat().st_mtime < limit:
                yield path
        folders[:] = [name for name in folders if TEMPORARY_MARK not in name and name != CHECKPOINTS]


def _waste(path: Path, reason: str) -> Waste:
    num_bytes = folder_bytes(path) if path.is_dir() else path.lstat().st_size
    return Waste(path=path, reason=reason, num_bytes=num_bytes)
