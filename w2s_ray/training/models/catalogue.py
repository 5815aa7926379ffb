"""Where models come from: `w2s:<size>` in the package, a local folder, or the Hugging Face hub.

`resolve_model` turns a level's model into a revision (a hub commit, or a digest of the files), which is part of the
identity of its stages; `model_folder` returns the files of that revision. Loads neither torch nor transformers.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from w2s_ray import hub
from w2s_ray.errors import ModelError
from w2s_ray.hub import HubUnreachable
from w2s_ray.spec.chain import ModelShape, ResolvedModel
from w2s_ray.spec.stage import Architecture, Optimisation, Precision, is_path
from w2s_ray.spec.study import LevelSpec
from w2s_ray.training.models import files
from w2s_ray.training.models.vocabulary import check_padding

LADDER = Path(__file__).parents[2] / "ladder"
"""Folder of the built-in models and of their tokenizer."""
BUILTIN = "w2s:"
SIZES = ("small", "medium", "large")
LARGEST_HEAD = 256
"""Dimensions of a head, for the kernels that read texts without padding."""
PACKED_DECODERS = frozenset("gemma gemma3_text gpt2 gpt_neox llama mistral olmo olmo2 phi phi3 qwen2 qwen3".split())
PACKED_ENCODERS = frozenset("bert electra modernbert roberta xlm-roberta".split())
"""Model types that read texts without padding (attention.py); tests/training/models/test_attention.py compares each."""


def resolve_model(
    level: LevelSpec,
    pinned: str | None = None,
    settings: Sequence[Optimisation] = (),
    targets: Sequence[str] = (),
    language_key: str = "",
) -> ResolvedModel:
    """Return the revision, size and shape of a level's model.

    Args:
        level: names the model.
        pinned: the hub commit that the study's lock file names.
        settings: of the methods that train the model or read texts with it, besides the level's own.
        targets: modules that LoRA adapters are added to; for hub models they are checked when the stage trains.
        language_key: the study's key that needs a language model; empty if any model will do.

    Raises:
        ModelError: when the model does not exist, is incomplete, has no padding token, is no language model, or cannot
            read texts as `execution.attention` asks.
        HubUnreachable: when the hub does not answer, and files of the model are not cached.
    """
    name, settings = level.model, (level.optimisation, *settings)
    if is_builtin(name) or _is_local(name):
        return _resolve_folders(level, settings, targets, language_key)
    model = _hub_model(name, level.revision or pinned, weights=level.architecture is None)
    files.check_pad_token(model.folder, name, level.pad_token)
    if level.architecture is None:
        for own in settings:
            files.check_context(model.folder, name, own.context_tokens)
        files.check_precision(model.folder, name)
        if language_key:
            files.check_language_model(model.folder, name, language_key)
        shape = _shape(level, settings, model.folder)
        return ResolvedModel(revision=model.commit, num_parameters=model.num_parameters, shape=shape)
    return _from_scratch(model.commit, level, settings, level.architecture, model.folder)


def model_folder(name: str, revision: str, *, tokenizer: bool = False) -> Path:
    """Return the folder of a model's configuration and weights, or of its tokenizer; hub models are downloaded.

    Raises:
        ModelError: when it does not exist or cannot be downloaded.
    """
    if is_builtin(name):
        return LADDER / "tokenizer" if tokenizer else _builtin_folder(name)
    if _is_local(name):
        return _local_folder(name)
    return _download(name, revision, weights=not tokenizer)


def is_builtin(name: str) -> bool:
    """Return whether the package has the model."""
    return name.startswith(BUILTIN)


def has_weights(name: str, revision: str) -> bool:
    """Return whether a model's files are on this machine; those of a hub model may not be downloaded yet."""
    if is_builtin(name) or _is_local(name):
        return True
    _, folder = hub.cached(name, revision)
    return folder.is_dir() and not files.missing_weight_files(folder)


def is_on_hub(name: str) -> bool:
    """Return whether the model is the hub's."""
    return not is_builtin(name) and not _is_local(name)


def no_folder(name: str) -> str:
    """Return why the name of a model is taken for a hub id."""
    return f"there is no folder {name} in {Path.cwd()}, so it is taken for a model on the hub"


@dataclass(frozen=True)
class _HubModel:
    """A hub model at one commit: configuration and tokenizer are in `folder`, the weights not always."""

    commit: str
    folder: Path
    num_parameters: int | None


def _hub_model(name: str, revision: str | None, *, weights: bool) -> _HubModel:
    """Ask the hub for a model and fetch its configuration and tokenizer; if the hub is unreachable, use the cache."""
    try:
        repo = hub.look_up(name, revision, "model")
    except ModelError as error:
        error.hint = f"{error.hint}; {no_folder(name)}"
        raise
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
    missing = _missing(present, weights=weights) or (files.missing_weight_files(folder) if weights else [])
    if missing:
        raise HubUnreachable(
            f"the hub is unreachable, and the cache has no {', '.join(missing)} of {name}",
            f"connect to the hub once, or name a local folder; {no_folder(name)}",
            files=tuple(f"{name}/{file}" for file in missing),
        )
    size = files.num_parameters(files.weight_files(folder)) if weights else None
    return _HubModel(commit, folder, size)


def _download(name: str, commit: str, *, weights: bool) -> Path:
    patterns = [files.CONFIG, *files.TOKENIZER_FILES]
    patterns += ["*.py"]  # of models whose class is not part of transformers; run with the level's consent only
    if weights:
        patterns += [files.WEIGHTS, files.WEIGHTS_INDEX, "model-*.safetensors"]
    return hub.download(name, commit, patterns)


