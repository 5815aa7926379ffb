"""What a row becomes, and how a format reads a row's fields.

A *format* is one function from a row to its examples, with what it needs and gives. A row that is not as it should be
raises `Skip` with a reason; `gather.py` counts such rows, reports them and leaves them out.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from w2s_ray.spec.identity import seeded_hash
from w2s_ray.tasks.rows import Row
from w2s_ray.tasks.task import Kind

PAIR_CLASSES = ("first", "second")
"""Which text of a pair is the better one."""
_WHOLE = re.compile(r"-?[0-9]{1,18}")


class Example(NamedTuple):
    """One example, as a format makes it.

    Attributes:
        text: what is read; of a pair, the first text.
        group: what it shares with related examples: the passage, the question, the premise.
        label: the name of its class; nothing for answers and texts.
        other: the second text of a pair, or the answer.
        ties: further keys that related examples share; who shares any of them belongs to one group.
        bundle: what it shares with the examples that are drawn side by side with it, all of one group; as many of one
            class are kept as of every other.
        stratum: what it is also judged by itself with: a topic, a rating band.
        id: the data set's own id; without one it is a digest of the content.
    """

    text: str
    group: str
    label: str | None = None
    other: str | None = None
    ties: tuple[str, ...] = ()
    bundle: str | None = None
    stratum: str | None = None
    id: str | None = None


class Skip(Exception):
    """Raised by a format for a row that is no example: `reason`, and the value that was met, where it helps.

    With `is_fault=False` the row is sound and has no place in the task, such as a third class of a two-class task: it
    is reported, and does not count towards `max_skipped`.
    """

    def __init__(self, reason: str, value: object = None, *, is_fault: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.value = value
        self.is_fault = is_fault


@dataclass(frozen=True)
class Format:
    """How rows become examples.

    Attributes:
        kind: what the examples are.
        columns: the columns that every source has.
        examples: one row → its examples; raises `Skip`.
        class_names: the classes in label order; without them, the distinct labels of the pool, sorted.
        together: all examples → what becomes of each, where a row by itself cannot tell what it is related to.
        judge: name of the judge of its answers; None for an exact match.
    """

    kind: Kind
    columns: tuple[str, ...]
    examples: Callable[[Row], Iterable[Example]]
    class_names: tuple[str, ...] | None = None
    together: Callable[[Sequence[Example]], Sequence[Example | Skip]] | None = None
    judge: str | None = None


def text_of(row: Row, column: str) -> str:
    """Return a column's text without white space at its ends.

    Raises:
        Skip: when there is none.
    """
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise Skip(f"{column} is {type(value).__name__} and not text")
    text = (value or "").strip()
    if not text:
        raise Skip(f"no {column}")
    return text


def optional_text(row: Row, column: str) -> str:
    """Return a column's text, or nothing where it is empty or not there.

    Raises:
        Skip: when it is something else.
    """
    return text_of(row, column) if row.get(column) not in (None, "") and str(row[column]).strip() else ""


def texts_of(row: Row, column: str) -> list[str]:
    """Return a column's list of texts.

    Raises:
        Skip: when it is no list, or one of them is no text.
    """
    values = row.get(column)
    if not isinstance(values, list) or not values:
        raise Skip(f"{column} is no list of texts")
    return [text_of({column: value}, column) for value in values]


def number_of(row: Row, column: str) -> int:
    """Return a column's whole number, which may be written as text.

    Raises:
        Skip: when it is something else.
    """
    value = row.get(column)
    if value is None or value == "":
        raise Skip(f"no {column}")
    if isinstance(value, bool) or not isinstance(value, int | str) or not _WHOLE.fullmatch(str(value)):
        raise Skip(f"unknown {column}", value)
    return int(value)


def class_of(row: Row, column: str, names: Sequence[str] | Mapping[Any, str]) -> str:
    """Return the class that a column's number (or, in a mapping, its value) stands for.

    Raises:
        Skip: when it stands for none.
    """
    value = row.get(column)
    if value is None or value == "":
        raise Skip(f"no {column}")
    if isinstance(names, Mapping):
        if not isinstance(value, str | int) or value not in names:
            raise Skip(f"unknown {column}", value)
        return names[value]
    number = number_of(row, column)
    if not 0 <= number < len(names):
        raise Skip(f"unknown {column}", value)
    return names[number]


def digest(*content: object) -> str:
    """Return a short name for what examples share: 24 digits of its hash."""
    return hashlib.sha256("\x1f".join(map(str, content)).encode()).hexdigest()[:24]


def draw(num: int, *content: object) -> int:
    """Return a number below `num` by hash of the content alone: the coin of every choice that a format makes."""
    return seeded_hash("draw", *content) % num


def pair(chosen: str, rejected: str, group: str, stratum: str | None = None) -> Example:
    """Return two texts in an order that says nothing of which is the better one: the hash of both decides it.

    Raises:
        Skip: when the texts are equal.
    """
    if chosen == rejected:
        raise Skip("two equal answers")
    texts = sorted((chosen, rejected))
    first, second = texts if draw(2, "order", *texts) else reversed(texts)
    return Example(first, group, PAIR_CLASSES[second == chosen], second, stratum=stratum)
