"""Rows of a local file: JSON, JSON lines, CSV, TSV or Parquet, compressed (.gz, .zst) or not.

A row is a mapping from column to value. Files are read with the standard library rather than as typed tables, so that
a value is what the file says (`1` stays `1`, not `1.0` because another row is empty) and an error names its line.
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
"""Endings that say how a file is read; each but `parquet` also with one of `COMPRESSIONS`."""
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_ANY_FORMAT = "a data file is .json, .jsonl, .ndjson, .csv or .tsv (also with .gz or .zst), or .parquet"
_CSV_FIELD_CHARS = 2**31 - 1


def file_digest(path: Path) -> str:
    """Return the format and SHA-256 of the file at `path`.

    Raises:
        DataError: when there is no such file, or its ending names no known format.
    """
    kind = _format(path)
    with _opened(path) as file:
        return f"{kind} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def read_rows(path: Path) -> list[Row]:
    """Return the rows of the file at `path`, in its order.

    Raises:
        DataError: when the file is missing, is not UTF-8, or is not what its ending says.
    """
    kind = _format(path)
    if kind == "parquet":
        return _parquet(path)
    text = _text(path)
    if kind in ("csv", "tsv"):
        return _delimited(path, text, "\t" if kind == "tsv" else ",")
    return _json_lines(path, text) if kind in ("jsonl", "ndjson") else _json(path, text)


def without_compression(path: Path) -> Path:
    """Return the path without the ending that says how it is compressed."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path


def _format(path: Path) -> str:
    kind = without_compression(path).suffix.lower().removeprefix(".")
    if kind not in FORMATS:
        raise DataError(f"{path} has no known ending", _ANY_FORMAT, "convert the file, or give it the right ending")
    return kind


def _opened(path: Path) -> io.BufferedReader:
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(f"{path} does not exist", "data files must exist", "check the path") from None
    except OSError as error:
        problem = f"{path} cannot be read: {error.strerror}"
        raise DataError(problem, "a data file is a readable file", "check the path and its permissions") from None


def _text(path: Path) -> str:
    with _opened(path) as file:
        data = file.read()
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is not None:
        data = _decompressed(path, data, compression)
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1  # what was decoded begins after a byte-order mark
        raise DataError(
            f"{path}: byte 0x{error.object[error.start]:02x} on line {line} is not UTF-8",
            "data files are UTF-8",
            f"convert it: iconv -f latin1 -t utf-8 {path.name} > converted",
        ) from None


def _decompressed(path: Path, data: bytes, compression: str) -> bytes:
    import pyarrow as pa

    try:
        return bytes(pa.CompressedInputStream(pa.BufferReader(data), compression).read())
    except OSError as error:
        rule = f"a file that ends in {path.suffix} is compressed with {compression}"
        raise DataError(f"{path}: {error}", rule, "fetch the file again") from None


def _json_lines(path: Path, text: str) -> list[Row]:
    rows = []
    # Not splitlines(): a JSON string may hold separators, such as U+2028, that it takes for line ends.
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            rows.append(_as_row(path, _parsed(path, line, number), f"line {number}"))
    return rows


def _json(path: Path, text: str) -> list[Row]:
    """Read a list of objects; a `.json` file may also hold JSON lines, as many data sets do."""
    if text.lstrip()[:1] != "[":
        return _json_lines(path, text)
    return [_as_row(path, value, f"item {number}") for number, value in enumerate(_parsed(path, text, 1), start=1)]


def _parsed(path: Path, text: str, first_line: int) -> Any:
    try:
        return json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        line = first_line + getattr(error, "lineno", 1) - 1
        raise DataError(
            f"{path}: line {line} is not JSON: {getattr(error, 'msg', error)}",
            "a JSON file is a list of objects, or one object per line",
            "mend that line",
        ) from None


def _as_row(path: Path, value: object, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(
            f"{path}: {where} holds {type(value).__name__}", "a row is a JSON object", "make each row an object"
        )
    return value


def _delimited(path: Path, text: str, delimiter: str) -> list[Row]:
    csv.field_size_limit(_CSV_FIELD_CHARS)
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[Row] = []
    try:
        for row in reader:
            if None in row or None in row.values():
                raise DataError(
                    f"{path}: line {reader.line_num} has not as many fields as the header",
                    "every row has one value per column; the first line names the columns",
                    "quote values that hold the delimiter or line breaks",
                )
            rows.append(row)
    except csv.Error as error:
        found = f"{path}: line {reader.line_num}: {error}"
        raise DataError(found, "a CSV file quotes with double quotes", "mend that line") from None
    return rows


def _parquet(path: Path) -> list[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    _opened(path).close()
    try:
        rows: list[Row] = pq.read_table(path).to_pylist()
    except (pa.ArrowException, OSError) as error:
        found = f"{path}: {first_line(error)}"
        raise DataError(found, "a .parquet file is Parquet", "write the file again") from None
    return rows
