"""Memory of machines, devices and processes: read it, measure its peaks, give it back, recognise when it ran out.

In a container the limit of its control group counts, not the machine's memory. On a CPU worker the peak is the
process's resident set (libraries included), which Linux records and allows a process to reset; on a GPU it is the
memory that PyTorch's allocator has reserved. Torch is imported only by functions that are given a device, so that
planning and the memory watch do not load it.
"""

import ctypes
import errno
import gc
import os
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil

if TYPE_CHECKING:
    import torch

GIB = 2**30
ALLOCATOR = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
"""Environment of workers: memory in huge pages, so that returning it to the kernel at once costs little
(docs/memory.md). glibc reads it when a process starts."""
OTHERS_BYTES = int(1.5 * GIB)
"""Memory of Ray, the dispatcher, the writer, Tune's trials and the command, on the machine that runs all of them."""
_RAY_THRESHOLD_SHARE = 0.05
"""Share of a machine's memory below which Ray's memory monitor kills workers (RAY_memory_usage_threshold)."""
_MOST_RESERVED = 2 * GIB
"""Enough on a large machine when Ray's monitor is off."""
_AHEAD_BYTES = 256 * 2**20
"""How much earlier than Ray's monitor a worker ends itself."""
_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Memory limit in control groups version 2 and version 1; below, the usage and the page cache in it."""
_USAGES = ("memory.current", "memory/memory.usage_in_bytes")
_STATS = ("memory.stat", "memory/memory.stat")
_CACHE = (("inactive_file", "active_file"), ("total_inactive_file", "total_active_file"))
"""Page cache, which the kernel reclaims when it needs memory."""
_PROCESSES_NAMED = 3
_SMALLEST_NAMED = GIB // 4

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""glibc (mallopt(3)): how much freed memory a process keeps, and from which size on an allocation is mapped by itself
and returned to the kernel when freed."""
_PR_SET_THP_DISABLE = 41
"""Linux (prctl(2)): turns huge pages off for the process."""
_AT_ONCE, _MOST_KEPT = 2**20, 2**25
"""Thresholds in bytes. The second is where glibc's own adaptation ends up as large tensors come and go."""

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""Written to `clear_refs`, this resets the peak of the resident set (proc(5))."""
_ALLOCATION_ERRORS = ("DefaultCPUAllocator", "bad_alloc", "out of memory", "ALLOC_FAILED")
"""Parts of the messages with which PyTorch and its libraries report a failed allocation as a plain RuntimeError."""


@dataclass(frozen=True)
class Memory:
    """Memory of one machine or device, in bytes."""

    total: int
    available: int

    @property
    def used(self) -> int:
        return self.total - self.available


def host_memory() -> Memory:
    """Return the memory of this machine, or of the container that this process runs in."""
    machine = psutil.virtual_memory()
    for limit, usage, stat, caches in zip(_LIMITS, _USAGES, _STATS, _CACHE, strict=True):
        total = _read_number(_CGROUP / limit)
        used = _read_number(_CGROUP / usage)
        if total is not None and used is not None and total < machine.total:
            used -= sum(_read_stat(_CGROUP / stat, cache) for cache in caches)
            return Memory(total, min(total - used, machine.available))
    return Memory(machine.total, machine.available)


def reserve_bytes(total: int) -> int:
    """Return how much of a machine's `total` bytes must stay free; with less, its workers end (memory_watch.py)."""
    share = int(_RAY_THRESHOLD_SHARE * total)
    ray_watches = os.environ.get("RAY_memory_monitor_refresh_ms") != "0"  # noqa: SIM112 (Ray's name)
    return (share if ray_watches else min(share, _MOST_RESERVED)) + _AHEAD_BYTES


def share_of_host(total: int, num_workers: int) -> int:
    """Return the bytes that each of a machine's workers may hold beside Ray and the run's own processes."""
    return max(total - reserve_bytes(total) - OTHERS_BYTES, 0) // num_workers


