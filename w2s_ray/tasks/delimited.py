"""Rows of CSV and TSV files.

The delimiter is that of the file's ending, unless the first rows show another one: `;`, a tab, `|` or `,`. Fields are
quoted with double quotes, except between tabs: there a quotation mark is text, so that a single one cannot join lines.
`quoting:` decides otherwise.
"""

import csv
import io
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from w2s_ray.errors import DataError
from w2s_ray.tasks.text_files import decoded, head_text, lines_of, text_of_file

_DELIMITERS = {"csv": ",", "tsv": "\t"}
_NAMES = {",": "a comma", ";": "a semicolon", "\t": "a tab", "|": "a vertical bar"}
_FIELD_CHARS = 2**31 - 1
_SEPARATOR_LINE = re.compile(r"sep=(.)\r?\n?", re.IGNORECASE)
_SHOWN = 5


class Dialect(NamedTuple):
    """How the fields of a file are separated."""

    kind: str
    delimiter: str
    is_quoted: bool
    has_separator_line: bool = False
    """Whether the first line is Excel's `sep=;`, which is no row."""

    @property
    def notices(self) -> list[str]:
        """What a reader would not expect from the file's ending."""
        if self.delimiter == _DELIMITERS[self.kind]:
            return []
        return [f"the fields are separated by {_NAMES.get(self.delimiter, repr(self.delimiter))}"]

    def reader(self, lines: Iterable[str]) -> Any:
        """Return a reader of the lines' records."""
        csv.field_size_limit(_FIELD_CHARS)
        if self.is_quoted:
            return csv.reader(lines, delimiter=self.delimiter, strict=True)
        return csv.reader(lines, delimiter=self.delimiter, strict=True, quoting=csv.QUOTE_NONE)


class Record(NamedTuple):
    """A row: its number from 1, its lines in the file, and its fields."""

    number: int
    first_line: int
    last_line: int
    fields: list[str]


def dialect_of(path: Path, kind: str, quoting: bool | None) -> Dialect:
    """Find how the fields of a file are separated, from its first rows."""
    head = head_text(path)
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


def delimited_rows(path: Path, dialect: Dialect, notices: list[str]) -> list[dict[str, str]]:
    """Return the rows of a file, and append notices about how it was read."""
    lines = io.StringIO(text_of_file(path), newline="")
    header, records = _split(path, dialect, lines)
    rows, spanning, in_quotes = [], [], 0
    for record in records:
        _check_length(path, record, header, dialect)
        if record.last_line > record.first_line:
            spanning.append(record)
        elif not dialect.is_quoted:
            in_quotes += any(len(value) > 1 and value[0] == value[-1] == '"' for value in record.fields)
        rows.append(dict(zip(header, record.fields, strict=True)))
    notices += [*dialect.notices, *_field_notices(spanning, in_quotes), *_unnamed(header, rows)]
    return rows


def sampled_records(path: Path, dialect: Dialect, is_chosen: Any) -> Iterator[tuple[int, dict[str, str]]]:
    """Yield the chosen rows and their numbers, with few of them in memory; `is_chosen` decides by a row's bytes."""
    read: list[bytes] = []

    def texts() -> Iterator[str]:
        for line, text in enumerate(lines_of(path), start=1):
            read.append(text)
            yield decoded(path, text, line)

    header, records = _split(path, dialect, texts(), read)
    for record in records:
        content = b"".join(read).lstrip(b"\r\n").rstrip(b"\r\n")
        read.clear()
        if is_chosen(content):
            _check_length(path, record, header, dialect)
            yield record.number, dict(zip(header, record.fields, strict=True))


def check_names(path: Path, names: Sequence[str], what: str = "column") -> None:
    """Refuse a name that two columns share, because only one of them could be read."""
    repeated = [name for name in dict.fromkeys(names) if name and names.count(name) > 1]
    if repeated:
        places = ", ".join(str(place) for place, name in enumerate(names, start=1) if name == repeated[0])
        raise DataError(
            f"{path} has the {what} {repeated[0]!r} {names.count(repeated[0])} times (columns {places}), so it is "
            "unknown which one is meant",
            "rename or remove all but one of them",
        )


def _tried(dialect: Dialect, head: str) -> tuple[int, float]:
    """Return the number of fields in the header, and the share of the next rows that have as many."""
    lengths: list[int] = []
    with suppress(csv.Error):  # the head may end within a field, and a wrong file is refused when it is read
        lengths += (len(fields) for fields in dialect.reader(io.StringIO(head, newline="")) if fields)
    if not lengths:
        return 0, 0.0
    header, *others = lengths
    return header, sum(length == header for length in others) / len(others) if others else 1.0


def _split(
    path: Path, dialect: Dialect, lines: Iterable[str], read: list[bytes] | None = None
) -> tuple[list[str], Iterator[Record]]:
    """Return the header and the records after it; blank lines are no records."""
    lines = iter(lines)
    skipped = 0
    if dialect.has_separator_line:
        skipped = len(next(lines, "")) and 1
    reader = dialect.reader(lines)
    header = next(_records(path, reader, skipped), None)
    names = header.fields if header is not None else []
    check_names(path, names)
    if read is not None:
        read.clear()
    return names, _records(path, reader, skipped)


def _records(path: Path, reader: Any, skipped: int) -> Iterator[Record]:
    number, line = 0, reader.line_num + skipped
    try:
        for fields in reader:
            first, line = line + 1, reader.line_num + skipped
            if fields:
                number += 1
                yield Record(number, first, line, fields)
    except csv.Error as error:
        raise DataError(
            f"{path}: line {reader.line_num + skipped}: {error}",
            "values are quoted with double quotes, which are doubled inside of a value; if the quotation marks are "
            "text, set `quoting: false`",
        ) from None


def _check_length(path: Path, record: Record, header: Sequence[str], dialect: Dialect) -> None:
    if len(record.fields) == len(header):
        return
    hint = "put values that contain the delimiter or line breaks in double quotes"
    if not dialect.is_quoted:
        hint = "remove tabs and line breaks from its values, or set `quoting: true` if values are in double quotes"
    raise DataError(
        f"{path}: line {record.last_line} does not have as many fields as the header: {len(record.fields)} and not "
        f"{len(header)}",
        hint,
    )


def _field_notices(spanning: Sequence[Record], in_quotes: int) -> Iterator[str]:
    if spanning:
        longest = max(spanning, key=lambda record: record.last_line - record.first_line)
        numbers = ", ".join(str(record.number) for record in spanning[:_SHOWN])
        more = f" and {len(spanning) - _SHOWN} more" if len(spanning) > _SHOWN else ""
        rows = f"1 row has a field (row {numbers})" if len(spanning) == 1 else ""
        rows = rows or f"{len(spanning):,} rows have a field (rows {numbers}{more})"
        yield (
            f"{rows} of several lines, the longest from line {longest.first_line} to {longest.last_line}; if a stray "
            "quotation mark joins lines there, set `quoting: false`"
        )
    if in_quotes:
        rows = "1 row has a field" if in_quotes == 1 else f"{in_quotes:,} rows have fields"
        yield f"{rows} in double quotes, which are kept as text; `quoting: true` removes them"


def _unnamed(header: Sequence[str], rows: Sequence[dict[str, str]]) -> Iterator[str]:
    """Notice values in columns without a name at the end of the header, where a field with a delimiter spills over."""
    if len(header) > 1 and not header[-1].strip():
        filled = sum(bool(row[header[-1]].strip()) for row in rows)
        if filled:
            yield f"{filled:,} rows have a value in a column without a name, which is not read"
