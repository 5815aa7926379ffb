"""Own data: a format made from the columns that a study names.

    text       a column, or a template such as "{question} {passage}"
    label      a column: the examples have classes. Its values, as text, are matched with `classes`; `labels` joins
               values that mean the same class
    answer     a column: the answer, one line, that is written after the text
    chosen, rejected
               columns: the examples are pairs; `text`, if given, and a line end
               precede both: the prompt
    group      a column; without it, rows whose texts differ only in case and white space are related

White space at both ends of texts is removed unless `strip` is false; then nothing is put between a prompt and its
completions either.

With `text` alone the examples have no labels: text for pretraining.
"""

import string
from collections.abc import Iterable, Sequence

from w2s_ray.errors import DataError
from w2s_ray.spec.base import Kind
from w2s_ray.spec.identity import identity
from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks.dataset import DatasetTask
from w2s_ray.tasks.examples import PAIR_CLASSES, Example, Format, Skip, pair
from w2s_ray.tasks.rows import Row
from w2s_ray.tasks.sources import HubRows, RowSource, local_rows, parse_revision

_SEVERAL_LINES = Skip("an answer of several lines; written answers end with their line")


def own_task(spec: TaskSpec) -> DatasetTask:
    """Return the task of own data, local or on the hub; nothing is read yet.

    Raises:
        DataError: when the template's braces do not match, or a class is listed twice.
    """
    format_ = own_format(spec)
    if spec.files is not None:
        rows: RowSource = local_rows(spec, format_.columns)
    else:
        assert spec.hub is not None
        branch, commit = parse_revision(spec.revision) if spec.revision else (None, None)
        rows = HubRows(spec.hub, spec.subset, branch, spec.split, spec.test_split, commit, share=spec.sample)
    return DatasetTask(format_, rows, ["own", *_keys(spec)], spec.max_skipped)


def own_format(spec: TaskSpec) -> Format:
    """Return the format that `spec` describes.

    Raises:
        DataError: when the template's braces do not match, or a class is listed twice.
    """
    kind = _kind(spec)
    parts = _template(spec.text or "")
    fields = [field for _, field in parts if field is not None]
    named = (spec.label, spec.answer, spec.chosen, spec.rejected, spec.group)
    columns = (*fields, *(column for column in named if column is not None))
    if spec.classes is not None and len(set(spec.classes)) != len(spec.classes):
        raise DataError(f"classes: {list(spec.classes)} lists a class twice")
    joined = {value: name for name, values in (spec.labels or {}).items() for value in values}
    classes = {"classes": spec.classes, "pairs": PAIR_CLASSES, "answers": ("answer",), "text": ("text",)}[kind]

    def examples(row: Row) -> Iterable[Example]:
        text = "" if spec.text is None else _filled(parts, row, strip=spec.strip)
        group = None if spec.group is None else _value(row, spec.group)
        if kind == "pairs":
            assert spec.chosen is not None and spec.rejected is not None
            chosen, rejected = (_value(row, column, strip=spec.strip) for column in (spec.chosen, spec.rejected))
            related = group if group is not None else group_of(text or min(chosen, rejected))
            prompt = f"{text}\n" if text and spec.strip else text
            yield pair(prompt + chosen, prompt + rejected, related, prompt=prompt)
            return
        label = _value(row, spec.label, "label") if spec.label is not None else None
        answer = _value(row, spec.answer) if spec.answer is not None else None
        if answer is not None and "\n" in answer:
            raise _SEVERAL_LINES
        yield Example(text, group if group is not None else group_of(text), label, answer)

    return Format(kind, columns, examples, classes, joined)


def group_of(text: str) -> str:
    """Return the group of a text: the same for texts that differ only in case and white space."""
    return identity("text", " ".join(text.lower().split()))[:24]


def _written(row: Row, column: str) -> str:
    """Return a value as text: booleans as in JSON, a missing value as "", whole floats without a decimal point.

    Raises:
        Skip: when it is a list, an object or bytes.
    """
    value = row.get(column)
    if value is None or value != value:  # NaN marks a missing value in a column of numbers
        return ""
    for type_, noun in ((list, "a list"), (dict, "a mapping"), (bytes, "bytes")):
        if isinstance(value, type_):
            raise Skip(f"{column} is {noun} and not text")
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value)


def _template(text: str) -> list[tuple[str, str | None]]:
    """Split `text:`, a column name or a template, into pairs of literal text and the column that follows it."""
    hint = 'a template has {column} fields, for example "{question} {passage}"'
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise DataError(f"text: {text!r}: {error}", hint) from None
    if all(field is None for _, field, _, _ in parts):
        return [("", text)] if text else []
    if any(field == "" for _, field, _, _ in parts):
        raise DataError(f"text: {text!r}: there is no column name between the braces", hint)
    for _, field, format_, conversion in parts:
        if format_ or conversion:
            extra = f"!{conversion}" if conversion else f":{format_}"
            raise DataError(f"text: {text!r}: only a column name may be in braces, not {field}{extra}", hint)
    return [(words, field) for words, field, _, _ in parts]


def _filled(parts: Sequence[tuple[str, str | None]], row: Row, *, strip: bool) -> str:
    """Fill the template with the row's values, without `str.format`, which would evaluate attributes in field names.

    Raises:
        Skip: when every value is empty.
    """
    values = ["" if field is None else _written(row, field) for _, field in parts]
    if not any(map(str.strip, values)):
        raise Skip("no text")
    if not strip:
        return "".join(words + value for (words, _), value in zip(parts, values, strict=True))
    return "".join(words + value.strip() for (words, _), value in zip(parts, values, strict=True)).strip()


def _value(row: Row, column: str, name: str | None = None, *, strip: bool = True) -> str:
    """Return a value, without white space at its ends if `strip`.

    Raises:
        Skip: when it is empty.
    """
    value = _written(row, column)
    if not value.strip():
        raise Skip(f"no {name or column}")
    return value.strip() if strip else value


def _kind(spec: TaskSpec) -> Kind:
    if spec.chosen is not None:
        return "pairs"
    if spec.answer is not None:
        return "answers"
    return "text" if spec.label is None else "classes"


def _keys(spec: TaskSpec) -> list[object]:
    keys: list[object] = [spec.text, spec.label, spec.classes, spec.group, spec.answer, spec.chosen, spec.rejected]
    if spec.group is not None:
        keys.append("first group of a repeated text in sorted order")
    if not spec.strip:
        keys.append("whole texts")
    if spec.labels is not None:
        keys.append(["labels", {name: sorted(values) for name, values in spec.labels.items()}])
    return keys if spec.sample is None else [*keys, ["sample", spec.sample]]
