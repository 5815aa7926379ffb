"""What a task is: a kind, a fingerprint, and a table of examples."""

from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

from w2s_ray.spec.base import Kind as Kind

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


@dataclass(frozen=True)
class TaskData:
    """A task's examples.

    Attributes:
        table: one row per example with the columns of `SCHEMA`; ids are unique, labels index `class_names`.
        class_names: the classes, in label order; one name for answers and texts, `answer` or `text`.
        judge: name of the judge of its answers (`judges.py`).
    """

    table: pa.Table
    class_names: tuple[str, ...]
    judge: str | None = None


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
