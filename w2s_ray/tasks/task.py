"""What a task is: a kind, a fingerprint, and a table of examples."""

from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from w2s_ray.spec.base import Kind as Kind
from w2s_ray.spec.base import Spec

POOL = "pool"
"""Origin of examples that training, validation and (where there is no other) test sets are drawn from."""
TEST = "test"
"""Origin of examples that serve as the test set only."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("other", pa.string()),
        ("label", pa.int64()),
        ("group", pa.string()),
        ("bundle", pa.string()),
        ("stratum", pa.string()),
        ("origin", pa.string()),
    ]
)
"""Columns of every task's table.

Examples of one `group` are related and never stand in two splits. Examples of one `bundle`, all of one group, are drawn
side by side, because they say more together than apart; an example without one (null) stands by itself. `other` is the
second text of a pair, or the answer, and null elsewhere. Examples of one `stratum` (a rating band, a topic) are also
judged by themselves; null where a task has no strata. Answers and texts have the label 0.
"""


class LeftOut(Spec):
    """Rows of one source that became no example, for one reason."""

    source: str
    reason: str
    num_rows: int
    first_rows: tuple[int, ...]
    """The first of them, counted from 1."""
    num_source_rows: int
    """Rows that the source has in all."""
    is_fault: bool = True
    """False where the rows are sound, and the task has no use for them."""

    def __str__(self) -> str:
        """Say what is left out, and why."""
        rows = "1 row" if self.num_rows == 1 else f"{self.num_rows:,} rows"
        return f"{self.source}: {rows} left out, {self.reason} ({self.where})"

    @property
    def where(self) -> str:
        """The rows, as a reader looks for them."""
        more = self.num_rows - len(self.first_rows)
        shown = ", ".join(map(str, self.first_rows)) + (f" and {more} more" if more else "")
        return f"row {shown}" if self.num_rows == 1 else f"rows {shown}"


@dataclass(frozen=True)
class TaskData:
    """A task's examples.

    Attributes:
        table: one row per example with the columns of `SCHEMA`; ids are unique, labels index `class_names`.
        class_names: the classes, in label order; one name for answers and texts, `answer` or `text`.
        left_out: the rows that became no example.
        judge: name of the judge of its answers (`judges.py`).
        revision: what pins the rows on the hub, `branch@commit`; nothing for rows from elsewhere.
    """

    table: pa.Table
    class_names: tuple[str, ...]
    left_out: tuple[LeftOut, ...] = ()
    judge: str | None = None
    revision: str | None = None


class TaskInfo(Spec):
    """What a reader has to know of a known task before choosing it."""

    name: str
    """What `builtin:` calls it."""
    kind: Kind
    class_names: tuple[str, ...]
    pool: str
    """The split that training and validation examples come from."""
    test: str | None
    """The split of the test set; none where it is drawn from the pool by group."""
    num_rows: int | None
    """Rows of both splits, where known."""
    licence: str
    source: str
    """Where its rows come from: an id on the Hugging Face hub, or what is installed."""
    citation: str
    protocol: str
    """What is asked and how it is balanced; test sets are always balanced by class."""


class Task(Protocol):
    """A data set."""

    @property
    def kind(self) -> Kind:
        """What its examples are."""

    def fingerprint(self) -> str:
        """Return the digest of the definition and of the source's content.

        Raises:
            DataError: when the source cannot be found.
        """

    def read(self) -> TaskData:
        """Return every example.

        Raises:
            DataError: when the source cannot be read as the definition says.
        """
