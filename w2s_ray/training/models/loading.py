"""Networks and tokenizers from a model's folder.

A model is loaded without settings that would make its export predict otherwise: the padding token of a classifier is
the tokenizer's, and nothing in the configuration says how `pipeline()` reads logits.

The classification head is linear. It is initialised from the unembedding rows of "0", "1", … (Burns et al. 2023; for
pairs that of "1"), or from the stage's seed where these are not single tokens.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from w2s_ray.errors import ModelError, first_line
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import Architecture, ModelSource, StageSpec
from w2s_ray.training.collectives import is_of_collective
from w2s_ray.training.memory.usage import is_out_of_memory
from w2s_ray.training.models.adapters import freeze
from w2s_ray.training.models.drawing import sharded_drawing
from w2s_ray.training.models.exports import HOW_TO_READ
from w2s_ray.training.models.files import check_own_code, weight_files
from w2s_ray.training.models.network import CompletionNetwork, Network, PairNetwork
from w2s_ray.training.zero import gathered, sharded_loading

_HEAD_STD = 0.02
_UNEMBEDDINGS = ("lm_head.weight", "embed_out.weight")
_CONSENT = "set `trust_remote_code: true` on the level if you trust the Python code in the model's folder"
_NAMES_SHOWN = 3


def load_tokenizer(folder: Path, pad_token: str | None, *, trust_remote_code: bool = False) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer that pads on the right and truncates on the left.

    Args:
        folder: of the tokenizer's files.
        pad_token: the padding token of a tokenizer without one.
        trust_remote_code: run the Python code in the folder if the tokenizer has a class of its own.

    Raises:
        ModelError: when it cannot be loaded, is no fast tokenizer, has no padding token and `pad_token` is None, or
            names code of another repository.
    """
    if trust_remote_code:
        check_own_code(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(  # these settings are saved with it
            folder,
            split_special_tokens=True,
            padding_side="right",
            truncation_side="left",
            trust_remote_code=trust_remote_code,
        )
    except Exception as error:  # the library raises nothing more specific
        raise ModelError(
            f"the tokenizer of {folder} cannot be loaded: {first_line(error)}",
            _CONSENT if "trust_remote_code" in str(error) else "write it with `save_pretrained`",
        ) from error
    if not tokenizer.is_fast:
        raise ModelError(
            f"the tokenizer of {folder} is {type(tokenizer).__name__}, and stages need a fast one (tokenizer.json)",
            "convert it with transformers, or choose another model",
        )
    if pad_token is not None:
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"the tokenizer of {folder} has no padding token",
            f"add one to the level, for example `pad_token: {tokenizer.eos_token!r}`",
        )
    return tokenizer


def load_network(
    spec: StageSpec,
    folder: Path,
    tokenizer: PreTrainedTokenizerFast,
    execution: Execution,
    num_layers: int | None = None,
) -> Network:
    """Return the network that `spec` starts from, in fp32, sharded while it loads under ZeRO-3.

    Args:
        spec: of the stage.
        folder: of the weights; for a network from scratch it is not read.
        tokenizer: the model's.
        execution: of the stage.
        num_layers: load only these first layers; all of them if not given.

    Raises:
        ModelError: when transformers cannot load the model for the objective, or weights are missing.
    """
    source = spec.starts_from
    if isinstance(source, ModelSource) and source.architecture is not None:
        hf = _from_scratch(source.architecture, tokenizer, spec.init_seed, execution)
    else:
        config = _config(folder, spec, tokenizer, num_layers)
        auto = AutoModelForCausalLM if spec.is_language_model else AutoModelForSequenceClassification
        hf = _loaded(auto, config, spec, folder, execution)
        if not spec.is_language_model:
            _initialise_head(hf, folder, tokenizer, spec)
    freeze(hf, spec)
    return _network(hf, spec, tokenizer)


def load_trained(spec: StageSpec, folder: Path, tokenizer: PreTrainedTokenizerFast, execution: Execution) -> Network:
    """Load a finished stage's network for prediction."""
    auto = AutoModelForCausalLM if spec.is_language_model else AutoModelForSequenceClassification
    with sharded_loading(execution):
        hf = auto.from_pretrained(folder, dtype=torch.float32, trust_remote_code=spec.trusts_code)
    return _network(hf, spec, tokenizer)


