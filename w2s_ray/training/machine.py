"""How much memory this machine has, and who uses it; no torch.

A container may use less than its machine has, so the limit of its control group counts where there is one.
"""

import ctypes
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import psutil

GIB = 2**30
OTHERS_BYTES = int(1.5 * GIB)
"""What Ray, the dispatcher, the writer, Tune's trials and the command hold on the machine that has them all."""
_RAYS_SHARE = 0.05
"""Of a machine: with less free than this Ray's memory monitor acts (RAY_memory_usage_threshold)."""
_MOST_RESERVED = 2 * GIB
"""Enough on a large machine where Ray's monitor is off."""
_AHEAD_BYTES = 256 * 2**20
"""How much earlier a worker gives way."""
_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Where version 2 and version 1 of control groups keep the limit, and below, the usage and the cache in it."""
_USAGES = ("memory.current", "memory/memory.usage_in_bytes")
_STATS = ("memory.stat", "memory/memory.stat")
_CACHE = (("inactive_file", "active_file"), ("total_inactive_file", "total_active_file"))
"""Pages of files, which the kernel takes back when it needs them."""
_PROCESSES_NAMED = 3
_SMALLEST_NAMED = GIB // 4


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""glibc's names (mallopt(3)) for how much freed memory a process keeps, and for the size from which on an allocation is
the kernel's own and is given back when it is freed."""
_PR_SET_THP_DISABLE = 41
"""Linux's name (prctl(2)) for whether the process does without huge pages, which small models are slower in."""
_AT_ONCE, _MOST_KEPT = 2**20, 2**25
"""The second is where glibc itself ends up as large tensors come and go."""


@dataclass(frozen=True)
class Memory:
    """Bytes of one machine or device."""

    total: int
    available: int
    """What could still be taken."""

    @property
    def used(self) -> int:
        """What is taken."""
        return self.total - self.available


def host_memory() -> Memory:
    """Return the memory of this machine, or of the container that this process runs in."""
    found = psutil.virtual_memory()
    for limit, usage, stat, caches in zip(_LIMITS, _USAGES, _STATS, _CACHE, strict=True):
        total = _number(_CGROUP / limit)
        used = _number(_CGROUP / usage)
        if total is not None and used is not None and total < found.total:
            used -= sum(_stat(_CGROUP / stat, cache) for cache in caches)
            return Memory(total, min(total - used, found.available))
    return Memory(found.total, found.available)


def reserve_bytes(total: int) -> int:
    """Return what must stay free on a machine of `total` bytes: with less, workers give way (memory_watch.py)."""
    share = int(_RAYS_SHARE * total)
    watches = os.environ.get("RAY_memory_monitor_refresh_ms") != "0"  # noqa: SIM112 (Ray's name)
    return (share if watches else min(share, _MOST_RESERVED)) + _AHEAD_BYTES


def share_of_host(total: int, num_workers: int) -> int:
    """Return what each of a machine's workers may hold, beside Ray's processes and the run's own."""
    return max(total - reserve_bytes(total) - OTHERS_BYTES, 0) // num_workers


def give_back_at_once(at_once: bool) -> None:
    """Choose whether freed tensors go back to the kernel at once or are kept for the next ones.

    What is kept is in pieces: weights that are gathered and freed between activations that stay leave holes that fit
    nothing, which came to 1.5 of 6.8 GB where a model of 362 M parameters was trained. For small models fresh memory
    would cost more time than it saves room. It is cheapest in huge pages (scheduling/environment.py).
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _AT_ONCE if at_once else _MOST_KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, _AT_ONCE if at_once else 2 * _MOST_KEPT)
        libc.prctl(_PR_SET_THP_DISABLE, int(not at_once), 0, 0, 0)


def gpu_bytes() -> tuple[int, ...]:
    """Return the memory of each GPU of this machine, as the driver's own tool says."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    asked = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        told = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(int(line) * 2**20 for line in told.split() if line.isdigit())


def usage_text() -> str:
    """Say how full this machine is and which processes hold most of its memory, this one first."""
    memory, own = host_memory(), psutil.Process()
    held = []
    for process in psutil.process_iter(["pid", "name", "memory_info"]):
        info = process.info["memory_info"]
        if process.pid != own.pid and info is not None and info.rss >= _SMALLEST_NAMED:
            held.append((info.rss, f"{process.info['name']} (pid {process.pid}) {info.rss / GIB:.1f} GiB"))
    others = ", ".join(text for _, text in sorted(held, reverse=True)[:_PROCESSES_NAMED])
    return (
        f"{socket.gethostname()} has {memory.total / GIB:.1f} GiB, {memory.available / GIB:.1f} GiB of it free; "
        f"this worker holds {own.memory_info().rss / GIB:.1f} GiB" + (f", beside it {others}" if others else "")
    )


def _number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _stat(path: Path, name: str) -> int:
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return 0
    return next((int(value) for key, value in lines if key == name), 0)
