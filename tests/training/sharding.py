"""Limits below the size of the tests' tiny models, so that ZeRO-3 treats them as it treats large ones.

`ahead` releases weights and fetches them again ahead of their use; `bare` fetches each weight when it is used.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from w2s_ray.training import zero
from w2s_ray.training.footprint import Limits, limits_for

LIMITS = {
    "ahead": Limits(bucket=4_096, prefetch=4_096, live=8_192, reuse=2_048, persistence=16, sub_group=8_192),
    "bare": Limits(bucket=1_024, prefetch=0, live=256, reuse=0, persistence=0, sub_group=1_024),
}


@contextmanager
def sharding(name: str) -> Iterator[None]:
    """Let every engine made inside have the limits of that name, or those of its size where there is no name."""
    before = zero.limits_for
    if name:
        zero.limits_for = lambda num_parameters, hidden_size: LIMITS[name]
    try:
        yield
    finally:
        zero.limits_for = before


def size_of_the_limits(limits: Limits) -> int:
    """The largest number of elements that any of the limits lets a model have and still be in one piece."""
    return max(limits.bucket, limits.prefetch, limits.live, limits.reuse, limits.persistence, limits.sub_group)


__all__ = ["LIMITS", "limits_for", "sharding", "size_of_the_limits"]
