"""The one client of the Hugging Face hub, for models and data sets.

`look_up` asks which commit a branch or tag names and which files it has. It returns None when the hub does not answer
or `HF_HUB_OFFLINE` is set; callers then use the local cache (`cached`) or raise `HubUnreachable` with the files that
they miss. `download` fetches files of a model, `load_rows` the rows of a data set, both at a fixed commit.

`huggingface_hub` and `datasets` are imported inside the functions: most commands need neither.
"""

import socket
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from w2s_ray.errors import DataError, ModelError, W2SError, first_line

RepoType = Literal["model", "dataset"]

TIMEOUT_SECONDS = 10.0
"""How long to wait for the hub's answer."""
_ERRORS: dict[RepoType, type[W2SError]] = {"model": ModelError, "dataset": DataError}
_NOUNS: dict[RepoType, str] = {"model": "model", "dataset": "data set"}


class HubUnreachable(W2SError):
    """The hub does not answer, and files are missing here.

    Attributes:
        files: the missing files, as `owner/name/file` or `datasets/owner/name@revision`.
    """

    def __init__(self, message: str, hint: str = "", files: tuple[str, ...] = ()) -> None:
        super().__init__(message, hint)
        self.files = files


@dataclass(frozen=True)
class HubRepo:
    """A model or data set on the hub at one commit.

    Attributes:
        commit: 40 hex digits.
        files: paths inside the repository.
        num_parameters: of a model, from the headers of its safetensors files; None where the hub does not know it.
    """

    commit: str
    files: tuple[str, ...]
    num_parameters: int | None


def look_up(name: str, revision: str | None, repo_type: RepoType) -> HubRepo | None:
    """Return the repository at `revision` (a branch, tag or commit; None for `main`); None if the hub is unreachable.

    Raises:
        ModelError, DataError: when the hub has no such repository or revision, or `name` is not a hub id.
    """
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        return None
    error, noun = _ERRORS[repo_type], _NOUNS[repo_type]
    api = HfApi()
    ask = api.model_info if repo_type == "model" else api.dataset_info
    try:
        info = ask(name, revision=revision, timeout=TIMEOUT_SECONDS)
    except RepositoryNotFoundError:
        raise error(
            f"{noun} {name} does not exist on the hub",
            f"check the name; for a private or gated {noun}, log in with `hf auth login`",
        ) from None
    except RevisionNotFoundError:
        raise error(f"{noun} {name} has no revision {revision!r}", "name a branch, a tag or a whole commit") from None
    except HFValidationError:
        raise error(f"{name!r} is not a hub id", "a hub id has the form owner/name") from None
    except Exception:  # the HTTP library has many exceptions for an unreachable host
        return None
    assert info.sha is not None
    safetensors = getattr(info, "safetensors", None)
    return HubRepo(
        commit=info.sha,
        files=tuple(entry.rfilename for entry in info.siblings or ()),
        num_parameters=None if safetensors is None else safetensors.total,
    )


def cached(name: str, revision: str | None) -> tuple[str, Path]:
    """Return the commit of a model in the local cache, and the folder of its files, which may not exist."""
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    root = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    reference = root / "refs" / (revision or "main")
    commit = reference.read_text().strip() if reference.is_file() else (revision or "main")
    return commit, root / "snapshots" / commit


def download(name: str, commit: str, patterns: Sequence[str]) -> Path:
    """Fetch a model's files that match `patterns`, unless they are cached, and return their folder.

    Raises:
        ModelError: when they are not cached and cannot be fetched.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=list(patterns)))
    except OSError as error:
        raise ModelError(
            f"cannot fetch {name} at {commit}: {first_line(error)}",
            "connect to the hub once (files are cached), or name a local folder",
        ) from None


def load_rows(name: str, commit: str, split: str, *, subset: str | None = None, files: str | None = None) -> Any:
    """Return the rows of a data set's split.

    With `files`, a pattern of Parquet or (gzipped) JSON lines files in the repository, those files are read.

    Raises:
        DataError: when the data set has no such split, subset or files.
        ConnectionError: when the hub does not answer.
    """
    from datasets import load_dataset

    try:
        if files is None:
            return load_dataset(name, name=subset, split=split, revision=commit)
        format_ = "parquet" if files.endswith(".parquet") else "json"
        return load_dataset(format_, data_files={split: f"hf://datasets/{name}@{commit}/{files}"}, split=split)
    except ConnectionError:
        raise
    except (ValueError, OSError) as error:
        raise DataError(
            f"cannot read split {split!r} of data set {name}: {first_line(error)}",
            "the data set's page on the hub lists its subsets and splits",
        ) from None


def is_reachable(timeout_seconds: float = 3.0) -> bool:
    """Return whether the hub accepts connections."""
    try:
        socket.create_connection(("huggingface.co", 443), timeout=timeout_seconds).close()
    except OSError:
        return False
    return True
