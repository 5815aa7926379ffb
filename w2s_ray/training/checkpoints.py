"""Resume checkpoints of a stage, which any number of workers under any ZeRO stage can read.

    checkpoints/step<N>/rank<R>-<I>.safetensors   consecutive elements of trained weights and of their moments
                        rank<R>.json              the sizes and digests of rank R's files, written when they are synced
                best<N>/                          the same, with weights alone: the best ones so far

A checkpoint is complete when the file of rank 0 and those of all the ranks that it counts exist; nothing else marks it.
Training waits only until the tensors are in the page cache: a thread syncs and hashes the files afterwards. Two
checkpoints are kept, so that a damaged one is replaced by the one before. Weights that are not trained are not written.
"""

import math
import shutil
import time
from collections.abc import Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import save_file

from w2s_ray.errors import StoreError
from w2s_ray.spec.base import Spec
from w2s_ray.store.files import digest_file, require_space, sync_file, sync_folder, write_file, writing
from w2s_ray.training.models.saving import disk_errors
from w2s_ray.training.progress import TrainState
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import MOMENTS, Engine, Shard

_BEST, _STEP = "best", "step"
_FILE_BYTES = 2**30
"""Size from which a rank starts another file; tensors of a GPU are copied to the host a file at a time."""
_FIRST_SECONDS = 60.0
"""Before the first checkpoint, whose cost is not known yet."""
_BETWEEN_FAILURES = 6 * 3600.0
"""Seconds between failures of a worker group that the interval assumes; preemptible machines live for hours."""
_SECONDS_TO_APPEAR = 60.0
"""For files of another machine on a network file system."""
_LARGEST_SHARE = 0.02
"""Share of the training time that checkpoints take at most."""


def seconds_between(cost: float | None) -> float:
    """Return the seconds between checkpoints that stall training for `cost` seconds each; None when not known yet.

    The interval loses the least time to checkpoints and repeated steps together (Young 1974; Daly 2006), but is never
    so short that checkpoints take more than 2 % of the time.
    """
    if cost is None:
        return _FIRST_SECONDS
    return max(math.sqrt(2 * cost * _BETWEEN_FAILURES), cost / _LARGEST_SHARE)


class _RankFiles(Spec):
    """What one rank has written of a checkpoint."""

    workers: int
    progress: TrainState
    digests: dict[str, str]
    """SHA-256 of each file by name."""


