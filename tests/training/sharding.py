"""Limits below the size of the tests' models, so that ZeRO-3 treats them as it treats large ones.

`ahead` releases weights and fetches them again ahead of their use; `bare` fetches each weight when it is used.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple

from w2s_ray.training import zero
from w2s_ray.training.memory.footprint import Limits, limits_for

LIMITS = {
    "ahead": Limits(bucket=4_096, prefetch=2_100, live=6_000, reuse=500, persistence=16, sub_group=8_192),
    "bare": Limits(bucket=1_024, prefetch=0, live=256, reuse=0, persistence=0, sub_group=1_024),
    # For the built-in large model.
    "million": Limits(bucket=10**6, prefetch=10**6, live=10**6, reuse=10**6, persistence=1_000, sub_group=2 * 10**6),
    "tenth of a million": Limits(
        bucket=10**5, prefetch=10**5, live=10**5, reuse=10**5, persistence=0, sub_group=2 * 10**5
    ),
}
TINY = ("ahead", "bare")
"""Those for the tests' own models."""


@contextmanager
def sharding(name: str) -> Iterator[None]:
    """Let every engine made inside have the limits of that name, or those of its size where there is no name.

    The buffer of gradients is let go after each step, as large models' are.
    """
    before, worth = zero.limits_for, zero._WORTH_FREEING
    zero.limits_for = (lambda num_parameters, hidden_size: LIMITS[name]) if name else limits_for
    zero._WORTH_FREEING = 0 if name else zero._MAPPED
    try:
        yield
    finally:
        zero.limits_for, zero._WORTH_FREEING = before, worth


def largest(limits: Limits) -> int:
    """The largest of the limits, in elements."""
    return max(astuple(limits))
