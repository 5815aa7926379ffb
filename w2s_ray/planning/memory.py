"""Whether a stage's workers fit into the memory of the nodes, and a setting that does.

The need is an estimate, within 15 % of what docs/memory.md measured, so a stage is refused only if it exceeds
everything that a node or device has.
"""

import functools
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from w2s_ray.data.prepare import load_prepared
from w2s_ray.data.tokens import longest_tokens
from w2s_ray.errors import ResourceError, StudyError, W2SError
from w2s_ray.planning.nodes import FreeResources, Node
from w2s_ray.planning.resolve import UNRESOLVED
from w2s_ray.spec.chain import PlannedStage, Resolution, SettledStage
from w2s_ray.spec.execution import ExecutionSpec, ZeroStage
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.training.memory.footprint import Footprint
from w2s_ray.training.memory.settle import settle
from w2s_ray.training.memory.usage import GIB, share_of_host
from w2s_ray.training.models.catalogue import model_folder
from w2s_ray.training.models.files import fast_tokenizer

LongestText = Callable[[PlannedStage], int | None]
"""Returns the number of tokens of the longest text of a stage's task; None if unknown."""


@dataclass(frozen=True)
class MemoryFit:
    """Memory that a worker of a stage needs and has."""

    stage: SettledStage
    need: Footprint | None
    """None if too little is known of the model."""
    available: int | None
    """Bytes that a worker has; None if unknown."""
    available_on_host: int | None
    """For a GPU's worker, its share of the host's memory; None if unknown, and for workers on CPUs."""

    @property
    def file_bytes(self) -> int | None:
        """Bytes in files of `nvme_folder`, of all workers together; 0 if unknown, None if nothing is in files."""
        execution = self.stage.execution
        if execution.nvme_folder is None or not (execution.offload_optimizer or execution.offload_parameters):
            return None
        return execution.workers * self.need.files if self.need is not None else 0

    @property
    def fits(self) -> bool:
        """Whether the stage fits, as far as is known."""
        return self.need is None or not self.need.exceeds(self.available, self.available_on_host)


def fit_memory(stage: PlannedStage, resolution: Resolution, nodes: Sequence[Node], tokens: int | None) -> MemoryFit:
    """Return what a worker of the stage needs and has, where the task's longest text has `tokens` tokens.

    What the stage leaves to `auto` is chosen as the workers choose it. Where their memory is unknown, the settings that
    need least are assumed for `zero_stage: auto`, and activations are kept for `activation_checkpointing: auto`.
    """
    model = resolution.models[stage.level]
    available = available_bytes(stage.execution, nodes)
    on_host = _host_share(stage.execution, nodes) if stage.execution.gpus_per_worker else None
    assumed = available is None and stage.execution.zero_stage == "auto"
    settled, need = settle(
        stage,
        model.num_parameters,
        model.shape,
        tokens,
        lambda need: assumed or need.exceeds(available, on_host),
    )
    return MemoryFit(settled, need, available, on_host)


def folder_fault(fit: MemoryFit, nodes: Sequence[Node]) -> W2SError | None:
    """Return why the stage cannot have files in its `nvme_folder`; None where it has none, and on other machines.

    A cluster of one node is this machine. On several nodes each worker checks its own folder.
    """
    execution, num_bytes = fit.stage.execution, fit.file_bytes
    if num_bytes is None or len(nodes) != 1:
        return None
    assert execution.nvme_folder is not None
    rule = f"`ladder.{fit.stage.level}.execution.nvme_folder` = {execution.nvme_folder}"
    folder = next(path for path in (execution.nvme_folder, *execution.nvme_folder.parents) if os.path.exists(path))
    hint = "choose a folder on a disk of each machine; it is created if it does not exist"
    if not folder.is_dir():
        return StudyError(f"{rule} cannot be used: {folder} is not a folder", hint)
    if not os.access(folder, os.W_OK | os.X_OK):
        return StudyError(f"{rule} cannot be used: {folder} cannot be written", hint)
    free = shutil.disk_usage(folder).free
    if free < max(num_bytes, 1):
        needs = f"the workers need about {num_bytes / GIB:.1f} GiB there"
        return ResourceError(f"{rule} has {free / GIB:.1f} GiB free, and {needs}", "choose a folder on a larger disk")
    return None