class Checkpoints:
    """The checkpoints of one stage."""

    def __init__(self, folder: Path, workers: Workers) -> None:
        self.folder = folder
        self._workers = workers
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._syncing: Future[None] | None = None
        self._written_step = 0
        self.last_step = 0
        """Step of the last checkpoint that is known to be complete."""
        self.cost: float | None = None
        """Seconds for which the last checkpoint stalled the training."""

    def save(self, engine: Engine, state: TrainState) -> None:
        """Write a checkpoint; collective. A kill at any moment leaves a complete one.

        Raises:
            StoreError: on every rank, when a rank's disk has no room for it or the last one could not be synced.
        """
        began = time.perf_counter()
        self._write(engine.shards(), ("weight", *MOMENTS), f"{_STEP}{state.step}", state)
        self._written_step = state.step
        self.cost = time.perf_counter() - began

    def save_best(self, engine: Engine, state: TrainState) -> None:
        """Keep the weights of `state` as the best so far; collective."""
        self._write(engine.shards(), ("weight",), f"{_BEST}{state.step}", state)

    @property
    def is_syncing(self) -> bool:
        """Whether this rank's files are not on the disk yet."""
        return self._syncing is not None and not self._syncing.done()

    def all_synced(self) -> None:
        """Note that no rank is syncing."""
        self.last_step = self._written_step

    def wait(self) -> None:
        """Wait until what was written is complete on every rank; collective.

        Raises:
            StoreError: on every rank, when a rank's files could not be synced.
        """
        self._workers.on_every_rank(self._wait)
        self.all_synced()

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _write(self, shards: list[Shard], parts: tuple[str, ...], name: str, state: TrainState) -> None:
        """Write this rank's share of the shards, and let the thread complete it; collective."""
        folder, rank = self.folder / name, self._workers.rank
        written: list[Path] = []

        def write() -> None:
            if rank == 0:
                self._delete_older({name, f"{_BEST}{state.best_step}"})
            num_bytes = sum(shard.tensors[part].nbytes for shard in shards for part in parts)
            require_space(folder, self._workers.size * num_bytes)
            with writing(folder), disk_errors():
                folder.mkdir(parents=True, exist_ok=True)
                (folder / f"rank{rank}.json").unlink(missing_ok=True)  # of an attempt that was killed here
                for number, tensors in enumerate(_by_file(shards, parts)):
                    written.append(folder / f"rank{rank}-{number}.safetensors")
                    save_file(tensors, written[-1])

        self.wait()  # rank 0 deletes what another rank has not completed
        self._workers.on_every_rank(write)
        self._syncing = self._thread.submit(self._sync, folder, written, state)

    def _sync(self, folder: Path, written: list[Path], state: TrainState) -> None:
        """Complete this rank's part of a checkpoint; runs beside the training."""
        with writing(folder):
            for path in written:
                sync_file(path)
            sync_folder(folder)
        digests = {path.name: digest_file(path) for path in written}
        files = _RankFiles(workers=self._workers.size, progress=state, digests=digests)
        write_file(folder / f"rank{self._workers.rank}.json", files.model_dump_json().encode())

    def _wait(self) -> None:
        if self._syncing is not None:
            self._syncing.result()
            self._syncing = None

    def _delete_older(self, kept: Collection[str]) -> None:
        """Delete all but the last complete checkpoint, its best weights and those in `kept`."""
        needed = set(kept)
        for name in self._names(_STEP):
            if files := self._complete(name):
                needed |= {name, f"{_BEST}{files.progress.best_step}"}
                break
        for name in (*self._names(_STEP), *self._names(_BEST)):
            if name not in needed:
                shutil.rmtree(self.folder / name, ignore_errors=True)

    def _names(self, kind: str) -> list[str]:
        """Return the checkpoints of one kind, the latest first."""
        names = [path.name for path in self.folder.glob(f"{kind}*") if path.name.removeprefix(kind).isdigit()]
        return sorted(names, key=lambda name: -int(name.removeprefix(kind)))

    def _complete(self, name: str) -> _RankFiles | None:
        """Return the files of all ranks together; None when the checkpoint is not complete."""
        first = self._rank_files(name, 0)
        if first is None:
            return None
        ranks = [first, *(self._rank_files(name, rank) for rank in range(1, first.workers))]
        digests: dict[str, str] = {}
        for files in ranks:
            if files is None or (files.workers, files.progress.step) != (first.workers, first.progress.step):
                return None
            digests |= files.digests
        return first.model_copy(update={"digests": digests})

    def _rank_files(self, name: str, rank: int) -> _RankFiles | None:
        try:
            return _RankFiles.model_validate_json((self.folder / name / f"rank{rank}.json").read_bytes())
        except (FileNotFoundError, ValidationError):
            return None

    def restore(self, engine: Engine) -> tuple[TrainState, list[str]]:
        """Load the last checkpoint that is complete and undamaged; collective.

        Returns:
            The state to resume from; and notes: from which step, and why later checkpoints could not be used.
        """
        notes = []
        for name in self._workers.on_rank_0(lambda: self._names(_STEP)):
            files = self._workers.on_rank_0(lambda: self._complete(name))  # noqa: B023 (called at once)
            if files is None:
                notes.append(f"the checkpoint at {name} is not complete and is passed over")
                continue
            best = f"{_BEST}{files.progress.best_step}" if files.progress.best_step else None
            damage = self._damage(engine, name) or (best and self._damage(engine, best))
            if not damage:
                self._read(engine, name, files.progress.step)
                self._written_step = self.last_step = files.progress.step
                return files.progress, [*notes, f"the stage continues from step {self.last_step}"]
            notes.append(f"the checkpoint at {name} is passed over: {damage}")
        return TrainState(), notes

    def restore_best(self, engine: Engine, step: int) -> None:
        """Load the best weights, those after `step`; collective."""
        self.wait()
        self._read(engine, f"{_BEST}{step}", None)

    def _damage(self, engine: Engine, name: str) -> str:
        """Return why a checkpoint cannot be used, empty when it can; each rank hashes its share of it. Collective."""

        def find() -> str:
            files = self._complete(name)
            if files is None:
                return f"{name} is not complete"
            paths = {self.folder / name / file: digest for file, digest in files.digests.items()}
            for path, digest in list(paths.items())[self._workers.rank :: self._workers.size]:
                if not path.is_file() or digest_file(path) != digest:
                    return f"{name}/{path.name} is missing or has changed"
            if _Reader(list(paths)).sizes != engine.trained_sizes:
                return f"{name} has other weights than the model"
            return ""

        return next(filter(None, self._workers.on_every_rank(find)), "")

    def _read(self, engine: Engine, name: str, step: int | None) -> None:
        reader = _Reader(self._files(name))
        engine.restore(reader.read, step)
        self._workers.barrier()

    def _files(self, name: str) -> list[Path]:
        """Return the files of a complete checkpoint, which another machine's view of the disk may not show at once."""
        deadline = time.monotonic() + _SECONDS_TO_APPEAR
        while (files := self._complete(name)) is None:
            if time.monotonic() > deadline:
                raise StoreError(f"{self.folder / name} is not complete", "check the network file system of the store")
            time.sleep(0.1)
        return [self.folder / name / file for file in files.digests]


def _by_file(shards: list[Shard], parts: tuple[str, ...]) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the tensors of each file."""
    tensors: dict[str, torch.Tensor] = {}
    size = 0
    for shard in shards:
        for part in parts:
            tensors[f"{part}/{shard.start}/{shard.name}"] = shard.tensors[part]
            size += shard.tensors[part].nbytes
        if size >= _FILE_BYTES:
            yield tensors
            tensors, size = {}, 0
    if tensors:
        yield tensors


class _Reader:
    """The tensors of a checkpoint's files, read in the pieces that a rank needs."""

    def __init__(self, paths: list[Path]) -> None:
        self._pieces: dict[tuple[str, str], list[tuple[int, int, Any]]] = {}
        """First element, end and content of each piece, by part and weight."""
        for path in paths:
            file: Any = safe_open(path, framework="pt")
            for key in file.keys():  # noqa: SIM118 (no mapping)
                part, start, name = key.split("/", 2)
                piece = file.get_slice(key)
                end = int(start) + piece.get_shape()[0]
                self._pieces.setdefault((part, name), []).append((int(start), end, piece))

    @property
    def sizes(self) -> dict[str, int]:
        """Elements of each weight by name."""
        return {
            name: sum(end - start for start, end, _ in pieces)
            for (part, name), pieces in self._pieces.items()
            if part == "weight"
        }

    def read(self, part: str, name: str, start: int, into: torch.Tensor) -> None:
        """Fill `into` with the elements from `start` on."""
        end = start + into.numel()
        for first, last, piece in self._pieces[part, name]:
            begin, stop = max(first, start), min(last, end)
            if begin < stop:
                into[begin - start : stop - start].copy_(piece[begin - first : stop - first])
