"""Own data: rows with a text and a label become examples.

    text    a column, or a template such as "{question} {passage}"; white space at the ends goes
    label   a column; its values, as text, are matched with `classes` (truth values as JSON writes them)
    group   a column; without one, rows whose texts differ only in case and white space are related

A text that occurs twice in a group is one example. Where such rows disagree on the label, none of them is kept,
because nobody knows which is right; when more than `MAX_CONFLICTS` of the rows are of that kind, the data is refused.
"""

import difflib
import logging
import re
import string
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from w2s_ray.errors import DataError
from w2s_ray.spec.identity import identity
from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks.rows import Row, file_digest, read_rows
from w2s_ray.tasks.task import POOL, SCHEMA, TEST, Kind, TaskData

RECIPE = 1
"""Raised whenever this module would make other examples from the same rows."""

MAX_CLASSES = 100
"""More distinct labels than this, when `classes` does not list them, are taken for a mistake."""
MAX_CONFLICTS = 0.05
_SHOWN = 5
_PLAIN_INTEGER = re.compile(r"-?\d{1,18}")
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Rows and what to call them in errors."""

    name: str
    rows: Sequence[Row]
    origin: str


class FilesTask:
    """A task read from local files."""

    kind: Kind = "classes"

    def __init__(self, spec: TaskSpec) -> None:
        assert spec.files is not None
        self.spec = spec
        self._paths = {POOL: Path(spec.files)}
        if spec.test_files is not None:
            self._paths[TEST] = Path(spec.test_files)

    def fingerprint(self) -> str:
        """Return the digest of the columns asked for and of the files' content.

        Raises:
            DataError: when a file is missing.
        """
        digests = {origin: file_digest(path) for origin, path in self._paths.items()}
        return identity("task", ["files", definition(self.spec), digests])

    def read(self) -> TaskData:
        """Return the files' rows as examples; those of the test file have the origin `test`.

        Raises:
            DataError: when a file, a column, a text or a label is not as it should be.
        """
        sources = [Source(str(path), read_rows(path), origin) for origin, path in self._paths.items()]
        return task_data(sources, self.spec)


def definition(spec: TaskSpec) -> list[object]:
    """Return what, besides the rows, decides the examples: part of a fingerprint."""
    return [RECIPE, spec.text, spec.label, spec.classes, spec.group]


def task_data(sources: Sequence[Source], spec: TaskSpec) -> TaskData:
    """Turn rows into examples; the first source decides the classes where `spec.classes` does not.

    Raises:
        DataError: when a column is missing, a text is empty, a label is unknown, or there is only one class.
    """
    assert spec.text is not None and spec.label is not None
    for source in sources:
        if not source.rows:
            raise DataError(f"{source.name} has no rows", "a task has examples", "check the file")
    labels = [_labels(source, spec.label) for source in sources]
    classes = spec.classes or _classes(sources[0].name, labels[0], spec.label)
    _check_classes(sources[0].name, classes, labels[0])
    examples: list[dict[str, object]] = []
    for source, of_source in zip(sources, labels, strict=True):
        numbers = _class_numbers(source, of_source, classes)
        examples += _examples(source, _texts(source, spec.text), numbers, _groups(source, spec.group))
    return TaskData(pa.Table.from_pylist(examples, schema=SCHEMA), classes)


def columns_of(template: str, columns: Iterable[str]) -> list[str]:
    """Return the columns that `text:` names: itself, or the fields of a template.

    Raises:
        DataError: when the template's braces do not match.
    """
    if template in columns:
        return [template]
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        remedy = 'write for example "{question} {passage}"'
        raise DataError(f"text: {template!r}: {error}", "a template holds {column} fields", remedy) from None
    return fields or [template]


def _texts(source: Source, template: str) -> list[str]:
    columns = columns_of(template, source.rows[0])
    parts = [_column(source, column) for column in columns]
    if columns == [template]:
        texts = [_as_text(value).strip() for value in parts[0]]
    else:
        pieces = [piece for piece, _, _, _ in string.Formatter().parse(template)]
        texts = [_filled(pieces, values) for values in zip(*parts, strict=True)]
    # A row says nothing when all its columns are empty, whatever the template adds around them.
    empty = [at for at, values in enumerate(zip(*parts, strict=True)) if not any(_as_text(v).strip() for v in values)]
    if empty:
        raise DataError(
            f"{source.name}: no text in {_described_rows(empty)}", "every example has a text", "remove those rows"
        )
    return texts


def _filled(pieces: Sequence[str], values: Sequence[object]) -> str:
    """Put values between the template's pieces; not `str.format`, which would look into them."""
    ends = [*(_as_text(value).strip() for value in values), *[""] * (len(pieces) - len(values))]
    return "".join(piece + end for piece, end in zip(pieces, ends, strict=True)).strip()


