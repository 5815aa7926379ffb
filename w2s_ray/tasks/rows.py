"""Rows of a local file: JSON, JSON lines, CSV, TSV or Parquet, optionally compressed (.gz, .zst).

A file can be read whole, or as a sample: the rows whose hash is below a share of all hashes, so that a sample depends
on neither the order of the rows nor a seed. A sample is read row by row, so that a file larger than memory takes little
of it, and a row of JSON lines is parsed only if it is chosen.

A row is a mapping from column to value. Text formats are read with `json` and `csv` and not as Arrow tables: a table
would change values (`1` becomes `1.0` if another row is empty, text like a date becomes a date), and Arrow's CSV reader
accepts a quote that is never closed and returns the rest of the file as one value.
"""

import codecs
import csv
import hashlib
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from w2s_ray.errors import DataError, first_line

Row = Mapping[str, Any]

FORMATS = ("json", "jsonl", "ndjson", "csv", "tsv", "parquet")
"""File name endings; all but `parquet` may be followed by one of `COMPRESSIONS`."""
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_CSV_FIELD_CHARS = 2**31 - 1
_PARQUET_BATCH = 4096


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
        return list(_parquet_rows(path))
    text = _text(path)
    if kind in ("csv", "tsv"):
        return _delimited(path, text, "\t" if kind == "tsv" else ",")
    if kind == "json" and text.lstrip()[:1] == "[":
        return [_as_row(path, value, f"item {n}") for n, value in enumerate(_parsed(path, text, 1), start=1)]
    # Files of JSON lines are often called .json. Not splitlines(): a JSON string may contain U+2028, a line end there.
    lines = ((n, line) for n, line in enumerate(text.split("\n"), start=1) if line.strip())
    return [_as_row(path, _parsed(path, line, n), f"line {n}") for n, line in lines]


def sampled_rows(path: Path, share: float) -> Iterator[tuple[int, Row]]:
    """Yield the rows that the sample of this share has, with their numbers in the file from 1.

    The hash of a row is over its text in the file; for Parquet and lists of objects, which have none, over its values.

    Raises:
        DataError: like `read_rows`; rows outside of the sample are not checked.
    """
    kind = _format(path)
    if kind == "parquet":
        yield from sample(_parquet_rows(path), share)
    elif kind in ("csv", "tsv"):
        yield from _sampled_records(path, "\t" if kind == "tsv" else ",", share)
    elif kind == "json" and _is_list(path):
        yield from sample(read_rows(path), share)
    else:
        number = 0
        for line, text in enumerate(_lines(path), start=1):
            number += bool(text.strip())
            if text.strip() and _is_chosen(text.strip(), share):
                yield number, _as_row(path, _parsed(path, _decoded(path, text, line), line), f"line {line}")


def sample(rows: Iterable[Row], share: float) -> Iterator[tuple[int, Row]]:
    """Yield the rows that the sample of this share has, by the hash of their values, with their numbers from 1."""
    for number, row in enumerate(rows, start=1):
        if _is_chosen(repr(list(row.items())).encode(), share):
            yield number, row


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
        raise _not_compressed(path, compression, error) from None
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error, error.object.count(b"\n", 0, error.start) + 1) from None


def _not_compressed(path: Path, compression: str | None, error: OSError) -> DataError:
    return DataError(f"{path} is not compressed with {compression}: {error}", "download the file again")


def _not_utf8(path: Path, error: UnicodeDecodeError, line: int) -> DataError:
    return DataError(
        f"{path}: byte 0x{error.object[error.start]:02x} on line {line} is not UTF-8",
        f"convert it: iconv -f latin1 -t utf-8 {path.name} > converted",
    )


def _ragged(path: Path, line: int) -> DataError:
    return DataError(
        f"{path}: line {line} does not have as many fields as the header",
        "put values that contain the delimiter or line breaks in double quotes",
    )


def _no_csv(path: Path, line: int, error: csv.Error) -> DataError:
    return DataError(f"{path}: line {line}: {error}", "values are quoted with double quotes")


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
                raise _ragged(path, reader.line_num)
            rows.append(row)
    except csv.Error as error:
        raise _no_csv(path, reader.line_num, error) from None
    return rows


def _parquet_rows(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    _opened(path).close()
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(_PARQUET_BATCH):
                yield from batch.to_pylist()
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a Parquet file: {first_line(error)}") from None


def _is_chosen(content: bytes, share: float) -> bool:
    return int.from_bytes(hashlib.sha256(b"sample\n" + content).digest()[:8], "big") < share * 2.0**64


def _lines(path: Path) -> Iterator[bytes]:
    """Yield the lines of a text file, each with its line end, without decompressing more than a few at a time."""
    import pyarrow as pa

    _opened(path).close()
    compression = COMPRESSIONS.get(path.suffix.lower())
    try:
        with pa.input_stream(str(path), compression=compression) as stream, io.BufferedReader(stream, 2**20) as file:
            first = file.readline()
            yield first.removeprefix(codecs.BOM_UTF8)
            yield from file
    except OSError as error:
        raise _not_compressed(path, compression, error) from None


def _decoded(path: Path, text: bytes, line: int) -> str:
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise _not_utf8(path, error, line) from None


def _is_list(path: Path) -> bool:
    return next((line.lstrip()[:1] == b"[" for line in _lines(path) if line.strip()), False)


def _sampled_records(path: Path, delimiter: str, share: float) -> Iterator[tuple[int, Row]]:
    """Yield the chosen records of a CSV file; a record may have several lines."""
    read: list[bytes] = []

    def texts() -> Iterator[str]:
        for line, text in enumerate(_lines(path), start=1):
            read.append(text)
            yield _decoded(path, text, line)

    csv.field_size_limit(_CSV_FIELD_CHARS)
    reader = csv.reader(texts(), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        read.clear()
        number = 0
        for record in reader:
            content = b"".join(read).rstrip(b"\r\n")
            read.clear()
            number += bool(record)
            if record and _is_chosen(content, share):
                if len(record) != len(header):
                    raise _ragged(path, reader.line_num)
                yield number, dict(zip(header, record, strict=True))
    except csv.Error as error:
        raise _no_csv(path, reader.line_num, error) from None
