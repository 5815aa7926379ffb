"""Memory of machines and processes, its peaks, and errors of failed allocations."""

import errno
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from w2s_ray.training.memory.usage import (
    GIB,
    Meter,
    host_memory,
    is_out_of_memory,
    reserve_bytes,
    share_of_host,
    usage_text,
)

CPU = torch.device("cpu")


MORE_THAN_THERE_IS = 2**50


def refusals() -> Iterator[BaseException]:
    """Errors that libraries raise when an allocation fails, provoked here."""
    for work in (
        lambda: torch.empty(MORE_THAN_THERE_IS),
        lambda: np.empty(MORE_THAN_THERE_IS),
        lambda: bytearray(MORE_THAN_THERE_IS),
    ):
        with pytest.raises((RuntimeError, MemoryError)) as refused:
            work()
        yield refused.value
    yield OSError(errno.ENOMEM, "Cannot allocate memory")
    yield torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_failed_allocations_are_distinguished_from_other_errors() -> None:
    assert all(is_out_of_memory(error) for error in refusals())
    others = (RuntimeError("shapes do not match"), OSError(errno.ENOSPC, "No space left"), ValueError("out"))
    assert not any(is_out_of_memory(error) for error in others)


def test_the_peak_of_a_phase_includes_memory_freed_in_it() -> None:
    meter = Meter(CPU)
    meter.enter("small")
    meter.enter("large")
    held = torch.ones(64 * 2**20 // 4)
    del held
    meter.enter("small again")
    meter.read()
    assert 60 * 2**20 < meter.peaks["large"] - meter.peaks["small"] < 90 * 2**20
    assert meter.peaks["small again"] < meter.peaks["large"] - 50 * 2**20


def test_less_is_reserved_when_rays_memory_monitor_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for refresh_ms, reserved in (("250", 5.25 * GIB), ("0", 2.25 * GIB)):
        monkeypatch.setenv("RAY_memory_monitor_refresh_ms", refresh_ms)
        assert reserve_bytes(100 * GIB) == int(reserved)


def test_usage_text_describes_the_machines_memory() -> None:
    memory = host_memory()
    assert 0 < memory.available < memory.total
    assert share_of_host(memory.total, 2) == share_of_host(memory.total, 1) // 2
    assert share_of_host(GIB, 1) == 0
    assert f"{memory.total / GIB:.1f} GiB" in usage_text()
