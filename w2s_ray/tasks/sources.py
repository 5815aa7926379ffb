"""Where rows come from: local files here, data sets on the hub in `hub.py`.

Both give the same thing, so a task is read the same way wherever its rows lie.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from w2s_ray.errors import DataError
from w2s_ray.tasks.rows import FORMATS, Row, file_digest, read_rows, without_compression
from w2s_ray.tasks.task import POOL, TEST


@dataclass(frozen=True)
class Source:
    """Rows of one file or split.

    Attributes:
        name: what errors and reports call it.
        rows: its rows, which may be gone through more than once.
        origin: `POOL` or `TEST`.
        part: the part of the data set that it is, where that has named parts: the stratum of its examples.
    """

    name: str
    rows: Iterable[Row]
    origin: str
    part: str | None = None


class Rows(Protocol):
    """The rows of a task, wherever they lie."""

    def digest(self) -> list[object]:
        """Return what names the rows' content; part of a fingerprint.

        Raises:
            DataError: when they cannot be found.
        """

    def revision(self) -> str | None:
        """Return what `revision:` has to be for the same rows to be read again; None where the files themselves say it.

        Raises:
            DataError: when they cannot be found.
        """

    def read(self) -> list[Source]:
        """Return the rows, those of the pool first.

        Raises:
            DataError: when they cannot be read.
        """


class LocalRows:
    """Rows of local files."""

    def __init__(self, pool: list[Path], test: list[Path], parts: Sequence[str] = ()) -> None:
        """`parts` are names that a file, or the folder that it lies in, may bear."""
        self._paths = [(POOL, path) for path in pool] + [(TEST, path) for path in test]
        self._parts = parts

    def digest(self) -> list[object]:
        """Return the digest of each file, with its origin and part; not where the files lie.

        Raises:
            DataError: when a file is missing.
        """
        files = [[origin, file_digest(path), self._part_of(path)] for origin, path in self._paths]
        return ["files", [[value for value in file if value is not None] for file in files]]

    def revision(self) -> None:
        """Return nothing: files are known by their content."""

    def read(self) -> list[Source]:
        """Return one source per file.

        Raises:
            DataError: when a file cannot be read.
        """
        return [Source(str(path), read_rows(path), origin, self._part_of(path)) for origin, path in self._paths]

    def _part_of(self, path: Path) -> str | None:
        names = (path.name.partition(".")[0], path.absolute().parent.name)
        return next((part for part in self._parts if part in names), None)


def local_rows(
    files: str, test_files: str | None, pool: str | None = None, test: str | None = None, parts: Sequence[str] = ()
) -> LocalRows:
    """Return the rows of `files` and `test_files`, each a file or a folder.

    Of a folder, the files named after the splits `pool` and `test` are read (`train.jsonl.gz`, `train-00000.parquet`).
    A folder that has none of the name `pool` is read whole, and the test set is drawn from it.

    Raises:
        DataError: when a folder holds no data files.
    """
    path = Path(files)
    if not path.is_dir():
        return LocalRows([path], _all(test_files), parts)
    there = _data_files(path)
    named = [file for file in there if _is_of(file, pool)]
    of_test = [file for file in there if _is_of(file, test)] if named and test_files is None else _all(test_files)
    return LocalRows(named or there, of_test, parts)


def _all(files: str | None) -> list[Path]:
    if files is None:
        return []
    path = Path(files)
    return _data_files(path) if path.is_dir() else [path]


def _data_files(folder: Path) -> list[Path]:
    endings = tuple(f".{kind}" for kind in FORMATS)
    found = sorted(path for path in folder.iterdir() if without_compression(path).suffix.lower() in endings)
    if not found:
        rule = f"a folder of data holds {', '.join(endings)} files, compressed (.gz, .zst) or not"
        raise DataError(f"{folder} holds no data files", rule, "check the path")
    return found


def _is_of(path: Path, split: str | None) -> bool:
    return split is not None and path.name.partition(".")[0].partition("-")[0] in split.split("+")
