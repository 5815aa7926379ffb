"""Notices about labels and texts of a task's rows that a user would not expect."""

import difflib
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
_MOST_ABSENT = 10
_MOST_JOINED = 100
"""With more variants or classes than this, the column is probably no label, and no key is suggested."""
_MOST_COMPARED = 200
_LABEL_CHARS = 100
_MOST_SPLITS = 8


def label_remarks(
    values: Mapping[str, int], joined: Mapping[str, str], class_names: Sequence[str] | None
) -> Iterator[str]:
    """Yield notices about the labels of a task's rows.

    Args:
        values: the label values of the rows, with their numbers of rows.
        joined: the study's `labels:`, as the class of each listed value.
        class_names: the study's `classes:`.
    """
    counts: Counter[str] = Counter()
    for value, num in values.items():
        counts[joined.get(value, value)] += num
    yield from _absent("labels", joined, values)
    yield from _absent("classes", class_names or (), counts)
    explicit = {*joined, *joined.values(), *(class_names or ())}
    owners: dict[str, str] = {}
    for value in (*joined.values(), *joined, *(class_names or ())):
        owners.setdefault(_simplified(value), joined.get(value, value))
    missing = {
        value
        for value in values
        if value.casefold() in _MISSING and value not in explicit and _simplified(value) not in owners
    }
    variants = _variants({value: num for value, num in values.items() if value not in missing}, owners, explicit)
    if missing and class_names is None:
        names = {joined.get(value, value) for value in values if value not in missing}
        yield _missing({value: values[value] for value in missing}, sorted(names - {v for _, v in variants}))
    yield from _alike(variants, Counter(values) | counts, joined)


def about_labels(notices: Iterable[str]) -> list[str]:
    """Return those of a task's notices that `label_remarks` made."""
    return [notice for notice in notices if notice.startswith(("the labels ", "labels: ", "classes: "))]


def _variants(values: Mapping[str, int], owners: Mapping[str, str], explicit: Collection[str]) -> list[tuple[str, str]]:
    """Return (class, value) for each value that the study does not list and that is like the class or its values.

    `owners` has the class of each form that the study lists; of other forms, the most frequent value is the class.
    """
    classes = dict(owners)
    variants = []
    for value, _ in Counter(values).most_common():
        name = classes.setdefault(_simplified(value), value)
        if name != value and value not in explicit:
            variants.append((name, value))
    return variants


def _alike(variants: Sequence[tuple[str, str]], counts: Mapping[str, int], joined: Mapping[str, str]) -> Iterator[str]:
    """Yield one notice for all labels that differ only in case, blanks, quotation marks, or form.

    Its `labels:` has everything that the study's own has.
    """
    groups: dict[str, list[str]] = defaultdict(list)
    for name, value in variants:
        form = _simplified(value)
        same = [other for other in (name, *joined) if joined.get(other, other) == name and _simplified(other) == form]
        groups[form] = groups[form] or [other for other in dict.fromkeys(same) if counts.get(other)]
        groups[form].append(value)
    shown = [
        ", ".join(f"{label!r} ({_num_rows(counts[label])})" for label in labels[:_SHOWN])
        + (" …" if len(labels) > _SHOWN else "")
        for labels in groups.values()
        if len(labels) > 1
    ]
    if not shown:
        return
    whole: dict[str, list[str]] = defaultdict(list)
    for name, value in (*((name, value) for value, name in joined.items()), *variants):
        whole[name].append(value)
    rest = f" and {len(shown) - _SHOWN} more such classes" if len(shown) > _SHOWN else ""
    advice = f"`labels: {_as_yaml(whole)}` joins them" if len(variants) <= _MOST_JOINED else "`labels:` joins them"
    yield (
        f"the labels {' and '.join(shown[:_SHOWN])}{rest} differ only in case, blanks or form and are separate "
        f"classes; {advice}"
    )


def _absent(key: str, listed: Collection[str], counts: Mapping[str, int]) -> Iterator[str]:
    """Yield notices for the values that the study lists under `key` and no row has, with the label nearest to each."""
    by_form = {_simplified(label): label for label in counts}
    frequent = [label for label, _ in Counter(counts).most_common(_MOST_COMPARED) if label not in listed]
    lines = []
    for value in (value for value in listed if value not in counts):
        same = by_form.get(_simplified(value))
        if same in listed and _PLAIN_NUMBER.fullmatch(value):
            continue  # the other form of a float
        advice = f"; {same!r} does" if same is not None and same not in listed else ""
        if not advice and value in _YAML_WORDS:
            advice = f"; without quotation marks, YAML reads {_YAML_WORDS[value]} as {value}"
        elif not advice and (near := _nearest(value, frequent)) is not None:
            advice = f"; the nearest label is {near!r}"
        lines.append((not advice, f"{key}: {value!r} does not occur in the data{advice}"))
    lines.sort(key=lambda line: line[0])
    yield from (line for _, line in lines[:_MOST_ABSENT])
    if len(lines) > _MOST_ABSENT:
        yield f"{key}: {len(lines) - _MOST_ABSENT} more values do not occur in the data"


def _nearest(value: str, labels: Sequence[str]) -> str | None:
    """Return the label whose letters are most like those of `value`; of labels that differ in case, the nearer one."""
    if _PLAIN_NUMBER.fullmatch(value):
        return None
    by_fold: dict[str, list[str]] = defaultdict(list)
    for label in labels:
        if len(label) <= _LABEL_CHARS and not _PLAIN_NUMBER.fullmatch(label):
            by_fold[label.casefold()].append(label)
    near = difflib.get_close_matches(value.casefold(), by_fold, n=1)
    same = by_fold[near[0]] if near else []
    return max(same, key=lambda label: difflib.SequenceMatcher(None, value, label).ratio(), default=None)


def _missing(missing: Mapping[str, int], others: Sequence[str]) -> str:
    """Return a notice for labels that programs write for a missing value."""
    rows = ", ".join(f"{label!r} ({_num_rows(num)})" for label, num in sorted(missing.items())[:_SHOWN])
    advice = ""
    if 2 <= len(others) <= _MOST_JOINED:
        advice = f"; with `classes: {_as_yaml(others)}` their rows are left out"
    return f"the labels {rows} may be missing values, and are classes{advice}"


def _as_yaml(value: Mapping[str, list[str]] | Sequence[str]) -> str:
    """Return a value in one line of YAML, with invisible characters escaped."""
    marks = json.dumps(value, ensure_ascii=False)
    escaped = ((mark, f"\\u{ord(mark):04x}" if ord(mark) < 2**16 else f"\\U{ord(mark):08x}") for mark in marks)
    return "".join(mark if mark.isprintable() else escape for mark, escape in escaped)


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
