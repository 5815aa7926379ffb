"""The definition of a task: a kind, a fingerprint, and a table of examples."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from w2s_ray.errors import DataError
from w2s_ray.spec.base import Kind as Kind
from w2s_ray.spec.base import Spec
from w2s_ray.spec.stage import DEFAULT_CUE

POOL = "pool"
"""Origin of examples for training and validation sets and, if no example has the origin `TEST`, test sets."""
TEST = "test"
"""Origin of examples for the test set only."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("other", pa.string()),
        ("prompt", pa.string()),
        ("label", pa.int64()),
        ("group", pa.string()),
        ("bundle", pa.string()),
        ("stratum", pa.string()),
        ("origin", pa.string()),
    ]
)
"""Columns of every task's table.

    other     the second text of a pair, or the answer; null for other kinds
    prompt    what both texts of a pair begin with; the rest of each is its completion; null for other kinds
    label     index of the class; 0 for answers and texts
    group     related examples; a group is never divided between splits
    bundle    examples of one group that are drawn side by side, because they are more informative together; null for
              an example by itself
    stratum   examples that also get their own metrics (a rating band, a topic); null if the task has no strata
    origin    `POOL` or `TEST`
"""


class LeftOut(Spec):
    """Rows of one source that became no example, for one reason."""

    source: str
    reason: str
    num_rows: int
    first_rows: tuple[int, ...]
    """Numbers of the first few of these rows, from 1."""
    num_source_rows: int
    """All rows of the source."""
    is_fault: bool = True
    """False if the rows are sound, but the task has no use for them."""

    def __str__(self) -> str:
        rows = "1 row" if self.num_rows == 1 else f"{self.num_rows:,} rows"
        return f"{self.source}: {rows} left out, {self.reason} ({self.where})"

    @property
    def where(self) -> str:
        """The row numbers as text."""
        more = self.num_rows - len(self.first_rows)
        shown = ", ".join(map(str, self.first_rows)) + (f" and {more} more" if more else "")
        return f"row {shown}" if self.num_rows == 1 else f"rows {shown}"


class SourceRows(Spec):
    """How many rows of a file or split were read, and how many examples came from them."""

    name: str
    origin: str
    """`POOL` or `TEST`."""
    num_rows: int
    num_examples: int


def check_left_out(left_out: Sequence[LeftOut], max_skipped: float) -> None:
    """Check that at most the share `max_skipped` of each source's rows is faulty.

    Raises:
        DataError: with the reasons and the first rows of a source that has more.
    """
    for name in dict.fromkeys(entry.source for entry in left_out):
        faults = [entry for entry in left_out if entry.source == name and entry.is_fault]
        num_faults = sum(entry.num_rows for entry in faults)
        if faults and num_faults > max_skipped * faults[0].num_source_rows:
            reasons = "; ".join(f"{entry.reason} in {entry.where}" for entry in faults)
            raise DataError(
                f"{name}: {num_faults} of {faults[0].num_source_rows} rows are not usable, more than "
                f"{max_skipped:.1%} (max_skipped): {reasons}",
                "correct or remove those rows, correct the task's columns and classes, or raise `max_skipped:`",
            )


@dataclass(frozen=True)
class TaskData:
    """A task's examples.

    Attributes:
        table: one row per example with the columns of `SCHEMA`; ids are unique, labels index `class_names`.
        class_names: the classes, in label order; the one name `answer` or `text` for those kinds.
        left_out: the rows that became no example.
        judge: name of the judge of its answers (`judges.py`).
        revision: `branch@commit` of rows from the hub; None for other rows.
        sources: the files or splits that were read.
        notices: what a user would not expect of the data or of how it was read.
    """

    table: pa.Table
    class_names: tuple[str, ...]
    left_out: tuple[LeftOut, ...] = ()
    judge: str | None = None
    revision: str | None = None
    sources: tuple[SourceRows, ...] = ()
    notices: tuple[str, ...] = ()


class TaskInfo(Spec):
    """Description of a known task, for `w2s tasks`."""

    name: str
    """The value of `builtin:`."""
    kind: Kind
    forms: tuple[str, ...] = ()
    """Further values of `form:`."""
    cue: str = DEFAULT_CUE
    """What asks a language model for the class of a text: it comes between the text and the class's name."""
    class_names: tuple[str, ...]
    pool: str
    """The split of training and validation examples."""
    test: str | None
    """The split of the test set; None if the test set is drawn from the pool by group."""
    num_rows: int | None
    """Rows of both splits, where known."""
    licence: str
    source: str
    """An id on the Hugging Face hub, or installed packages."""
    citation: str
    protocol: str
    """The question and how it is balanced; test sets are always balanced by class."""


class Task(Protocol):
    """A data set. It may also have a `cue` (see `TaskInfo`), and `notices` about where its rows come from."""

    @property
    def kind(self) -> Kind: ...

    def fingerprint(self) -> str:
        """Return the digest of the definition and of the source's content.

        Raises:
            DataError: when the source does not exist.
        """

    def read(self) -> TaskData:
        """Return every example.

        Raises:
            DataError: when the source does not match the definition.
        """
