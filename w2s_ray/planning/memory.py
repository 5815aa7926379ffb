"""Whether a stage's workers fit into the memory of the nodes, and the nearest setting that does.

The need is an estimate, within 15 % of what docs/memory.md measured, so a stage is refused only if it exceeds
everything that a node or device has.
"""

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from w2s_ray.data.prepare import load_prepared
from w2s_ray.data.tokens import longest_tokens
from w2s_ray.errors import ResourceError
from w2s_ray.planning.nodes import FreeResources, Node
from w2s_ray.planning.resolve import UNRESOLVED
from w2s_ray.spec.chain import PlannedStage, Resolution
from w2s_ray.spec.stage import Execution, ZeroStage
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.training.memory.footprint import Footprint, footprint
from w2s_ray.training.memory.usage import GIB, share_of_host
from w2s_ray.training.models.catalogue import model_folder
from w2s_ray.training.models.files import fast_tokenizer

LongestText = Callable[[PlannedStage], int | None]
"""Returns the number of tokens of the longest text of a stage's task; None if unknown."""


@dataclass(frozen=True)
class MemoryFit:
    """Memory that a worker of a stage needs and has."""

    stage: PlannedStage
    """With `activation_checkpointing: auto` settled."""
    need: Footprint | None
    """None if too little is known of the model."""
    available: int | None
    """Bytes that a worker has; None if unknown."""

    @property
    def fits(self) -> bool:
        """Whether the stage fits, as far as is known."""
        return self.need is None or self.available is None or self.need.peak <= self.available


def fit_memory(stage: PlannedStage, resolution: Resolution, nodes: Sequence[Node], tokens: int | None) -> MemoryFit:
    """Return what a worker of the stage needs and has, where the task's longest text has `tokens` tokens."""
    available = available_bytes(stage.execution, nodes)
    recomputes = stage.execution.activation_checkpointing
    if recomputes == "auto":  # as the workers decide it
        without = with_execution(stage, activation_checkpointing=False)
        need = _footprint(without, resolution, tokens)
        exceeds = need is not None and available is not None and need.peak > available
        recomputes = exceeds and not stage.spec.reads_once
    settled = with_execution(stage, activation_checkpointing=recomputes)
    return MemoryFit(settled, _footprint(settled, resolution, tokens), available)


def _footprint(stage: PlannedStage, resolution: Resolution, tokens: int | None) -> Footprint | None:
    model = resolution.models[stage.level]
    if model.num_parameters is None or model.shape is None:
        return None
    return footprint(stage, model.num_parameters, model.shape, tokens)


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


def available_bytes(execution: Execution, nodes: Sequence[Node]) -> int | None:
    """Return the memory of the worker that has least, on the nodes where the stage has most; None if unknown.

    On CPUs the workers on a node share its memory, less what Ray and the run itself need.
    """
    on_gpus = execution.gpus_per_worker > 0
    # GPU workers are placed on the first nodes, CPU workers on the last.
    nodes = sorted(nodes, key=lambda node: -(node.gpu_bytes or 0) if on_gpus else node.memory_bytes or 0)
    placement = FreeResources(nodes).take(execution.group_shape)
    if placement is None:
        return None
    if on_gpus:
        per_device = max(1, int(1 / execution.gpus_per_worker)) if execution.gpus_per_worker < 1 else 1
        sizes = [nodes[number].gpu_bytes for number, _ in placement]
        shares = [None if size is None else size // per_device for size in sizes]
    else:
        totals = [(nodes[number].memory_bytes, workers) for number, workers in placement]
        shares = [None if total is None else share_of_host(total, workers) for total, workers in totals]
    return None if None in shares else min(share for share in shares if share is not None)


def with_execution(stage: PlannedStage, **changes: Any) -> PlannedStage:
    """Return the stage with other execution settings."""
    return stage.model_copy(update={"execution": stage.execution.model_copy(update=changes)})


def check_memory(
    stages: Iterable[PlannedStage], resolution: Resolution, nodes: Sequence[Node], longest: LongestText
) -> None:
    """Check that the workers of every stage fit into the memory of the nodes.

    Raises:
        ResourceError: for the first level that does not fit, with a setting that would.
    """
    for stage in stages:
        tokens = longest(stage)
        fit = fit_memory(stage, resolution, nodes, tokens)
        if fit.fits:
            continue
        assert fit.need is not None and fit.available is not None
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in fit.need.parts.items() if size >= 0.05 * GIB)
        where = "on its GPU" if stage.execution.gpus_per_worker else "as its share of a node"
        raise ResourceError(
            f"level {stage.level} needs about {fit.need.peak / GIB:.1f} GiB for each of its {stage.execution.workers} "
            f"workers under ZeRO-{stage.execution.zero_stage} ({parts}); a worker has {fit.available / GIB:.1f} GiB "
            f"{where}",
            nearest_that_fits(fit.stage, resolution, nodes, tokens),
        )


def nearest_that_fits(stage: PlannedStage, resolution: Resolution, nodes: Sequence[Node], tokens: int | None) -> str:
    """Return the `--set` options that make the stage fit at the least cost of time, or other advice."""
    for changes in _changes(stage, nodes):
        fit = fit_memory(with_execution(stage, **changes), resolution, nodes, tokens)
        if fit.need is not None and fit.available is not None and fit.fits:
            path = f"ladder.{stage.level}.execution"
            keys = " ".join(f"--set {path}.{key}={str(value).lower()}" for key, value in changes.items())
            return f"{keys} (about {fit.need.peak / GIB:.1f} GiB per worker)"
    return "use larger or more nodes, a smaller model, a shorter context, or LoRA"


def _changes(stage: PlannedStage, nodes: Sequence[Node]) -> Iterator[dict[str, Any]]:
    """Changes to a stage's execution, the cheapest in time first."""
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
    offload = [{"offload_optimizer": True, "zero_stage": 2}] if execution.gpus_per_worker else []
    recompute = {"activation_checkpointing": True}
    smallest = {"zero_stage": 3} if execution.workers > 1 else {}
    yield from ({"zero_stage": zero} for zero in zeros)
    yield from ({"tokens_per_micro_batch": size} for size in tokens)
    yield recompute
    yield from (smallest | recompute | {"tokens_per_micro_batch": size} for size in tokens)
    yield from (recompute | offloaded | smallest for offloaded in offload)
    yield from ({"workers": number, "zero_stage": 3} | recompute for number in workers)
    yield from (off | {"workers": number, "zero_stage": 3} | recompute for off in offload for number in workers)
