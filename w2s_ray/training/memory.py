"""How much memory a process holds: the peak of each phase of a stage, on its device; and whether it was too little.

On a CPU worker the figure is the process's resident set, with the libraries in it; the kernel keeps its peak, and
Linux lets a process reset that. On a GPU it is what PyTorch's allocator took from the device.
"""

import ctypes
import errno
import gc
import sys
from contextlib import suppress
from pathlib import Path

import torch

from w2s_ray.training.machine import GIB, host_memory, share_of_host, usage_text

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""What `clear_refs` takes to reset the peak of the resident set (proc(5))."""


_REFUSALS = ("DefaultCPUAllocator", "bad_alloc", "out of memory", "ALLOC_FAILED")
"""What PyTorch and the libraries below it say where they raise a plain RuntimeError for want of memory."""


class Meter:
    """The peaks of one process, phase by phase."""

    def __init__(self, device: torch.device) -> None:
        self.peaks: dict[str, int] = {}
        """Bytes, by phase; of a phase that came twice the higher."""
        self.phase: str | None = None
        """The one under way."""
        self._device = device
        _reset(device)

    def enter(self, phase: str) -> None:
        """Begin a phase; the one before ends here."""
        self.read()
        self.phase = phase
        _reset(self._device)

    def read(self) -> None:
        """Bring the peak of the phase under way up to date."""
        if self.phase is not None:
            self.peaks[self.phase] = max(self.peaks.get(self.phase, 0), peak_bytes(self._device))


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an allocation of a device or of the host failed."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _REFUSALS)


def device_name(device: torch.device) -> str:
    """Return what the device is called, with its memory."""
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        return f"{properties.name}, {properties.total_memory / GIB:.0f} GiB"
    return f"CPU, {host_memory().total / GIB:.0f} GiB"


def device_bytes(device: torch.device, num_here: int) -> int:
    """Return what a worker may hold: its GPU's memory, or its share of the machine's among `num_here` workers."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return share_of_host(host_memory().total, num_here)


def shortage_text(device: torch.device) -> str:
    """Say what a device, or the machine, has and who uses it."""
    if device.type != "cuda":
        return usage_text()
    free, total = torch.cuda.mem_get_info(device)
    own = torch.cuda.memory_reserved(device)
    others = total - free - own
    return (
        f"{device_name(device)} has {free / GIB:.1f} GiB free; this worker holds {own / GIB:.1f} GiB and everything "
        f"else {max(others, 0) / GIB:.1f} GiB"
    )


def peak_bytes(device: torch.device) -> int:
    """Return the highest memory of this process on `device` since the last reset, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_reserved(device))
    return _status("VmHWM")


def resident_bytes() -> int:
    """Return the resident set of this process, in bytes."""
    return _status("VmRSS")


def give_memory_back() -> None:
    """Return freed memory to the operating system and the device, which the allocators would keep for later."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _status(name: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{name}:"))
    return int(line.split()[1]) * 1024


def _reset(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with suppress(OSError):  # where the kernel does not offer it, peaks are those since the process began
            _RESET.write_text(_RESET_PEAK)
