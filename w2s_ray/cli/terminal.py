"""The terminal, reserved for our own lines, and how amounts are written on it.

Libraries write to file descriptors 1 and 2, from C++ and from other threads, so replacing `sys.stdout` would not catch
everything. `capture` duplicates the two descriptors for our own lines and redirects 1 and 2 to a log file. After that,
a terminal that disappears (dropped connection, closed window) does not end the run.
"""

import io
import json
import os
import sys
import traceback
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.table import Table

from w2s_ray.store.files import redirect_output, writing

_PIPED_WIDTH = 160
"""Columns of a table that is not printed on a terminal."""
_UNKNOWN_WIDTH = 80
MAX_ROWS = 200
"""Rows of a printed list; `--json` prints all of them."""


class Terminal:
    """Our own output: `out` for results, `err` for errors."""

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # print a question mark for characters that it does not support
                stream.reconfigure(errors="replace")
        self.out = _console(sys.stdout)
        self.err = _console(sys.stderr)
        self.log: Path | None = None

    def capture(self, log: Path) -> None:
        """Send all output of libraries to `log` from now on; our own lines still reach the terminal.

        Raises:
            StoreError: when the log cannot be written.
        """
        if self.log is not None:
            return
        with writing(log):
            saved = redirect_output(log)
        self.out, self.err = (_console(_text_file(descriptor)) for descriptor in saved)
        self.log = log

    def line(self, text: str) -> None:
        """Print one line of results as it is, without markup and wrapping."""
        self.out.print(text, markup=False, soft_wrap=True)

    def error(self, text: str) -> None:
        """Print one line of errors."""
        self.err.print(text, style="red", markup=False, soft_wrap=True)

    def json(self, value: Any) -> None:
        """Print a value as JSON; pydantic models and dataclasses are converted."""
        from pydantic_core import to_jsonable_python

        self.line(json.dumps(to_jsonable_python(value), indent=2))

    def omitted(self, count: int, noun: str) -> None:
        """Print how many of `count` rows were left out, if any."""
        if count > MAX_ROWS:
            self.line(f"… and {count - MAX_ROWS:,} more {noun}s; --json lists all")

    def explain(self, error: BaseException, text: str | None = None) -> None:
        """Print an error, as `text` if given; its traceback goes to the log."""
        if self.log is not None:
            traceback.print_exception(error)
        for stream in (self.out.file, self.err.file, sys.stdout, sys.stderr):
            stream.flush()
        self.error(text or str(error))
        if self.log is not None:
            self.err.print(f"  log:    {self.log}", markup=False, soft_wrap=True)


def plain_table(*columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return a table without borders; the columns named in `right` are right-aligned."""
    table = Table(box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    return table


def bytes_text(num_bytes: int | None) -> str:
    """Return, for example, `1.5 MiB`; `?` if unknown."""
    if num_bytes is None:
        return "?"
    amount = float(num_bytes)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 100 else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def seconds_text(seconds: float | None) -> str:
    """Return, for example, `45 s`, `3 min 20 s` or `2 h 05 min`; `?` if unknown."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 90:
        return f"{whole} s"
    if whole < 5400:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"


def count_text(count: int, noun: str) -> str:
    """Return, for example, `1 stage`, `3 stages` or `2 entries`."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") else f"{noun}s"
    return f"{count} {noun if count == 1 else plural}"


def _console(file: IO[str]) -> Console:
    return Console(file=file, highlight=False, emoji=False, width=_width(file))


def _width(file: IO[str]) -> int:
    """Return the columns to fill; once descriptors 1 and 2 are a log file, rich cannot find the terminal's width."""
    columns = os.environ.get("COLUMNS", "")
    if columns.isdecimal() and int(columns) > 0:
        return int(columns)
    if not file.isatty():
        return _PIPED_WIDTH
    try:
        return os.get_terminal_size(file.fileno()).columns or _UNKNOWN_WIDTH
    except OSError:
        return _UNKNOWN_WIDTH


class _LossyFile(io.FileIO):
    """A descriptor whose reader may disappear: later writes are dropped without an error."""

    def write(self, data: Any, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _text_file(descriptor: int) -> IO[str]:
    binary = io.BufferedWriter(_LossyFile(descriptor, "w"))
    return io.TextIOWrapper(binary, encoding="utf-8", errors="replace", line_buffering=True)


terminal = Terminal()
"""The only one of the process."""
