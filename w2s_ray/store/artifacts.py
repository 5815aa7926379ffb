"""The artifact store: a folder per identity, complete once its record exists.

    <root>/artifacts/<slug>-<digest12>/   record.json and, by kind, model/, metrics.jsonl, predictions.parquet or
                                          answers.parquet
    <root>/data/<task>-<digest12>/        prepared examples
    <root>/studies/<name>/                the files of one study

An `ArtifactStore` is only a path: cheap to make, picklable, shared by every process of a run. While a stage runs, its
folder also has checkpoints/, attempts.jsonl (one line per start) and lease.json; they are not part of the artifact.
"""

import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

from w2s_ray.errors import LeaseHeld, StoreError
from w2s_ray.spec.base import Spec
from w2s_ray.spec.identity import short
from w2s_ray.spec.stage import PredictionSpec
from w2s_ray.store import lease
from w2s_ray.store.files import (
    RECORD_NAME,
    TEMPORARY_MARK,
    check_files,
    digest_files,
    require_space,
    sync_folder,
    sync_tree,
    write_file,
    writing,
)
from w2s_ray.store.json_lines import append_line, whole_lines
from w2s_ray.store.listing import folders_ending_in
from w2s_ray.store.record import Base, Kind, Record, package_versions, read_record, source_commit, utc_now

if TYPE_CHECKING:
    from w2s_ray.science import BoolArray, FloatArray
    from w2s_ray.store.predictions import Answers, Predictions

MODEL = "model"
"""Folder of a stage's trained model."""
CHECKPOINTS = "checkpoints"
SNAPSHOTS = "ages"
"""Folder of a stage's snapshots, one folder for each share of training in `optimisation.keep_at`.

The name on disk is older than the word: it is part of the checksums in records, and renaming it would make every store
with snapshots unreadable."""
ATTEMPTS_NAME = "attempts.jsonl"
FOLDERS = ("artifacts", "data", "studies")
"""Folders of a store."""
MIN_FREE_BYTES = 256 * 2**20
"""Free space that a run needs to start."""

_NOT_IN_ARTIFACT = (RECORD_NAME, CHECKPOINTS, ATTEMPTS_NAME, lease.LEASE_NAME)
"""Entries of an artifact's folder that are not part of the artifact."""
_SLUG_CHARS = 80


