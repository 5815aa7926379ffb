"""Contents of a model's folder: digest, size, shape, vocabulary, padding token. Loads neither torch nor transformers.

Planning runs on this, so sizes come from safetensors headers, vocabularies from tokenizer.json, and shapes from
config.json itself (transformers' `AutoConfig` would import torch, which takes seconds). Only a tokenizer without
tokenizer.json is loaded by transformers.
"""

import hashlib
import json
import math
import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from tokenizers import Tokenizer

from w2s_ray.errors import ModelError, first_line
from w2s_ray.spec.chain import ModelShape
from w2s_ray.spec.identity import identity
from w2s_ray.spec.stage import Architecture

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
_ADAPTER = "adapter_config.json"
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
"""Files of which a tokenizer has at least one."""

_EMBEDDINGS = re.compile(r"(embeddings?|_embed|embed_(tokens|positions|in)|wte|wpe|shared)\.weight$")
"""Names of token and position embeddings, which are matrices but no linear layers."""
_ATTENTION_MASKS = (".attn.bias", ".attn.masked_bias")
"""Names of masks that GPT-2's checkpoints store among the parameters."""
_POSITIONS = ("max_position_embeddings", "n_positions")
_AFTER_PADDING = (
    "camembert",
    "data2vec-text",
    "esm",
    "ibert",
    "lilt",
    "longformer",
    "luke",
    "markuplm",
    "mpnet",
    "roberta",
    "roberta-prelayernorm",
    "xlm-roberta",
    "xlm-roberta-xl",
    "xmod",
)
"""Types whose first position is the one after the padding token's number. The model check finds out about others."""
_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
_LAYERS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")
_INNER = ("intermediate_size", "n_inner", "ffn_dim", "d_ff", "d_inner")
_HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
_ACTIVATIONS = ("hidden_act", "hidden_activation", "activation_function", "hidden_function")
_DECODERS = tuple("llama gpt2 gpt_neox gpt_neo opt gemma gemma2 mistral qwen2 qwen3 phi olmo2".split())
"""Some types of language models: for these transformers, which loads torch, is not asked."""
_GATED = ("gemma", "modernbert")
"""Model types with a gated feed-forward block whose activation is not silu."""


def weight_files(folder: Path) -> list[Path]:
    """Return the configuration and weights of the model in `folder`.

    Raises:
        ModelError: when one is missing.
    """
    adapter = folder / _ADAPTER
    if adapter.is_file():
        raise ModelError(
            f"{folder} is an adapter of {_json(adapter).get('base_model_name_or_path')}, and stages start from models",
            "merge it (`PeftModel.from_pretrained(…).merge_and_unload()`), and save that with `save_pretrained`",
        )
    missing = missing_weight_files(folder)
    if missing:
        has_pickles = missing[0] == WEIGHTS and any(folder.glob("pytorch_model*.bin"))
        raise ModelError(
            f"{folder} has no {missing[0]}",
            "load its pytorch_model.bin with transformers, and save it again with `save_pretrained`"
            if has_pickles
            else "name a folder written by `save_pretrained`",
        )
    return [folder / name for name in _weight_names(folder)]


def missing_weight_files(folder: Path) -> list[str]:
    """Return the names of the configuration and weight files that `folder` should have and does not."""
    return [name for name in _weight_names(folder) if not (folder / name).is_file()]


def _weight_names(folder: Path) -> list[str]:
    index = folder / WEIGHTS_INDEX
    if index.is_file():
        names = _json(index).get("weight_map")
        if not isinstance(names, dict):
            raise ModelError(f"{index} has no weight_map", "download or save the model again")
        return [CONFIG, WEIGHTS_INDEX, *sorted(set(map(str, names.values())))]
    return [CONFIG, WEIGHTS]


def tokenizer_files(folder: Path) -> list[Path]:
    """Return the files of the tokenizer in `folder`.

    Raises:
        ModelError: when there is none.
    """
    if not any((folder / name).is_file() for name in VOCABULARIES):
        raise ModelError(
            f"{folder} has none of {', '.join(VOCABULARIES)}", "name a folder written by `save_pretrained`"
        )
    return [folder / name for name in TOKENIZER_FILES if (folder / name).is_file()]


def digest(files: Iterable[Path]) -> str:
    """Return one digest of the names and contents of `files`."""
    return identity("model", {file.name: _sha256(file, file.stat().st_mtime_ns) for file in files})


