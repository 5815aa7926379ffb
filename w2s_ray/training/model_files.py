"""Read what a model's folder says about itself, without loading it: digest, size, padding token, vocabulary.

Only JSON and the header of safetensors files are read, so that planning needs neither torch nor transformers.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

from w2s_ray.errors import ModelError
from w2s_ray.spec.chain import ModelShape
from w2s_ray.spec.identity import identity
from w2s_ray.spec.stage import Architecture

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
WEIGHTS_INDEX = "model.safetensors.index.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
)
"""Files that a tokenizer may consist of."""
VOCABULARIES = ("tokenizer.json", "vocab.json", "vocab.txt", "tokenizer.model", "spiece.model")
"""One of these is what makes a tokenizer."""

_EMBEDDINGS = re.compile(r"(embeddings?|_embed|embed_(tokens|positions|in)|wte|wpe|shared)\.weight$")
"""What matrices are called in which tokens and positions are looked up."""
_POSITIONS = ("max_position_embeddings", "n_positions")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_INNER = ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "d_inner")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "hidden_function")
_GATED = ("gemma", "modernbert")
"""Model types with a gate whose activation is not silu."""


def weight_files(folder: Path) -> list[Path]:
    """Return the configuration and weights of the model in `folder`.

    Raises:
        ModelError: when one is missing.
    """
    index = folder / WEIGHTS_INDEX
    names = [CONFIG, WEIGHTS]
    if index.is_file():
        names = [CONFIG, WEIGHTS_INDEX, *sorted(set(_json(index)["weight_map"].values()))]
    return [_existing(folder, name, "a model is config.json and safetensors files") for name in names]


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of the tokenizer in `folder`.

    Raises:
        ModelError: when there is none.
    """
    if not any((folder / name).is_file() for name in VOCABULARIES):
        _existing(folder, VOCABULARIES[0], f"a tokenizer has one of {', '.join(VOCABULARIES)}")
    return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]


def digest(files: Iterable[Path]) -> str:
    """Return one digest over the names and contents of `files`."""
    return identity("model", {file.name: _sha256(file, file.stat().st_mtime_ns) for file in files})


def num_parameters(files: Iterable[Path]) -> int:
    """Count the parameters in the safetensors files among `files`, from their headers."""
    return sum(_tensor_sizes(file) for file in files if file.suffix == ".safetensors")


def num_parameters_of(architecture: Architecture, vocabulary: int) -> int:
    """Count the parameters of a Llama of this shape with tied embeddings."""
    hidden, inner = architecture.hidden_size, architecture.intermediate_size
    layer = 4 * hidden * hidden + 3 * hidden * inner + 2 * hidden
    return vocabulary * hidden + architecture.num_layers * layer + hidden


def shape_of(folder: Path) -> ModelShape | None:
    """Return what the model's configuration says of its size; None where it lacks a number."""
    config = _json(folder / CONFIG)
    config = config.get("text_config", config)
    hidden, layers, vocabulary = (_first(config, names) for names in (_HIDDEN, _LAYERS, ("vocab_size",)))
    if hidden is None or layers is None or vocabulary is None:
        return None
    heads = _first(config, _HEADS) or 1
    head_size = _first(config, ("head_dim",)) or hidden // heads
    activation = next((config[name] for name in _ACTIVATIONS if isinstance(config.get(name), str)), "gelu")
    return ModelShape(
        hidden_size=hidden,
        num_layers=layers,
        inner_size=_first(config, _INNER) or 4 * hidden,
        key_size=head_size * (_first(config, ("num_key_value_heads",)) or heads),
        vocabulary=vocabulary,
        activation=activation,
        gated=activation == "silu" or config.get("model_type", "").startswith(_GATED),
    )


def shape_of_architecture(architecture: Architecture, vocabulary: int) -> ModelShape:
    """Return the shape of a Llama from scratch."""
    return ModelShape(
        hidden_size=architecture.hidden_size,
        num_layers=architecture.num_layers,
        inner_size=architecture.intermediate_size,
        key_size=architecture.hidden_size,
        vocabulary=vocabulary,
        activation="silu",
        gated=True,
    )


def vocabulary_size(folder: Path) -> int:
    """Return the number of tokens of the tokenizer in `folder`, added ones included."""
    ids = _token_ids(folder)
    return max(ids.values()) + 1 if ids else _loaded_tokenizer(folder).__len__()