def longest_text(store: ArtifactStore, resolution: Resolution) -> LongestText:
    """Return a function that counts the tokens of a task's longest text, once per task and level.

    It returns None where the data, the model's shape or its tokenizer is not on this machine.
    """

    def count(task: str, level: str, model_name: str) -> int | None:
        tokenizer = tokenizer_of(resolution, task, level, model_name)
        if tokenizer is None or resolution.models[level].shape is None:
            return None
        return longest_tokens(load_prepared(store, resolution.tasks[task].fingerprint), tokenizer)

    cached = functools.cache(count)
    return lambda stage: cached(stage.task, stage.level, stage.spec.starts_from.name)


def tokenizer_of(resolution: Resolution, task: str, level: str, model_name: str) -> Tokenizer | None:
    """Return the tokenizer of a level's model; None where it, or the task's data, is not on this machine."""
    revision = resolution.models[level].revision
    if UNRESOLVED in (resolution.tasks[task].fingerprint.split()[0], revision):
        return None
    return fast_tokenizer(model_folder(model_name, revision, tokenizer=True))


def available_bytes(execution: ExecutionSpec, nodes: Sequence[Node]) -> int | None:
    """Return the smallest share of memory of any worker, on the nodes with most memory; None if unknown.

    On CPUs the workers on a node share its memory, less what Ray and the run itself need.
    """
    if not execution.gpus_per_worker:
        return _host_share(execution, nodes)
    per_gpu = execution.workers_per_gpu
    return _least(node.gpu_bytes // per_gpu if node.gpu_bytes else None for node, _ in _placed(execution, nodes))


def _host_share(execution: ExecutionSpec, nodes: Sequence[Node]) -> int | None:
    """Return a worker's share of the memory of its machine."""
    placed = _placed(execution, nodes)
    return _least(share_of_host(node.memory_bytes, num) if node.memory_bytes else None for node, num in placed)


def _placed(execution: ExecutionSpec, nodes: Sequence[Node]) -> list[tuple[Node, int]]:
    """Return the nodes on which a stage has most memory, and how many of its workers are on each; empty without room.

    GPU workers are placed on the first nodes, CPU workers on the last.
    """
    on_gpus = execution.gpus_per_worker > 0
    nodes = sorted(nodes, key=lambda node: -(node.gpu_bytes or 0) if on_gpus else node.memory_bytes or 0)
    placement = FreeResources(nodes).take(execution.group_shape)
    return [(nodes[number], workers) for number, workers in placement or ()]


def _least(sizes: Iterable[int | None]) -> int | None:
    known = list(sizes)
    return min((size for size in known if size is not None), default=None) if None not in known else None


def with_execution(stage: PlannedStage, **changes: Any) -> PlannedStage:
    """Return the stage with other execution settings."""
    return stage.model_copy(update={"execution": stage.execution.model_copy(update=changes)})


def check_memory(
    stages: Iterable[PlannedStage], resolution: Resolution, nodes: Sequence[Node], longest: LongestText
) -> None:
    """Check that the workers of every stage fit into the memory of the nodes, and their files into `nvme_folder`.

    Raises:
        ResourceError: for the first level that does not fit, with a setting that would if one is known.
        StudyError: for an `nvme_folder` that cannot be used.
    """
    for stage in stages:
        tokens = longest(stage)
        fit = fit_memory(stage, resolution, nodes, tokens)
        fault = folder_fault(fit, nodes)
        if fault is not None:
            raise fault
        if fit.fits:
            continue
        assert fit.need is not None
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in fit.need.parts.items() if size >= 0.05 * GIB)
        on_device = f"about {fit.need.peak / GIB:.1f} GiB for each of its {stage.execution.workers} workers ({parts})"
        on_host = f" and {fit.need.host / GIB:.1f} GiB of the host's memory" if stage.execution.gpus_per_worker else ""
        sizes = (
            (fit.available, "on its GPU" if on_host else "as its share of a node"),
            (fit.available_on_host, "of the host's memory"),
        )
        has = " and ".join(f"{size / GIB:.1f} GiB {where}" for size, where in sizes if size is not None)
        raise ResourceError(
            f"level {stage.level} with {fit.stage.execution.memory_settings} needs {on_device}{on_host}; "
            f"a worker has {has}",
            nearest_that_fits(fit.stage, resolution, nodes, tokens),
        )


