"""Memory watch: a worker whose machine runs short of memory reports it and ends, before other processes are killed.

The kernel and Ray's memory monitor choose their victims by rules of their own: Ray's monitor first kills what Ray can
restart, not the stage that fills the machine. So every worker checks the machine's free memory while a stage runs, and
ends a little before Ray's monitor would act. Only one worker per machine at a time does so: it holds a lock until the
kernel has its memory back, and the next one checks again.
"""

import fcntl
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import psutil

from w2s_ray.training.memory.usage import Memory, host_memory, reserve_bytes, usage_text

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 0.1
_HEAD_START_SECONDS = 0.5
"""How long a worker that uses no memory waits for one that uses all of it."""


def is_short(memory: Memory) -> bool:
    """Return whether so little is free that a worker should end."""
    return memory.available < reserve_bytes(memory.total)


class MemoryWatch:
    """Checks the machine's memory in a thread while a stage runs."""

    def __init__(self, give_way: Callable[[str], None]) -> None:
        """`give_way` is called with the reason when this worker should end, and does not return."""
        self._give_way = give_way
        self._watching = threading.Event()
        threading.Thread(target=self._watch, name="w2s-memory", daemon=True).start()

    def __enter__(self) -> None:
        self._watching.set()

    def __exit__(self, *error: object) -> None:
        self._watching.clear()

    def _watch(self) -> None:
        while True:
            self._watching.wait()
            try:
                if is_short(host_memory()):
                    self._yield_to_others()
            except OSError:  # such as a full folder for temporary files
                logger.exception("the machine's memory could not be checked")
            time.sleep(_LOOK_SECONDS)

    def _yield_to_others(self) -> None:
        held = psutil.Process().memory_info().rss / host_memory().total
        time.sleep(max(0.0, 1 - held) * _HEAD_START_SECONDS)
        with _lock_path().open("w") as lock:
            if _locked(lock) and self._watching.is_set() and is_short(host_memory()):
                self._give_way(f"the machine ran short of memory: {usage_text()}")


def _locked(lock: TextIO) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False  # another worker ends; check again when its memory is free
    return True


def _lock_path() -> Path:
    return Path(tempfile.gettempdir()) / f"w2s-memory-{os.getuid()}.lock"
