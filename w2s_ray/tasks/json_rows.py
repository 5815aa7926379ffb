"""Rows of JSON files in the shapes that people have.

A file is JSON lines, a list of objects, or objects one after another. A file with one object holds its rows under one
of its keys (`{"data": [...]}`), also deeper, or is a table as pandas writes it, by columns, by rows or split. Rows may
be wrapped, as a data server's (`{"row_idx": 0, "row": {...}}`). An object that has the task's columns itself is a row.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from w2s_ray.errors import DataError

_SHAPES = "a JSON file is a list of objects, or one object per line"
_SPACE = re.compile(r"\s*")
_AT_CHARS = 20
_DEPTH = 4
"""How deep rows are searched for in one object."""
_HINTS = {
    ",": "remove the comma: lines are not separated by commas, and nothing follows a list's last one",
    "\ufeff": "remove the byte order mark, which joining files has left there",
    **dict.fromkeys(("//", "/*", "#"), "JSON has no comments; remove them"),
    **dict.fromkeys(("'", "None", "True", "False"), "this is Python and not JSON; write the rows with `json.dumps`"),
}
"""Remedies by what JSON ends at."""


class _Repeated(dict[str, Any]):
    """An object that has keys twice."""

    def __init__(self, pairs: Sequence[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        names = [name for name, _ in pairs]
        self.repeated = [name for name in self if names.count(name) > 1]


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    return made if len(made) == len(pairs) else _Repeated(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_object)


class _Rows(NamedTuple):
    """Rows within an object."""

    key: str
    """The keys that lead to them; empty for the object itself."""
    shape: str
    """How they are written, if not as a list of rows; empty otherwise."""
    rows: Sequence[object]
    have_columns: bool
    """Whether they have a column that the task reads."""


def parsed(path: Path, text: str, line: int) -> Any:
    """Parse JSON that begins on line `line` of the file.

    Raises:
        DataError: when it is not JSON.
    """
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError) as error:
        raise _not_json(path, error, line + getattr(error, "lineno", 1) - 1) from None


def as_row(path: Path, value: object, where: str, columns: Collection[str], notices: list[str]) -> dict[str, Any]:
    """Return a value as a row: an object, or the one object in it that has the task's columns if it has none itself.

    Raises:
        DataError: when it is not an object, or has a key twice that is in `columns`; if they are empty, any key.
    """
    if not isinstance(value, dict):
        raise DataError(f"{path}: {where} has the type {type(value).__name__}, and a row is a JSON object", _SHAPES)
    for key in value.repeated if isinstance(value, _Repeated) else ():
        if key in columns or not columns:
            raise DataError(
                f"{path}: {where} has the key {key!r} twice, so it is unknown which value is meant",
                "rename or remove one of them",
            )
        _note(notices, f"some rows have the key {key!r} twice, which the task does not read")
    wrapper = _wrapper(value, columns)
    if wrapper is None:
        return value
    _note(notices, f"the columns are under the key {wrapper!r}")
    return as_row(path, value[wrapper], where, columns, notices)


def _note(notices: list[str], notice: str) -> None:
    if notice not in notices:
        notices.append(notice)


def _wrapper(row: Mapping[str, Any], columns: Collection[str]) -> str | None:
    """Return the key of a row's only object with the task's columns, if the row itself has none of them."""
    if any(column in row for column in columns):
        return None
    keys = [key for key, item in row.items() if isinstance(item, dict) and any(column in item for column in columns)]
    return keys[0] if len(keys) == 1 else None


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
    items = _list_of(path, text, kind) if begin == "[" else None
    where = "item"
    if items is not None:
        if kind != "json":
            notices.append("it is one JSON list and not a line for each row")
    # Not splitlines(): a JSON string may contain U+2028, which is a line end there.
    elif begin != "{" or are_lines(path, iter(text.split("\n"))):
        lines = ((n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip())
        return [as_row(path, parsed(path, line, n), f"line {n}", columns, notices) for n, line in lines]
    else:
        items, where = list(_documents(path, text)), "object"
        if len(items) == 1:
            return _rows_of_object(path, as_row(path, items[0], "the object", columns, notices), kind, columns, notices)
    return [as_row(path, value, f"{where} {n}", columns, notices) for n, value in enumerate(items, start=1)]


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
    if not isinstance(error, json.JSONDecodeError):
        return DataError(f"{path}: line {line} is not JSON: {error}", _SHAPES)
    rest = error.doc[error.pos : error.pos + _AT_CHARS]
    is_after_comma = rest[:1] in ("]", "}") and error.doc[: error.pos].rstrip().endswith(",")
    hints = (hint for start, hint in _HINTS.items() if ("," if is_after_comma else rest).startswith(start))
    at = f" at {rest!r}" if rest else ""
    return DataError(f"{path}: line {line} is not JSON: {error.msg.removesuffix(' at')}{at}", next(hints, _SHAPES))


def _rows_of_object(
    path: Path, value: dict[str, Any], kind: str, columns: Collection[str], notices: list[str]
) -> list[dict[str, Any]]:
    """Return the rows of a file that is one object."""
    # A line is a row, whatever its values are.
    if any(column in value for column in columns) and (kind != "json" or not _is_table(value, columns)):
        return [value]
    places = list(_places(path, value, columns))
    places = [place for place in places if place.have_columns] or places
    if len(places) > 1:
        keys = ", ".join(repr(place.key) for place in places)
        raise DataError(
            f"{path} is one JSON object that holds rows under several keys: {keys}",
            "write a file for each of them, and name them with `files:` and `test_files:`",
        )
    if not places and columns:
        keys = ", ".join(map(repr, list(value)[:8])) + (" …" if len(value) > 8 else "")
        raise DataError(
            f"{path} is one JSON object and holds no rows with {', '.join(map(repr, columns))}; its keys are {keys}",
            _SHAPES,
        )
    if not places:
        return [value]
    ((key, shape, rows, _),) = places
    where = f"the rows are under its key {key!r}" if key else "it is one JSON object"
    notices.append(" ".join((where, shape)).strip())
    return [as_row(path, row, f"{key or 'row'} {n}", columns, notices) for n, row in enumerate(rows, start=1)]


def _places(path: Path, value: object, columns: Collection[str], keys: tuple[str, ...] = ()) -> Iterator[_Rows]:
    """Yield the rows in a value, with the keys that lead to them."""
    key = ".".join(keys)
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        yield _Rows(key, "", value, any(_is_row(row, columns) for row in value))
    if not isinstance(value, dict):
        return
    if _is_table(value, columns):
        yield _Rows(key, "with a list of values for each column", _from_columns(path, value, columns), True)
    elif _is_split(value):
        rows = _from_split(path, value, columns)
        yield _Rows(key, "with `columns` and `data`, as pandas writes it with orient='split'", rows, True)
    elif value and all(_is_row(item, columns) for item in value.values()):
        yield _Rows(key, "with a row under each key", list(value.values()), True)
    elif len(keys) < _DEPTH and not any(column in value for column in columns):
        for name, item in value.items():
            yield from _places(path, item, columns, (*keys, name))


def _is_row(item: object, columns: Collection[str]) -> bool:
    if not isinstance(item, Mapping):
        return False
    return any(column in item for column in columns) or _wrapper(item, columns) is not None


def _is_table(value: Mapping[str, Any], columns: Collection[str]) -> bool:
    """Whether the task's columns are lists of cells, or pandas' mappings from row labels."""
    named = [value[column] for column in columns if column in value]
    return bool(named) and all(isinstance(item, list | dict) for item in named)


def _is_split(value: Mapping[str, Any]) -> bool:
    names, cells = value.get("columns"), value.get("data")
    if not isinstance(names, list) or not isinstance(cells, list) or not all(isinstance(name, str) for name in names):
        return False
    return bool(cells) and all(isinstance(row, list) and len(row) == len(names) for row in cells)


def _from_split(path: Path, value: Mapping[str, Any], columns: Collection[str]) -> list[dict[str, Any]]:
    names = value["columns"]
    repeated = [name for name in names if names.count(name) > 1 and (name in columns or not columns)]
    if repeated:
        raise DataError(f"{path} has the column {repeated[0]!r} twice among {names}", "rename or remove one of them")
    return [dict(zip(names, cells, strict=True)) for cells in value["data"]]


def _from_columns(path: Path, value: Mapping[str, Any], columns: Collection[str]) -> list[dict[str, Any]]:
    """Return the rows of a table that is stored by columns, without values that have no cell for each row.

    Raises:
        DataError: when the columns that the task reads do not have the same rows.
    """
    cells = {name: item for name, item in value.items() if isinstance(item, list | dict)}
    for name, item in cells.items():
        as_row(path, item if isinstance(item, dict) else {}, f"the column {name!r}", (), [])
    labels = {name: list(item) if isinstance(item, dict) else list(range(len(item))) for name, item in cells.items()}
    rows = next(labels[name] for name in columns if name in labels)
    if any(labels[name] != rows for name in columns if name in labels):
        lengths = ", ".join(f"{name!r} has {len(item)}" for name, item in labels.items())
        raise DataError(f"{path} is a table by columns, which do not have the same rows: {lengths}", _SHAPES)
    kept = [name for name in cells if labels[name] == rows]
    lists = [list(item.values()) if isinstance(item, dict) else item for item in map(cells.__getitem__, kept)]
    return [dict(zip(kept, row, strict=True)) for row in zip(*lists, strict=True)]
