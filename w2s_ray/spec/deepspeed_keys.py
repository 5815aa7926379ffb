"""Keys of DeepSpeed's configuration that a study may give under `execution.deepspeed`, and why it may not give others.

A key may be given if it changes only speed, memory or DeepSpeed's own logs, and if our checkpoints work with it. All
other keys are set by a key of the study, would change results, or belong to parts of DeepSpeed that are not used. The
settings are kept as sorted pairs of a dotted key and its value, so that an execution can be hashed.

tests/spec/test_deepspeed_keys.py compares the tables with DeepSpeed's own configuration classes.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, TypeAdapter, ValidationError

from w2s_ray.spec.base import KeyFault, suggestion, yaml_text

DeepSpeedValue = bool | int | str


def _whole(value: Any) -> Any:
    """Return 5.0e8, or the text `5e8` that YAML makes of a number without a point, as a whole number if it is one."""
    is_text = isinstance(value, str) and re.fullmatch(r"\d+(\.\d+)?[eE]\+?\d+", value) is not None
    number = float(value) if is_text or isinstance(value, float) else 0.5
    return int(number) if number.is_integer() else value


_Count = Annotated[int, Field(ge=0, strict=True), BeforeValidator(_whole)]
_Positive = Annotated[int, Field(gt=0, strict=True), BeforeValidator(_whole)]
_Flag = Annotated[bool, Field(strict=True)]
_ZERO = "zero_optimization"

ALLOWED: Mapping[str, Any] = {
    f"{_ZERO}.reduce_bucket_size": _Positive,
    f"{_ZERO}.allgather_bucket_size": _Positive,
    f"{_ZERO}.reduce_scatter": _Flag,
    f"{_ZERO}.allgather_partitions": _Flag,
    f"{_ZERO}.use_multi_rank_bucket_allreduce": _Flag,
    f"{_ZERO}.overlap_comm": _Flag,
    f"{_ZERO}.sub_group_size": _Positive,
    f"{_ZERO}.stage3_prefetch_bucket_size": _Count,
    f"{_ZERO}.stage3_param_persistence_threshold": _Count,
    f"{_ZERO}.stage3_model_persistence_threshold": _Count,
    f"{_ZERO}.stage3_max_live_parameters": _Count,
    f"{_ZERO}.stage3_max_reuse_distance": _Count,
    f"{_ZERO}.stage3_module_granularity_threshold": _Count,
    f"{_ZERO}.stage3_use_all_reduce_for_fetch_params": _Flag,
    f"{_ZERO}.stage3_allgather_sequential": _Flag,
    f"{_ZERO}.log_trace_cache_warnings": _Flag,
    f"{_ZERO}.enable_sanity_checks": _Flag,
    f"{_ZERO}.offload_optimizer.pin_memory": _Flag,
    f"{_ZERO}.offload_param.pin_memory": _Flag,
    "wall_clock_breakdown": _Flag,
    "memory_breakdown": _Flag,
    "dump_state": _Flag,
    "steps_per_print": _Positive,
    "log_level": Literal["debug", "info", "warning", "error", "critical"],
    "comms_logger.enabled": _Flag,
    "comms_logger.prof_all": _Flag,
    "comms_logger.verbose": _Flag,
    "comms_logger.debug": _Flag,
    "flops_profiler.enabled": _Flag,
    "flops_profiler.profile_step": _Positive,
    "flops_profiler.module_depth": Annotated[int, Field(ge=-1, strict=True)],
    "flops_profiler.top_modules": _Positive,
    "flops_profiler.detailed": _Flag,
    "flops_profiler.output_file": str,
    "timers.throughput.enabled": _Flag,
    "timers.throughput.synchronized": _Flag,
}
"""The type of each key that may be given."""

_OWN = {
    "train_batch_size": "optimisation.examples_per_step",
    "train_micro_batch_size_per_gpu": "execution.tokens_per_micro_batch",
    "gradient_accumulation_steps": "execution.tokens_per_micro_batch",
    "managed_gradient_accumulation": "execution.tokens_per_micro_batch",
    "gradient_clipping": "optimisation.max_grad_norm",
    "optimizer": "optimisation.learning_rate and weight_decay",
    "scheduler": "optimisation.warmup_fraction and final_lr_fraction",
    "bf16": "optimisation.precision",
    "torch_autocast": "optimisation.precision",
    "data_types": "optimisation.precision",
    "communication_data_type": "optimisation.precision",
    "activation_checkpointing": "execution.activation_checkpointing",
    "checkpoint": "execution.checkpoint_every_seconds",
    "nebula": "execution.checkpoint_every_seconds",
    "elasticity": "execution.workers",
    "wandb": "tracking.wandb",
    f"{_ZERO}.stage": "execution.zero_stage",
    f"{_ZERO}.offload_optimizer.device": "execution.offload_optimizer, and execution.nvme_folder for files",
    f"{_ZERO}.cpu_offload": "execution.offload_optimizer",
    f"{_ZERO}.cpu_offload_param": "execution.offload_parameters",
    f"{_ZERO}.offload_param.device": "execution.offload_parameters, and execution.nvme_folder for files",
    f"{_ZERO}.offload_optimizer.nvme_path": "execution.nvme_folder",
    f"{_ZERO}.offload_param.nvme_path": "execution.nvme_folder",
}
"""The study's own key for what a key of DeepSpeed sets; an entry also covers all keys below it."""