def nearest_that_fits(stage: SettledStage, resolution: Resolution, nodes: Sequence[Node], tokens: int | None) -> str:
    """Return the `--set` options of the cheapest change in time, of those in `_changes`, that fits; or other advice."""
    for changes in _changes(stage, nodes):
        fit = fit_memory(with_execution(stage, **changes), resolution, nodes, tokens)
        if fit.need is not None and fit.available is not None and fit.fits:
            path = f"ladder.{stage.level}.execution"
            keys = " ".join(f"--set {path}.{key}={str(value).lower()}" for key, value in changes.items())
            return f"add {keys} (about {fit.need.peak / GIB:.1f} GiB per worker)"
    return "use larger or more nodes, a smaller model, a shorter context, or LoRA"


_ANY_DISK = Path("/path/on/a/local/disk")
"""In advice, for the user to replace."""


def _changes(stage: SettledStage, nodes: Sequence[Node]) -> Iterator[dict[str, Any]]:
    """Changes to a stage's execution, the cheapest in time first; fewer workers and files on a disk are the last."""
    execution = stage.execution
    zero_stages: tuple[ZeroStage, ...] = (0, 1, 2, 3)
    zeros = [zero for zero in zero_stages if zero > execution.zero_stage] if execution.workers > 1 else []
    halves = [execution.tokens_per_micro_batch >> n for n in range(1, execution.tokens_per_micro_batch.bit_length())]
    tokens = [size for size in halves if size >= stage.spec.optimisation.context_tokens]
    more_workers = range(execution.workers + 1, 8 * execution.workers + 1)
    workers = [
        number
        for number in more_workers
        if FreeResources(nodes).take(execution.model_copy(update={"workers": number}).group_shape) is not None
    ]
    everything = {"offload_optimizer": True, "offload_parameters": True, "zero_stage": 3}
    offload = [{"offload_optimizer": True, "zero_stage": 2}] if execution.gpus_per_worker else []
    fewer = [] if execution.gpus_per_worker else range(execution.workers - 1, 0, -1)  # share the node's memory
    unsharded = 3 if execution.offload_parameters else 0
    in_files: dict[str, Any] = {} if execution.nvme_folder else {"nvme_folder": _ANY_DISK}
    in_files |= {"offload_optimizer": True}
    if execution.gpus_per_worker or execution.workers > 1:
        in_files["zero_stage"] = max(execution.zero_stage, 2)
    recompute = {"activation_checkpointing": True}
    smallest = {"zero_stage": 3} if execution.workers > 1 else {}
    yield from ({"zero_stage": zero} for zero in zeros)
    yield from ({"tokens_per_micro_batch": size} for size in tokens)
    yield recompute
    yield from (smallest | recompute | {"tokens_per_micro_batch": size} for size in tokens)
    yield from (recompute | offloaded | smallest for offloaded in offload)
    yield from ({"workers": number, "zero_stage": 3} | recompute for number in workers)
    yield from (off | {"workers": number, "zero_stage": 3} | recompute for off in offload for number in workers)
    yield from (recompute | everything for _ in offload)
    yield from ({"workers": number, "zero_stage": 3 if number > 1 else unsharded} | recompute for number in fewer)
    yield in_files
    yield from (in_files | recompute | weights for weights in ({}, everything))