@dataclass(frozen=True)
class ArtifactStore:
    """Everything that a run reads and writes, below one folder."""

    root: Path

    def __init__(self, root: Path | str) -> None:
        """Make the path absolute; the folder need not exist."""
        object.__setattr__(self, "root", Path(os.path.abspath(root)))

    def prepare(self) -> None:
        """Create the store's folders and check that they can be written.

        Raises:
            StoreError: when they cannot be written, or the disk has less than `MIN_FREE_BYTES` free.
        """
        with writing(self.root):
            for name in FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True)
        probe = self.root / f".writable-{os.getpid()}"
        write_file(probe, b"")
        probe.unlink(missing_ok=True)
        require_space(self.root, MIN_FREE_BYTES)

    def folder(self, slug: str, identity: str) -> Path:
        """Return the folder of an artifact, which may not exist."""
        return self.root / "artifacts" / f"{_plain_slug(slug)}-{short(identity)}"

    def study_folder(self, name: str) -> Path:
        """Return the folder of a study; create it if necessary."""
        folder = self.root / "studies" / name
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def merged_folder(self, identity: str) -> Path:
        """Return a new folder, outside of artifacts, for the merged model of a stage that keeps its adapters.

        The caller removes it; `w2s gc` removes those of processes that were killed.
        """
        return self.root / f".{short(identity)}{TEMPORARY_MARK}{os.getpid()}-{secrets.token_hex(4)}"

    def data_folder(self, name: str, fingerprint: str) -> Path:
        """Return the folder of a task's prepared examples, which may not exist."""
        return self.root / "data" / f"{_plain_slug(name)}-{short(fingerprint)}"

    def data_folders(self, fingerprint: str) -> list[Path]:
        """Return the prepared folders of this fingerprint; a task may have been prepared under several names."""
        return folders_ending_in(self.root / "data", short(fingerprint))

    def find(self, identity: str) -> Record | None:
        """Return the record of a finished artifact, or None."""
        for folder in artifact_folders(self.root, short(identity)):
            record = read_record(folder / RECORD_NAME)
            if record is not None and record.identity == identity:
                return record
        return None

    def verify(self, record: Record) -> Path:
        """Check every file of an artifact against its record, and return its folder.

        Raises:
            StoreError: when a file is missing or differs.
        """
        folder = self.folder(record.slug, record.identity)
        check_files(folder, record.files)
        return folder

    def records(self) -> Iterator[Record]:
        """Yield the record of every finished artifact, by folder name."""
        for folder in artifact_folders(self.root):
            record = read_record(folder / RECORD_NAME)
            if record is not None:
                yield record

    def begin(self, kind: Kind, slug: str, identity: str) -> Path:
        """Create or reopen the folder of an unfinished artifact; for a stage, record the start as an attempt.

        Incomplete files of an earlier attempt are removed; checkpoints, snapshots and `*.jsonl` are kept.

        Raises:
            StoreError: when the artifact is finished: an artifact is written once.
        """
        folder = self.folder(slug, identity)
        if self.find(identity) is not None:
            raise StoreError(f"{folder.name} is finished and cannot be written again", f"use it, or remove {folder}")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _clear_leftovers(folder)
            if kind == "stage":
                append_line(folder / ATTEMPTS_NAME, {"started_at": utc_now(), "pid": os.getpid()})
            sync_folder(folder.parent)
        return folder

    def num_attempts(self, identity: str) -> int:
        """Return how many times the stage was started."""
        folders = artifact_folders(self.root, short(identity))
        return sum(len(whole_lines(folder / ATTEMPTS_NAME)) for folder in folders)

    def last_attempt(self, slug: str, identity: str) -> int:
        """Return the number of the latest start in a stage's folder; owners of earlier starts have lost the stage."""
        return len(whole_lines(self.folder(slug, identity) / ATTEMPTS_NAME))

    def check_attempt(self, slug: str, identity: str, attempt: int) -> None:
        """Check that no other owner has started the stage since the start numbered `attempt`.

        The lease is not enough: an owner that was suspended until its lease expired does not know that.

        Raises:
            LeaseHeld: when the stage was started again, or its folder is gone.
        """
        last = self.last_attempt(slug, identity)
        if last != attempt:
            raise LeaseHeld(
                f"{self.folder(slug, identity).name} was started again (start {last} after start "
                f"{attempt}); its result will be used"
            )

    def commit(
        self,
        *,
        kind: Kind,
        slug: str,
        spec: Spec,
        identity: str,
        parents: tuple[str, ...],
        metrics: dict[str, float],
        attempt: int | None = None,
        digests: Mapping[str, str] = MappingProxyType({}),
        base: Base | None = None,
    ) -> Record:
        """Finish an artifact: sync and checksum its files, write the record, then remove the checkpoints.

        `digests` are the SHA-256 of files whose writers have computed them, by path in the artifact's folder. `base` is
        that of a stage's adapters.

        Raises:
            LeaseHeld: when `attempt`, the number of the start that finishes it, is no longer the latest.
        """
        folder = self.folder(slug, identity)
        with writing(folder):
            files = digest_files(folder, leave_out=_NOT_IN_ARTIFACT, known=digests)
            for name in sorted({Path(file).parts[0] for file in files}):
                entry = folder / name
                (sync_tree if entry.is_dir() else sync_folder)(entry)
            sync_folder(folder)
        record = Record(
            kind=kind,
            identity=identity,
            slug=slug,
            spec=spec.model_dump(mode="json"),
            parents=parents,
            metrics=metrics,
            versions=package_versions(),
            commit=source_commit(),
            finished_at=utc_now(),
            files=files,
            base=base,
        )
        if attempt is not None:
            self.check_attempt(slug, identity, attempt)
        write_file(folder / RECORD_NAME, record.to_json())
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        return record

    def write_predictions(
        self, spec: PredictionSpec, ids: Sequence[str], probs_NC: "FloatArray", logs_NC: "FloatArray | None" = None
    ) -> Record:
        """Store the soft labels of a stage for a split, and their logarithms if given, unless that is done already."""
        from w2s_ray.store.predictions import write  # pyarrow is imported only where it is used

        return self._write(spec, lambda folder: write(folder, ids, probs_NC, logs_NC=logs_NC))

    def write_answers(
        self, spec: PredictionSpec, ids: Sequence[str], texts: Sequence[str], is_allowed_N: "BoolArray"
    ) -> Record:
        """Store the answers of a stage for a split, unless they are stored already."""
        from w2s_ray.store.predictions import write_answers

        return self._write(spec, lambda folder: write_answers(folder, ids, texts, is_allowed_N))

    def read_predictions(self, identity: str) -> "Predictions":
        """Return stored soft labels after checking their file.

        Raises:
            StoreError: when there are none, they are answers, or their file fails its checksum.
        """
        from w2s_ray.store.predictions import PREDICTIONS_NAME, read

        return read(self._predictions_folder(identity, PREDICTIONS_NAME))

    def read_answers(self, identity: str) -> "Answers":
        """Return stored answers after checking their file.

        Raises:
            StoreError: when there are none, they are soft labels, or their file fails its checksum.
        """
        from w2s_ray.store.predictions import ANSWERS_NAME, read_answers

        return read_answers(self._predictions_folder(identity, ANSWERS_NAME))

    def read_labels(self, identity: str) -> "Predictions":
        """Return the labels that a finished stage learned, if transforms changed them, after checking their file.

        Raises:
            StoreError: when the stage is not finished, or its file fails its checksum.
        """
        from w2s_ray.store.predictions import LABELS_NAME, read

        record = self.find(identity)
        if record is None:
            raise StoreError(f"stage {short(identity)} has no record", "run the study that trains it")
        return read(self.verify(record), LABELS_NAME)

    def _write(self, spec: PredictionSpec, fill: Callable[[Path], None]) -> Record:
        known = self.find(spec.identity)
        if known is not None:
            return known
        fill(self.begin("predictions", spec.slug, spec.identity))
        return self.commit(
            kind="predictions", slug=spec.slug, spec=spec, identity=spec.identity, parents=(spec.stage,), metrics={}
        )

    def _predictions_folder(self, identity: str, name: str) -> Path:
        """Return the verified folder of predictions that have a file of this name."""
        record = self.find(identity)
        if record is None or record.kind != "predictions":
            raise StoreError(f"no predictions {short(identity)} in {self.root}", "run the study that makes them")
        if name not in record.files:
            raise StoreError(
                f"predictions {short(identity)} have {', '.join(record.files)}, not {name}: soft labels or answers, "
                "by the kind of their task"
            )
        return self.verify(record)

    def lease(self, identity: str, slug: str, owner: str, process: lease.Process | None = None) -> None:
        """Take or renew the lease on an identity; it expires after 60 s without renewal, or when `process` ends.

        `process` is the caller's if None.

        Raises:
            LeaseHeld: when another owner that is alive has it.
            StoreError: when it cannot be written.
        """
        lease.take(self.folder(slug, identity), owner, process)

    def release(self, identity: str, slug: str, owner: str) -> None:
        """Release the lease on an identity."""
        lease.release(self.folder(slug, identity), owner)


def existing_store(folder: Path | str) -> ArtifactStore:
    """Return the store at `folder`.

    Raises:
        StoreError: when there is none.
    """
    store = ArtifactStore(folder)
    if not (store.root / "artifacts").is_dir():
        raise StoreError(f"no store at {store.root}", "run the study first, or name its store")
    return store


def artifact_folders(root: Path, digest: str = "") -> list[Path]:
    """Return the folder of every artifact below `root`, finished or not, by name; or those of one short identity."""
    return folders_ending_in(root / "artifacts", digest)


def num_finished_stages(store: ArtifactStore) -> int:
    """Return how many stages the store has, without reading their records."""
    folders = artifact_folders(store.root)
    return sum((folder / ATTEMPTS_NAME).is_file() and (folder / RECORD_NAME).is_file() for folder in folders)


def _plain_slug(slug: str) -> str:
    """Return `slug` with safe characters only."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", slug)[:_SLUG_CHARS].lstrip(".") or "unnamed"


def _clear_leftovers(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name in (*_NOT_IN_ARTIFACT, SNAPSHOTS) or entry.suffix == ".jsonl":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
