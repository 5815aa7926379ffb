"""Rows become a task's table, and every row that does not become an example is counted with its reason.

A text that occurs twice is one example, related to everything that its rows were related to. If such rows disagree on
the label or the answer, none of them is kept, because it is unknown which is right. A bundle keeps equally many
examples of each class.
"""

import difflib
import itertools
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import pyarrow as pa

from w2s_ray.errors import DataError
from w2s_ray.spec.base import Kind
from w2s_ray.spec.identity import identity, seeded_hash
from w2s_ray.tasks.examples import Example, Format, Skip
from w2s_ray.tasks.related import merged_groups, tied
from w2s_ray.tasks.remarks import doubtful_texts, label_remarks, split_columns
from w2s_ray.tasks.sources import Source
from w2s_ray.tasks.task import POOL, SCHEMA, TEST, LeftOut, SourceRows, TaskData, check_left_out

RECIPE = 4
"""Increase when this module would make different examples from the same rows."""

MAX_CLASSES = 100
"""Without `classes:`, more distinct labels than this are an error: probably the column is not a label."""
SHOWN = 5
"""How many row numbers and how many values are listed per reason."""
_TRIED = 100
"""How many rows are looked at for a source's columns."""
_SHOWN_COLUMNS = 30
_NAME_CHARS = 60
_PLAIN_INTEGER = re.compile(r"-?\d{1,18}")
_logger = logging.getLogger(__name__)

_NOT_UNICODE = Skip("half a surrogate pair, which is not valid Unicode")
_CONTRADICTED = Skip("the same text has different labels")
_ANSWERED_OTHERWISE = Skip("the same text has different answers")
_REPEATED = Skip("a repeated example", is_fault=False)
_RELATED = Skip("an example that is related to one of the test set", is_fault=False)
_SURPLUS = Skip("more examples of a class than the others of its question", is_fault=False)


@dataclass(eq=False)
class Account:
    """The rows of one source that became no example, by (reason, whether it is a fault)."""

    source: Source
    num_rows: int = 0
    notices: list[str] = field(default_factory=list)
    _rows: dict[tuple[str, bool], dict[int, str]] = field(default_factory=lambda: defaultdict(dict))

    def leave_out(self, row: int, skip: Skip) -> None:
        """Count a row; rows are numbered from 1."""
        self._rows[skip.reason, skip.is_fault][row] = "" if skip.value is None else repr(skip.value)

    def left_out(self) -> list[LeftOut]:
        """Return the counts, faults first."""
        return [
            LeftOut(
                source=self.source.name,
                reason=" ".join((reason, ", ".join(sorted(set(filter(None, rows.values())))[:SHOWN]))).strip(),
                num_rows=len(rows),
                first_rows=tuple(sorted(rows)[:SHOWN]),
                num_source_rows=self.num_rows,
                is_fault=is_fault,
            )
            for (reason, is_fault), rows in sorted(self._rows.items(), key=lambda item: not item[0][1])
        ]


class Placed(NamedTuple):
    """An example and the row that it came from."""

    example: Example
    row: int
    account: Account

    @property
    def origin(self) -> str:
        return self.account.source.origin

    def leave_out(self, skip: Skip) -> None:
        self.account.leave_out(self.row, skip)


def gather(format_: Format, sources: Sequence[Source], max_skipped: float) -> TaskData:
    """Turn rows into examples with `format_`; at most the share `max_skipped` of a source's rows may be faulty.

    Raises:
        DataError: when a source is empty, has no such column, or has too many faulty rows.
    """
    accounts = [Account(source) for source in sources]
    placed = [example for account in accounts for example in _read(account, format_, max_skipped)]
    names: dict[str, list[str]] = defaultdict(list)
    for account in accounts:
        for notice in (*account.source.notices, *account.notices):
            names[notice].append(account.source.name)
    notices = [
        f"{first}{f' and {len(others)} more' if others else ''}: {notice}" for notice, (first, *others) in names.items()
    ]
    placed, remarks = _joined(placed, format_)
    try:
        classes = format_.class_names or _class_names(accounts, placed)
        if format_.kind in ("classes", "pairs"):
            placed = _known(placed, classes)
        placed = _single(placed, format_.kind)
        placed = _evened(placed, len(classes))
        if format_.together is not None:
            placed = _together(placed, format_)
        placed, groups = _apart(placed, format_)
        left_out = tuple(entry for account in accounts for entry in account.left_out())
        check_left_out(left_out, max_skipped)
    except DataError as error:
        raise DataError(error.message, "; ".join((*remarks, error.hint))) from None
    others = [item.example.other or "" for item in placed] if format_.kind == "pairs" else []
    remarks += doubtful_texts([*(item.example.text for item in placed), *others])
    for line in (*left_out, *notices, *remarks):
        _logger.warning("%s", line)
    counts = Counter(item.account for item in placed)
    read = tuple(
        SourceRows(
            name=account.source.name,
            origin=account.source.origin,
            num_rows=account.num_rows,
            num_examples=counts[account],
        )
        for account in accounts
    )
    table = _table(placed, groups, classes)
    return TaskData(table, classes, left_out, judge=format_.judge, sources=read, notices=(*notices, *remarks))


