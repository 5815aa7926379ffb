"""What a stage's workers hold in memory, computed from the model's shape and the settings; no torch.

`limits_for` chooses how much of a sharded model is in one piece at a time. zero.py gives these limits to DeepSpeed.
"""

from dataclasses import dataclass

PREDICTION_TOKENS = 8192
"""Padded tokens of one forward pass without gradients."""

_SMALLEST_BUCKET = 2**23
"""Elements. Below this size a collective costs more in latency than it saves in memory."""
_LARGEST_BUCKET = 500_000_000
_SMALLEST_SUB_GROUP = 2**24


@dataclass(frozen=True)
class Limits:
    """How much of a model DeepSpeed holds in one piece at a time, in elements."""

    bucket: int
    """Gradients, or weights, that one collective carries."""
    prefetch: int
    """Weights that ZeRO-3 fetches ahead of their use."""
    live: int
    """Gathered weights at which ZeRO-3 fetches no further ahead."""
    reuse: int
    """ZeRO-3 keeps weights gathered that are used again within so many."""
    persistence: int
    """ZeRO-3 never shards a weight as small as this."""
    sub_group: int
    """Weights that ZeRO-3 updates at once: it copies their gradients."""


def limits_for(num_parameters: int, hidden_size: int) -> Limits:
    """Return the limits for a model.

    Buckets are hidden_size², as Hugging Face's `auto` has them, and at least 2^23 elements.
    """
    bucket = min(max(hidden_size**2, _SMALLEST_BUCKET), _LARGEST_BUCKET)
    bucket = max(min(bucket, num_parameters), 1024) // 2 * 2  # ZeRO-1 and 2 align on pairs of elements
    return Limits(
        bucket=bucket,
        prefetch=bucket,
        live=4 * bucket,
        reuse=4 * bucket,
        persistence=100_000,
        sub_group=max(2 * bucket, _SMALLEST_SUB_GROUP),
    )
