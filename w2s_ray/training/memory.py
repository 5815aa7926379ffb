"""How much memory a process holds: the peak of each phase of a stage, on its device.

On a CPU worker the figure is the process's resident set, with the libraries in it; the kernel keeps its peak, and
Linux lets a process reset that. On a GPU it is what PyTorch's allocator took from the device.
"""

import ctypes
import gc
import sys
from pathlib import Path

import torch

_STATUS, _RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"
"""What `clear_refs` takes to reset the peak of the resident set (proc(5))."""


class Meter:
    """The peaks of one process, phase by phase."""

    def __init__(self, device: torch.device) -> None:
        self.peaks: dict[str, int] = {}
        """Bytes, by phase; of a phase that came twice the higher."""
        self._device = device
        self._phase: str | None = None
        _reset(device)

    def enter(self, phase: str) -> None:
        """Begin a phase; the one before ends here."""
        self.read()
        self._phase = phase
        _reset(self._device)

    def read(self) -> None:
        """Bring the peak of the phase under way up to date."""
        if self._phase is not None:
            self.peaks[self._phase] = max(self.peaks.get(self._phase, 0), peak_bytes(self._device))


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
        _RESET.write_text(_RESET_PEAK)
