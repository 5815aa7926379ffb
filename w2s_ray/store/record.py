"""The record of an artifact: a JSON file, written last, with its spec, origin and checksums."""

import functools
import importlib.metadata
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import ValidationError

from w2s_ray.errors import StoreError
from w2s_ray.spec.base import Spec

Kind = Literal["stage", "predictions"]
_SpecT = TypeVar("_SpecT", bound=Spec)

_PACKAGES = ("w2s_ray", "torch", "deepspeed", "transformers", "tokenizers", "safetensors", "numpy", "pyarrow", "ray")
"""Packages whose version can change a result."""


class Base(Spec):
    """The model that stored adapters were trained on."""

    name: str
    revision: str
    """Its commit or content digest; for the model of a stage, the stage's identity."""
    files: dict[str, str]
    """SHA-256 of configuration and weights by name; empty for the model of a stage, which has a record."""


class Record(Spec):
    """The content of `record.json`."""

    kind: Kind
    identity: str
    slug: str
    spec: dict[str, Any]
    """The spec as plain values; the record's identity is the digest of it."""
    parents: tuple[str, ...]
    """Identities of the artifacts it was made from."""
    metrics: dict[str, float]
    versions: dict[str, str]
    """Versions of the packages that can change the result."""
    commit: str | None
    """Git commit of w2s_ray, if it ran from a checkout."""
    finished_at: str
    """UTC, ISO 8601."""
    files: dict[str, str]
    """SHA-256 by path relative to the artifact's folder."""
    base: Base | None = None
    """Base of the stage's adapters, if they are stored without it."""

    def to_json(self) -> bytes:
        return (json.dumps(self.model_dump(mode="json"), indent=2, sort_keys=True) + "\n").encode()


def read_spec(path: Path, kind: type[_SpecT], hint: str) -> _SpecT | None:
    """Return the JSON file at `path` as a `kind`, or None if there is no file.

    Raises:
        StoreError: when the file cannot be read, or was not written by this version; `hint` says what to do then.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror}", "check the file's permissions") from error
    except ValidationError as error:
        problem = error.errors()[0]["msg"]
        raise StoreError(f"{path} was not written by this version of w2s_ray: {problem}", hint) from error


def read_record(path: Path) -> Record | None:
    """Return the record at `path`, or None if there is no file.

    Raises:
        StoreError: when the file is not a record of this version.
    """
    return read_spec(path, Record, f"remove {path.parent}; the next run makes it again")


def utc_now() -> str:
    """Return the current UTC time in ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@functools.cache
def package_versions() -> dict[str, str]:
    """Return the installed version of each package that can change a result."""
    versions = {}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


@functools.cache
def source_commit() -> str | None:
    """Return the git commit of this package's checkout, or None for an installed package."""
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / ".git").exists():
        return None
    command = ["git", "-C", str(checkout), "rev-parse", "HEAD"]
    try:
        git = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return git.stdout.strip() or None
