"""Formats: how one row becomes examples.

A *format* is a function from a row to its examples, with the columns that it reads and the classes that it gives. For
an unusable row it raises `Skip` with a reason; `gather.py` counts, reports and leaves out such rows. The helpers below
read a row's fields.
"""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from w2s_ray.spec.identity import seeded_hash
from w2s_ray.tasks.rows import Row
from w2s_ray.tasks.task import Kind

PAIR_CLASSES = ("first", "second")
"""The class names of pairs: which text is the better one."""
_WHOLE = re.compile(r"-?[0-9]{1,18}")


class Example(NamedTuple):
    """One example.

    Attributes:
        text: the text that a model reads, or the first text of a pair.
        group: the key that related examples share: the passage, the question, the premise.
        label: the name of its class; None for answers and texts.
        other: the second text of a pair, or the answer.
        prompt: the text that both texts of a pair begin with; the rest of each is its completion.
        ties: further keys; examples that share any key are in one group.
        bundle: the key of the examples that are drawn side by side with it, all of one group; a bundle keeps equally
            many examples of each class.
        stratum: a subset with its own metrics: a topic, a rating band.
        id: the data set's own id; None for a digest of the content.
    """

    text: str
    group: str
    label: str | None = None
    other: str | None = None
    prompt: str | None = None
    ties: tuple[str, ...] = ()
    bundle: str | None = None
    stratum: str | None = None
    id: str | None = None


class Skip(Exception):
    """Raised by a format for a row that gives no example: the reason, and the value that was found if that helps.

    With `is_fault=False` the row is sound but not part of the task, such as a third class of a two-class task. It is
    reported, and does not count towards `max_skipped`.
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
        kind: the kind of its examples.
        columns: the columns that every source must have.
        examples: one row → its examples; raises `Skip`.
        class_names: the classes in label order; None for the distinct labels of the pool, sorted.
        joined: label values that mean a class, with its name; other values are names themselves.
        together: all examples → the final example, or `Skip`, for each; for relations that one row does not show.
        judge: name of the judge of its answers; None for an exact match.
    """

    kind: Kind
    columns: tuple[str, ...]
    examples: Callable[[Row], Iterable[Example]]
    class_names: tuple[str, ...] | None = None
    joined: Mapping[str, str] = field(default_factory=dict)
    together: Callable[[Sequence[Example]], Sequence[Example | Skip]] | None = None
    judge: str | None = None


def text_of(row: Row, column: str) -> str:
    """Return a column's text without white space at its ends.

    Raises:
        Skip: when it is empty or not text.
    """
    value = row.get(column)
    if value is not None and not isinstance(value, str):
        raise Skip(f"{column} is {type(value).__name__} and not text")
    text = (value or "").strip()
    if not text:
        raise Skip(f"no {column}")
    return text


def optional_text(row: Row, column: str) -> str:
    """Return a column's text, or an empty one if the row has none.

    Raises:
        Skip: when it is not text.
    """
    return text_of(row, column) if row.get(column) not in (None, "") and str(row[column]).strip() else ""


def texts_of(row: Row, column: str) -> list[str]:
    """Return a column's list of texts.

    Raises:
        Skip: when it is not a list, or an item is not text.
    """
    values = row.get(column)
    if not isinstance(values, list) or not values:
        raise Skip(f"{column} is not a list of texts")
    return [text_of({column: value}, column) for value in values]


def number_of(row: Row, column: str) -> int:
    """Return a column's whole number, which may be written as text.

    Raises:
        Skip: when it is not a whole number.
    """
    value = row.get(column)
    if value is None or value == "":
        raise Skip(f"no {column}")
    if isinstance(value, bool) or not isinstance(value, int | str) or not _WHOLE.fullmatch(str(value)):
        raise Skip(f"unknown {column}", value)
    return int(value)


def class_of(row: Row, column: str, names: Sequence[str] | Mapping[Any, str]) -> str:
    """Return the class name for a column's number, or for its value if `names` is a mapping.

    Raises:
        Skip: when there is no such class.
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
    """Return a short key for content that examples share: 24 hex digits of its SHA-256."""
    return hashlib.sha256("\x1f".join(map(str, content)).encode()).hexdigest()[:24]


def hash_choice(num: int, *content: object) -> int:
    """Return a number below `num` that depends on the content alone; formats use it for every random choice."""
    return seeded_hash("draw", *content) % num


def pair(chosen: str, rejected: str, group: str, *, prompt: str = "") -> Example:
    """Return two texts in an order that is decided by the hash of both, so that it does not show which is better.

    Both begin with `prompt`.

    Raises:
        Skip: when the texts are equal.
    """
    if chosen == rejected:
        raise Skip("two equal answers")
    texts = sorted((chosen, rejected))
    first, second = texts if hash_choice(2, "order", *texts) else reversed(texts)
    return Example(first, group, PAIR_CLASSES[second == chosen], second, prompt)
