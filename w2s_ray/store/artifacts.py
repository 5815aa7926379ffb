"""The artifact store: a folder per identity, complete once its record is there.

    <root>/artifacts/<slug>-<digest12>/   record.json and, by kind, model/, metrics.jsonl, predictions.parquet or
                                          answers.parquet
    <root>/data/<task>-<digest12>/        prepared examples
    <root>/studies/<name>/                what belongs to one study

The store is a path and nothing more: cheap to make, picklable, shared by every process of a run. While a stage is
under way its folder also holds checkpoints/, attempts.jsonl (one line per start) and lease.json; they are no part of
the artifact.
"""

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from w2s_ray.errors import LeaseHeld, StoreError
from w2s_ray.spec.base import Spec
from w2s_ray.spec.identity import short
from w2s_ray.spec.stage import PredictionSpec
from w2s_ray.store import lease
from w2s_ray.store.files import (
    RECORD_NAME,
    check_files,
    digest_files,
    require_space,
    sync_folder,
    sync_tree,
    write_file,
    writing,
)
from w2s_ray.store.record import Kind, Record, package_versions, read_record, source_commit, utc_now

if TYPE_CHECKING:
    import numpy as np

    from w2s_ray.store.answers import Answers
    from w2s_ray.store.predictions import Predictions

CHECKPOINTS = "checkpoints"
SNAPSHOTS = "ages"
"""Folder of a stage's snapshots, one folder for each share of training in `optimisation.keep_at`.

The name on disk is older than the word: files are part of an artifact's checksums."""
ATTEMPTS_NAME = "attempts.jsonl"
FOLDERS = ("artifacts", "data", "studies")
"""What a store has in its own folder."""
MIN_FREE_BYTES = 256 * 2**20
"""A store with less room than this is refused before anything starts."""

_BESIDE = (RECORD_NAME, CHECKPOINTS, ATTEMPTS_NAME, lease.LEASE_NAME)
"""Entries of an artifact's folder that are not the artifact."""
_SLUG_CHARS = 80


