"""Rows become a task's table, and every row that does not is accounted for.

A text that occurs twice in a group is one example. Where such rows disagree on the label, none of them is kept, because
nobody knows which is right.
"""

import difflib
import itertools
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from w2s_ray.errors import DataError
from w2s_ray.spec.identity import identity, seeded_hash
from w2s_ray.tasks.examples import Example, Format, Skip
from w2s_ray.tasks.sources import Source
from w2s_ray.tasks.task import POOL, SCHEMA, TEST, LeftOut, TaskData

RECIPE = 2
"""Raised whenever this module would make other examples from the same rows."""

MAX_CLASSES = 100
"""More distinct labels than this, where nothing lists them, are taken for a mistake."""
SHOWN = 5
"""How many rows, and how many values, a report names."""
_PLAIN_INTEGER = re.compile(r"-?\d{1,18}")
_logger = logging.getLogger(__name__)


@dataclass
class Reading:
    """One source under way: its examples, each with the number of its row, and the rows left out by reason."""

    source: Source
    num_rows: int = 0
    examples: list[Example] = field(default_factory=list)
    row_of: list[int] = field(default_factory=list)
    _left_out: dict[tuple[str, bool], dict[int, str]] = field(default_factory=lambda: defaultdict(dict))

    def leave_out(self, row: int, reason: str, value: object = None, *, is_fault: bool = True) -> None:
        """Count a row under its reason."""
        self._left_out[reason, is_fault][row] = "" if value is None else repr(value)

    def keep(self, kept: Sequence[int]) -> None:
        """Keep the examples at these places alone."""
        self.examples = [self.examples[at] for at in kept]
        self.row_of = [self.row_of[at] for at in kept]

    def left_out(self) -> list[LeftOut]:
        """Return what is left out, faults first."""
        return [
            LeftOut(
                source=self.source.name,
                reason=" ".join((reason, ", ".join(sorted(set(filter(None, rows.values())))[:SHOWN]))).strip(),
                num_rows=len(rows),
                first_rows=tuple(sorted(rows)[:SHOWN]),
                is_fault=is_fault,
            )
            for (reason, is_fault), rows in sorted(self._left_out.items(), key=lambda each: not each[0][1])
        ]

    def num_faults(self) -> int:
        """How many rows are not as they should be."""
        return len({row for (_, is_fault), rows in self._left_out.items() if is_fault for row in rows})


def gather(format_: Format, sources: Sequence[Source], max_skipped: float) -> TaskData:
    """Turn rows into examples by `format_`; at most the share `max_skipped` of a source's rows may be faulty.

    Raises:
        DataError: when a source is empty or lacks a column, or has too many faulty rows.
    """
    readings = [_read(source, format_) for source in sources]
    for reading in readings:
        _check_share(reading, max_skipped)
    classes = _class_names(format_, readings)
    for reading in readings:
        if format_.kind in ("classes", "pairs"):
            _leave_out_unknown(reading, classes)
    for origin in (POOL, TEST):
        _leave_out_doubles([reading for reading in readings if reading.source.origin == origin])
    for reading in readings:
        if format_.even_bundles:
            _even_bundles(reading, len(classes))
        _check_share(reading, max_skipped)
    left_out = tuple(each for reading in readings for each in reading.left_out())
    for each in left_out:
        _logger.warning("left out: %s", each)
    return TaskData(_table(format_, readings, classes), classes, left_out, format_.judge)


def _read(source: Source, format_: Format) -> Reading:
    reading = Reading(source)
    _check_columns(source, format_.columns)
    for number, row in enumerate(source.rows, start=1):
        reading.num_rows = number
        try:
            made = list(format_.examples(row))
        except Skip as skip:
            reading.leave_out(number, skip.reason, skip.value, is_fault=skip.is_fault)
            continue
        reading.examples += made
        reading.row_of += [number] * len(made)
    return reading


def _check_columns(source: Source, columns: Sequence[str]) -> None:
    known = list(dict.fromkeys(name for row in itertools.islice(source.rows, 100) for name in row))
    if not known:
        raise DataError(f"{source.name} has no rows", "a task has examples", "check the file")
    for column in columns:
        if column not in known:
            near = difflib.get_close_matches(column, known, n=1, cutoff=0.5)
            remedy = f"did you mean {near[0]!r}?" if near else f"its columns are {', '.join(map(repr, known))}"
            rule = f"the task reads the column{'s' * (len(columns) > 1)} {', '.join(columns)}"
            raise DataError(f"{source.name} has no column {column!r}", rule, remedy)


