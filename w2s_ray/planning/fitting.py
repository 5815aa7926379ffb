"""Whether the workers of a stage fit into the memory of the nodes, and the nearest setting that does.

The need is an estimate (training/memory/footprint.py, within 15 % of what docs/memory.md measured), so a stage is
refused only where it exceeds all that a node or device has.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer

from w2s_ray.data.prepare import load_prepared
from w2s_ray.data.tokens import longest_tokens
from w2s_ray.errors import ResourceError
from w2s_ray.planning.nodes import FreeResources, Node
from w2s_ray.planning.resolve import UNRESOLVED
from w2s_ray.spec.chain import PlannedStage, Resolution
from w2s_ray.spec.execution import Execution, ZeroStage
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.training.memory.footprint import Footprint, footprint
from w2s_ray.training.memory.usage import GIB, share_of_host
from w2s_ray.training.models.catalogue import model_folder


def need_of(stage: PlannedStage, resolution: Resolution, tokens: int | None) -> Footprint | None:
    """Return what a worker of the stage holds, whose task's texts have so many tokens at most.

    None where too little is known of its model.
    """
    model = resolution.models[stage.level]
    if model.num_parameters is None or model.shape is None:
        return None
    return footprint(stage, model.num_parameters, model.shape, tokens)


class LongestTexts:
    """How many tokens the longest text of a stage's task has, in the words of its model; looked up once for each."""

    def __init__(self, store: ArtifactStore, resolution: Resolution) -> None:
        self._store, self._resolution = store, resolution
        self._known: dict[tuple[str, str], int | None] = {}

    def __call__(self, stage: PlannedStage) -> int | None:
        """Return the tokens; None where the data, the model's shape or its tokenizer is not at hand."""
        key = (stage.task, stage.level)
        if key not in self._known:
            self._known[key] = self._count(stage)
        return self._known[key]

    def _count(self, stage: PlannedStage) -> int | None:
        task, model = self._resolution.tasks[stage.task], self._resolution.models[stage.level]
        if model.shape is None or UNRESOLVED in (task.fingerprint.split()[0], model.revision):
            return None
        file = model_folder(stage.spec.starts_from.name, model.revision, tokenizer=True) / "tokenizer.json"
        if not file.is_file():
            return None
        return longest_tokens(load_prepared(self._store, task.fingerprint), Tokenizer.from_file(str(file)))


def has_of(execution: Execution, nodes: Sequence[Node]) -> int | None:
    """Return what the worker has that has least where a stage finds most memory; None where that is not known.

    On CPUs a node's memory is shared by the workers on it, beside what Ray and the run itself hold.
    """
    on_gpus = execution.gpus_per_worker > 0
    # Room begins with the first nodes that have GPUs, and on CPUs with the last.
    nodes = sorted(nodes, key=lambda node: -(node.gpu_bytes or 0) if on_gpus else node.memory_bytes or 0)
    place = FreeResources(nodes).take(execution.group_shape)
    if place is None:
        return None
    if on_gpus:
        sizes = [nodes[number].gpu_bytes for number, _ in place]
        per_device = max(1, int(1 / execution.gpus_per_worker)) if execution.gpus_per_worker < 1 else 1
        return None if None in sizes else min(size for size in sizes if size is not None) // per_device
    shares = [
        None if (total := nodes[number].memory_bytes) is None else share_of_host(total, workers)
        for number, workers in place
    ]
    return None if None in shares else min(share for share in shares if share is not None)


def recomputes(stage: PlannedStage, need: Footprint, has: int | None) -> bool:
    """Say whether the stage's workers compute activations again, as they decide it themselves."""
    asked = stage.execution.activation_checkpointing
    return asked if asked != "auto" else has is not None and need.peak > has


def as_run(stage: PlannedStage, need: Footprint, has: int | None) -> PlannedStage:
    """Return the stage with `auto` settled."""
    return with_execution(stage, activation_checkpointing=recomputes(stage, need, has))


