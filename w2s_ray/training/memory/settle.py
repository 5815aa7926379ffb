"""Choose the memory settings that a stage leaves to `auto`. Loads no torch: `w2s plan` and the workers both use it.

The settings are tried in the order of their cost in time, and the first that fits is taken (docs/memory.md). On GPUs:

1. ZeRO-0, 1, 2, 3 with activations kept, then with activations recomputed
2. ZeRO-2, 3 with the optimizer state in host memory, and activations kept, then recomputed
3. ZeRO-3 with the weights in host memory, too, and activations kept, then recomputed

On CPUs with `nvme_folder`, where what is offloaded is in files, activations are recomputed only after the optimizer
state is offloaded, under ZeRO-0 for one worker and ZeRO-1, 2, 3 for several: CPUs are slow compared with the disk that
the moments are on, 16 bytes per parameter and step. On other CPUs nothing can be offloaded. A stage that trains no
weights of the model has no optimizer state to offload.

A ZeRO stage with a number, an `activation_checkpointing` of true or false, and an offload of true are kept; one worker
has nothing to shard. If nothing fits, the last setting is taken, which needs least. If too little is known of the model
to compute a footprint, ZeRO-3 shards everything over several workers, and activations are kept: micro-batches that are
too large for them are halved while the stage runs (fit.py).
"""

from collections.abc import Callable, Iterator, Sequence

from w2s_ray.spec.chain import ModelShape, PlannedStage, SettledStage
from w2s_ray.spec.execution import Execution, ExecutionSpec, ZeroStage
from w2s_ray.spec.stage import Precision, Prompt
from w2s_ray.training.memory.footprint import Footprint, footprint

_ALL: tuple[ZeroStage, ...] = (0, 1, 2, 3)


def settle(
    stage: PlannedStage,
    num_parameters: int | None,
    shape: ModelShape | None,
    longest_tokens: int | None,
    exceeds: Callable[[Footprint], bool],
    precision: Precision | None = None,
) -> tuple[SettledStage, Footprint | None]:
    """Return the stage with the cheapest settings in time that fit, and its footprint.

    Args:
        stage: what is trained and how.
        num_parameters: of the model; None when unknown.
        shape: of the model; None when unknown.
        longest_tokens: tokens of the task's longest text; None when unknown.
        exceeds: whether a footprint is more than a worker has; called in the same order on every rank.
        precision: of the forward pass, if it differs from the stage's (a device without bf16).

    Returns:
        The footprint is None when too little is known of the model.
    """
    candidates = [_with(stage, execution) for execution in _candidates(stage)]
    if num_parameters is None or shape is None:
        asked, first = stage.execution, candidates[0].execution.activation_checkpointing
        as_asked = [
            settled
            for settled in candidates
            if settled.execution.activation_checkpointing == first
            and settled.execution.offload_optimizer == asked.offload_optimizer
            and settled.execution.offload_parameters == asked.offload_parameters
        ]
        return max(as_asked, key=lambda settled: settled.execution.zero_stage), None
    for settled in candidates:
        need = footprint(settled, num_parameters, shape, longest_tokens, precision)
        if settled is candidates[-1] or not exceeds(need):
            return settled, need
    raise AssertionError("there is always a candidate")


def _with(stage: PlannedStage, execution: Execution) -> SettledStage:
    fields = {name: getattr(stage, name) for name in PlannedStage.model_fields}
    return SettledStage.model_construct(**fields | {"execution": execution})


def _candidates(stage: PlannedStage) -> Iterator[Execution]:
    """Yield the settings that the stage's keys allow, the cheapest in time first."""
    spec, asked = stage.spec, stage.execution
    trains = not (spec.reads_once or isinstance(spec.trainable, Prompt))
    can_offload = bool(asked.gpus_per_worker or asked.nvme_folder)
    if asked.activation_checkpointing != "auto":
        recomputes = [asked.activation_checkpointing]
    else:
        recomputes = [False, True] if trains else [False]
    offloads = asked.offload_optimizer or asked.offload_parameters
    plain = _zero_stages(asked, offloads=asked.offload_optimizer and trains and can_offload)
    offloaded: Sequence[ZeroStage] = ()
    if asked.zero_stage == "auto" and can_offload and trains and not offloads:
        offloaded = _zero_stages(asked, offloads=True)
    ways = [(recompute, way) for recompute in recomputes for way in (plain, offloaded)]
    if asked.gpus_per_worker:  # recomputing costs less than a step of the optimizer on the host
        ways = [(recompute, way) for way in (plain, offloaded) for recompute in recomputes]
    for recompute, way in ways:
        for zero_stage in way:
            offload = {"offload_optimizer": True} if way is offloaded else {}
            yield _settled(asked, zero_stage, recompute, **offload)
    if asked.zero_stage == "auto" and can_offload:
        optimizer = asked.offload_optimizer or trains
        for recompute in recomputes:
            yield _settled(asked, 3, recompute, offload_optimizer=optimizer, offload_parameters=True)


def _zero_stages(asked: ExecutionSpec, *, offloads: bool) -> Sequence[ZeroStage]:
    """Return the ZeRO stages to try, where the optimizer state is offloaded or not."""
    if asked.zero_stage != "auto":
        return (asked.zero_stage,)
    if asked.offload_parameters:
        return (3,)
    stages = _ALL
    if offloads:  # on CPUs without ZeRO, each worker would have files for the whole state
        stages = _ALL[2:] if asked.gpus_per_worker else _ALL[1:] if asked.workers > 1 else _ALL
    return stages if asked.workers > 1 else stages[:1]


def _settled(asked: ExecutionSpec, zero_stage: ZeroStage, recompute: bool, **offload: bool) -> Execution:
    values = {name: getattr(asked, name) for name in ExecutionSpec.model_fields}
    chosen = {"zero_stage": zero_stage, "activation_checkpointing": recompute}
    return Execution.model_construct(**values | chosen | offload)
