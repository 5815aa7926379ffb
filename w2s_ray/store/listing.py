"""Folder listings, cached, because a store of a hundred thousand artifacts must not be listed again for each lookup."""

import os
import time
from dataclasses import dataclass
from pathlib import Path

from w2s_ray.errors import StoreError

_SETTLED_NS = 2_000_000_000


@dataclass(frozen=True)
class _Listing:
    names: tuple[str, ...]
    by_digest: dict[str, list[str]]
    """Names by their part after the last `-`."""
    changed_at: int
    """Modification time of the folder, in ns."""
    settled: bool
    """Whether the folder was read so long after that time that a later change must have another time."""


_LISTINGS: dict[Path, _Listing] = {}


def folders_ending_in(folder: Path, digest: str = "") -> list[Path]:
    """Return the entries of `folder` named `<anything>-<digest>`, or all entries, by name; hidden ones are left out.

    Raises:
        StoreError: when the folder exists and cannot be read.
    """
    listing = _listing(folder)
    return [folder / name for name in (listing.by_digest.get(digest, ()) if digest else listing.names)]


def _listing(folder: Path) -> _Listing:
    try:
        changed_at = os.stat(folder).st_mtime_ns
        known = _LISTINGS.get(folder)
        if known is not None and known.settled and known.changed_at == changed_at:
            return known
        settled = time.time_ns() - changed_at > _SETTLED_NS
        names = tuple(sorted(name for name in os.listdir(folder) if not name.startswith(".")))
    except (FileNotFoundError, NotADirectoryError):
        return _Listing((), {}, 0, settled=False)
    except OSError as error:
        raise StoreError(f"cannot read {folder}: {error.strerror}", "check the folder's permissions") from error
    by_digest: dict[str, list[str]] = {}
    for name in names:
        by_digest.setdefault(name.rpartition("-")[2], []).append(name)
    _LISTINGS[folder] = _Listing(names, by_digest, changed_at, settled)
    return _LISTINGS[folder]
