"""Files that are complete or absent, whenever the writer is killed: write aside, sync, rename.

All functions work on local POSIX paths and turn an `OSError` into a `StoreError`.
"""

import errno
import fcntl
import hashlib
import os
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

from w2s_ray.errors import StoreError

RECORD_NAME = "record.json"
"""The file that makes a folder complete; written last."""
TEMPORARY_MARK = ".tmp-"
"""Part of the name of unfinished files and folders, which are never read."""

_HINTS = {
    errno.ENOSPC: "free some space or choose another folder with --store; `w2s gc` lists what can go",
    errno.EDQUOT: "free some of your quota or choose another folder with --store; `w2s gc` lists what can go",
    errno.EACCES: "make the folder writable or choose another one with --store",
    errno.EPERM: "make the folder writable or choose another one with --store",
    errno.EROFS: "this file system is read-only: choose another folder with --store",
    errno.ENOTDIR: "there is a file where a folder should be: choose another folder with --store",
    errno.EEXIST: "there is a file where a folder should be: choose another folder with --store",
}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn an `OSError` while `path` is written into a `StoreError`."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        hint = _HINTS.get(error.errno or 0, "check the disk, or choose another folder with --store")
        raise StoreError(f"cannot write {path}: {reason}", hint) from error


@contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder, so that processes change what is in it one after another.

    Some file systems of clusters have no locks; there two processes that change the same file keep one of the changes.
    """
    with writing(folder):
        descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def redirect_output(path: Path) -> tuple[int, int]:
    """Append everything that this process prints, also from C code, to `path`.

    Returns:
        Duplicates of file descriptors 1 and 2 as they were before.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    _flush_output()
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    saved = os.dup(1), os.dup(2)
    for descriptor in (1, 2):
        os.dup2(target, descriptor)
    os.close(target)
    return saved


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Append everything that this process prints inside the block, also from C code, to `path`."""
    saved = redirect_output(path)
    try:
        yield
    finally:
        _flush_output()
        for descriptor, original in enumerate(saved, start=1):
            os.dup2(original, descriptor)
            os.close(original)


def _flush_output() -> None:
    sys.stdout.flush()
    sys.stderr.flush()


def require_space(folder: Path, num_bytes: int) -> None:
    """Create `folder` and check its free space; libraries that write there report a full disk in different ways.

    Raises:
        StoreError: when it cannot be created, or its disk has less than `num_bytes` free.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    if free < num_bytes:
        raise StoreError(
            f"{folder} has {free // 2**20} MiB free, and {-(-num_bytes // 2**20)} MiB are needed", _HINTS[errno.ENOSPC]
        )


def write_file(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: readers see the old file or the whole new one, also after a crash."""
    aside = _aside(path)
    with writing(path):
        try:
            aside.write_bytes(content)
            sync_file(aside)
            os.replace(aside, path)
            sync_folder(path.parent)
        except BaseException:
            aside.unlink(missing_ok=True)
            raise


def publish_folder(final: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a folder, including its record, under a temporary name, then rename it to `final`.

    If another writer published `final` meanwhile, that folder is kept, since equal names mean equal content. A folder
    without a record is not published and is replaced.
    """
    aside = _aside(final)
    with writing(final):
        try:
            aside.mkdir(parents=True)
            fill(aside)
            sync_tree(aside)
            if not (final / RECORD_NAME).exists():
                _rename_over(aside, final)
            sync_folder(final.parent)
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _rename_over(aside: Path, final: Path) -> None:
    """Rename `aside` to `final`, unless another writer was faster."""
    try:
        os.rename(aside, final)
    except OSError:
        if not final.is_dir():
            raise
        if not (final / RECORD_NAME).exists():
            shutil.rmtree(final)
            os.rename(aside, final)


def sync_file(path: Path) -> None:
    """Wait until the content of `path` is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


sync_folder = sync_file
"""Wait until the names in a folder are on the disk; on POSIX a folder is synced like a file."""


def sync_tree(folder: Path) -> None:
    """Wait until all of `folder` is on the disk: files first, then the folders with their names."""
    for inner, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync_file(Path(inner, name))
        sync_folder(Path(inner))


def wait_for_files(paths: Iterable[Path], seconds: float = 60.0) -> None:
    """Wait until files that another machine has written appear on a network file system.

    Raises:
        StoreError: when one does not appear in time.
    """
    deadline = time.monotonic() + seconds
    for path in paths:
        while not path.exists():
            if time.monotonic() > deadline:
                raise StoreError(f"{path} does not appear", "check the network file system of the store")
            time.sleep(0.1)


def digest_file(path: Path) -> str:
    """Return the SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_files(
    folder: Path, leave_out: Collection[str] = (), known: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """Return the SHA-256 of each file below `folder` by its relative path, sorted.

    Temporary files are left out, and so are the entries of `folder` itself that `leave_out` names. Files whose digests
    are known are not read.
    """
    digests = {}
    for entry in sorted(folder.rglob("*")):
        relative = entry.relative_to(folder)
        if relative.parts[0] in leave_out or TEMPORARY_MARK in relative.as_posix() or not entry.is_file():
            continue
        digests[relative.as_posix()] = known.get(relative.as_posix()) or digest_file(entry)
    return digests


def check_files(folder: Path, files: dict[str, str]) -> None:
    """Compare each file below `folder` with its recorded SHA-256.

    Raises:
        StoreError: with the first file that is missing or differs.
    """
    hint = f"remove {folder}; the next run makes it again"
    for name, digest in files.items():
        try:
            actual = digest_file(folder / name)
        except OSError as error:
            raise StoreError(f"cannot read {folder / name}: {error.strerror}", hint) from error
        if actual != digest:
            raise StoreError(f"{folder / name} has SHA-256 {actual[:12]}…, its record has {digest[:12]}…", hint)


def folder_bytes(folder: Path) -> int:
    """Return the size of all files below `folder`."""
    total = 0
    for inner, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(os.path.join(inner, name)).st_size
            except FileNotFoundError:
                continue  # removed meanwhile
    return total


def _aside(path: Path) -> Path:
    return path.with_name(f".{path.name[:100]}{TEMPORARY_MARK}{os.getpid()}-{secrets.token_hex(4)}")
