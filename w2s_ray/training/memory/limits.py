"""How much of a sharded model is gathered at a time, in the limits that DeepSpeed gets. Loads no torch."""

from dataclasses import dataclass, replace

from w2s_ray.spec.execution import Execution

_SMALLEST_BUCKET = 2**23
"""Elements; below this a collective costs more latency than it saves memory."""
_LARGEST_BUCKET = 500_000_000
_SMALLEST_SUB_GROUP = 2**24


@dataclass(frozen=True)
class Limits:
    """How much of a model DeepSpeed gathers at a time, in elements."""

    bucket: int
    """Gradients or weights in one collective."""
    prefetch: int
    """Weights that ZeRO-3 fetches ahead of their use."""
    live: int
    """Gathered weights at which ZeRO-3 stops prefetching."""
    reuse: int
    """ZeRO-3 keeps weights gathered that are used again within this many elements."""
    persistence: int
    """ZeRO-3 does not shard weights up to this size."""
    sub_group: int
    """Weights that ZeRO-3 updates at once, copying their gradients."""


def limits_for(num_parameters: int, hidden_size: int) -> Limits:
    """Return the limits for a model.

    Buckets are hidden_size², as Hugging Face's `auto` has them, and at least 2^23 elements.
    """
    bucket = min(max(hidden_size**2, _SMALLEST_BUCKET), _LARGEST_BUCKET)
    bucket = max(min(bucket, num_parameters), 1024) // 2 * 2  # ZeRO-1 and 2 align on pairs of elements
    return Limits(
        bucket=bucket,
        prefetch=bucket,
        live=2 * bucket,
        reuse=bucket,
        persistence=100_000,
        sub_group=max(2 * bucket, _SMALLEST_SUB_GROUP),
    )


LIMIT_KEYS = {
    "reduce_bucket_size": "bucket",
    "stage3_prefetch_bucket_size": "prefetch",
    "stage3_max_live_parameters": "live",
    "stage3_max_reuse_distance": "reuse",
    "stage3_param_persistence_threshold": "persistence",
    "sub_group_size": "sub_group",
}
"""DeepSpeed's keys of ZeRO-3 for the limits."""


def with_own_limits(limits: Limits, execution: Execution) -> Limits:
    """Return the limits that DeepSpeed gets if `execution.deepspeed` has any of its own."""
    given = {key.removeprefix("zero_optimization."): value for key, value in execution.deepspeed}
    return replace(limits, **{name: int(given[key]) for key, name in LIMIT_KEYS.items() if key in given})