def _read(account: Account, format_: Format, max_skipped: float) -> Iterator[Placed]:
    account.notices += _check_columns(account.source, format_.columns)
    account.notices += split_columns(account.source.rows, format_.columns)
    numbers = account.source.numbers or itertools.count(1)
    for number, row in zip(numbers, account.source.rows, strict=False):
        account.num_rows += 1
        try:
            made = list(format_.examples(row))
            for example in made:
                _check_completions(example)
                "".join(filter(None, (example.text, example.other, example.group, example.label, example.id))).encode()
        except Skip as skip:
            account.leave_out(number, skip)
        except UnicodeEncodeError:
            account.leave_out(number, _NOT_UNICODE)
        else:
            yield from (Placed(example, number, account) for example in made)
    check_left_out(account.left_out(), max_skipped)


def _joined(placed: Sequence[Placed], format_: Format) -> tuple[list[Placed], list[str]]:
    """Give label values that mean one class its name; return remarks about the labels too."""
    if format_.kind != "classes":
        return list(placed), []
    values = Counter(item.example.label for item in placed if item.example.label is not None)
    remarks = list(label_remarks(values, format_.joined, format_.class_names))
    changed = {value: name for value, name in format_.joined.items() if value != name}
    return [
        item._replace(example=item.example._replace(label=changed[label])) if label in changed else item
        for item in placed
        for label in (item.example.label,)
    ], remarks


def _check_completions(example: Example) -> None:
    """Check the completions of a pair: its texts without the prompt.

    Raises:
        Skip: when a text does not begin with the prompt, a completion is empty, or both are the same.
    """
    if example.prompt is None:
        return
    texts = (example.text, example.other or "")
    if not all(text.startswith(example.prompt) for text in texts):
        raise Skip("a text that does not begin with its prompt")
    if not all(text[len(example.prompt) :].strip() for text in texts):
        raise Skip("an empty completion")
    if texts[0] == texts[1]:
        raise Skip("two equal answers")


def _check_columns(source: Source, columns: Sequence[str]) -> Iterator[str]:
    """Refuse a source without rows or without a column, and yield notices about columns whose names look alike."""
    known = list(dict.fromkeys(name for row in itertools.islice(source.rows, _TRIED) for name in row))
    if not known:
        raise DataError(
            f"{source.name} has no rows", "check the file; the first line of CSV and TSV files is the header"
        )
    if isinstance(source.rows, list) and not set(columns) <= set(known):
        known = list(dict.fromkeys(name for row in source.rows for name in row))  # objects may have different keys
    for column in columns:
        plain = column.strip().casefold()
        alike = [name for name in known if name != column and name.strip().casefold() == plain]
        if column in known:
            yield from (f"it also has the column {name!r}, which is not the same as {column!r}" for name in alike)
            continue
        near = difflib.get_close_matches(column, known, n=1, cutoff=0.5) or alike
        shown = [name if len(name) <= _NAME_CHARS else f"{name[:_NAME_CHARS]}…" for name in known[:_SHOWN_COLUMNS]]
        names = ", ".join(map(repr, shown)) + (" …" if len(known) > _SHOWN_COLUMNS else "")
        hint = f"did you mean {near[0]!r}? its columns are {names}" if near else f"its columns are {names}"
        if not near and re.search(r"\.[ct]sv\b", source.name, re.IGNORECASE):
            hint += ", which its first line names: the header"
        holders = {name for row in itertools.islice(source.rows, _TRIED) for name in row if _holds(row[name], column)}
        if holders:
            hint = f"it is within {min(holders)!r}; write its fields as columns"
        elif len(known) == 1 and column in known[0]:
            hint = f"its only column is {names}; if that is several, separate them by commas, semicolons or tabs"
        raise DataError(f"{source.name} has no column {column!r}; the task reads {', '.join(columns)}", hint)


def _holds(value: object, column: str) -> bool:
    return isinstance(value, Mapping) and column in value


def _class_names(accounts: Sequence[Account], placed: Sequence[Placed]) -> tuple[str, ...]:
    """Return the distinct labels of the pool, sorted as numbers if all are whole numbers, else as text."""
    distinct = {item.example.label for item in placed if item.origin == POOL and item.example.label is not None}
    source = accounts[0].source.name
    if len(distinct) > MAX_CLASSES:
        raise DataError(
            f"{source}: the label has {len(distinct)} distinct values; without `classes:` at most {MAX_CLASSES} are "
            "allowed",
            "check `label:`, or list the values under `classes:`",
        )
    if not distinct:
        reasons = "; ".join(f"{entry.reason} in {entry.where}" for entry in accounts[0].left_out())
        raise DataError(f"{source}: no row has a text and a label: {reasons}", "check `text:` and `label:`")
    if len(distinct) < 2:
        raise DataError(
            f"{source}: every label is {min(distinct)!r}, and a classification task needs two classes",
            "check `label:` and `classes:`",
        )
    if all(_PLAIN_INTEGER.fullmatch(label) for label in distinct):
        return tuple(sorted(distinct, key=lambda label: (int(label), label)))
    return tuple(sorted(distinct))


