"""Rows of a local file: JSON, JSON lines, CSV, TSV or Parquet, optionally compressed (.gz, .zst).

A row is a mapping from column to value. Text formats are read with `json` and `csv` and not as Arrow tables: a table
would change values (`1` becomes `1.0` if another row is empty, text like a date becomes a date), and Arrow's CSV reader
accepts a quote that is never closed and returns the rest of the file as one value.
"""

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from w2s_ray.errors import DataError, first_line

Row = Mapping[str, Any]

FORMATS = ("json", "jsonl", "ndjson", "csv", "tsv", "parquet")
"""File name endings; all but `parquet` may be followed by one of `COMPRESSIONS`."""
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_CSV_FIELD_CHARS = 2**31 - 1


def file_digest(path: Path) -> str:
    """Return the format and SHA-256 of the file at `path`.

    Raises:
        DataError: when the file does not exist, or its ending is not a known format.
    """
    kind = _format(path)
    with _opened(path) as file:
        return f"{kind} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def read_rows(path: Path) -> list[Row]:
    """Return the rows of the file at `path`, in file order.

    Raises:
        DataError: when the file does not exist, is not UTF-8, or does not have the format of its ending; the message
            names the line, where the format has lines.
    """
    kind = _format(path)
    if kind == "parquet":
        return _parquet(path)
    text = _text(path)
    if kind in ("csv", "tsv"):
        return _delimited(path, text, "\t" if kind == "tsv" else ",")
    if kind == "json" and text.lstrip()[:1] == "[":
        return [_as_row(path, value, f"item {n}") for n, value in enumerate(_parsed(path, text, 1), start=1)]
    # Files of JSON lines are often called .json. Not splitlines(): a JSON string may contain U+2028, a line end there.
    lines = ((n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip())
    return [_as_row(path, _parsed(path, line, n), f"line {n}") for n, line in lines]


def without_compression(path: Path) -> Path:
    """Return the path without the ending of a compressed file."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path


def _format(path: Path) -> str:
    kind = without_compression(path).suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise DataError(
            f"{path} has no known ending",
            "data files are .json, .jsonl, .ndjson, .csv or .tsv (also with .gz or .zst), or .parquet",
        )
    return kind


def _opened(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(f"data file {path} does not exist") from None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "check the path and its permissions") from None


def _text(path: Path) -> str:
    import pyarrow as pa

    with _opened(path) as file:
        data = file.read()
    compression = COMPRESSIONS.get(path.suffix.lower())
    try:
        if compression is not None:
            data = bytes(pa.CompressedInputStream(pa.BufferReader(data), compression).read())
        return data.decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} is not compressed with {compression}: {error}", "download the file again") from None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        raise DataError(
            f"{path}: byte 0x{error.object[error.start]:02x} on line {line} is not UTF-8",
            f"convert it: iconv -f latin1 -t utf-8 {path.name} > converted",
        ) from None


def _parsed(path: Path, text: str, line: int) -> Any:
    """Parse JSON that begins on line `line` of the file."""
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line += getattr(error, "lineno", 1) - 1
        raise DataError(
            f"{path}: line {line} is not JSON: {getattr(error, 'msg', error)}",
            "a JSON file is a list of objects, or one object per line",
        ) from None


def _as_row(path: Path, value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{path}: {where} has the type {type(value).__name__}, and a row is a JSON object")
    return value


def _delimited(path: Path, text: str, delimiter: str) -> list[Row]:
    csv.field_size_limit(_CSV_FIELD_CHARS)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}: line {reader.line_num} does not have as many fields as the header",
                    "put values that contain the delimiter or line breaks in double quotes",
                )
            rows.append(row)
    except csv.Error as error:
        raise DataError(f"{path}: line {reader.line_num}: {error}", "values are quoted with double quotes") from None
    return rows


def _parquet(path: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    _opened(path).close()
    try:
        rows: list[Row] = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a Parquet file: {first_line(error)}") from None
    return rows
