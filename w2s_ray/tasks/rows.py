"""Rows of a local file: JSON, JSON lines, CSV, TSV, Parquet or Arrow; text may be compressed (.gz, .bz2, .zst).

A file can be read whole, or as a sample: the rows whose hash is below a share of all hashes, so that a sample depends
on neither the order of the rows nor a seed. A sample is read row by row, so that a file larger than memory takes little
of it, and a row of JSON lines is parsed only if it is chosen.

A row is a mapping from column to value. Text formats are read with `json` and `csv` and not as Arrow tables: a table
would change values (`1` becomes `1.0` if another row is empty, text like a date becomes a date), and Arrow's CSV reader
accepts a quote that is never closed and returns the rest of the file as one value.
"""

import functools
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from w2s_ray.errors import DataError, first_line
from w2s_ray.tasks.delimited import check_names, delimited_rows, dialect_of, digest_kind, sampled_records
from w2s_ray.tasks.json_rows import are_lines, as_row, json_rows, parsed
from w2s_ray.tasks.text_files import COMPRESSIONS, decoded, encoding_of, head_of, lines_of, opened, text_of_file

Row = Mapping[str, Any]

FORMATS = ("json", "jsonl", "ndjson", "csv", "tsv", "parquet", "arrow", "feather")
"""File name endings; those of text may be followed by one of `COMPRESSIONS`."""
_DELIMITED = ("csv", "tsv")
_TABLES = ("parquet", "arrow", "feather")
_PARQUET_BATCH = 4096


class RowFile:
    """One local file of rows."""

    def __init__(self, path: Path, columns: Collection[str] = (), quoting: bool | None = None) -> None:
        """`columns` are those that the task reads; `quoting` is whether fields may be in double quotes, if given."""
        self.path = path
        self.notices: list[str] = []
        """Properties of the file that its ending does not suggest; known when its rows have been read."""
        self._columns = columns
        self._quoting = quoting
        self._state: tuple[int, int] | None = None
        """Size and time of the last change, when the file's digest was made."""

    def digest(self) -> str:
        """Return the format and SHA-256 of the file.

        Raises:
            DataError: when the file does not exist, or its ending is not a known format.
        """
        kind = _format(self.path)
        with opened(self.path) as file:
            self._state = _state(file.fileno())
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if kind in _DELIMITED:
            kind = digest_kind(self.path, kind, self._quoting)
        return f"{kind} {digest}"

    def rows(self) -> list[Row]:
        """Return the rows, in file order.

        Raises:
            DataError: when the file does not exist, is not text, does not have the format of its ending, has a column
                twice that the task reads, or has changed since its digest was made; the message names the line, where
                the format has lines.
        """
        kind = _format(self.path)
        self.notices = list(self._encoding(kind))
        rows = self._read(kind)
        self._check_unchanged()
        return rows

    def _read(self, kind: str) -> list[Row]:
        if kind in _TABLES:
            return list(_table_rows(self.path, kind, self._columns, self.notices))
        if kind in _DELIMITED:
            dialect = dialect_of(self.path, kind, self._quoting)
            return list(delimited_rows(self.path, dialect, self._columns, self.notices))
        return list(json_rows(self.path, text_of_file(self.path), kind, self._columns, self.notices))

    def _encoding(self, kind: str) -> Iterator[str]:
        encoding = "utf-8-sig" if kind in _TABLES else encoding_of(head_of(self.path))
        if encoding != "utf-8-sig":
            yield f"its text is {encoding.upper()}"

    def _check_unchanged(self) -> None:
        with opened(self.path) as file:
            if self._state not in (None, _state(file.fileno())):
                raise DataError(f"{self.path} has changed while it was read", "run again when no program writes to it")

    def sample(self, share: float) -> Iterator[tuple[int, Row]]:
        """Yield the rows that the sample of this share has, with their numbers in the file from 1.

        The hash of a row is over its text in the file; for tables, and JSON that is not in lines, over its values.

        Raises:
            DataError: like `rows`; rows outside of the sample are not checked.
        """
        kind = _format(self.path)
        self.notices = list(self._encoding(kind))
        if kind in _DELIMITED:
            dialect = dialect_of(self.path, kind, self._quoting)
            choose = functools.partial(_is_chosen, share=share)
            yield from sampled_records(self.path, dialect, self._columns, choose, self.notices)
        elif kind in _TABLES:
            yield from sample(_table_rows(self.path, kind, self._columns, self.notices), share)
        elif are_lines(self.path, (text.decode(errors="replace") for text in lines_of(self.path))):
            yield from self._sampled_lines(share)
        else:
            yield from sample(self.rows(), share)
        self._check_unchanged()

    def _sampled_lines(self, share: float) -> Iterator[tuple[int, Row]]:
        number = 0
        for line, text in enumerate(lines_of(self.path), start=1):
            number += bool(text.strip())
            if text.strip() and _is_chosen(text.strip(), share):
                value = parsed(self.path, decoded(self.path, text, line), line)
                yield number, as_row(self.path, value, f"line {line}", self._columns, self.notices)


