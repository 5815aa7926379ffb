"""What a user would not expect of the labels and texts of a task's rows."""

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from w2s_ray.tasks.places import split_of

_PLAIN_NUMBER = re.compile(r"[+-]?\d{1,15}(\.\d*)?")
_MISSING = frozenset("nan null none nil n/a na nat <na> #n/a undefined missing".split())
_TRUTH = {"true": "1.0", "false": "0.0"}
_YAML_WORDS = {"true": "yes and on", "false": "no and off"}
_DAMAGED = re.compile("[\x00\ufffd]|Ã[\x80-\xbf]|â€")
"""NUL, the mark of an undecodable byte, and UTF-8 that was decoded as Latin-1 or cp1252."""
_MARKS = ("\x00", "\ufffd", "Ã", "â€")
"""One of these is in each such text."""
_SHOWN = 5
_MOST_SPLITS = 8


def alike_labels(counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a notice for labels that differ only in case, blanks, quotation marks, or the form of a number or truth."""
    alike: dict[str, list[str]] = defaultdict(list)
    for label, _ in Counter(counts).most_common():
        alike[_simplified(label)].append(label)
    for name, *others in (labels for labels in alike.values() if len(labels) > 1):
        rows = ", ".join(f"{label!r} ({_num_rows(counts[label])})" for label in (name, *others))
        yield (
            f"the labels {rows} differ only in case, blanks or form and are separate classes; "
            f"`labels: {json.dumps({name: others}, ensure_ascii=False)}` joins them"
        )


def absent_labels(key: str, listed: Collection[str], counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a notice for each value that the study lists under `key` and no row has."""
    by_form = {_simplified(label): label for label in counts}
    for value in (value for value in listed if value not in counts):
        near = by_form.get(_simplified(value))
        if near in listed and _PLAIN_NUMBER.fullmatch(value):
            continue  # the other form of a float
        advice = f"; {near!r} does" if near is not None and near not in listed else ""
        if not advice and value in _YAML_WORDS:
            advice = f"; without quotation marks, YAML reads {_YAML_WORDS[value]} as {value}"
        yield f"{key}: {value!r} does not occur in the data{advice}"


def missing_labels(counts: Mapping[str, int]) -> Iterator[str]:
    """Yield a notice for labels that programs write for a missing value."""
    missing = [label for label in counts if label.casefold() in _MISSING]
    others = sorted(label for label in counts if label not in missing)
    if missing:
        rows = ", ".join(f"{label!r} ({_num_rows(counts[label])})" for label in missing[:_SHOWN])
        yield (
            f"the labels {rows} may be missing values, and are classes; with `classes: {json.dumps(others[:_SHOWN])}` "
            "their rows are left out"
        )


def doubtful_texts(texts: Sequence[str]) -> Iterator[str]:
    """Yield notices for texts that may be missing, are invisible, or were damaged by a wrong encoding."""
    missing = Counter(text for text in texts if len(text) < 10 and text.casefold() in _MISSING)
    if missing:
        shown = ", ".join(f"{text!r} ({_num_rows(num)})" for text, num in missing.most_common(_SHOWN))
        yield f"the texts {shown} may be missing values, and are read as they are"
    invisible = sum(not any(map(_is_visible, text)) for text in texts)
    if invisible:
        yield f"{_num_rows(invisible)} with a text of invisible characters alone"
    doubtful = (text for text in texts if any(mark in text for mark in _MARKS))  # quick where there are none
    damaged = [match for match in map(_DAMAGED.search, doubtful) if match is not None]
    if damaged:
        around = damaged[0].string[max(damaged[0].start() - 10, 0) : damaged[0].end() + 10]
        yield (
            f"{_num_rows(len(damaged))} with characters of a wrong encoding or of damage, the first at {around!r}; "
            "write the file again from its source"
        )


def split_columns(rows: Iterable[Mapping[str, Any]], columns: Collection[str]) -> Iterator[str]:
    """Yield a notice for each column that the task does not read and whose few values name splits."""
    values: dict[str, set[str]] = defaultdict(set)
    for row in rows if isinstance(rows, list) else ():
        for name in [name for name in row if name not in columns and len(values[name]) <= _MOST_SPLITS]:
            values[name].add(row[name] if isinstance(row[name], str) else "")
    for name, distinct in values.items():
        splits = {split_of(Path(value)) for value in distinct} if len(distinct) <= _MOST_SPLITS else set()
        if splits >= {"train", "test"}:
            shown = ", ".join(map(repr, sorted(distinct)))
            yield (
                f"its column {name!r} has the values {shown}, which are like the names of splits and are not read; "
                "write a file for each split, for `files:` and `test_files:`"
            )


def _num_rows(num: int) -> str:
    return "1 row" if num == 1 else f"{num:,} rows"


def _is_visible(mark: str) -> bool:
    return mark.isalnum() or unicodedata.category(mark)[0] not in "CZ"


def _simplified(label: str) -> str:
    """Return a label without the differences that people overlook."""
    visible = "".join(mark for mark in unicodedata.normalize("NFKC", label) if unicodedata.category(mark) != "Cf")
    plain = "".join(visible.casefold().split()).strip("'\"`")
    return repr(float(plain)) if _PLAIN_NUMBER.fullmatch(plain) else _TRUTH.get(plain, plain) or label
