"""Where a task's rows come from: local files (`LocalRows`) or a data set on the hub (`HubRows`).

Both are a `RowSource`, so a task is read in the same way from either.

`HubRows` asks the hub for the commit of its revision. When the hub is unreachable, a revision that is a whole commit
still identifies the data, which may be in the store already. Rows never come from the offline cache of `datasets`,
because offline that library returns whichever commit it cached last.

Many older data sets are Python scripts, which `datasets` no longer runs. The hub keeps a Parquet copy of each on the
branch `PARQUET`, with a folder per configuration and split; that branch is read file by file.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from w2s_ray import hub
from w2s_ray.errors import DataError
from w2s_ray.hub import HubUnreachable
from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks.places import DataFiles, find_files
from w2s_ray.tasks.rows import Row, RowFile, sample
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
        notices: what a user would not expect of how they were read.
    """

    name: str
    rows: Iterable[Row]
    origin: str
    part: str | None = None
    numbers: Sequence[int] = ()
    notices: Sequence[str] = ()


class RowSource(Protocol):
    """The rows of a task."""

    @property
    def notices(self) -> Sequence[str]:
        """Notices about the choice of files."""

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
        self,
        files: DataFiles,
        columns: Collection[str],
        parts: Sequence[str] = (),
        share: float | None = None,
        quoting: bool | None = None,
    ) -> None:
        """`columns` are read; `parts` name files, or their folders; `share` is that of a sample; see `quoting:`."""
        pool, test = ([(origin, path) for path in paths] for origin, paths in ((POOL, files.pool), (TEST, files.test)))
        self._files = [(origin, RowFile(path, columns, quoting)) for origin, path in (*pool, *test)]
        self._parts = parts
        self._share = share
        self.notices = tuple(files.notices)

    def digest(self) -> list[object]:
        """Return the digest of each file, with its origin and part; their paths are not included.

        Raises:
            DataError: when a file is missing.
        """
        files = [[origin, file.digest(), self._part_of(file.path)] for origin, file in self._files]
        return ["files", [[value for value in file if value is not None] for file in files]]

    def revision(self) -> None:
        """Return None: files are identified by their content."""

    def read(self) -> list[Source]:
        """Return one source per file.

        Raises:
            DataError: when a file cannot be read.
        """
        sources = []
        for origin, file in self._files:
            name, part = str(file.path), self._part_of(file.path)
            if self._share is None:
                sources.append(Source(name, file.rows(), origin, part, notices=file.notices))
            else:
                sampled = _sampled(name, file.sample(self._share), origin, part, self._share)
                sources.append(replace(sampled, notices=file.notices))
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

    @property
    def notices(self) -> Sequence[str]:
        return ()

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
    spec: TaskSpec,
    columns: Collection[str],
    pool: str | None = None,
    test: str | None = None,
    parts: Sequence[str] = (),
) -> LocalRows:
    """Return the rows of a task's `files` and `test_files`.

    In the folder of a known task, the files named after the splits `pool` and `test` are read. If no file is named
    after `pool`, all files are read, and the test set is drawn from them.

    Raises:
        DataError: when a folder contains no data files, or a pattern matches none.
    """
    assert spec.files is not None
    return LocalRows(find_files(spec.files, spec.test_files, pool, test), columns, parts, spec.sample, spec.quoting)