def check_pad_token(folder: Path, model: str, pad_token: str | None) -> None:
    """Check that batches can be padded.

    Raises:
        ModelError: when the tokenizer has no padding token and none is given, or the given one is not a token.
    """
    if pad_token is not None:
        ids = _token_ids(folder)
        if ids and pad_token not in ids:
            raise ModelError(
                f"pad_token {pad_token!r} is not a token of {model}",
                "a padding token is one of the tokenizer's own tokens",
                "choose one that exists, for example the end-of-text token",
            )
        return
    if _declared_pad_token(folder) is None and _loaded_tokenizer(folder).pad_token is None:
        end = _declared(folder, "eos_token") or "<|endoftext|>"
        raise ModelError(
            f"the tokenizer of {model} has no padding token",
            "batches hold texts of several lengths, so a padding token is needed",
            f'add `pad_token: "{end}"` to the level',
        )


def check_context(folder: Path, model: str, context_tokens: int) -> None:
    """Check that the model has a position for every token of a text.

    Raises:
        ModelError: when its configuration says that it has fewer.
    """
    config = _json(folder / CONFIG)
    known = [config[key] for key in _POSITIONS if isinstance(config.get(key), int)]
    if known and context_tokens > known[0]:
        raise ModelError(
            f"context_tokens is {context_tokens}, and {model} has {known[0]} positions",
            "a text is no longer than the model's positions",
            f"lower context_tokens of the level, or of what it reads first, to {known[0]}, or choose another model",
        )


def check_modules(weights: Iterable[Path], model: str, names: Iterable[str]) -> None:
    """Check that the model has linear layers of these names, as far as its safetensors files tell.

    Raises:
        ModelError: when one names none.
    """
    known = {
        name.removesuffix(".weight")
        for file in weights
        if file.suffix == ".safetensors"
        for name, entry in _header(file).items()
        if name.endswith(".weight") and len(entry["shape"]) == 2 and not _EMBEDDINGS.search(name)
    }
    for wanted in names:
        if not any(name == wanted or name.endswith(f".{wanted}") for name in known):
            linear = sorted({name.rpartition(".")[2] for name in known})
            raise ModelError(
                f"trainable.targets names {wanted!r}, and {model} has no linear layer of that name",
                "targets are names of the model's linear layers",
                f"name some of {', '.join(linear)}",
            )


def _existing(folder: Path, name: str, rule: str) -> Path:
    path = folder / name
    if not path.is_file():
        raise ModelError(f"{folder} has no {name}", rule, "point `model:` at a folder written by `save_pretrained`")
    return path


def _first(config: dict[str, Any], names: Iterable[str]) -> int | None:
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{path} cannot be read: {error}", "it holds JSON", "write the model's folder again") from None


@lru_cache(maxsize=256)
def _sha256(path: Path, _changed_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _tensor_sizes(path: Path) -> int:
    """Sum the sizes in one safetensors header; GPT-2's stored attention masks are not parameters."""
    masks = (".attn.bias", ".attn.masked_bias")
    return sum(math.prod(entry["shape"]) for name, entry in _header(path).items() if not name.endswith(masks))


def _header(path: Path) -> dict[str, Any]:
    """Return what a safetensors file says of its tensors, by name."""
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length < 100_000_000:
            raise ModelError(f"{path} is not a safetensors file", "it begins with a header", "write the model again")
        try:
            header: dict[str, Any] = json.loads(stream.read(length))
        except ValueError:
            raise ModelError(
                f"{path} has a damaged header", "a safetensors file begins with JSON", "write the model again"
            ) from None
    header.pop("__metadata__", None)
    return header


def _token_ids(folder: Path) -> dict[str, int]:
    """Return token → id as far as plain JSON files tell; empty where only a library can."""
    ids: dict[str, int] = {}
    full, plain = folder / "tokenizer.json", folder / "vocab.json"
    if full.is_file():
        content = _json(full)
        vocabulary = content["model"]["vocab"]
        ids |= vocabulary if isinstance(vocabulary, dict) else {row[0]: at for at, row in enumerate(vocabulary)}
        ids |= {entry["content"]: entry["id"] for entry in content.get("added_tokens", ())}
    elif plain.is_file():
        ids |= _json(plain)
    return ids


def _declared_pad_token(folder: Path) -> str | None:
    return _declared(folder, "pad_token")


def _declared(folder: Path, key: str) -> str | None:
    """Return a special token that the tokenizer's JSON files name."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        value = _json(path).get(key) if path.is_file() else None
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            return value
    return None


@lru_cache(maxsize=8)
def _loaded_tokenizer(folder: Path) -> Any:
    """Load the tokenizer, for the few whose defaults are written in a class and not in a file."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the tokenizer in {folder} cannot be loaded: {error}",
            "AutoTokenizer must be able to read it",
            "write it with `save_pretrained`",
        ) from None
