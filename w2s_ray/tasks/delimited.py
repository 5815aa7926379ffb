"""Rows of CSV and TSV files.

The delimiter is that of the file's ending, unless the first rows show another one: `;`, a tab, `|` or `,`. Fields are
quoted with double quotes, except between tabs: there a quotation mark is text, so that a single one cannot join lines.
`quoting:` decides otherwise.
"""

import csv
import io
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from w2s_ray.errors import DataError
from w2s_ray.tasks.text_files import decoded, head_text, lines_of, text_of_file

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
_FIELD_CHARS = 2**31 - 1
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)
_JSON_LINE = re.compile(r'\s*(\[\s*)?\{\s*"[^"\n]*"\s*:')
_SHOWN = 5
_HEADER_CHARS = 80
_QUOTED = re.compile(r'"[^"]+"')


class Dialect(NamedTuple):
    """How the fields of a file are separated."""

    kind: str
    delimiter: str
    is_quoted: bool
    has_separator_line: bool = False
    """Whether the first line is Excel's `sep=;`, which is no row."""

    @property
    def notices(self) -> list[str]:
        """Properties of the file that its ending does not suggest."""
        if self.delimiter == _DELIMITERS[self.kind]:
            return []
        return [f"the fields are separated by {_NAMES.get(self.delimiter, repr(self.delimiter))}"]

    def reader(self, lines: Iterable[str]) -> Any:
        """Return a reader of the lines' records."""
        csv.field_size_limit(_FIELD_CHARS)
        if self.is_quoted:
            return csv.reader(lines, delimiter=self.delimiter, strict=True)
        return csv.reader(lines, delimiter=self.delimiter, strict=True, quoting=csv.QUOTE_NONE)


class DelimitedRecord(NamedTuple):
    """A row: its number from 1, its lines in the file, and its fields."""

    number: int
    first_line: int
    last_line: int
    fields: list[str]


def dialect_of(path: Path, kind: str, quoting: bool | None) -> Dialect:
    """Find how the fields of a file are separated, from its first rows."""
    head = head_text(path)
    if _JSON_LINE.match(head):
        raise DataError(f"{path} holds JSON and no rows with delimiters", "rename it to .jsonl or .json")
    line = _SEPARATOR_LINE.match(head)
    if line is not None:
        return Dialect(kind, line[1], line[1] != "\t" if quoting is None else quoting, has_separator_line=True)
    usual, *others = (
        Dialect(kind, delimiter, delimiter != "\t" if quoting is None else quoting)
        for delimiter in sorted(_NAMES, key=lambda delimiter: delimiter != _DELIMITERS[kind])
    )
    num_fields, share = _tried(usual, head)
    if num_fields > 1 and share == 1:
        return usual
    if quoting is None and kind == "csv":  # if tabs separate the fields, and only quoting gives each row as many
        others.append(Dialect(kind, "\t", is_quoted=True))
    tried = [(dialect, *_tried(dialect, head)) for dialect in others]
    least = 1.0 if num_fields > 1 else 0.5
    fitting = [(share, fields, dialect) for dialect, fields, share in tried if fields > 1 and share >= least]
    return max(fitting, key=lambda item: item[:2])[2] if fitting else usual


def digest_kind(path: Path, kind: str, quoting: bool | None) -> str:
    """Return the kind of a file for its digest: the ending, and what is read in another way than by the ending alone.

    Before `quoting:` all fields were quoted. That gives other rows only if a field begins with a quotation mark.
    """
    dialect = dialect_of(path, kind, quoting)
    parts = [kind]
    if dialect.delimiter != _DELIMITERS[kind] or dialect.has_separator_line:
        parts.append(repr(dialect.delimiter))
    if dialect.has_separator_line:
        parts.append("separator line")
    if not dialect.is_quoted:
        begins = re.compile(rb'(?:^|\r|%b)"' % re.escape(dialect.delimiter.encode()))
        if any(begins.search(line) for line in lines_of(path)):
            parts.append("unquoted")
    return " ".join(parts)


