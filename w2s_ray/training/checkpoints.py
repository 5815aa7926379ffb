"""Resume checkpoints: DeepSpeed's shards plus one small JSON, written last, that says they are whole.

They are torch files, read back only from the running study's own store, and only by the execution that wrote them:
another number of workers or another ZeRO stage shards differently, so the stage then starts from its beginning and
says so. The finished stage keeps none.
"""

import shutil
from collections.abc import Collection, Iterable
from pathlib import Path

from pydantic import ValidationError

from w2s_ray.spec.base import Spec
from w2s_ray.spec.stage import Execution
from w2s_ray.store.files import require_space, sync_tree, write_file, writing
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine

_MARKER = "latest.json"
_BEST = "best"
_WEIGHT_BYTES, _MOMENTS_BYTES = 4, 8
"""Of one parameter, in fp32; AdamW has moments of those that are trained."""
_WITH_MASTERS = (1, 2)
"""ZeRO stages that write every weight that is trained twice: whole, and as the master of its shards."""


class Progress(Spec):
    """How far a stage got, as its checkpoint remembers it."""

    step: int = 0
    """Optimizer steps done."""
    train_tokens: int = 0
    train_seconds: float = 0.0
    best_accuracy: float = -1.0
    """Best agreement with the labels of Vi, for early stopping."""
    best_step: int = 0
    evaluations_since_best: int = 0


class _Marker(Spec):
    tag: str
    progress: Progress
    workers: int
    zero_stage: int
    offload_optimizer: bool
    sizes: dict[str, int]
    """Bytes of each file, the best weights' included."""


class Checkpoints:
    """The checkpoints of one stage."""

    def __init__(self, folder: Path, execution: Execution, workers: Workers) -> None:
        self.folder = folder
        self._execution = execution
        self._workers = workers

    def save(self, engine: Engine, progress: Progress) -> None:
        """Write a checkpoint and forget the one before; collective. A kill at any moment leaves one that is whole.

        Raises:
            StoreError: on every rank, when there is no room for it before it is begun.
        """
        tag = f"step{progress.step}"
        self._write(engine, tag)
        self._workers.led(lambda: self._mark(tag, progress))

    def _write(self, engine: Engine, tag: str) -> None:
        """Let every rank write its shard; collective."""
        trained_bytes = _MOMENTS_BYTES + (_WEIGHT_BYTES if self._execution.zero_stage in _WITH_MASTERS else 0)
        num_bytes = _WEIGHT_BYTES * engine.num_parameters + trained_bytes * engine.num_trained
        self._workers.led(lambda: require_space(self.folder, num_bytes))
        engine.save(self.folder, tag)
        self._workers.barrier()

    def _mark(self, tag: str, progress: Progress) -> None:
        """Make the checkpoint the one that counts, and with it the best weights that it knows of."""
        kept = [tag, *([f"{_BEST}{progress.best_step}"] if progress.best_step else [])]
        with writing(self.folder):
            for name in kept:
                sync_tree(self.folder / name)  # a marker that outlives a power cut must not name torn shards
        marker = _Marker(
            tag=tag,
            progress=progress,
            workers=self._workers.size,
            zero_stage=self._execution.zero_stage,
            offload_optimizer=self._execution.offload_optimizer,
            sizes=_sizes(self.folder, kept),
        )
        write_file(self.folder / _MARKER, marker.model_dump_json().encode())
        self._forget(("step*", f"{_BEST}*"), kept)

    def _forget(self, patterns: Iterable[str], kept: Collection[str]) -> None:
        for old in (folder for pattern in patterns for folder in self.folder.glob(pattern)):
            if old.name not in kept:
                shutil.rmtree(old, ignore_errors=True)

    def restore(self, engine: Engine) -> tuple[Progress, str | None]:
        """Load the last whole checkpoint; collective.

        Returns:
            The progress to go on from, and a line for the log when a checkpoint was there but could not serve.
        """
        marker = self._marker()
        if marker is None:
            return Progress(), None
        if (marker.workers, marker.zero_stage, marker.offload_optimizer) != (
            self._workers.size,
            self._execution.zero_stage,
            self._execution.offload_optimizer,
        ):
            return Progress(), (
                f"the checkpoint at step {marker.progress.step} was written by {marker.workers} workers under "
                f"ZeRO-{marker.zero_stage}; this run has {self._workers.size} under ZeRO-{self._execution.zero_stage}, "
                "so the stage starts from its beginning"
            )
        kept = _names(marker)
        (is_damaged,) = self._workers.any(_sizes(self.folder, kept) != marker.sizes)
        if is_damaged:
            return Progress(), (
                f"the checkpoint at step {marker.progress.step} has not the size that was written, "
                "so the stage starts from its beginning"
            )
        engine.restore(self.folder, marker.tag)
        return marker.progress, None

    def save_best(self, engine: Engine, step: int) -> None:
        """Keep the weights after `step` as the best so far; collective.

        Of those before them the one stays that the last checkpoint may still have to go back to.
        """
        self._write(engine, f"{_BEST}{step}")
        marker = self._marker()
        kept = {f"{_BEST}{step}", *(_names(marker) if marker is not None else ())}
        self._workers.led(lambda: self._forget((f"{_BEST}*",), kept))

    def restore_best(self, engine: Engine, step: int) -> None:
        """Go back to the best weights, those after `step`; collective."""
        engine.restore(self.folder, f"{_BEST}{step}")

    def _marker(self) -> _Marker | None:
        """Rank 0's view of the marker, for all: over a network file system the others may see an older one."""
        path = self.folder / _MARKER
        text = self._workers.led(lambda: path.read_text() if path.is_file() else None)
        try:
            return _Marker.model_validate_json(text) if text is not None else None
        except ValidationError:
            return None  # written by another version: start anew


def _names(marker: _Marker) -> set[str]:
    """The checkpoint and the best weights that a marker names."""
    return {name.partition("/")[0] for name in marker.sizes}


def _sizes(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Bytes of each file below the checkpoints `names` in `folder`."""
    files = (file for name in names for file in (folder / name).rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file.stat().st_size for file in files}