def _network(hf: PreTrainedModel, spec: StageSpec, tokenizer: PreTrainedTokenizerFast) -> Network:
    if spec.is_language_model:  # answers are greedy; a source may sample, or penalise repetitions
        hf.generation_config = GenerationConfig(
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    precision, score = spec.optimisation.precision, spec.completion_score
    if score is not None:
        return CompletionNetwork(hf, precision, score, spec.num_classes)
    return PairNetwork(hf, precision) if spec.objective == "preference" else Network(hf, precision)


def _config(
    folder: Path, spec: StageSpec, tokenizer: PreTrainedTokenizerFast, num_layers: int | None
) -> PretrainedConfig:
    """Return the configuration, without what would make an export differ from the stage.

    A classifier finds its last token by the padding token of the configuration; `problem_type` and `function_to_apply`
    tell `pipeline()` how to read logits, and two classes may have one name.
    """
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=spec.trusts_code)
    except Exception as error:  # the library raises nothing more specific
        raise _not_loaded(spec, error) from error
    config = _with_dropout(config, spec.optimisation.dropout)
    config.return_dict = True
    if num_layers is not None:
        _shorten(config.get_text_config(), num_layers)
    if not spec.is_language_model:
        for part in (config, config.get_text_config()):
            part.pad_token_id = tokenizer.pad_token_id
        for name in HOW_TO_READ:
            if getattr(config, name, None) is not None:
                setattr(config, name, None)
        config.num_labels = 1 if spec.objective == "preference" else spec.num_classes
        config.id2label = {number: f"LABEL_{number}" for number in range(config.num_labels)}
        config.label2id = {label: number for number, label in config.id2label.items()}
    return config


