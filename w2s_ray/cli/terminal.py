"""The terminal, kept to our own lines.

Libraries write to file descriptors 1 and 2, from C++ and from other threads, so replacing `sys.stdout` would not stop
them. `capture` gives the console descriptors of its own and turns 1 and 2 to a log file. From then on a terminal that
goes away, with the connection or the window, takes no run with it.
"""

import io
import os
import sys
import traceback
from pathlib import Path
from typing import IO, Any

from rich.console import Console

from w2s_ray.store.files import redirect_output, writing

_PIPED_WIDTH = 160
"""Columns of a table that is not printed on a terminal."""
_UNKNOWN_WIDTH = 80
MOST_ROWS = 200
"""Of a list that people are to read; `--json` has the rest."""


class Terminal:
    """Where our own lines go: `out` for what was asked for, `err` for what went wrong."""

    def __init__(self) -> None:
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, io.TextIOWrapper):  # a terminal that lacks a character shows a question mark
                stream.reconfigure(errors="replace")
        self.out = _console(sys.stdout)
        self.err = _console(sys.stderr)
        self.log: Path | None = None
        self._saved: tuple[int, int] | None = None

    def capture(self, log: Path) -> None:
        """Send all that libraries print to `log` from now on; our own lines still reach the terminal.

        Raises:
            StoreError: when the log cannot be written.
        """
        if self._saved is not None:
            return
        with writing(log):
            self._saved = redirect_output(log)
        self.out, self.err = (_console(_text_file(os.dup(saved))) for saved in self._saved)
        self.log = log

    def release(self) -> None:
        """Give descriptors 1 and 2 back to the terminal."""
        if self._saved is None:
            return
        self._flush()
        for descriptor, saved in enumerate(self._saved, start=1):
            os.dup2(saved, descriptor)
            os.close(saved)
        self._saved = None
        self.out, self.err = _console(sys.stdout), _console(sys.stderr)

    def say_left_out(self, count: int, word: str) -> None:
        """Say how many of `count` rows were left out, if any were."""
        if count > MOST_ROWS:
            self.out.print(f"… and {count - MOST_ROWS:,} more {word}s; --json lists every one", markup=False)

    def explain(self, error: BaseException, said: str | None = None) -> None:
        """Print an error as `said`, or as it says itself; its traceback goes to the log."""
        if self.log is not None:
            traceback.print_exception(error)
        self._flush()
        self.err.print(said or str(error), style="red", markup=False, soft_wrap=True)
        if self.log is not None:
            self.err.print(f"  log:    {self.log}", markup=False, soft_wrap=True)

    def _flush(self) -> None:
        for console in (self.out, self.err):
            console.file.flush()
        sys.stdout.flush()
        sys.stderr.flush()


def _console(file: IO[str]) -> Console:
    return Console(file=file, highlight=False, emoji=False, width=_width(file))


def _width(file: IO[str]) -> int:
    """Columns to fill. Once descriptors 1 and 2 are a log file, rich could no longer find the terminal's by itself."""
    chosen = os.environ.get("COLUMNS", "")
    if chosen.isdecimal() and int(chosen) > 0:
        return int(chosen)
    if not file.isatty():
        return _PIPED_WIDTH
    try:
        return os.get_terminal_size(file.fileno()).columns or _UNKNOWN_WIDTH
    except OSError:
        return _UNKNOWN_WIDTH


class _Forgiving(io.FileIO):
    """A descriptor whose other end may go away: what is said then is lost, and whoever says it goes on."""

    def write(self, data: Any, /) -> int:
        """Write what can be written."""
        try:
            return super().write(data)
        except OSError:
            return len(data)


def _text_file(descriptor: int) -> IO[str]:
    binary = io.BufferedWriter(_Forgiving(descriptor, "w"))
    return io.TextIOWrapper(binary, encoding="utf-8", errors="replace", line_buffering=True)


terminal = Terminal()
"""The process has one."""