def _labels(source: Source, column: str) -> list[str]:
    values = _column(source, column)
    missing = [at for at, value in enumerate(values) if value is None or value == ""]
    if missing:
        raise DataError(
            f"{source.name}: no label in {_described_rows(missing)}", "every example has a label", "remove those rows"
        )
    return [_as_text(value) for value in values]


def _groups(source: Source, column: str | None) -> list[str] | None:
    return None if column is None else [_as_text(value) for value in _column(source, column)]


def _column(source: Source, column: str) -> list[object]:
    known = list(dict.fromkeys(name for row in source.rows[:100] for name in row))
    if column not in known:
        near = difflib.get_close_matches(column, known, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]!r}?" if near else f"its columns are {', '.join(map(repr, known))}"
        raise DataError(f"{source.name} has no column {column!r}", "`text`, `label` and `group` name columns", remedy)
    return [row.get(column) for row in source.rows]


def _as_text(value: object) -> str:
    """Write a value as text; truth values as JSON does, nothing as nothing, whole floats without their point."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _classes(name: str, labels: Sequence[str], column: str) -> tuple[str, ...]:
    distinct = set(labels)
    if len(distinct) > MAX_CLASSES:
        raise DataError(
            f"{name}: column {column!r} has {len(distinct)} distinct values",
            f"without `classes:` a label has at most {MAX_CLASSES}",
            "check `label:`, or list the values under `classes:`",
        )
    if all(_PLAIN_INTEGER.fullmatch(label) for label in distinct):
        return tuple(sorted(distinct, key=int))
    return tuple(sorted(distinct))


def _check_classes(name: str, classes: Sequence[str], labels: Sequence[str]) -> None:
    if len(set(classes)) != len(classes):
        raise DataError(f"classes: {list(classes)}", "each class stands once", "remove the doubles")
    present = set(labels) & set(classes)
    if len(present) == 1:
        raise DataError(
            f"{name}: every label is {present.pop()!r}",
            "a classification task has examples of two classes or more",
            "check `label:` and `classes:`",
        )


def _class_numbers(source: Source, labels: Sequence[str], classes: Sequence[str]) -> list[int]:
    number_of = {label: number for number, label in enumerate(classes)}
    unknown = [at for at, label in enumerate(labels) if label not in number_of]
    if unknown:
        values = sorted({labels[at] for at in unknown})[:_SHOWN]
        raise DataError(
            f"{source.name}: unknown label {', '.join(map(repr, values))} in {_described_rows(unknown)}",
            f"a label is one of {', '.join(map(repr, classes))}",
            "correct `classes:`, or remove those rows",
        )
    return [number_of[label] for label in labels]


def _examples(
    source: Source, texts: Sequence[str], numbers: Sequence[int], groups: Sequence[str] | None
) -> list[dict[str, object]]:
    """Return one example for each distinct text of a group, without those whose labels disagree."""
    kept: dict[tuple[str, str], dict[str, object]] = {}
    conflicts: set[tuple[str, str]] = set()
    groups = groups if groups is not None else [_group_of(text) for text in texts]
    keys = list(zip(groups, texts, strict=True))
    for key, number in zip(keys, numbers, strict=True):
        group, text = key
        if key not in kept:
            id_ = identity("example", ["table", source.origin, group, text])[:24]
            kept[key] = {"id": id_, "text": text, "label": number, "group": group, "origin": source.origin}
        elif kept[key]["label"] != number:
            conflicts.add(key)
    _report_conflicts(source, keys, conflicts, len(keys) - len(kept))
    return [example for key, example in kept.items() if key not in conflicts]


def _report_conflicts(
    source: Source, keys: Sequence[tuple[str, str]], conflicts: set[tuple[str, str]], num_doubles: int
) -> None:
    rows = [at for at, key in enumerate(keys) if key in conflicts]
    if len(rows) > MAX_CONFLICTS * len(keys):
        raise DataError(
            f"{source.name}: the same text has different labels in {_described_rows(rows)}",
            f"at most {MAX_CONFLICTS:.0%} of the rows may contradict each other",
            "remove the wrong rows, or add the columns that tell them apart to `text:`",
        )
    if num_doubles:
        message = "%s: %d rows repeat the text of another; %d rows left out because their labels disagree"
        _logger.warning(message, source.name, num_doubles, len(rows))


def _group_of(text: str) -> str:
    return identity("text", " ".join(text.lower().split()))[:24]


def _described_rows(positions: Sequence[int]) -> str:
    shown = ", ".join(str(at + 1) for at in positions[:_SHOWN])
    more = f" and {len(positions) - _SHOWN} more" if len(positions) > _SHOWN else ""
    return f"row {shown}{more}" if len(positions) == 1 else f"rows {shown}{more}"
