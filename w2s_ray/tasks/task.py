"""What a task is: a fingerprint, and a table of examples."""

from dataclasses import dataclass
from typing import Protocol

import pyarrow as pa

POOL = "pool"
"""Origin of examples that training, validation and (where there is no other) test sets are drawn from."""
TEST = "test"
"""Origin of examples that serve as the test set only."""

SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("text", pa.string()),
        ("label", pa.int64()),
        ("group", pa.string()),
        ("bundle", pa.string()),
        ("origin", pa.string()),
    ]
)
"""Columns of every task's table.

Examples of one `group` are related and never stand in two splits. Examples of one `bundle`, all of one group, are drawn
side by side, because they say more together than apart; an example without one (null) stands by itself.
"""


@dataclass(frozen=True)
class TaskData:
    """A task's examples.

    Attributes:
        table: one row per example with the columns of `SCHEMA`; ids are unique, labels index `class_names`.
        class_names: the classes, in label order; one name, `text`, for unlabelled tasks.
    """

    table: pa.Table
    class_names: tuple[str, ...]


class Task(Protocol):
    """A labelled data set, or (where `unlabelled`) text for pretraining with every label 0."""

    @property
    def unlabelled(self) -> bool:
        """Whether there are no labels, only text."""

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