def _loaded(auto: Any, config: PretrainedConfig, spec: StageSpec, folder: Path, execution: Execution) -> Any:
    """Load the weights.

    Weights that the checkpoint does not have, such as an encoder's own classifier block, are drawn from the stage's
    seed; for `random` models all are.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.init_seed)
        try:
            if spec.starts_drawn:
                with sharded_drawing(execution):
                    return auto.from_config(config, dtype=torch.float32, trust_remote_code=spec.trusts_code)
            with sharded_loading(execution):
                hf, info = auto.from_pretrained(
                    folder,
                    config=config,
                    dtype=torch.float32,
                    trust_remote_code=spec.trusts_code,
                    ignore_mismatched_sizes=execution.zero_stage != 3,  # list them; ZeRO-3 does not look for them
                    output_loading_info=True,
                )
        except Exception as error:  # the library raises nothing more specific
            if is_out_of_memory(error) or is_of_collective(error):
                raise
            raise _not_loaded(spec, error) from error
    _check_weights(hf, info, spec)  # under ZeRO-3 sizes that differ are an error of rank 0 already
    return hf


def _not_loaded(spec: StageSpec, error: Exception) -> ModelError:
    hint = (
        "choose a model that transformers can load as a language model (for answers, prompts and next_token) "
        "or with a sequence classification head (for classes and pairs)"
    )
    reason = first_line(error)
    unknown = re.search(r"Unrecognized configuration class .*\.(\w+)Config'", str(error))
    if unknown:
        head = "language model" if spec.is_language_model else "sequence classification head"
        reason = f"transformers has no {head} for {unknown[1]}"
    if "trust_remote_code" in str(error):
        reason, hint = "it needs Python code that is not part of transformers", _CONSENT
    return ModelError(f"{spec.starts_from.name} cannot be loaded for {spec.objective}: {reason}", hint)


def _check_weights(hf: PreTrainedModel, info: dict[str, Any], spec: StageSpec) -> None:
    """Check that the checkpoint had all weights, but for those of a classification head, which a stage trains."""
    body, name = f"{hf.base_model_prefix}.", spec.starts_from.name
    sizes = sorted(f"{key} is {tuple(own)} and not {tuple(wanted)}" for key, own, wanted in info["mismatched_keys"])
    if sizes:
        is_head = not spec.is_language_model and not any(key.startswith(body) for key, *_ in info["mismatched_keys"])
        raise ModelError(
            f"the weights of {name} do not fit the stage's model: {_some(sizes)}",
            f"it was trained with another number of classes: save it without its head (`AutoModel.from_pretrained("
            f"{name!r}).save_pretrained(…)`)"
            if is_head
            else "download or save the model again, so that config.json and weights belong together",
        )
    missing = sorted(
        key
        for key in info["missing_keys"]
        if spec.is_language_model or (key.startswith(body) and "pool" not in key.removeprefix(body))
    )
    if missing:
        raise ModelError(
            f"the weights of {name} have no {_some(missing)}",
            "download or save the model again, with the architecture that config.json names",
        )


def _some(names: Sequence[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _from_scratch(
    shape: Architecture, tokenizer: PreTrainedTokenizerFast, init_seed: int, execution: Execution
) -> PreTrainedModel:
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_heads,
        intermediate_size=shape.intermediate_size,
        max_position_embeddings=shape.context_tokens,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    with torch.random.fork_rng(devices=[]), sharded_drawing(execution):
        torch.manual_seed(init_seed)
        return LlamaForCausalLM(config).float()


def _initialise_head(hf: PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerFast, spec: StageSpec) -> None:
    """Set the same head on every rank and under every ZeRO stage."""
    head = getattr(hf, "score", None) or getattr(hf, "classifier", None)
    if not isinstance(head, nn.Linear):
        return  # transformers initialises an encoder's own classifier block
    labels = [1] if spec.objective == "preference" else range(spec.num_classes)
    digits = [tokenizer.encode(str(label), add_special_tokens=False) for label in labels]
    generator = torch.Generator().manual_seed(spec.init_seed)
    rows_CD = torch.randn((len(digits), head.in_features), generator=generator, device="cpu") * _HEAD_STD
    if all(len(tokens) == 1 for tokens in digits):
        unembedding_CD = _unembedding_rows(hf, None if spec.starts_drawn else folder, [tokens[0] for tokens in digits])
        if unembedding_CD.shape == rows_CD.shape:
            rows_CD = unembedding_CD
    with gathered([head.weight]), torch.no_grad():
        head.weight.copy_(rows_CD)
    if head.bias is not None:
        with gathered([head.bias]), torch.no_grad():
            head.bias.zero_()


def _unembedding_rows(hf: PreTrainedModel, folder: Path | None, tokens: list[int]) -> torch.Tensor:
    """Return the checkpoint's unembedding rows, or embedding rows where the two are tied or it has no unembedding."""
    files = [] if folder is None or hf.config.tie_word_embeddings else weight_files(folder)
    for file in (file for file in files if file.suffix == ".safetensors"):
        with safe_open(file, framework="pt") as weights:
            for name in (name for name in _UNEMBEDDINGS if name in weights.keys()):  # noqa: SIM118 (no mapping)
                matrix = weights.get_slice(name)
                return torch.cat([matrix[token : token + 1] for token in tokens]).float()
    embeddings_VD: torch.Tensor = hf.get_input_embeddings().weight
    with gathered([embeddings_VD]):
        return embeddings_VD.detach()[tokens].clone()


def _shorten(config: Any, num_layers: int) -> None:
    """Give a configuration fewer layers, and lists with an entry for each layer as many entries."""
    all_layers = config.num_hidden_layers
    for name, value in list(vars(config).items()):
        if isinstance(value, list | tuple) and len(value) == all_layers:
            setattr(config, name, value[:num_layers])
    config.num_hidden_layers = num_layers


def _with_dropout(config: Any, dropout: float) -> Any:
    """Set every dropout of the configuration, and other noise to 0; then results do not depend on micro-batches."""
    for name, value in list(vars(config).items()):
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue  # ESM's `token_dropout` is no rate
        if name.endswith(("dropout", "pdrop", "dropout_prob", "dropout_rate")):
            setattr(config, name, dropout)
        elif name.endswith(("layerdrop", "jitter_noise")):
            setattr(config, name, 0.0)
    return config