def _class_names(format_: Format, readings: Sequence[Reading]) -> tuple[str, ...]:
    """Return the classes: those of the format, or the labels that the pool has."""
    if format_.class_names is not None:
        return format_.class_names
    pool = [reading for reading in readings if reading.source.origin == POOL]
    distinct = {example.label for reading in pool for example in reading.examples if example.label is not None}
    if len(distinct) > MAX_CLASSES:
        raise DataError(
            f"{pool[0].source.name}: the label has {len(distinct)} distinct values",
            f"without `classes:` a label has at most {MAX_CLASSES}",
            "check `label:`, or list the values under `classes:`",
        )
    if len(distinct) < 2:
        raise DataError(
            f"{pool[0].source.name}: every label is {min(distinct, default='')!r}",
            "a classification task has examples of two classes or more",
            "check `label:` and `classes:`",
        )
    if all(_PLAIN_INTEGER.fullmatch(label) for label in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct))


def _leave_out_unknown(reading: Reading, classes: Sequence[str]) -> None:
    known = set(classes)
    for example, row in zip(reading.examples, reading.row_of, strict=True):
        if example.label not in known:
            reading.leave_out(row, "unknown label", example.label)
    reading.keep([at for at, example in enumerate(reading.examples) if example.label in known])


def _leave_out_doubles(readings: Sequence[Reading]) -> None:
    """Keep the first example of each content, and none where its rows disagree on the label."""
    places = [(reading, at) for reading in readings for at in range(len(reading.examples))]
    first: dict[tuple[str, str, str | None], int] = {}
    contradicted: set[int] = set()
    repeats: list[tuple[int, int]] = []
    for number, (reading, at) in enumerate(places):
        example = reading.examples[at]
        kept = first.setdefault((example.group, example.text, example.other), number)
        if kept != number:
            repeats.append((kept, number))
            kept_reading, kept_at = places[kept]
            if kept_reading.examples[kept_at].label != example.label:
                contradicted.add(kept)
    for kept, number in repeats:
        if kept in contradicted:
            for reading, at in (places[kept], places[number]):
                reading.leave_out(reading.row_of[at], "the same text has different labels")
        else:
            reading, at = places[number]
            reading.leave_out(reading.row_of[at], "an example that is there already", is_fault=False)
    keep = set(first.values()) - contradicted
    start = 0
    for reading in readings:
        num = len(reading.examples)
        reading.keep([at for at in range(num) if start + at in keep])
        start += num


def _even_bundles(reading: Reading, num_classes: int) -> None:
    """Keep as many examples of each class as the bundle's rarest has, chosen by hash of their content."""
    bundles: dict[str, list[int]] = defaultdict(list)
    for at, example in enumerate(reading.examples):
        bundles[example.bundle or example.group].append(at)
    kept: list[int] = []
    for places in bundles.values():
        counts = Counter(reading.examples[at].label for at in places)
        size = min(counts.values()) if len(counts) == num_classes else 0
        left = dict.fromkeys(counts, size)
        for at in sorted(places, key=lambda at: seeded_hash("even", reading.examples[at].text)):
            label = reading.examples[at].label
            if left[label]:
                left[label] -= 1
                kept.append(at)
            else:
                reason = "a class that its question has more of than of the others"
                reading.leave_out(reading.row_of[at], reason, is_fault=False)
    reading.keep(sorted(kept))


def _check_share(reading: Reading, max_skipped: float) -> None:
    """Refuse a source with too many faulty rows."""
    num_faults = reading.num_faults()
    if num_faults > max_skipped * reading.num_rows:
        faults = "; ".join(f"{each.reason} in {each.where}" for each in reading.left_out() if each.is_fault)
        raise DataError(
            f"{reading.source.name}: {num_faults} of {reading.num_rows} rows are no examples: {faults}",
            f"at most {max_skipped:.1%} of the rows may be left out (max_skipped)",
            "mend or remove those rows, correct the task's columns and classes, or raise `max_skipped:`",
        )


def _table(format_: Format, readings: Sequence[Reading], classes: Sequence[str]) -> pa.Table:
    examples = [example for reading in readings for example in reading.examples]
    origins = [reading.source.origin for reading in readings for _ in reading.examples]
    parts = [reading.source.part for reading in readings for _ in reading.examples]
    groups = format_.relate(examples) if format_.relate is not None else [example.group for example in examples]
    number_of = {name: number for number, name in enumerate(classes)}
    columns = {
        "id": [_id(example, origin) for example, origin in zip(examples, origins, strict=True)],
        "text": [example.text for example in examples],
        "other": [example.other for example in examples],
        "label": [0 if example.label is None else number_of[example.label] for example in examples],
        "group": list(groups),
        "bundle": [example.bundle for example in examples],
        "stratum": [example.stratum or part for example, part in zip(examples, parts, strict=True)],
        "origin": origins,
    }
    return pa.table(columns, schema=SCHEMA)


def _id(example: Example, origin: str) -> str:
    if example.id is not None:
        return f"{origin}-{example.id}"
    content = ["table", origin, example.group, example.text]
    return identity("example", content + ([example.other] if example.other is not None else []))[:24]