@dataclass(frozen=True)
class ArtifactStore:
    """All that a run writes and reads, below one folder."""

    root: Path

    def __init__(self, root: Path | str) -> None:
        """Name the store's folder; nothing is touched yet."""
        object.__setattr__(self, "root", Path(os.path.abspath(root)))

    def prepare(self) -> None:
        """Make the store's folders and prove that it can be written.

        Raises:
            StoreError: when it cannot be written or has hardly any room left.
        """
        with writing(self.root):
            for name in FOLDERS:
                (self.root / name).mkdir(parents=True, exist_ok=True)
        probe = self.root / f".writable-{os.getpid()}"
        write_file(probe, b"")
        probe.unlink(missing_ok=True)
        require_space(self.root, MIN_FREE_BYTES)

    def folder(self, slug: str, identity: str) -> Path:
        """Return the folder of an artifact, whether it is there or not."""
        return self.root / "artifacts" / f"{_plain_slug(slug)}-{short(identity)}"

    def study_folder(self, name: str) -> Path:
        """Return the folder of a study, made if need be."""
        folder = self.root / "studies" / name
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        return folder

    def data_folder(self, name: str, fingerprint: str) -> Path:
        """Return the folder of a task's prepared examples, whether it is there or not."""
        return self.root / "data" / f"{_plain_slug(name)}-{short(fingerprint)}"

    def data_folders(self, fingerprint: str) -> list[Path]:
        """Return the prepared folders whose name ends in this fingerprint's digest."""
        return _ending_in(self.root / "data", short(fingerprint))

    def find(self, identity: str) -> Record | None:
        """Return the record of a finished artifact; None where it is absent or unfinished."""
        for folder in _ending_in(self.root / "artifacts", short(identity)):
            record = read_record(folder / RECORD_NAME)
            if record is not None and record.identity == identity:
                return record
        return None

    def verify(self, record: Record) -> Path:
        """Check every file of an artifact against its record and return its folder.

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
        """Open the folder of an artifact that is to be made; each start of a stage is put down as an attempt.

        What an attempt before left half-written goes; checkpoints, models kept on the way and `*.jsonl` stay.

        Raises:
            StoreError: when the artifact is finished already: an artifact is written once.
        """
        folder = self.folder(slug, identity)
        if self.find(identity) is not None:
            raise StoreError(f"{folder.name} is finished", "an artifact is written once", f"use it, or remove {folder}")
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            _clear_leftovers(folder)
            if kind == "stage":
                _append_line(folder / ATTEMPTS_NAME, {"started_at": utc_now(), "pid": os.getpid()})
            sync_folder(folder.parent)
        return folder

    def num_attempts(self, identity: str) -> int:
        """Return how often the stage of this identity was started."""
        folders = _ending_in(self.root / "artifacts", short(identity))
        return sum(_num_lines(folder / ATTEMPTS_NAME) for folder in folders)

    def last_attempt(self, slug: str, identity: str) -> int:
        """Return the number of the last start in a stage's folder; whoever made an earlier one has lost the stage."""
        return _num_lines(self.folder(slug, identity) / ATTEMPTS_NAME)

    def check_attempt(self, slug: str, identity: str, attempt: int) -> None:
        """See to it that a stage's folder is still that of the start numbered `attempt`.

        A lease alone does not: an owner that was suspended for longer than a lease lives does not know it.

        Raises:
            LeaseHeld: when the stage was started again since, or its folder is gone.
        """
        last = self.last_attempt(slug, identity)
        if last != attempt:
            raise LeaseHeld(
                f"{self.folder(slug, identity).name} was taken up by another run (start {last} after start {attempt})",
                "one owner at a time works on an identity",
                "none is needed: what the other run makes of it is used",
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
    ) -> Record:
        """Finish an artifact: every file on the disk and checksummed, then the record, and the checkpoints go.

        Raises:
            LeaseHeld: when `attempt`, the start that finishes it, is no longer the last one.
        """
        folder = self.folder(slug, identity)
        with writing(folder):
            files = digest_files(folder, leave_out=_BESIDE)
            for name in sorted({Path(file).parts[0] for file in files}):
                _sync(folder / name)
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
        )
        if attempt is not None:
            self.check_attempt(slug, identity, attempt)
        write_file(folder / RECORD_NAME, record.to_json())
        shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
        return record

    def write_predictions(self, spec: PredictionSpec, ids: Sequence[str], probs_NC: "np.ndarray") -> Record:
        """Store the soft labels that a stage gave to a split; where they are stored already, those stay."""
        from w2s_ray.store.predictions import write  # pyarrow is loaded only where it is used

        return self._write(spec, lambda folder: write(folder, ids, probs_NC))

    def write_answers(
        self, spec: PredictionSpec, ids: Sequence[str], texts: Sequence[str], is_allowed_N: "np.ndarray"
    ) -> Record:
        """Store the answers that a stage wrote for a split, as `write_predictions` does for soft labels."""
        from w2s_ray.store.answers import write

        return self._write(spec, lambda folder: write(folder, ids, texts, is_allowed_N))

    def read_predictions(self, identity: str) -> "Predictions":
        """Return stored soft labels, checked.

        Raises:
            StoreError: when there are none, they are answers, or their file fails its checksum.
        """
        from w2s_ray.store.predictions import PREDICTIONS_NAME, read

        return read(self._predictions_folder(identity, PREDICTIONS_NAME))

    def read_labels(self, identity: str) -> "Predictions":
        """Return what a finished stage learned, where transforms changed what its label source said; checked.

        Raises:
            StoreError: when the stage is not there, or its file fails its checksum.
        """
        from w2s_ray.store.predictions import LABELS_NAME, read

        record = self.find(identity)
        if record is None:
            raise StoreError(
                f"stage {short(identity)} has no record",
                "a stage keeps what it learned",
                "run the study that trains it",
            )
        return read(self.verify(record), LABELS_NAME)

    def read_answers(self, identity: str) -> "Answers":
        """Return stored answers, checked.

        Raises:
            StoreError: when there are none, they are soft labels, or their file fails its checksum.
        """
        from w2s_ray.store.answers import ANSWERS_NAME, read

        return read(self._predictions_folder(identity, ANSWERS_NAME))

    def _write(self, spec: PredictionSpec, fill: Callable[[Path], None]) -> Record:
        known = self.find(spec.identity)
        if known is not None:
            return known
        fill(self.begin("predictions", spec.slug, spec.identity))
        return self.commit(
            kind="predictions", slug=spec.slug, spec=spec, identity=spec.identity, parents=(spec.stage,), metrics={}
        )

    def _predictions_folder(self, identity: str, name: str) -> Path:
        """The verified folder of predictions that are kept in a file of this name."""
        record = self.find(identity)
        if record is None or record.kind != "predictions":
            raise StoreError(
                f"no predictions {short(identity)} in {self.root}",
                "predictions are made before they are read",
                "run the study that makes them",
            )
        if name not in record.files:
            raise StoreError(
                f"predictions {short(identity)} hold {', '.join(record.files)}, not {name}",
                "a stage predicts soft labels, or answers where its task asks for them",
                "check the task's kind",
            )
        return self.verify(record)

    def lease(self, identity: str, slug: str, owner: str, process: lease.Process | None = None) -> None:
        """Take the lease on an identity, or renew it: call it again well within 60 s.

        The owner lives and dies with `process`; with the caller's where it is not given.

        Raises:
            LeaseHeld: when another owner that is alive holds it.
            StoreError: when it cannot be written.
        """
        lease.take(self.folder(slug, identity), owner, process)

    def release(self, identity: str, slug: str, owner: str) -> None:
        """Give the lease on an identity back."""
        lease.release(self.folder(slug, identity), owner)