def num_parameters(files: Iterable[Path]) -> int:
    """Count the parameters in the safetensors files among `files`."""
    return sum(math.prod(shape) for name, shape in _tensors(files) if not name.endswith(_ATTENTION_MASKS))


def num_parameters_of(architecture: Architecture, vocabulary: int) -> int:
    """Count the parameters of a Llama of this shape with tied embeddings."""
    hidden, inner = architecture.hidden_size, architecture.intermediate_size
    layer = 4 * hidden * hidden + 3 * hidden * inner + 2 * hidden
    return vocabulary * hidden + architecture.num_layers * layer + hidden


def shape_of(folder: Path) -> ModelShape | None:
    """Return the model's shape from its configuration; None when a number is missing."""
    config = _sizes(folder)
    hidden, layers, vocabulary = (_first(config, names) for names in (_HIDDEN, _LAYERS, ("vocab_size",)))
    if hidden is None or layers is None or vocabulary is None:
        return None
    heads = _first(config, _HEADS) or 1
    if min(hidden, layers, vocabulary, heads, hidden // heads) < 1:
        raise ModelError(
            f"{folder / CONFIG} has sizes that make no model: hidden size {hidden}, {layers} layers, {heads} heads, "
            f"vocabulary {vocabulary}",
            "download or save the model again",
        )
    activation = next((config[name] for name in _ACTIVATIONS if isinstance(config.get(name), str)), "gelu")
    return ModelShape(
        hidden_size=hidden,
        num_layers=layers,
        inner_size=_first(config, _INNER) or 4 * hidden,
        key_size=(head_size(folder) or hidden) * (_first(config, ("num_key_value_heads",)) or heads),
        vocabulary=vocabulary,
        activation=activation,
        gated=activation == "silu" or str(config.get("model_type", "")).startswith(_GATED),
    )


def head_size(folder: Path) -> int | None:
    """Return the dimensions of an attention head; None when a number is missing."""
    config = _sizes(folder)
    hidden, heads = _first(config, _HIDDEN), _first(config, _HEADS)
    return _first(config, ("head_dim",)) or (hidden // heads if hidden and heads else None)


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
    """Return the number of tokens of the tokenizer in `folder`, including added ones."""
    tokenizer = _tokenizer(folder)
    return tokenizer.get_vocab_size() if isinstance(tokenizer, Tokenizer) else len(tokenizer)


def fast_tokenizer(folder: Path) -> Tokenizer | None:
    """Return the tokenizer in `folder`; None if it has no tokenizer.json.

    Raises:
        ModelError: when the file cannot be read.
    """
    file = folder / "tokenizer.json"
    return _from_file(file, file.stat().st_mtime_ns) if file.is_file() else None


def check_pad_token(folder: Path, model: str, pad_token: str | None) -> None:
    """Check that batches can be padded.

    Raises:
        ModelError: when the tokenizer has no padding token and none is given, or `pad_token` is not one of its tokens.
    """
    if pad_token is not None:
        if pad_token not in _tokenizer(folder).get_vocab():
            raise ModelError(
                f"pad_token {pad_token!r} is not a token of {model}",
                "choose one of the tokenizer's tokens, for example its end-of-text token",
            )
        return
    if declared(folder, "pad_token") is None and auto_tokenizer(folder).pad_token is None:
        end = declared(folder, "eos_token") or "<|endoftext|>"
        raise ModelError(f"the tokenizer of {model} has no padding token", f'add `pad_token: "{end}"` to the level')


def check_context(folder: Path, model: str, context_tokens: int) -> None:
    """Check that the model has a position for every token of a text.

    Raises:
        ModelError: when its configuration names fewer positions.
    """
    config = _json(folder / CONFIG)
    positions = _first(config, _POSITIONS)
    if positions is not None and config.get("model_type") in _AFTER_PADDING:
        positions -= (_first(config, ("pad_token_id",)) or 0) + 1
    if positions is not None and context_tokens > positions:
        raise ModelError(
            f"context_tokens is {context_tokens}, and {model} has {positions} positions",
            f"lower context_tokens of the level, or of its generative stage, to {positions}, or choose another model",
        )


def check_precision(folder: Path, model: str) -> None:
    """Refuse quantized weights: a stage trains in fp32, and what is loaded would depend on the machine.

    Raises:
        ModelError: when the configuration has `quantization_config`.
    """
    quantization = _json(folder / CONFIG).get("quantization_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else quantization
        raise ModelError(
            f"the weights of {model} are quantized ({method}), and stages train whole ones",
            "choose the model that was quantized, or load it with `dequantize()` and save it again",
        )


def model_type(folder: Path) -> str:
    """Return transformers' name of the architecture."""
    return str(_json(folder / CONFIG).get("model_type", "unknown"))


def check_own_code(folder: Path) -> None:
    """Refuse a model that names Python code of another repository, which is not part of its digest.

    Raises:
        ModelError: with the first such name.
    """
    for path in (folder / CONFIG, folder / "tokenizer_config.json"):
        maps = _json(path).get("auto_map") if path.is_file() else None
        for value in maps.values() if isinstance(maps, dict) else ():
            other = next((name for name in (value if isinstance(value, list) else [value]) if "--" in str(name)), None)
            if other is not None:
                raise ModelError(
                    f"{path} names code of another repository, {other}, which has no fixed version",
                    "copy the code into the model's folder, and remove the part before `--`",
                )


def check_language_model(folder: Path, model: str, key: str) -> None:
    """Check that the model gives probabilities of the next token, which `key` of the study needs.

    A model is a language model if transformers has a causal head for its type; a type that also has a head for masked
    tokens, such as BERT, reads in both directions unless its configuration has `is_decoder`.

    Raises:
        ModelError: when it is none.
    """
    config = _json(folder / CONFIG)
    kind = config.get("model_type")
    if kind is None or kind in _DECODERS:
        return
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        MODEL_FOR_MASKED_LM_MAPPING_NAMES,
    )

    reads_forward = config.get("is_decoder", False) or kind not in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if kind not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES or not reads_forward:
        raise ModelError(
            f"{key} needs a language model, and {model} is none: its type is {kind}",
            f"choose a decoder, such as a Llama or GPT-2, or remove {key}",
        )


def check_modules(weights: Iterable[Path], model: str, names: Iterable[str]) -> None:
    """Check that the model has linear layers of these names, according to its safetensors files.

    Raises:
        ModelError: when it has none of one name.
    """
    linear = {
        name.removesuffix(".weight")
        for name, shape in _tensors(weights)
        if name.endswith(".weight") and len(shape) == 2 and not _EMBEDDINGS.search(name)
    }
    for wanted in names:
        if not any(name == wanted or name.endswith(f".{wanted}") for name in linear):
            raise ModelError(
                f"trainable.targets names {wanted!r}, and {model} has no linear layer of that name",
                f"its linear layers are {', '.join(sorted({name.rpartition('.')[2] for name in linear}))}",
            )


def _tensors(files: Iterable[Path]) -> Iterator[tuple[str, list[int]]]:
    """Yield name and shape of each tensor in the safetensors files among `files`, from their headers."""
    for file in (file for file in files if file.suffix == ".safetensors"):
        try:
            with safe_open(file, framework="np") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                    yield name, tensors.get_slice(name).get_shape()
        except SafetensorError as error:
            raise ModelError(
                f"{file} is not a safetensors file: {first_line(error)}", "download or save the model again"
            ) from None


def _sizes(folder: Path) -> dict[str, Any]:
    """Return the configuration, or the part of it that has the sizes of a text model."""
    config = _json(folder / CONFIG)
    return config["text_config"] if isinstance(config.get("text_config"), dict) else config


def _first(config: dict[str, Any], names: Iterable[str]) -> int | None:
    return next((config[name] for name in names if isinstance(config.get(name), int)), None)


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"cannot read {path}: {error}", "download or save the model again") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not a JSON object", "download or save the model again")
    return content


@lru_cache(maxsize=256)
def _sha256(path: Path, _changed_ns: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _tokenizer(folder: Path) -> Any:
    """Return a `tokenizers.Tokenizer`, or transformers' tokenizer if `folder` has no tokenizer.json."""
    return fast_tokenizer(folder) or auto_tokenizer(folder)


@lru_cache(maxsize=8)
def _from_file(file: Path, _changed_ns: int) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more specific
        raise ModelError(f"cannot read {file}: {first_line(error)}", "download or save the model again") from None


@lru_cache(maxsize=8)
def auto_tokenizer(folder: Path) -> Any:
    """Load the tokenizer with transformers, which knows defaults that are in no file."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelError(
            f"AutoTokenizer cannot load the tokenizer in {folder}: {first_line(error)}",
            "write it with `save_pretrained`",
        ) from None


def declared(folder: Path, key: str) -> str | None:
    """Return a special token that the tokenizer's JSON files name."""
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = folder / name
        value = _json(path).get(key) if path.is_file() else None
        value = value.get("content") if isinstance(value, dict) else value
        if isinstance(value, str):
            return value
    return None
