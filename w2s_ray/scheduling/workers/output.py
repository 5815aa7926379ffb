"""Send what a process prints to a file, for a while."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Send everything that this process prints, its libraries' C code included, to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    _flush()
    kept = {number: os.dup(number) for number in (1, 2)}
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        for number in kept:
            os.dup2(target, number)
        yield
    finally:
        _flush()
        for number, original in kept.items():
            os.dup2(original, number)
            os.close(original)
        os.close(target)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
