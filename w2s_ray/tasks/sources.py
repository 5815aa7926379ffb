"""Where a task's rows come from: local files (`LocalRows`) or a data set on the hub (`HubRows`).

Both are a `RowSource`, so a task is read in the same way from either.

`HubRows` asks the hub for the commit of its revision. When the hub is unreachable, a revision that is a whole commit
still identifies the data, which may be in the store already. Rows never come from the offline cache of `datasets`,
because offline that library returns whichever commit it cached last.

Many older data sets are Python scripts, which `datasets` no longer runs. The hub keeps a Parquet copy of each on the
branch `PARQUET`, with a folder per configuration and split; that branch is read file by file.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from w2s_ray import hub
from w2s_ray.errors import DataError
from w2s_ray.hub import HubUnreachable
from w2s_ray.tasks.rows import FORMATS, Row, file_digest, read_rows, sample, sampled_rows, without_compression
from w2s_ray.tasks.task import POOL, TEST

PARQUET = "refs/convert/parquet"
"""The branch where the hub keeps every data set as Parquet: `<configuration>/<split>/0000.parquet` and so on."""
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True)
class Source:
    """Rows of one file or split.

    Attributes:
        name: its name in errors and reports.
        rows: its rows; may be iterated more than once.
        origin: `POOL` or `TEST`.
        part: the named part of the data set that it belongs to, if any: the stratum of its examples.
        numbers: the rows' numbers in the file or split, from 1, if the rows are a sample of it; else empty.
    """

    name: str
    rows: Iterable[Row]
    origin: str
    part: str | None = None
    numbers: Sequence[int] = ()


class RowSource(Protocol):
    """The rows of a task."""

    def digest(self) -> list[object]:
        """Return values that identify the rows' content; part of a fingerprint.

        Raises:
            DataError: when the rows do not exist.
        """

    def revision(self) -> str | None:
        """Return the value of `revision:` that reads the same rows again; None for local files.

        Raises:
            DataError: when the rows do not exist.
        """

    def read(self) -> list[Source]:
        """Return the sources of rows, those of the pool first.

        Raises:
            DataError: when they cannot be read.
        """


class LocalRows:
    """Rows of local files."""

    def __init__(
        self, pool: list[Path], test: list[Path], parts: Sequence[str] = (), share: float | None = None
    ) -> None:
        """`parts` are names of parts of the data set (of a file, or its folder); `share` is that of the sample."""
        self._paths = [(POOL, path) for path in pool] + [(TEST, path) for path in test]
        self._parts = parts
        self._share = share

    def digest(self) -> list[object]:
        """Return the digest of each file, with its origin and part; their paths are not included.

        Raises:
            DataError: when a file is missing.
        """
        files = [[origin, file_digest(path), self._part_of(path)] for origin, path in self._paths]
        return ["files", [[value for value in file if value is not None] for file in files]]

    def revision(self) -> None:
        """Return None: files are identified by their content."""

    def read(self) -> list[Source]:
        """Return one source per file.

        Raises:
            DataError: when a file cannot be read.
        """
        sources = []
        for origin, path in self._paths:
            part = self._part_of(path)
            if self._share is None:
                sources.append(Source(str(path), read_rows(path), origin, part))
            else:
                sources.append(_sampled(str(path), sampled_rows(path, self._share), origin, part, self._share))
        return sources

    def _part_of(self, path: Path) -> str | None:
        names = (path.name.partition(".")[0], path.absolute().parent.name)
        return next((part for part in self._parts if part in names), None)


@dataclass(frozen=True)
class HubRows:
    """The rows of a hub data set's splits.

    Attributes:
        name: the data set's hub id.
        subset: its configuration; None for the only one.
        branch: a branch or tag; None for `main`. The branch `PARQUET` is read as Parquet files.
        pool: the split of the pool; `a+b` joins two.
        test: the split of the test set, if there is one.
        commit: the whole commit to read; None for the newest one of `branch`.
        parts: folders with the splits as gzipped JSON lines (`<part>/<split>.jsonl.gz`), one source for each.
        share: the share of the rows in a sample; None for all rows.
    """

    name: str
    subset: str | None
    branch: str | None
    pool: str
    test: str | None
    commit: str | None = None
    parts: tuple[str, ...] = ()
    share: float | None = None

    def digest(self) -> list[object]:
        """Return the data set's name, commit and splits.

        Raises:
            DataError: when there is no such data set or revision.
            HubUnreachable: when the hub is unreachable and the revision is not a whole commit.
        """
        return ["hub", self.name, self._commit(), self.subset, self.pool, self.test, *self.parts]

    def revision(self) -> str:
        """Return `branch@commit`.

        Raises:
            DataError: when there is no such data set or revision.
            HubUnreachable: when the hub is unreachable and the commit is not known.
        """
        return f"{self.branch or 'main'}@{self._commit()}"

    def read(self) -> list[Source]:
        """Return the rows of the splits.

        Raises:
            DataError: when the data set or a split does not exist.
            HubUnreachable: when the hub is unreachable.
        """
        commit = self._commit()
        if hub.look_up(self.name, commit, "dataset") is None:
            raise self._unreachable()
        splits = [(POOL, split) for split in self.pool.split("+")]
        splits += [(TEST, split) for split in (self.test or "").split("+") if split]
        sources = []
        for origin, split in splits:
            for part in self.parts or (None,):
                name = f"{self.name} ({split})" if part is None else f"{self.name} ({part}, {split})"
                rows = self._rows(split, commit, part)
                if self.share is None:
                    sources.append(Source(name, rows, origin, part))
                else:
                    sources.append(_sampled(name, sample(rows, self.share), origin, part, self.share))
        return sources

    def _commit(self) -> str:
        if self.commit is not None:
            return self.commit
        repo = hub.look_up(self.name, self.branch, "dataset")
        if repo is None:
            raise self._unreachable()
        return repo.commit

    def _rows(self, split: str, commit: str, part: str | None) -> Iterable[Row]:
        files = None
        if part is not None:
            files = f"{part}/{split}.jsonl.gz"
        elif self.branch == PARQUET:
            files = f"{self.subset or '*'}/{split}/*.parquet"
        try:
            rows: Iterable[Row] = hub.load_rows(self.name, commit, split, subset=self.subset, files=files)
        except ConnectionError:
            raise self._unreachable() from None
        return rows

    def _unreachable(self) -> HubUnreachable:
        revision = self.commit or self.branch or "main"
        return HubUnreachable(
            f"the hub is unreachable, and data set {self.name} at {revision} is not in the store",
            "connect to the hub once, or download the data and name it with `files:`",
            files=(f"datasets/{self.name}@{revision}",),
        )


def _sampled(name: str, rows: Iterable[tuple[int, Row]], origin: str, part: str | None, share: float) -> Source:
    """Return the rows of a sample with their numbers.

    Raises:
        DataError: when the sample is empty.
    """
    numbered = list(rows)
    if not numbered:
        raise DataError(f"{name} has no row in a sample of {share:g}", "raise `sample:`, or remove it")
    return Source(name, [row for _, row in numbered], origin, part, [number for number, _ in numbered])


def parse_revision(revision: str) -> tuple[str | None, str | None]:
    """Return branch and commit of a revision: a branch or tag, a whole commit, or `branch@commit`."""
    branch, _, commit = revision.partition("@")
    if _COMMIT.fullmatch(commit):
        return branch, commit
    return (None, revision) if _COMMIT.fullmatch(revision) else (revision, None)


def local_rows(
    files: str,
    test_files: str | None,
    pool: str | None = None,
    test: str | None = None,
    parts: Sequence[str] = (),
    share: float | None = None,
) -> LocalRows:
    """Return the rows of `files` and `test_files`, each a file or a folder.

    In a folder, the files named after the splits `pool` and `test` are read (`train.jsonl.gz`, `train-00000.parquet`).
    If no file is named after `pool`, all files are read, and the test set is drawn from them.

    Raises:
        DataError: when a folder contains no data files.
    """
    path = Path(files)
    if not path.is_dir():
        return LocalRows([path], _all(test_files), parts, share)
    files_in_folder = _data_files(path)
    named = [file for file in files_in_folder if _is_of(file, pool)]
    if named and test_files is None:
        return LocalRows(named, [file for file in files_in_folder if _is_of(file, test)], parts, share)
    return LocalRows(named or files_in_folder, _all(test_files), parts, share)


def _all(files: str | None) -> list[Path]:
    if files is None:
        return []
    path = Path(files)
    return _data_files(path) if path.is_dir() else [path]


def _data_files(folder: Path) -> list[Path]:
    endings = tuple(f".{kind}" for kind in FORMATS)
    files = sorted(path for path in folder.iterdir() if without_compression(path).suffix.lower() in endings)
    if not files:
        raise DataError(f"{folder} contains no data files ({', '.join(endings)}, or compressed with .gz or .zst)")
    return files


def _is_of(path: Path, split: str | None) -> bool:
    return split is not None and path.name.partition(".")[0].partition("-")[0] in split.split("+")