def _known(placed: Sequence[Placed], classes: Sequence[str]) -> list[Placed]:
    """Keep the examples of known classes."""
    known = set(classes)
    for item in placed:
        if item.example.label not in known:
            item.leave_out(Skip("unknown label", item.example.label))
    return [item for item in placed if item.example.label in known]


def _single(placed: Sequence[Placed], kind: Kind) -> list[Placed]:
    """Keep one example of each text (or pair), and none if its rows disagree on the label or the answer.

    It is the one whose group comes first in sorted order, and of equal groups the first row's.
    """
    same: dict[tuple[str, str, str | None], list[Placed]] = {}
    for item in placed:
        other = item.example.other if kind == "pairs" else None
        same.setdefault((item.origin, item.example.text, other), []).append(item)
    conflict = _ANSWERED_OTHERWISE if kind == "answers" else _CONTRADICTED
    kept = []
    for items in same.values():
        if len({(item.example.label, item.example.other) for item in items}) > 1:
            for item in items:
                item.leave_out(conflict)
            continue
        first, *repeats = sorted(items, key=lambda item: item.example.group)
        for item in repeats:
            item.leave_out(_REPEATED)
        further = (key for item in repeats for key in (item.example.group, *item.example.ties))
        ties = tuple(dict.fromkeys((*first.example.ties, *further)))
        kept.append(first._replace(example=first.example._replace(ties=ties)))
    return kept


def _evened(placed: Sequence[Placed], num_classes: int) -> list[Placed]:
    """Keep as many examples of each class in a bundle as its rarest class has, chosen by hash of their content."""
    bundles: dict[tuple[str, str], list[Placed]] = defaultdict(list)
    for item in placed:
        if item.example.bundle is not None:
            bundles[item.origin, item.example.bundle].append(item)
    kept = [item for item in placed if item.example.bundle is None]
    for members in bundles.values():
        counts = Counter(item.example.label for item in members)
        left = dict.fromkeys(counts, min(counts.values()) if len(counts) == num_classes else 0)
        for item in sorted(members, key=lambda item: seeded_hash("even", item.example.text)):
            if left[item.example.label]:
                left[item.example.label] -= 1
                kept.append(item)
            else:
                item.leave_out(_SURPLUS)
    return kept


def _together(placed: Sequence[Placed], format_: Format) -> list[Placed]:
    """Apply the format's `together`, which sees all examples at once."""
    assert format_.together is not None
    results = format_.together([item.example for item in placed])
    kept = []
    for item, result in zip(placed, results, strict=True):
        if isinstance(result, Skip):
            item.leave_out(result)
        else:
            kept.append(item._replace(example=result))
    return kept


def _apart(placed: Sequence[Placed], format_: Format) -> tuple[list[Placed], list[str]]:
    """Remove pool examples that are related to an example of the test source; return the rest and their groups."""
    examples = [item.example for item in placed]
    groups = tied([(example.group, *example.ties) for example in examples])
    if format_.kind != "text":
        others = [example.other or "" for example in examples] if format_.kind == "pairs" else ()
        groups = merged_groups(groups, [example.text for example in examples], others)
    in_test = {group for item, group in zip(placed, groups, strict=True) if item.origin == TEST}
    kept = []
    for item, group in zip(placed, groups, strict=True):
        if item.origin == POOL and group in in_test:
            item.leave_out(_RELATED)
        else:
            kept.append((item, group))
    if in_test and all(item.origin == TEST for item, _ in kept):
        raise DataError(
            f"every example of {placed[0].account.source.name} is related to one of the test set; training and test "
            "examples must not share a text, a question or a `group`",
            "check `group:`, or name another test set",
        )
    return [item for item, _ in kept], [group for _, group in kept]


def _table(placed: Sequence[Placed], groups: Sequence[str], classes: Sequence[str]) -> pa.Table:
    examples = [item.example for item in placed]
    number_of = {name: number for number, name in enumerate(classes)}
    columns = {
        "id": [_id(item) for item in placed],
        "text": [example.text for example in examples],
        "other": [example.other for example in examples],
        "prompt": [example.prompt for example in examples],
        "label": [0 if example.label is None else number_of[example.label] for example in examples],
        "group": groups,
        "bundle": [example.bundle for example in examples],
        "stratum": [item.example.stratum or item.account.source.part for item in placed],
        "origin": [item.origin for item in placed],
    }
    return pa.table(columns, schema=SCHEMA)


def _id(placed: Placed) -> str:
    example = placed.example
    if example.id is not None:
        return f"{placed.origin}-{example.id}"
    content = ["table", placed.origin, example.group, example.text]
    return identity("example", content + ([example.other] if example.other is not None else []))[:24]
