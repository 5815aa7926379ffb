"""Resume checkpoints: DeepSpeed's shards, plus one small JSON file, written last, that marks them as complete.

The shards are torch files. They are read only from the running study's own store, and only by the execution that wrote
them: another number of workers or another ZeRO stage shards differently, so the stage then starts from the beginning
and logs it. A finished stage keeps no checkpoint.
"""

import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from pydantic import ValidationError

from w2s_ray.spec.base import Spec
from w2s_ray.spec.stage import Execution
from w2s_ray.store.files import require_space, sync_tree, write_file, writing
from w2s_ray.training.progress import TrainState
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine

_MARKER = "latest.json"
_BEST = "best"
_WEIGHT_BYTES, _MOMENTS_BYTES = 4, 8
"""Per parameter in fp32; only trained parameters have moments (AdamW)."""
_WITH_MASTERS = (1, 2)
"""ZeRO stages that write each trained weight twice: gathered, and as the master of its shards."""


class _Marker(Spec):
    tag: str
    progress: TrainState
    workers: int
    zero_stage: int
    offload_optimizer: bool
    sizes: dict[str, int]
    """Bytes of each file, those of the best weights included."""


class Checkpoints:
    """The checkpoints of one stage."""

    def __init__(self, folder: Path, execution: Execution, workers: Workers) -> None:
        self.folder = folder
        self._execution = execution
        self._workers = workers

    def save(self, engine: Engine, state: TrainState) -> None:
        """Write a checkpoint and delete the previous one; collective. A kill at any moment leaves a complete one.

        Raises:
            StoreError: on every rank, before anything is written, when the disk has no room for it.
        """
        tag = f"step{state.step}"
        self._write(engine, tag)
        self._workers.on_rank_0(lambda: self._mark(tag, state))

    def _write(self, engine: Engine, tag: str) -> None:
        """Write every rank's shard; collective."""
        trained_bytes = _MOMENTS_BYTES + (_WEIGHT_BYTES if self._execution.zero_stage in _WITH_MASTERS else 0)
        num_bytes = _WEIGHT_BYTES * engine.num_parameters + trained_bytes * engine.num_trained
        self._workers.on_rank_0(lambda: require_space(self.folder, num_bytes))
        engine.save(self.folder, tag)
        self._workers.barrier()

    def _mark(self, tag: str, state: TrainState) -> None:
        """Make this checkpoint, and the best weights so far, the ones to resume from."""
        kept = [tag, *([f"{_BEST}{state.best_step}"] if state.best_step else [])]
        with writing(self.folder):
            for name in kept:
                sync_tree(self.folder / name)  # a marker that outlives a power cut must not name torn shards
        marker = _Marker(
            tag=tag,
            progress=state,
            workers=self._workers.size,
            zero_stage=self._execution.zero_stage,
            offload_optimizer=self._execution.offload_optimizer,
            sizes=_sizes(self.folder, kept),
        )
        write_file(self.folder / _MARKER, marker.model_dump_json().encode())
        self._delete_others(("step*", f"{_BEST}*"), kept)

    def _delete_others(self, patterns: Iterable[str], kept: Collection[str]) -> None:
        for old in (folder for pattern in patterns for folder in self.folder.glob(pattern)):
            if old.name not in kept:
                shutil.rmtree(old, ignore_errors=True)

    def restore(self, engine: Engine) -> tuple[TrainState, str]:
        """Load the last complete checkpoint; collective.

        Returns:
            The state to resume from, and why a checkpoint could not be used (empty if it could, or there is none).
        """
        marker = self._read_marker()
        if marker is None:
            return TrainState(), ""
        ours = (self._workers.size, self._execution.zero_stage, self._execution.offload_optimizer)
        if (marker.workers, marker.zero_stage, marker.offload_optimizer) != ours:
            return TrainState(), (
                f"the checkpoint at step {marker.progress.step} was written by {marker.workers} workers under "
                f"ZeRO-{marker.zero_stage}; this run has {self._workers.size} under ZeRO-{self._execution.zero_stage}, "
                "so the stage starts from the beginning"
            )
        is_damaged = self._workers.any(_sizes(self.folder, _names(marker)) != marker.sizes)
        if is_damaged:
            return TrainState(), (
                f"files of the checkpoint at step {marker.progress.step} have changed size, "
                "so the stage starts from the beginning"
            )
        engine.restore(self.folder, marker.tag)
        return marker.progress, ""

    def save_best(self, engine: Engine, step: int) -> None:
        """Keep the weights after `step` as the best so far; collective.

        The best weights of the last checkpoint stay too: a resume from it may go back to them.
        """
        self._write(engine, f"{_BEST}{step}")
        marker = self._read_marker()
        kept = {f"{_BEST}{step}", *(_names(marker) if marker is not None else ())}
        self._workers.on_rank_0(lambda: self._delete_others((f"{_BEST}*",), kept))

    def restore_best(self, engine: Engine, step: int) -> None:
        """Load the best weights, those after `step`; collective."""
        engine.restore(self.folder, f"{_BEST}{step}")

    def _read_marker(self) -> _Marker | None:
        """Return rank 0's marker on every rank: on a network file system the others may see an older one."""
        path = self.folder / _MARKER
        text = self._workers.on_rank_0(lambda: path.read_text() if path.is_file() else None)
        try:
            return _Marker.model_validate_json(text) if text is not None else None
        except ValidationError:
            return None  # another version of w2s_ray wrote it


def _names(marker: _Marker) -> set[str]:
    """Return the folders that a marker names: the checkpoint's and the best weights'."""
    return {name.partition("/")[0] for name in marker.sizes}


def _sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Return the bytes of each file in the checkpoints `names`, by path below `folder`."""
    files = (file for name in names for file in (folder / name).rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