def existing_store(folder: Path | str) -> ArtifactStore:
    """Return the store at `folder`.

    Raises:
        StoreError: when there is none.
    """
    store = ArtifactStore(folder)
    if not (store.root / "artifacts").is_dir():
        raise StoreError(
            f"no store at {store.root}", "results are read from what a run left", "run the study, or name its store"
        )
    return store


def artifact_folders(root: Path, digest: str = "") -> list[Path]:
    """Return every artifact's folder below `root`, finished or not, by name; or those of one short identity."""
    return _ending_in(root / "artifacts", digest)


def _ending_in(folder: Path, digest: str) -> list[Path]:
    names = _listing(folder)
    return [folder / name for name in (names.by_digest.get(digest, ()) if digest else names.names)]


@dataclass(frozen=True)
class _Listing:
    """What a folder held; a store of a hundred thousand artifacts is not read anew for each question."""

    names: tuple[str, ...]
    by_digest: dict[str, list[str]]
    changed_at: int
    """When the folder had last changed, in ns."""
    settled: bool
    """Whether that was long enough before it was read for a later change to have another time."""


_LISTINGS: dict[Path, _Listing] = {}
_SETTLED_NS = 2_000_000_000


def _listing(folder: Path) -> _Listing:
    try:
        changed_at = os.stat(folder).st_mtime_ns
        known = _LISTINGS.get(folder)
        if known is not None and known.settled and known.changed_at == changed_at:
            return known
        settled = time.time_ns() - changed_at > _SETTLED_NS
        names = tuple(sorted(name for name in os.listdir(folder) if not name.startswith(".")))
    except (FileNotFoundError, NotADirectoryError):
        return _Listing((), {}, 0, settled=False)
    except OSError as error:
        raise StoreError(
            f"cannot read {folder}: {error.strerror}", "the store must be readable", "check the folder's permissions"
        ) from error
    by_digest: dict[str, list[str]] = {}
    for name in names:
        by_digest.setdefault(name.rpartition("-")[2], []).append(name)
    _LISTINGS[folder] = _Listing(names, by_digest, changed_at, settled)
    return _LISTINGS[folder]


def _plain_slug(slug: str) -> str:
    """Return `slug` with only what is harmless in a path."""
    return re.sub(r"[^A-Za-z0-9_.+-]+", "_", slug)[:_SLUG_CHARS].lstrip(".") or "unnamed"


def _clear_leftovers(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name in (*_BESIDE, SNAPSHOTS) or entry.suffix == ".jsonl":
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def _append_line(path: Path, value: dict[str, object]) -> None:
    """Add one line to a file of JSON lines, whole and on the disk; half a line of a dead writer is ended first."""
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            broken = file.read(1) != b"\n"
        else:
            broken = False
        file.write((b"\n" if broken else b"") + json.dumps(value).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())


def _num_lines(path: Path) -> int:
    """Count the whole lines of a file of JSON lines."""
    try:
        lines = path.read_bytes().split(b"\n")[:-1]
    except (FileNotFoundError, NotADirectoryError):
        return 0
    return sum(line.endswith(b"}") for line in lines)


def _sync(entry: Path) -> None:
    if entry.is_dir():
        sync_tree(entry)
    else:
        sync_folder(entry)
