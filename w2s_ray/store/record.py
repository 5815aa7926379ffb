"""The record: the JSON in an artifact's folder, written last, that says what the artifact is and where it came from."""

import functools
import importlib.metadata
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from w2s_ray.errors import StoreError
from w2s_ray.spec.base import Spec

Kind = Literal["stage", "predictions"]

_PACKAGES = ("w2s_ray", "torch", "deepspeed", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "ray")
"""Packages whose version can matter to a result."""


class Record(Spec):
    """What an artifact is: its spec, what it was made from, with what, and the checksum of each of its files."""

    kind: Kind
    identity: str
    slug: str
    spec: dict[str, Any]
    """The spec as plain values; its identity is the record's."""
    parents: tuple[str, ...]
    """Identities of the artifacts that it was made from."""
    metrics: dict[str, float]
    versions: dict[str, str]
    """Version of each package that can matter to the result."""
    commit: str | None
    """Git commit of w2s_ray, where it ran from a checkout."""
    finished_at: str
    """UTC, ISO 8601."""
    files: dict[str, str]
    """SHA-256 by path relative to the artifact's folder."""

    def to_json(self) -> bytes:
        """Return the record as the bytes of its file."""
        return (json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode()


def read_record(path: Path) -> Record | None:
    """Read a record; None where there is none.

    Raises:
        StoreError: when the file is there and is not a record.
    """
    try:
        return Record.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        found = f"cannot read {path}: {error.strerror}"
        raise StoreError(found, "the store must be readable", "check the disk") from error
    except ValidationError as error:
        raise StoreError(
            f"{path} is not a record of this version: {error.errors()[0]['msg']}",
            "a record is JSON with known keys",
            f"remove {path.parent}; the next run makes it again",
        ) from error


def utc_now() -> str:
    """Return the time as records carry it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@functools.cache
def package_versions() -> dict[str, str]:
    """Return the installed version of each package that can matter to a result."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


@functools.cache
def source_commit() -> str | None:
    """Return the git commit of this package's checkout, or None where it is not one."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None