def gpu_bytes() -> tuple[int, ...]:
    """Return the memory of each GPU of this machine as nvidia-smi reports it; empty without the tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    command = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        output = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.SubprocessError):
        return ()
    return tuple(int(line) * 2**20 for line in output.split() if line.isdigit())


def usage_text() -> str:
    """Describe how full this machine is and which processes hold most of its memory, this one first."""
    memory, own = host_memory(), psutil.Process()
    others = []
    for process in psutil.process_iter(["pid", "name", "memory_info"]):
        info = process.info["memory_info"]
        if process.pid != own.pid and info is not None and info.rss >= _SMALLEST_NAMED:
            others.append((info.rss, f"{process.info['name']} (pid {process.pid}) {info.rss / GIB:.1f} GiB"))
    largest = ", ".join(text for _, text in sorted(others, reverse=True)[:_PROCESSES_NAMED])
    return (
        f"{socket.gethostname()} has {memory.total / GIB:.1f} GiB, {memory.available / GIB:.1f} GiB of it free; "
        f"this worker holds {own.memory_info().rss / GIB:.1f} GiB" + (f", other processes {largest}" if largest else "")
    )


def device_name(device: "torch.device") -> str:
    """Return the device's name and memory, for example `CPU, 16 GiB`."""
    import torch

    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / GIB:.0f} GiB"
    return f"CPU, {host_memory().total / GIB:.0f} GiB"


def device_bytes(device: "torch.device", num_here: int) -> int:
    """Return what each of the `num_here` workers on this GPU, or this machine, may hold."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory) // num_here
    return share_of_host(host_memory().total, num_here)


def shortage_text(device: "torch.device") -> str:
    """Describe the memory of a device, or of the machine, and which processes use it."""
    import torch

    if device.type != "cuda":
        return usage_text()
    free, total = torch.cuda.mem_get_info(device)
    own = torch.cuda.memory_reserved(device)
    others = total - free - own
    return (
        f"{device_name(device)} has {free / GIB:.1f} GiB free; this worker holds {own / GIB:.1f} GiB and everything "
        f"else {max(others, 0) / GIB:.1f} GiB"
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error is a failed allocation on a device or on the host."""
    import torch

    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _ALLOCATION_ERRORS)


class Meter:
    """Peak memory of this process on a device, for each phase of a stage."""

    def __init__(self, device: "torch.device") -> None:
        self.peaks: dict[str, int] = {}
        """Bytes by phase; the maximum when a phase occurs more than once."""
        self.phase: str | None = None
        self._device = device
        reset_peak(device)

    def enter(self, phase: str) -> None:
        """End the current phase and start `phase`."""
        self.read()
        self.phase = phase
        reset_peak(self._device)

    def read(self) -> None:
        """Update the peak of the current phase."""
        if self.phase is not None:
            self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), peak_bytes(self._device))


def peak_bytes(device: "torch.device") -> int:
    """Return the peak memory of this process on `device` since the last reset, in bytes."""
    import torch

    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return _status_bytes("VmHWM")


def reset_peak(device: "torch.device") -> None:
    """Start a new peak; where the kernel does not allow it, peaks count from the start of the process."""
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):
            _RESET.write_text(_RESET_PEAK)


def resident_bytes() -> int:
    """Return the resident set of this process, in bytes."""
    return _status_bytes("VmRSS")


def give_memory_back() -> None:
    """Return freed memory, which the allocators would keep for later, to the operating system and the device."""
    import torch

    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def give_back_at_once(at_once: bool) -> None:
    """Choose whether freed tensors return to the kernel at once or are kept for the next allocations.

    Kept memory fragments: weights that are gathered and freed between activations that stay leave holes that fit
    nothing (1.5 of 6.8 GB in a training of 362 M parameters). For small models fresh memory would cost more time than
    it saves space; huge pages make it cheapest (scheduling/environment.py).
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _AT_ONCE if at_once else _MOST_KEPT)
        libc.mallopt(_M_TRIM_THRESHOLD, _AT_ONCE if at_once else 2 * _MOST_KEPT)
        libc.prctl(_PR_SET_THP_DISABLE, int(not at_once), 0, 0, 0)


def _status_bytes(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _read_number(path: Path) -> int | None:
    try:
        text = path.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


def _read_stat(path: Path, name: str) -> int:
    try:
        lines = [line.split() for line in path.read_text().splitlines()]
    except OSError:
        return 0
    return next((int(value) for key, value in lines if key == name), 0)