_SECTIONS = {
    f"{_ZERO}.offload_optimizer": "use execution.offload_optimizer",
    f"{_ZERO}.offload_param": "use execution.offload_parameters",
}
"""The remedy for a section that is no mapping of keys, where the study has a key for it."""

_CHANGES = "it would change results, which `execution` must not"
_FILES = "w2s_ray writes its checkpoints and models itself"
_LAYOUT = "w2s_ray relies on its default"
_NO_FP16 = "w2s_ray computes in fp32 or bf16, as optimisation.precision says"
_TRACKERS = "w2s_ray writes metrics.jsonl, and sends its metrics to Weights & Biases alone (tracking.wandb)"
_UNUSED = "w2s_ray does not use this part of DeepSpeed"

_REASONS = {
    **dict.fromkeys(("fp16", "amp"), _NO_FP16),
    **dict.fromkeys(("tensorboard", "csv_monitor", "comet"), _TRACKERS),
    **dict.fromkeys(
        (
            "prescale_gradients",
            "gradient_predivide_factor",
            "gradient_allreduce_op",
            "sparse_gradients",
            "curriculum_learning",
            "data_efficiency",
            "progressive_layer_drop",
            "compression_training",
            "weight_quantization",
            "eigenvalue",
            "quantize_training",
            "check_overflow",
            f"{_ZERO}.zero_quantized_weights",
            f"{_ZERO}.zero_quantized_nontrainable_weights",
            f"{_ZERO}.zero_quantized_gradients",
            f"{_ZERO}.zenflow",
            f"{_ZERO}.offload_optimizer.ratio",
            f"{_ZERO}.offload_optimizer.super_offload",
            f"{_ZERO}.offload_optimizer.cpuadam_cores_perc",
        ),
        _CHANGES,
    ),
    **dict.fromkeys(
        (
            f"{_ZERO}.load_from_fp32_weights",
            f"{_ZERO}.elastic_checkpoint",
            f"{_ZERO}.stage3_gather_16bit_weights_on_model_save",
            f"{_ZERO}.stage3_gather_fp16_weights_on_model_save",
            f"{_ZERO}.pipeline_loading_checkpoint",
        ),
        _FILES,
    ),
    **dict.fromkeys(
        (
            f"{_ZERO}.contiguous_gradients",
            f"{_ZERO}.round_robin_gradients",
            f"{_ZERO}.parameter_alignment",
            f"{_ZERO}.zero_hpz_partition_size",
            f"{_ZERO}.legacy_stage1",
            f"{_ZERO}.ignore_unused_parameters",
            f"{_ZERO}.memory_efficient_linear",
            f"{_ZERO}.override_module_apply",
            f"{_ZERO}.leaf_module",
            f"{_ZERO}.compute_grad_norm",
        ),
        _LAYOUT,
    ),
    **dict.fromkeys(
        (
            "autotuning",
            "aio",
            "compile",
            "dataloader_drop_last",
            "disable_allgather",
            "disable_python_gc",
            "expert_parallel",
            "hybrid_engine",
            "pipeline",
            "sequence_parallel_size",
            "sparse_attention",
            "tensor_parallel",
            "use_data_before_expert_parallelism",
            "zero_allow_untested_optimizer",
            "zero_force_ds_cpu_optimizer",
            f"{_ZERO}.save_muon_momentum_buffer_in_memory",
            f"{_ZERO}.cpu_offload_use_pin_memory",
            f"{_ZERO}.offload_optimizer.buffer_count",
            f"{_ZERO}.offload_optimizer.pipeline_read",
            f"{_ZERO}.offload_optimizer.pipeline_write",
            f"{_ZERO}.offload_optimizer.fast_init",
            f"{_ZERO}.offload_param.buffer_count",
            f"{_ZERO}.offload_param.buffer_size",
            f"{_ZERO}.offload_param.max_in_cpu",
        ),
        _UNUSED,
    ),
}
"""Why a key that has no counterpart in a study may not be given."""


