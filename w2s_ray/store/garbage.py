"""What in a store could go: work that nobody finished, and artifacts that no study names. Listing removes nothing."""

import os
import secrets
import shutil
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from w2s_ray.spec.identity import short
from w2s_ray.spec.stage import ON
from w2s_ray.store import lease
from w2s_ray.store.artifacts import CHECKPOINTS, ArtifactStore, artifact_folders
from w2s_ray.store.files import RECORD_NAME, TEMPORARY_MARK, folder_bytes, writing

LEFTOVER_SECONDS = 3600.0
"""A temporary name that was not written to for so long is a dead writer's, and prepared data then has its study."""
_UNFINISHED = "unfinished"


@dataclass(frozen=True)
class Waste:
    """A folder or file that could go, and why."""

    path: Path
    reason: str
    num_bytes: int


def abandoned(store: ArtifactStore) -> list[Waste]:
    """Return what was begun and not finished and has no owner alive: its checkpoints could still be resumed from.

    A run under way has leases on what its crews do at the moment alone, and may go on with any other checkpoint.
    """
    found = []
    studies = store.root / "studies"
    some_run = any(lease.holder(each) is not None for each in (studies.iterdir() if studies.is_dir() else ()))
    for folder in artifact_folders(store.root):
        if not folder.is_dir() or _is_leased(store, folder):
            continue
        if not (folder / RECORD_NAME).exists():
            if not (some_run and (folder / CHECKPOINTS).exists()):
                found.append(_waste(folder, _UNFINISHED))
        elif (folder / CHECKPOINTS).exists():
            found.append(_waste(folder / CHECKPOINTS, "checkpoints of a finished stage"))
    return found + [_waste(path, "left by a writer that died") for path in _leftovers(store.root)]


def unreferenced(store: ArtifactStore, keep: Collection[str]) -> list[Waste]:
    """Return finished artifacts and prepared tasks that nothing in `keep` needs.

    `keep` holds identities and fingerprints; whatever an artifact in it was made from is kept too. A task that was
    prepared a moment ago is kept: a study that is being resolved has no file yet.
    """
    records = {record.identity: record for record in store.records()}
    needed: set[str] = set()
    waiting = list(keep)
    while waiting:
        identity = waiting.pop()
        if identity not in needed:
            needed.add(identity)
            waiting += records[identity].parents if identity in records else ()
    found = [
        _waste(store.folder(record.slug, identity), "no study names it")
        for identity, record in records.items()
        if identity not in needed
    ]
    digests = {short(identity) for identity in needed}
    data, limit = store.root / "data", time.time() - LEFTOVER_SECONDS
    for folder in sorted(data.iterdir()) if data.is_dir() else []:
        is_needed = folder.name.startswith(".") or folder.name.rpartition("-")[2] in digests
        if not is_needed and folder.lstat().st_mtime < limit:
            found.append(_waste(folder, "no study reads it"))
    return found


def remove(store: ArtifactStore, waste: Iterable[Waste]) -> int:
    """Remove what was listed, unless somebody took it up meanwhile; return the bytes that came free.

    A folder loses its name in one move, so that nobody ever reads half of it.
    """
    freed = 0
    for item in waste:
        assert store.root in item.path.parents, f"{item.path} lies outside {store.root}"
        if _is_leased(store, item.path) or not item.path.exists():
            continue
        if item.reason == _UNFINISHED and (item.path / RECORD_NAME).exists():
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
    """Say whether somebody alive works on an artifact's folder, or on the one that `path` lies in.

    Predictions are made under the lease of their stage, whose short identity their names begin with.
    """
    stage, on, _ = path.name.partition(ON)
    owners = [path.parent if path.name == CHECKPOINTS else path, *(artifact_folders(store.root, stage) if on else ())]
    return any(lease.holder(folder) is not None for folder in owners)


def _leftovers(root: Path) -> Iterator[Path]:
    """Temporary names that are old, without what lies inside them."""
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
