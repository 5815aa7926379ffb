"""Files of JSON lines, one object per line, whose writer may be killed at any moment.

A killed writer can leave an incomplete last line. Readers skip it, and the next writer removes it (older versions ended
it with a line break instead).
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO


def whole_lines(path: Path) -> list[str]:
    """Return the complete lines of a file, without line ends; none if it does not exist."""
    try:
        *lines, _incomplete = path.read_text(encoding="utf-8", errors="replace").split("\n")
    except (FileNotFoundError, NotADirectoryError):
        return []
    return [line for line in lines if line.endswith("}")]


def open_for_appending(path: Path) -> BinaryIO:
    """Open a file for appending lines, after removing an incomplete last line."""
    file = path.open("ab+")
    file.seek(0)
    size = sum(len(line) for line in file if line.endswith(b"\n"))
    if size < file.seek(0, os.SEEK_END):
        file.truncate(size)
    return file


def append_line(path: Path, value: Mapping[str, object]) -> None:
    """Append one line, and return when it is on the disk."""
    with open_for_appending(path) as file:
        file.write(json.dumps(value).encode() + b"\n")
        file.flush()
        os.fsync(file.fileno())
