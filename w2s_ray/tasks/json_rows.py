"""Rows of JSON files in the shapes that people have.

A file is JSON lines, a list of objects, or objects one after another. A file with one object holds its rows under one
of its keys (`{"data": [...]}`), or is a table as pandas writes it, by columns, by rows or split. An object that has the
task's columns itself is a row.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from w2s_ray.errors import DataError

_SHAPES = "a JSON file is a list of objects, or one object per line"
_SPACE = re.compile(r"\s*")


class _Repeated(dict[str, Any]):
    """An object that has a key twice."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.key = next(name for name in names if names.count(name) > 1)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    return made if len(made) == len(pairs) else _Repeated(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


def parsed(path: Path, text: str, line: int) -> Any:
    """Parse JSON that begins on line `line` of the file.

    Raises:
        DataError: when it is not JSON.
    """
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise _not_json(path, error, line + getattr(error, "lineno", 1) - 1) from None


def as_row(path: Path, value: object, where: str) -> dict[str, Any]:
    """Return a value as a row.

    Raises:
        DataError: when it is not an object, or has a key twice.
    """
    if not isinstance(value, dict):
        raise DataError(f"{path}: {where} has the type {type(value).__name__}, and a row is a JSON object", _SHAPES)
    if isinstance(value, _Repeated):
        raise DataError(
            f"{path}: {where} has the key {value.key!r} twice, so it is unknown which value is meant",
            "rename or remove one of them",
        )
    return value


def are_lines(path: Path, lines: Iterator[str]) -> bool:
    """Return whether a file's lines are one JSON value each: its first line is whole, and it has more than one."""
    first = next((line for line in lines if line.strip()), "")
    if not _is_object(first):
        return False
    return any(line.strip() for line in lines)


def json_rows(path: Path, text: str, kind: str, columns: Collection[str], notices: list[str]) -> list[dict[str, Any]]:
    """Return the rows of a file's text, and append notices about its shape.

    Args:
        path: the file, for errors.
        text: all of its text.
        kind: its ending: `json`, `jsonl` or `ndjson`.
        columns: the columns that the task reads, which tell a row from an object that holds rows.
        notices: receives what a reader would not expect from the ending.

    Raises:
        DataError: when the text is not JSON, or holds no rows.
    """
    begin = text.lstrip()[:1]
    if begin == "[":
        items = _list_of(path, text, kind)
        if items is not None:
            if kind != "json":
                notices.append("it is one JSON list and not a line for each row")
            return [as_row(path, value, f"item {n}") for n, value in enumerate(items, start=1)]
    # Not splitlines(): a JSON string may contain U+2028, which is a line end there.
    if begin != "{" or are_lines(path, iter(text.split("\n"))):
        lines = ((n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip())
        return [as_row(path, parsed(path, line, n), f"line {n}") for n, line in lines]
    objects = list(_documents(path, text))
    if len(objects) > 1:
        return [as_row(path, value, f"object {n}") for n, value in enumerate(objects, start=1)]
    return _rows_of_object(path, as_row(path, objects[0], "the object"), columns, notices)


def _is_object(line: str) -> bool:
    try:
        return isinstance(_DECODER.decode(line), dict)
    except (ValueError, RecursionError):
        return False


def _list_of(path: Path, text: str, kind: str) -> list[Any] | None:
    """Return the items of a list; None for lines that are lists themselves."""
    if kind == "json":
        return list(parsed(path, text, 1))
    try:
        items = _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None
    return items if items and all(isinstance(item, dict) for item in items) else None


def _documents(path: Path, text: str) -> Iterator[Any]:
    """Yield the JSON values that follow each other in a text."""
    end = len(text.rstrip())
    place = 0
    while place < end:
        space = _SPACE.match(text, place)
        place = place if space is None else space.end()
        try:
            value, place = _DECODER.raw_decode(text, place)
        except (ValueError, RecursionError) as error:
            line = getattr(error, "lineno", text.count("\n", 0, place) + 1)
            raise _not_json(path, error, line) from None
        yield value


def _not_json(path: Path, error: Exception, line: int) -> DataError:
    return DataError(f"{path}: line {line} is not JSON: {getattr(error, 'msg', error)}", _SHAPES)


def _rows_of_object(
    path: Path, value: dict[str, Any], columns: Collection[str], notices: list[str]
) -> list[dict[str, Any]]:
    """Return the rows of a file that is one object."""
    named = [value[column] for column in columns if column in value]
    if named and not (all(_is_cells(item) for item in named)):
        return [value]
    if named:
        notices.append("it is one JSON object with a list of values for each column")
        return _from_columns(path, value)
    if _is_split(value):
        notices.append("it is one JSON object with `columns` and `data`, as pandas writes it with orient='split'")
        names = value["columns"]
        if len(set(names)) < len(names):
            raise DataError(f"{path} has a column twice among {names}", "rename or remove one of them")
        return [dict(zip(names, cells, strict=True)) for cells in value["data"]]
    candidates = {key: item for key, item in value.items() if _is_rows(item)}
    lists = {key: rows for key, rows in candidates.items() if any(_is_row(row, columns) for row in rows)} or candidates
    if len(lists) == 1:
        (key, rows), *_ = lists.items()
        notices.append(f"the rows are under its key {key!r}")
        return [as_row(path, row, f"{key} {n}") for n, row in enumerate(rows, start=1)]
    if len(lists) > 1:
        raise DataError(
            f"{path} is one JSON object that holds rows under several keys: {', '.join(map(repr, lists))}",
            "write a file for each of them, and name them with `files:` and `test_files:`",
        )
    if columns and value and all(_is_row(item, columns) for item in value.values()):
        notices.append("it is one JSON object with a row under each key")
        return [as_row(path, row, f"the row {key!r}") for key, row in value.items()]
    if not columns:
        return [value]
    keys = ", ".join(map(repr, list(value)[:8])) + (" …" if len(value) > 8 else "")
    raise DataError(
        f"{path} is one JSON object and holds no rows with {', '.join(map(repr, columns))}; its keys are {keys}",
        _SHAPES,
    )


def _is_cells(item: object) -> bool:
    """Whether it is the values of a column: a list, or pandas' mapping from row labels."""
    return isinstance(item, list | dict)


def _is_row(item: object, columns: Collection[str]) -> bool:
    return isinstance(item, Mapping) and any(column in item for column in columns)


def _is_rows(item: object) -> bool:
    return isinstance(item, list) and bool(item) and all(isinstance(row, dict) for row in item)


def _is_split(value: Mapping[str, Any]) -> bool:
    names, cells = value.get("columns"), value.get("data")
    if not isinstance(names, list) or not isinstance(cells, list) or not all(isinstance(name, str) for name in names):
        return False
    return all(isinstance(row, list) and len(row) == len(names) for row in cells)


def _from_columns(path: Path, value: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of a table that is stored by columns.

    Raises:
        DataError: when its columns do not have the same rows.
    """
    columns = {name: item for name, item in value.items() if _is_cells(item)}
    for name, item in columns.items():
        as_row(path, item if isinstance(item, dict) else {}, f"the column {name!r}")
    labels = {name: list(item) if isinstance(item, dict) else list(range(len(item))) for name, item in columns.items()}
    first, *others = labels.values()
    if any(other != first for other in others):
        lengths = ", ".join(f"{name!r} has {len(item)}" for name, item in labels.items())
        raise DataError(f"{path} is a table by columns, which do not have the same rows: {lengths}", _SHAPES)
    cells = [list(item.values()) if isinstance(item, dict) else item for item in columns.values()]
    return [dict(zip(columns, row, strict=True)) for row in zip(*cells, strict=True)]
