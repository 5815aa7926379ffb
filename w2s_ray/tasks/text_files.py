"""The text of a data file: decompressed, decoded, and refused by name if it is another kind of file.

Text is UTF-8, with or without a byte order mark; UTF-16 and UTF-32 are read if they begin with one.
"""

import codecs
import difflib
import io
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from w2s_ray.errors import DataError

COMPRESSIONS = {".gz": "gzip", ".bz2": "bz2", ".zst": "zstd"}
HEAD_BYTES = 2**16
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MAGIC = (
    (b"PAR1", "a Parquet file", "rename it to .parquet"),
    (b"ARROW1", "an Arrow file", "rename it to .arrow"),
    (b"\xff\xff\xff\xff", "an Arrow stream", "rename it to .arrow"),
    (b"\x1f\x8b", "compressed with gzip", "add .gz to its name"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "add .zst to its name"),
    *((b"BZh%d1AY&SY" % level, "compressed with bzip2", "add .bz2 to its name") for level in range(1, 10)),
    (b"PK\x03\x04", "a ZIP archive or an Excel workbook", "unpack it, or save its table as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook", "save its table as CSV in UTF-8"),
    (b"\xfd7zXZ\x00", "compressed with xz", "unpack it"),
    (b"\x00\x05\x16\x07", "a macOS sidecar file (AppleDouble)", "name the file whose name has no ._ in front"),
    (b"SQLite format 3\x00", "an SQLite database", "export its table as CSV"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "save its table as CSV or Parquet"),
    (b"%PDF-", "a PDF file", "save its text as CSV or JSON lines"),
    (b"version https://git-lfs", "a Git LFS pointer without the data", "fetch the data with `git lfs pull`"),
    *(
        (bytes([0x80, protocol, lead]), "a Python pickle", "save its rows as JSON lines or Parquet")
        for protocol in (2, 3, 4, 5)
        for lead in b"\x95]}c(X"
    ),
)
_WEB_PAGES = (b"<!doctype html", b"<html")


def opened(path: Path) -> io.BufferedReader:
    """Open a file for reading.

    Raises:
        DataError: when it does not exist, or cannot be read.
    """
    if os.path.exists(path) and not os.path.isfile(path):  # opening a pipe would wait for a writer
        raise DataError(f"{path} is not a regular file", "save its content as a file")
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise DataError(f"data file {path} does not exist", _instead_of(path)) from None
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise DataError(f"cannot read {str(path)!r}: {reason}", "check the path and its permissions") from None


def _instead_of(path: Path) -> str:
    """Return what to write for a path that does not exist."""
    if os.path.islink(path):
        return f"it is a link to {os.readlink(path)}; fetch or copy the file that it leads to"
    if any(part.startswith("~") for part in path.parts):
        return "`~` is not expanded; write the whole path"
    if "{" in path.name:
        return "braces are not expanded; write a list of paths or patterns"
    with suppress(OSError):
        near = difflib.get_close_matches(path.name, os.listdir(path.parent), n=1)
        return f"did you mean {near[0]!r}?" if near else "check the path"
    return f"the folder {path.parent} does not exist either"


def head_of(path: Path) -> bytes:
    """Return the first bytes of a file's content, decompressed.

    Raises:
        DataError: when the file cannot be read, or is known to be something else than text.
    """
    with _stream(path) as stream:
        head = _read(path, stream, HEAD_BYTES)
    _check_is_text(path, head)
    return head


def head_text(path: Path) -> str:
    """Return the first whole lines of a file as text; its last line too if the file is short."""
    head = head_of(path)
    text = head.decode(encoding_of(head), errors="ignore")
    if len(head) < HEAD_BYTES:
        return text
    return text[: max(text.rfind("\n"), text.rfind("\r")) + 1]


def text_of_file(path: Path) -> str:
    """Return the whole text of a file.

    Raises:
        DataError: when the file cannot be read, is not text, or is not UTF-8; the message names the line.
    """
    with _stream(path) as stream:
        data = _read(path, stream, None)
    _check_is_text(path, data[:HEAD_BYTES])
    try:
        return data.decode(encoding_of(data))
    except UnicodeDecodeError as error:
        raise _not_text(path, error, error.object.count(b"\n", 0, error.start) + 1) from None