def sample(rows: Iterable[Row], share: float) -> Iterator[tuple[int, Row]]:
    """Yield the rows that the sample of this share has, by the hash of their values, with their numbers from 1."""
    for number, row in enumerate(rows, start=1):
        if _is_chosen(repr(list(row.items())).encode(errors="surrogatepass"), share):
            yield number, row


def without_compression(path: Path) -> Path:
    """Return the path without the ending of a compressed file."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSIONS else path


def _state(file: int) -> tuple[int, int]:
    status = os.fstat(file)
    return status.st_size, status.st_mtime_ns


def _format(path: Path) -> str:
    kind = without_compression(path).suffix.lower().removeprefix(".")
    if kind in ("zip", "xz", "tar", "tgz", "7z", "lz4", "br"):
        raise DataError(
            f"{path} is compressed in a way that is not read", "unpack it, or compress it as .gz, .bz2 or .zst"
        )
    if kind in ("xlsx", "xls", "xlsm", "ods", "numbers"):
        raise DataError(f"{path} is a workbook, which is not read", "save its table as CSV in UTF-8")
    if kind not in FORMATS:
        opened(path).close()  # a path that does not exist is refused as such
        raise DataError(
            f"{path} has no known ending",
            "data files are .json, .jsonl, .ndjson, .csv or .tsv (also with .gz, .bz2 or .zst), .parquet, .arrow or "
            ".feather; rename text with delimiters to .csv or .tsv",
        )
    if kind in _TABLES and without_compression(path) != path:
        raise DataError(f"{path} is compressed as a whole, and tables are compressed inside", "unpack it")
    return kind


def _table_rows(path: Path, kind: str, columns: Collection[str], notices: list[str]) -> Iterator[Row]:
    """Yield the rows of a Parquet file or an Arrow file or stream."""
    import pyarrow as pa

    opened(path).close()
    number = 0
    try:
        for place, batch in enumerate(_batches(path, kind)):
            if place == 0:
                check_names(path, batch.schema.names, columns, notices)
                notices += _named_classes(batch.schema, columns)
            batch.validate(full=True)  # damaged offsets would crash the conversion
            for row in batch.to_pylist():
                number += 1
                yield row
    except UnicodeDecodeError:
        raise DataError(
            f"{path}: a text after row {number} is not UTF-8", "write the file again from its source"
        ) from None
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        name = "a Parquet file" if kind == "parquet" else "an Arrow file"
        what = f"{path} is not {name}" if not number else f"{path} cannot be read after row {number}"
        raise DataError(f"{what}: {first_line(error)}", "copy or write the file again") from None


def _batches(path: Path, kind: str) -> Iterator[Any]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    if kind == "parquet":
        with pq.ParquetFile(path) as file:
            yield from file.iter_batches(_PARQUET_BATCH)
        return
    with pa.memory_map(str(path)) as source:
        if source.read(6) == b"ARROW1":
            with pa.ipc.open_file(source) as reader:
                yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
            return
        source.seek(0)
        with pa.ipc.open_stream(source) as stream:
            yield from stream


def _named_classes(schema: Any, columns: Collection[str]) -> Iterator[str]:
    """Yield a notice for each column that `datasets` stores as numbers of classes with names."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        names = {column: features[column]["names"] for column in columns if "names" in features.get(column, {})}
    except (KeyError, TypeError, ValueError, AttributeError):
        return
    for column, classes in names.items():
        labels = json.dumps({name: number for number, name in enumerate(classes)}, ensure_ascii=False)
        yield f"its column {column!r} has the numbers of named classes; `labels: {labels}` gives them their names"


def _is_chosen(content: bytes, share: float) -> bool:
    return int.from_bytes(hashlib.sha256(b"sample\n" + content).digest()[:8], "big") < share * 2.0**64
