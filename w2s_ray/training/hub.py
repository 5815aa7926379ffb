"""Models on the Hugging Face hub: what is there, what is cached here, and the files of one commit.

The hub is asked first; where it cannot be reached, the local cache answers, and files that it lacks are named.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from w2s_ray.errors import ModelError, first_line
from w2s_ray.training import model_files

if TYPE_CHECKING:
    from huggingface_hub import ModelInfo

TIMEOUT_SECONDS = 10.0
"""How long the hub may take to answer before the cache is asked."""


@dataclass(frozen=True)
class HubModel:
    """A model at one commit: its configuration and tokenizer lie in `folder`, its weights may not yet."""

    commit: str
    folder: Path
    num_parameters: int | None


def look_up(name: str, revision: str | None, *, weights: bool) -> HubModel | tuple[str, ...]:
    """Return the model at `revision`, or the files that are missing here while the hub cannot be reached.

    Raises:
        ModelError: when the hub says that there is no such model, or it holds no safetensors.
    """
    info = _ask(name, revision)
    if info is None:
        return _cached(name, revision, weights=weights)
    names = [entry.rfilename for entry in info.siblings or ()]
    missing = _missing(names, weights=weights)
    if missing:
        raise ModelError(
            f"the hub's {name} has no {', '.join(missing)}",
            "a model is config.json, a tokenizer and safetensors files",
            "choose a revision that has them, or convert the model and name its folder",
        )
    assert info.sha is not None
    size = info.safetensors.total if info.safetensors is not None else None
    return HubModel(commit=info.sha, folder=fetch(name, info.sha, weights=False), num_parameters=size)


def fetch(name: str, revision: str, *, weights: bool) -> Path:
    """Return the folder of a commit's files; without `weights`, configuration and tokenizer only.

    Raises:
        ModelError: when they are neither cached nor to be had.
    """
    from huggingface_hub import snapshot_download

    patterns = [model_files.CONFIG, *model_files.TOKENIZER_FILES]
    if weights:
        patterns += [model_files.WEIGHTS, model_files.WEIGHTS_INDEX, "model-*.safetensors"]
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except OSError as error:
        raise ModelError(
            f"{name} at {revision} cannot be fetched: {first_line(error)}",
            "a model is fetched from the hub once and cached",
            "connect to the hub, or name a local folder",
        ) from None


def _ask(name: str, revision: str | None) -> "ModelInfo | None":
    """Return what the hub says of a model; None where it cannot be reached."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import HFValidationError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.HF_HUB_OFFLINE:
        return None
    try:
        return HfApi().model_info(name, revision=revision, timeout=TIMEOUT_SECONDS)
    except RepositoryNotFoundError:
        remedy = "check the name; for a private or gated model, log in with `hf auth login`"
        raise ModelError(
            f"model {name} does not exist on the hub", "a model is w2s:<size>, a folder or a hub id", remedy
        ) from None
    except RevisionNotFoundError:
        raise ModelError(f"{name} has no revision {revision}", "a revision is a commit or branch", "check it") from None
    except HFValidationError as error:
        raise ModelError(f"model {name!r}: {error}", "a hub id reads owner/name", "check the name") from None
    except Exception:  # whatever the HTTP library raises for a network that is not there
        return None


def _cached(name: str, revision: str | None, *, weights: bool) -> HubModel | tuple[str, ...]:
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    root = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=name, repo_type="model")
    wanted = revision or "main"
    reference = root / "refs" / wanted
    commit = reference.read_text().strip() if reference.is_file() else wanted
    folder = root / "snapshots" / commit
    names = os.listdir(folder) if folder.is_dir() else []
    missing = _missing(names, weights=weights) or (_missing_shards(folder) if weights else [])
    if missing:
        return tuple(f"{name}/{file}" for file in missing)
    files = model_files.weight_files(folder) if weights else []
    size = model_files.num_parameters(files) if weights else None
    return HubModel(commit=commit, folder=folder, num_parameters=size)


def _missing(names: Sequence[str], *, weights: bool) -> list[str]:
    """Return the names of files that a model needs and `names` lacks."""
    missing = []
    if not any(name in names for name in model_files.VOCABULARIES):
        missing.append(model_files.VOCABULARIES[0])
    if weights:
        missing += [name for name in (model_files.CONFIG,) if name not in names]
        if model_files.WEIGHTS not in names and model_files.WEIGHTS_INDEX not in names:
            missing.append(model_files.WEIGHTS)
    return missing


def _missing_shards(folder: Path) -> list[str]:
    try:
        model_files.weight_files(folder)
    except ModelError as error:
        return [error.value.rsplit(" ", 1)[-1]]
    return []