def with_execution(stage: PlannedStage, **changes: Any) -> PlannedStage:
    """Return the stage, executed otherwise."""
    return stage.model_copy(update={"execution": stage.execution.model_copy(update=changes)})


def check_memory(
    stages: Iterable[PlannedStage],
    resolution: Resolution,
    nodes: Sequence[Node],
    longest: Callable[[PlannedStage], int | None],
) -> None:
    """Make sure that the workers of every stage fit into the memory of the nodes.

    `longest` tells how many tokens the longest text of a stage's task has.

    Raises:
        ResourceError: naming the first level that does not fit, what it needs, what there is, and what would fit.
    """
    for stage in stages:
        tokens = longest(stage)
        need, has = need_of(stage, resolution, tokens), has_of(stage.execution, nodes)
        if need is None or has is None:
            continue
        settled = as_run(stage, need, has)
        need = need_of(settled, resolution, tokens)
        assert need is not None
        if need.peak <= has:
            continue
        parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in need.parts.items() if size >= 0.05 * GIB)
        where = "its GPU" if stage.execution.gpus_per_worker else "its share of a node"
        raise ResourceError(
            f"level {stage.level} needs about {need.peak / GIB:.1f} GiB for each of its {stage.execution.workers} "
            f"workers under ZeRO-{stage.execution.zero_stage} ({parts})",
            f"a worker has {has / GIB:.1f} GiB, {where}",
            nearest_that_fits(settled, resolution, nodes, tokens),
        )


def nearest_that_fits(stage: PlannedStage, resolution: Resolution, nodes: Sequence[Node], tokens: int | None) -> str:
    """Say which change to the stage's execution, of those that cost least time, makes it fit."""
    for changes in _nearest(stage, nodes):
        changed = with_execution(stage, **changes)
        need, has = need_of(changed, resolution, tokens), has_of(changed.execution, nodes)
        if need is not None and has is not None and need.peak <= has:
            path = f"ladder.{stage.level}.execution"
            keys = " ".join(f"--set {path}.{key}={str(value).lower()}" for key, value in changes.items())
            return f"{keys} (about {need.peak / GIB:.1f} GiB a worker)"
    return "take larger nodes or more of them, a smaller model, a shorter context, or LoRA"


def _nearest(stage: PlannedStage, nodes: Sequence[Node]) -> Iterator[dict[str, Any]]:
    """Changes to a stage's execution, those first that cost least time."""
    execution = stage.execution
    zero_stages: tuple[ZeroStage, ...] = (0, 1, 2, 3)
    zeros = [zero for zero in zero_stages if zero > execution.zero_stage] if execution.workers > 1 else []
    one_text = stage.spec.optimisation.context_tokens
    tokens = [size for size in _halves(execution.tokens_per_micro_batch) if size >= one_text]
    workers = [n for n in range(execution.workers + 1, 8 * execution.workers + 1) if _has_room(execution, n, nodes)]
    offload = [{"offload_optimizer": True, "zero_stage": 2}] if execution.gpus_per_worker else []
    recompute = {"activation_checkpointing": True}
    yield from ({"zero_stage": zero} for zero in zeros)
    yield from ({"tokens_per_micro_batch": size} for size in tokens)
    yield recompute
    smallest = {"zero_stage": 3} if execution.workers > 1 else {}
    yield from (smallest | recompute | {"tokens_per_micro_batch": size} for size in tokens)
    yield from (recompute | offloaded | smallest for offloaded in offload)
    yield from ({"workers": number, "zero_stage": 3} | recompute for number in workers)
    yield from (off | {"workers": number, "zero_stage": 3} | recompute for off in offload for number in workers)


def _halves(size: int) -> list[int]:
    return [size >> shift for shift in range(1, size.bit_length())]


def _has_room(execution: Execution, workers: int, nodes: Sequence[Node]) -> bool:
    return FreeResources(nodes).take(execution.model_copy(update={"workers": workers}).group_shape) is not None