def delimited_rows(path: Path, dialect: Dialect, columns: Collection[str], notices: list[str]) -> list[dict[str, str]]:
    """Return the rows of a file, and append notices about how it was read; `columns` are those that the task reads."""
    header, records = _split(path, dialect, io.StringIO(text_of_file(path), newline=""))
    check_names(path, header.fields, columns, notices)
    _check_quoted_names(path, header.fields, columns, dialect)
    oddities = _Oddities(header)
    rows = []
    for record in oddities.watched(records, dialect):
        _check_record(path, record, header, dialect)
        rows.append(dict(zip(header.fields, record.fields, strict=True)))
    notices += [*dialect.notices, *oddities.notices()]
    return rows


def sampled_records(
    path: Path, dialect: Dialect, columns: Collection[str], is_chosen: Callable[[bytes], bool], notices: list[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the chosen rows and their numbers, with few of them in memory; `is_chosen` decides by a row's bytes."""
    read: list[bytes] = []

    def texts() -> Iterator[str]:
        for line, text in enumerate(lines_of(path), start=1):
            for part in io.StringIO(decoded(path, text, line), newline=""):  # a carriage return also ends a line
                read.append(part.encode())
                yield part

    header, records = _split(path, dialect, texts())
    check_names(path, header.fields, columns, notices)
    _check_quoted_names(path, header.fields, columns, dialect)
    read.clear()
    oddities = _Oddities(header)
    for record in oddities.watched(records, dialect):
        content = b"".join(read).strip(b"\r\n")
        read.clear()
        if is_chosen(content) or record.fields == header.fields:
            _check_record(path, record, header, dialect)
            yield record.number, dict(zip(header.fields, record.fields, strict=True))
    notices += [*dialect.notices, *oddities.notices()]


class _Oddities:
    """Counts of what may be a mistake in the quotation marks or delimiters of a file."""

    def __init__(self, header: DelimitedRecord) -> None:
        self._header = header
        named = [place for place, name in enumerate(header.fields, start=1) if name.strip()]
        self._num_named = named[-1] if named else len(header.fields)
        self._num_spanning = self._num_in_quotes = self._num_after_blank = self._num_unnamed = 0
        self._first: list[int] = []
        """Numbers of the first few rows with a field of several lines."""
        self._longest = header

    def watched(self, records: Iterable[DelimitedRecord], dialect: Dialect) -> Iterator[DelimitedRecord]:
        """Yield the records, and count what is odd about them."""
        for record in records:
            if record.last_line > record.first_line:
                self._longest = max(self._longest, record, key=_num_lines) if self._num_spanning else record
                self._num_spanning += 1
                self._first = [*self._first, record.number][:_SHOWN]
            elif not dialect.is_quoted:
                self._num_in_quotes += any(value[:1] == value[-1:] == '"' != value for value in record.fields)
            else:
                self._num_after_blank += any(value[:1] == " " and value.lstrip()[:1] == '"' for value in record.fields)
            self._num_unnamed += any(value.strip() for value in record.fields[self._num_named :])
            yield record

    def notices(self) -> Iterator[str]:
        header = self._header
        if header.last_line > header.first_line:
            yield f"the header has lines {header.first_line} to {header.last_line}, because a column's name is quoted"
        if self._num_spanning:
            rows = ", ".join(map(str, self._first)) + (" …" if self._num_spanning > _SHOWN else "")
            yield (
                f"{_rows(self._num_spanning, 'has a field', 'have fields')} of several lines (row {rows}), the longest "
                f"from line {self._longest.first_line} to {self._longest.last_line}; if a stray quotation mark joins "
                "lines there, set `quoting: false`"
            )
        if self._num_in_quotes:
            yield (
                f"{_rows(self._num_in_quotes, 'has a field', 'have fields')} in double quotes, which are kept as text; "
                "`quoting: true` removes them"
            )
        if self._num_after_blank:
            yield (
                f"{_rows(self._num_after_blank, 'has a field', 'have fields')} in double quotes after a blank, which "
                "are kept as text; remove the blanks after the delimiters"
            )
        if self._num_unnamed:
            yield (
                f"{_rows(self._num_unnamed, 'has a value', 'have values')} in a last column without a name, which is "
                "not read; a value with a delimiter in it belongs in double quotes"
            )


def _num_lines(record: DelimitedRecord) -> int:
    return record.last_line - record.first_line


def _rows(num: int, one: str, many: str) -> str:
    return f"1 row {one}" if num == 1 else f"{num:,} rows {many}"


def check_names(path: Path, names: Sequence[str], columns: Collection[str], notices: list[str]) -> None:
    """Refuse a name that two columns share and the task reads, because it is unknown which one is meant."""
    repeated = [name for name in dict.fromkeys(names) if name.strip() and names.count(name) > 1]
    for name in repeated:
        places = ", ".join(str(place) for place, other in enumerate(names, start=1) if other == name)
        what = f"has the column {name!r} {names.count(name)} times (columns {places})"
        if name in columns or not columns:
            raise DataError(f"{path} {what}, so it is unknown which one is meant", "rename or remove all but one")
        notices.append(f"it {what}, which the task does not read")


def _check_quoted_names(path: Path, names: Sequence[str], columns: Collection[str], dialect: Dialect) -> None:
    """Refuse a header in which a column that the task reads differs from its key by quotation marks alone."""
    quoted = {name.strip()[1:-1].strip().casefold(): name for name in names if _QUOTED.fullmatch(name.strip())}
    for column in columns:
        name = quoted.get(column.strip().casefold())
        if column in names or name is None:
            continue
        shown = f"its column {name!r} is in double quotes, which are kept as text"
        if not dialect.is_quoted:
            hint = f"{shown}; `quoting: true` removes them from the names and the values"
        elif name[:1].isspace():
            hint = f"{shown} after a blank; remove the blanks after the delimiters"
        else:
            hint = f"{shown}, because they are doubled; write the file again with each value quoted once"
        raise DataError(f"{path} has no column {column!r}; the task reads {', '.join(columns)}", hint)


def _tried(dialect: Dialect, head: str) -> tuple[int, float]:
    """Return the number of fields in the header, and the share of the next rows that have as many."""
    lengths: list[int] = []
    with suppress(csv.Error):  # the head may end within a field, and a wrong file is refused when it is read
        lengths += (len(fields) for fields in dialect.reader(io.StringIO(head, newline="")) if fields)
    if not lengths:
        return 0, 0.0
    header, *others = lengths
    return header, sum(length == header for length in others) / len(others) if others else 1.0


def _split(path: Path, dialect: Dialect, lines: Iterable[str]) -> tuple[DelimitedRecord, Iterator[DelimitedRecord]]:
    """Return the header and the records after it; blank lines are no records."""
    lines = iter(lines)
    skipped = int(dialect.has_separator_line and bool(next(lines, "")))
    reader = dialect.reader(lines)
    header = next(_records(path, reader, skipped), DelimitedRecord(0, 1, 1, []))
    return header, _records(path, reader, skipped)


def _records(path: Path, reader: Any, skipped: int) -> Iterator[DelimitedRecord]:
    number, line = 0, reader.line_num + skipped
    try:
        for fields in reader:
            first, line = line + 1, reader.line_num + skipped
            if fields:
                number += 1
                yield DelimitedRecord(number, first, line, fields)
    except csv.Error as error:
        raise DataError(
            f"{path}: line {reader.line_num + skipped}: {error}",
            "values are quoted with double quotes, which are doubled inside of a value; if the quotation marks are "
            "text, set `quoting: false`",
        ) from None


def _check_record(path: Path, record: DelimitedRecord, header: DelimitedRecord, dialect: Dialect) -> None:
    """Refuse a row with more or fewer fields than the header, and a row that is the header again."""
    if len(record.fields) == len(header.fields):
        if len(header.fields) > 1 and record.fields == header.fields:
            raise DataError(
                f"{path}: line {record.last_line} is the header again, as in a file that was joined from several",
                "remove the line, or list the single files under `files:`",
            )
        return
    hint = "put values that contain the delimiter or line breaks in double quotes"
    if not dialect.is_quoted:
        hint = "remove tabs and line breaks from its values, or set `quoting: true` if values are in double quotes"
    first = dialect.delimiter.join(header.fields)
    raise DataError(
        f"{path}: line {record.last_line} does not have as many fields as the header: {len(record.fields)} and not "
        f"{len(header.fields)}; the header is line {header.last_line}, {first[:_HEADER_CHARS]!r}",
        hint,
    )
