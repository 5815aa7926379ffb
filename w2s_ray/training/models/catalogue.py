"""Where models come from: `w2s:<size>` inside the package, a local folder, or the Hugging Face hub.

`resolve_model` turns a level's model into a revision (a hub commit, or a digest of the files) that the identity of its
stages hangs on; loaders ask `model_folder` for the files of that revision. Neither torch nor
transformers is needed for any of it.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from w2s_ray import hub
from w2s_ray.errors import ModelError
from w2s_ray.hub import HubUnreachable
from w2s_ray.spec.chain import ResolvedModel
from w2s_ray.spec.stage import Architecture, is_path
from w2s_ray.spec.study import LevelSpec
from w2s_ray.training import model_files

LADDER = Path(__file__).parents[2] / "ladder"
"""The models that come with w2s_ray, and their one tokenizer."""
BUILTIN = "w2s:"
SIZES = ("small", "medium", "large")


def resolve_model(
    level: LevelSpec, pinned: str | None = None, reading: Sequence[int] = (), targets: Sequence[str] = ()
) -> ResolvedModel:
    """Return the revision and size of a level's model.

    `pinned` is the hub commit that a study has locked; `reading` are other contexts than the level's own in which it
    learns, `targets` the modules that low-rank additions are made to (on the hub they are looked for when they are
    trained).

    Raises:
        ModelError: when the model does not exist, is incomplete, or has no padding token.
        HubUnreachable: when the hub does not answer, and files of the model are not cached.
    """
    name = level.model
    if _is_builtin(name) or _is_local(name):
        return _resolve_folders(level, reading, targets)
    found = _hub_model(name, level.revision or pinned, weights=level.architecture is None)
    model_files.check_pad_token(found.folder, name, level.pad_token)
    if level.architecture is None:
        for context in (level.optimisation.context_tokens, *reading):
            model_files.check_context(found.folder, name, context)
        shape = model_files.shape_of(found.folder)
        return ResolvedModel(revision=found.commit, num_parameters=found.num_parameters, shape=shape)
    return _from_scratch(found.commit, level.architecture, found.folder)


def model_folder(name: str, revision: str, *, tokenizer: bool = False) -> Path:
    """Return the local folder of a model's configuration and weights, or of its tokenizer; the hub's are fetched.

    Raises:
        ModelError: when it cannot be had.
    """
    if _is_builtin(name):
        return LADDER / "tokenizer" if tokenizer else _builtin_folder(name)
    if _is_local(name):
        return _local_folder(name)
    return _download(name, revision, weights=not tokenizer)


@dataclass(frozen=True)
class _HubModel:
    """A hub model at one commit: configuration and tokenizer are in `folder`, the weights not always."""

    commit: str
    folder: Path
    num_parameters: int | None


def _hub_model(name: str, revision: str | None, *, weights: bool) -> _HubModel:
    """Ask the hub for a model and fetch its configuration and tokenizer; if the hub is unreachable, use the cache."""
    repo = hub.look_up(name, revision, "model")
    if repo is None:
        return _cached_model(name, revision, weights=weights)
    missing = _missing(repo.files, weights=weights)
    if missing:
        raise ModelError(
            f"the hub's {name} has no {', '.join(missing)}",
            "choose a revision that has them, or convert the model and name its folder",
        )
    return _HubModel(repo.commit, _download(name, repo.commit, weights=False), repo.num_parameters)


def _cached_model(name: str, revision: str | None, *, weights: bool) -> _HubModel:
    commit, folder = hub.cached(name, revision)
    present = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    missing = _missing(present, weights=weights) or (_missing_shards(folder) if weights else [])
    if missing:
        raise HubUnreachable(
            f"the hub is unreachable, and the cache has no {', '.join(missing)} of {name}",
            "connect to the hub once, or name a local folder",
            files=tuple(f"{name}/{file}" for file in missing),
        )
    size = model_files.num_parameters(model_files.weight_files(folder)) if weights else None
    return _HubModel(commit, folder, size)


def _download(name: str, commit: str, *, weights: bool) -> Path:
    patterns = [model_files.CONFIG, *model_files.TOKENIZER_FILES]
    if weights:
        patterns += [model_files.WEIGHTS, model_files.WEIGHTS_INDEX, "model-*.safetensors"]
    return hub.download(name, commit, patterns)


def _missing(names: Sequence[str], *, weights: bool) -> list[str]:
    """Return the files that a model needs and that are not among `names`."""
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
        return [error.message.rsplit(" ", 1)[-1]]
    return []


def _resolve_folders(level: LevelSpec, reading: Sequence[int], targets: Sequence[str]) -> ResolvedModel:
    if level.revision is not None:
        raise ModelError(
            f"revision {level.revision!r} of {level.model}",
            "a revision is a commit or branch of a model on the hub; local and built-in models have none",
            "drop `revision:`, or name a hub id",
        )
    tokenizer = model_folder(level.model, "", tokenizer=True)
    tokenizer_files = model_files.tokenizer_files(tokenizer)
    model_files.check_pad_token(tokenizer, level.model, level.pad_token)
    if level.architecture is not None:
        return _from_scratch(model_files.digest(tokenizer_files), level.architecture, tokenizer)
    folder = model_folder(level.model, "")
    weights = model_files.weight_files(folder)
    for context in (level.optimisation.context_tokens, *reading):
        model_files.check_context(folder, level.model, context)
    model_files.check_modules(weights, level.model, targets)
    revision = model_files.digest((*weights, *tokenizer_files))
    size, shape = model_files.num_parameters(weights), model_files.shape_of(folder)
    return ResolvedModel(revision=revision, num_parameters=size, shape=shape)


def _from_scratch(revision: str, architecture: Architecture, tokenizer: Path) -> ResolvedModel:
    vocabulary = model_files.vocabulary_size(tokenizer)
    return ResolvedModel(
        revision=revision,
        num_parameters=model_files.num_parameters_of(architecture, vocabulary),
        shape=model_files.shape_of_architecture(architecture, vocabulary),
    )


def _is_builtin(name: str) -> bool:
    return name.startswith(BUILTIN)


def _is_local(name: str) -> bool:
    """A path, rather than a hub id: it exists, or is written as one."""
    return Path(name).is_dir() or is_path(name)


def _builtin_folder(name: str) -> Path:
    size = name.removeprefix(BUILTIN)
    folder = LADDER / size
    if size not in SIZES or not folder.is_dir():
        near = () if size in SIZES else difflib.get_close_matches(size, SIZES, n=1)
        raise ModelError(
            f"model {name} does not come with w2s_ray",
            f"the built-in models are {', '.join(BUILTIN + each for each in SIZES)}",
            f"did you mean {BUILTIN}{near[0]}?" if near else "name one of them, a folder, or a hub id",
        )
    return folder


def _local_folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ModelError(f"model folder {name} does not exist", "a local model is a folder", "check the path")
    return folder
