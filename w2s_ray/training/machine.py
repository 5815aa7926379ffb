"""How much memory this machine has, and who uses it; no torch.

A container may use less than its machine has, so the limit of its control group counts where there is one.
"""

import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

import psutil

GIB = 2**30
_CGROUP = Path("/sys/fs/cgroup")
_LIMITS = ("memory.max", "memory/memory.limit_in_bytes")
"""Where version 2 and version 1 of control groups keep the limit, and below, the usage and the cache in it."""
_USAGES = ("memory.current", "memory/memory.usage_in_bytes")
_STATS = ("memory.stat", "memory/memory.stat")
_CACHE = ("inactive_file", "total_inactive_file")
_PROCESSES_NAMED = 3
_SMALLEST_NAMED = GIB // 4


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
    for limit, usage, stat, cache in zip(_LIMITS, _USAGES, _STATS, _CACHE, strict=True):
        total = _number(_CGROUP / limit)
        used = _number(_CGROUP / usage)
        if total is not None and used is not None and total < found.total:
            used -= _stat(_CGROUP / stat, cache)
            return Memory(total, min(total - used, found.available))
    return Memory(found.total, found.available)


def gpu_bytes() -> tuple[int, ...]:
    """Return the memory of each GPU of this machine, as the driver's own tool says."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return ()
    asked = [tool, "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    told = subprocess.run(asked, capture_output=True, text=True, timeout=20, check=False).stdout
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