def _missing(names: Sequence[str], *, weights: bool) -> list[str]:
    """Return the files that a model needs and that are not among `names`."""
    missing = []
    if not any(name in names for name in files.VOCABULARIES):
        missing.append(files.VOCABULARIES[0])
    if weights:
        missing += [name for name in (files.CONFIG,) if name not in names]
        if files.WEIGHTS not in names and files.WEIGHTS_INDEX not in names:
            missing.append(files.WEIGHTS)
    return missing


def _resolve_folders(
    level: LevelSpec, settings: Sequence[Optimisation], targets: Sequence[str], language_key: str
) -> ResolvedModel:
    if level.revision is not None:
        raise ModelError(
            f"revision {level.revision!r} of {level.model}: only models on the hub have revisions",
            "drop `revision:`, or name a hub id",
        )
    tokenizer = model_folder(level.model, "", tokenizer=True)
    tokenizer_files = files.tokenizer_files(tokenizer)
    files.check_pad_token(tokenizer, level.model, level.pad_token)
    if level.architecture is not None:
        return _from_scratch(files.digest(tokenizer_files), level, settings, level.architecture, tokenizer)
    folder = model_folder(level.model, "")
    weights = files.weight_files(folder)
    for own in settings:
        files.check_context(folder, level.model, own.context_tokens)
    files.check_precision(folder, level.model)
    files.check_modules(weights, level.model, targets)
    if language_key:
        files.check_language_model(folder, level.model, language_key)
    code = sorted(folder.glob("*.py")) if level.trust_remote_code else []
    revision = files.digest((*weights, *tokenizer_files, *code))
    size, shape = files.num_parameters(weights), _shape(level, settings, folder)
    return ResolvedModel(revision=revision, num_parameters=size, shape=shape)


def _shape(level: LevelSpec, settings: Sequence[Optimisation], folder: Path) -> ModelShape | None:
    """Return the model's shape, in which the padding token must have an embedding.

    A class of its own may have more embeddings than its configuration names; the model check counts those.
    """
    _check_attention(level, settings, files.model_type(folder), files.head_size(folder))
    shape = files.shape_of(folder)
    if not level.trust_remote_code:
        check_padding(folder, level.model, shape, level.pad_token)
    return shape


def packing_obstacle(
    model_type: str, head_size: int | None, *, is_own_code: bool, dropout: float, precision: Precision, on_gpu: bool
) -> str:
    """Return why texts cannot be packed for such a model and stage; empty if they can, as far as is known."""
    if is_own_code or model_type not in PACKED_DECODERS | PACKED_ENCODERS:
        names = ", ".join(sorted(PACKED_DECODERS | PACKED_ENCODERS))
        whose = "has code of its own" if is_own_code else f"is of the type {model_type}"
        return f"the model {whose}, and the types that can be packed are {names}"
    if dropout:
        return f"the kernel has no dropout, and optimisation.dropout is {dropout:g}"
    if on_gpu and precision != "bf16":
        return f"the kernel computes in bf16, and the stage in {precision}"
    if on_gpu and head_size is not None and (head_size % 8 or head_size > LARGEST_HEAD):
        return f"the heads have {head_size} dimensions, and the kernel needs a multiple of 8 up to {LARGEST_HEAD}"
    return ""


def _check_attention(
    level: LevelSpec, settings: Sequence[Optimisation], model_type: str, head_size: int | None
) -> None:
    """Refuse `attention: varlen` or `flash` for a model, or settings, with which texts cannot be packed."""
    wanted = level.execution.attention
    if wanted in ("auto", "sdpa"):
        return
    obstacle = packing_obstacle(
        model_type,
        head_size,
        is_own_code=level.trust_remote_code,
        dropout=max(own.dropout for own in settings),
        precision="bf16" if all(own.precision == "bf16" for own in settings) else "fp32",
        on_gpu=level.execution.gpus_per_worker > 0,
    )
    if obstacle:
        raise ModelError(
            f"attention: {wanted} is not possible for {level.model}: {obstacle}",
            "set `attention: auto`, which pads such texts",
        )


def _from_scratch(
    revision: str, level: LevelSpec, settings: Sequence[Optimisation], architecture: Architecture, tokenizer: Path
) -> ResolvedModel:
    _check_attention(level, settings, "llama", architecture.hidden_size // architecture.num_heads)
    vocabulary = files.vocabulary_size(tokenizer)
    return ResolvedModel(
        revision=revision,
        num_parameters=files.num_parameters_of(architecture, vocabulary),
        shape=files.shape_of_architecture(architecture, vocabulary),
    )


def _is_local(name: str) -> bool:
    """Return whether the name is a folder, and not a hub id: it exists or is written as a path."""
    return Path(name).is_dir() or is_path(name)


def _builtin_folder(name: str) -> Path:
    size = name.removeprefix(BUILTIN)
    folder = LADDER / size
    if size not in SIZES or not folder.is_dir():
        similar = [] if size in SIZES else difflib.get_close_matches(size, SIZES, n=1)
        raise ModelError(
            f"{name} is not a built-in model; they are {', '.join(BUILTIN + size for size in SIZES)}",
            f"did you mean {BUILTIN}{similar[0]}?" if similar else "",
        )
    return folder


def _local_folder(name: str) -> Path:
    folder = Path(name).expanduser()
    if not folder.is_dir():
        raise ModelError(f"model folder {name} does not exist", f"its path is {folder.absolute()}; correct `model:`")
    return folder