def lines_of(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file in UTF-8, each with its line end, with only a few in memory at a time."""
    head = head_of(path)
    ends_in_returns = b"\n" not in head and b"\r" in head
    if encoding_of(head) != "utf-8-sig" or ends_in_returns:
        text = text_of_file(path)
        yield from io.BytesIO((text.replace("\r", "\n") if ends_in_returns else text).encode())
        return
    with _stream(path) as stream, io.BufferedReader(stream, 2**20) as file:
        try:
            yield file.readline().removeprefix(codecs.BOM_UTF8)
            yield from file
        except OSError as error:
            raise _not_compressed(path, error) from None


def decoded(path: Path, text: bytes, line: int) -> str:
    """Decode one line.

    Raises:
        DataError: when it is not UTF-8.
    """
    try:
        return text.decode()
    except UnicodeDecodeError as error:
        raise _not_text(path, error, line) from None


def encoding_of(head: bytes) -> str:
    """Return the encoding that a file's first bytes name, or else UTF-8."""
    return next((name for mark, name in _MARKS if head.startswith(mark)), "utf-8-sig")


def _stream(path: Path) -> Any:
    import pyarrow as pa

    opened(path).close()
    try:
        return pa.input_stream(str(path), compression=COMPRESSIONS.get(path.suffix.lower()))
    except OSError as error:
        raise _not_compressed(path, error) from None


def _read(path: Path, stream: Any, num_bytes: int | None) -> bytes:
    try:
        return bytes(stream.read(num_bytes))
    except OSError as error:
        raise _not_compressed(path, error) from None


def _check_is_text(path: Path, head: bytes) -> None:
    for magic, kind, remedy in _MAGIC:
        if head.startswith(magic):
            raise DataError(f"{path} is {kind}, which its name does not show", remedy)
    if head[:512].lstrip().lower().startswith(_WEB_PAGES):
        raise DataError(f"{path} is a web page and not data", "download the file itself, not the page that shows it")
    even, odd = head[:512:2].count(0), head[1:512:2].count(0)
    if encoding_of(head) != "utf-8-sig" or (even + odd) * 4 <= len(head[:512]):
        return
    if min(even, odd) * 4 > max(even, odd):
        raise DataError(
            f"{path} is not text: {even + odd} of its first {len(head[:512])} bytes are zero",
            "the file is damaged, as after a crash or an incomplete download; write it again from its source",
        )
    raise DataError(
        f"{path} is not UTF-8: every other byte is zero, as in UTF-16 without a byte order mark",
        f"convert it: iconv -f utf-16{'le' if odd > even else 'be'} -t utf-8 {path.name} > converted",
    )


def _not_compressed(path: Path, error: OSError) -> DataError:
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        return DataError(f"cannot read {path}: {error.strerror or error}", "check the path and its permissions")
    return DataError(f"{path} is not compressed with {compression}: {error}", "download the file again")


def _not_text(path: Path, error: UnicodeDecodeError, line: int) -> DataError:
    if error.encoding.startswith(("utf-16", "utf_16", "utf-32", "utf_32")):
        return DataError(f"{path} begins as {error.encoding} and breaks off at byte {error.start}", "save it as UTF-8")
    byte = error.object[error.start]
    encoding = "cp1252" if any(0x80 <= value < 0xA0 for value in error.object[error.start :][:4096]) else "latin1"
    start, end = (error.object.rfind(b"\n", 0, error.start) + 1, error.object.find(b"\n", error.start))
    around = error.object[max(start, error.start - 20) : max(end, error.start + 1)][:40]
    return DataError(
        f"{path}: byte 0x{byte:02x} on line {line} is not UTF-8",
        f"convert it from the encoding that it has, for example iconv -f {encoding} -t utf-8 {path.name} > converted, "
        f"with which the line has {around.decode(encoding, errors='replace').strip()!r}",
    )