def _flat(raw: Any) -> Any:
    """Return a mapping as sorted pairs of a dotted key and its value, each of them allowed.

    Raises:
        KeyFault: for the first key that may not be given, or whose value has the wrong type.
    """
    if isinstance(raw, tuple):
        return raw
    if not isinstance(raw, Mapping):
        rule = f"{yaml_text(raw)} must be a mapping of DeepSpeed's keys"
        raise KeyFault(rule, "write deepspeed: {zero_optimization: {overlap_comm: true}}, or remove deepspeed")
    return tuple(sorted((key, checked(key, value)) for key, value in _leaves(raw)))


def _leaves(raw: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in raw.items():
        key = f"{above}{name}"
        inside = f"{key}."
        if isinstance(value, Mapping) and (value or _is_section(key)) and refusal(key) is None:
            yield from _leaves(value, inside)
        else:
            yield key, value


def _is_section(key: str) -> bool:
    return any(known.startswith(f"{key}.") for known in ALLOWED)


def refusal(key: str) -> tuple[str, str] | None:
    """Return why a key may not be given, and what to do; None for keys that are allowed or unknown."""
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        above = ".".join(parts[:length])
        if above in _OWN:
            return "w2s_ray sets it from the study", f"use {_OWN[above]}"
        if above in _REASONS:
            return _REASONS[above], f"remove {key}"
    return None


def checked(key: str, value: Any) -> DeepSpeedValue:
    """Return the value of a key that may be given; whole numbers may be written as 5e8.

    Raises:
        KeyFault: for any other key, or a value of the wrong type, with the rule and the remedy.
    """
    given, refused = f"{key} = {yaml_text(value)}", refusal(key)
    if refused is not None:
        raise KeyFault(f"{given} may not be given: {refused[0]}", refused[1])
    if _is_section(key):
        below = ", ".join(known.removeprefix(f"{key}.") for known in ALLOWED if known.startswith(f"{key}."))
        raise KeyFault(f"{given} must be a mapping", _SECTIONS.get(key, f"its keys are {below}"))
    if key not in ALLOWED:
        raise KeyFault(f"{given} is not a key of DeepSpeed that may be given", suggestion(key, ALLOWED))
    kind = TypeAdapter(ALLOWED[key])
    try:
        value_of_kind: DeepSpeedValue = kind.validate_python(value)
    except ValidationError as error:
        rule = error.errors()[0]["msg"].replace("Input should", "must")
        raise KeyFault(f"{given} {rule}", _remedy(key, kind)) from None
    return value_of_kind


def _remedy(key: str, kind: TypeAdapter[Any]) -> str:
    """Return what a key's value may be, by its JSON schema."""
    schema = kind.json_schema()
    if "enum" in schema:
        return f"one of {', '.join(schema['enum'])}"
    if schema["type"] == "integer":
        return f"write a whole number of at least {schema.get('minimum', schema.get('exclusiveMinimum', 0) + 1)}"
    return "write true or false" if schema["type"] == "boolean" else "write text"


def nested(pairs: tuple[tuple[str, DeepSpeedValue], ...]) -> dict[str, Any]:
    """Return pairs of dotted keys and values as the mapping that they come from."""
    mapping: dict[str, Any] = {}
    for key, value in pairs:
        *above, last = key.split(".")
        node = mapping
        for name in above:
            node = node.setdefault(name, {})
        node[last] = value
    return mapping


DeepSpeedSettings = Annotated[
    tuple[tuple[str, DeepSpeedValue], ...], BeforeValidator(_flat), PlainSerializer(nested, return_type=dict[str, Any])
]
"""Settings for DeepSpeed: a mapping in files, sorted pairs of a dotted key and its value in memory."""
