"""Models and heads: a decoder (or encoder) from disk, hub or scratch, and one logit per class from its last token.

Pooling goes by the attention mask, never by looking for a padding token: `"!"` is token 0 in GPT-2 and a text may end
in the padding token. Rows are padded on the right, so a causal decoder needs no mask: no real token sees a padded one.

The classification head is linear, initialised from the unembedding rows of "0", "1", … (Burns et al. 2023), or from the
stage's seed where those are not single tokens.
"""

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
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from w2s_ray.errors import ModelError
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import Architecture, ModelSource, Precision, StageSpec
from w2s_ray.store.files import require_space
from w2s_ray.training.model_files import weight_files
from w2s_ray.training.zero import sharded_loading, whole

_HEAD_STD = 0.02
_UNEMBEDDINGS = ("lm_head.weight", "embed_out.weight")


class Network(nn.Module):
    """A transformers model that maps right-padded tokens to logits, at the last token or at every one."""

    def __init__(self, hf: PreTrainedModel, precision: Precision) -> None:
        super().__init__()
        self.hf = hf
        self.precision = precision

    def forward(self, tokens_BT: torch.Tensor, last_B: torch.Tensor) -> torch.Tensor:
        """Return logits_BC of each row's last token (classification) or logits_BTV (next token), in fp32."""
        with torch.autocast(tokens_BT.device.type, torch.bfloat16, enabled=self.precision == "bf16" and self.training):
            if not hasattr(self.hf, "score"):
                return self._without_score(tokens_BT, last_B).float()
            hidden_BTD = self.hf.base_model(input_ids=tokens_BT, use_cache=False).last_hidden_state
            pooled_BD = hidden_BTD[torch.arange(len(last_B), device=last_B.device), last_B]
            logits_BC: torch.Tensor = self.hf.score(pooled_BD)
            return logits_BC.float()

    def _without_score(self, tokens_BT: torch.Tensor, last_B: torch.Tensor) -> torch.Tensor:
        """Language models, and encoders whose classifier pools by itself and needs the mask."""
        arguments: dict[str, Any] = {}
        if isinstance(self.hf, PreTrainedModel) and "SequenceClassification" in type(self.hf).__name__:
            positions_T = torch.arange(tokens_BT.shape[1], device=tokens_BT.device)
            arguments["attention_mask"] = (positions_T[None, :] <= last_B[:, None]).long()
        else:
            arguments["use_cache"] = False
        logits: torch.Tensor = self.hf(input_ids=tokens_BT, **arguments).logits
        return logits


def load_tokenizer(folder: Path, pad_token: str | None) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer that pads on the right and truncates on the left.

    Raises:
        ModelError: when it has no padding token and none is given.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder, split_special_tokens=True)
    if pad_token is not None:
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"the tokenizer of {folder} has no padding token",
            "batches are padded to one length",
            f"name one in the level, for example `pad_token: {tokenizer.eos_token!r}`",
        )
    tokenizer.padding_side, tokenizer.truncation_side = "right", "left"
    return tokenizer


def load_network(spec: StageSpec, folder: Path, tokenizer: PreTrainedTokenizerFast, execution: Execution) -> Network:
    """Build the network that `spec` starts from, in fp32, sharded while it loads under ZeRO-3.

    `folder` holds the weights, or for a network from scratch nothing that is read.
    """
    dropout = spec.optimisation.dropout
    architecture = spec.starts_from.architecture if isinstance(spec.starts_from, ModelSource) else None
    if spec.objective == "next_token":
        if architecture is not None:
            hf = _from_scratch(architecture, tokenizer, spec.init_seed)
        else:
            config = _with_dropout(AutoConfig.from_pretrained(folder), dropout)
            with sharded_loading(execution):
                hf = AutoModelForCausalLM.from_pretrained(folder, config=config, dtype=torch.float32)
        return Network(hf, spec.optimisation.precision)
    assert architecture is None, "a stage from scratch learns next tokens"
    config = _with_dropout(AutoConfig.from_pretrained(folder), dropout)
    config.num_labels = spec.num_classes
    config.pad_token_id = tokenizer.pad_token_id
    # What the checkpoint lacks, such as an encoder's own classifier block, is drawn from the stage's seed.
    with torch.random.fork_rng(devices=[]), sharded_loading(execution):
        torch.manual_seed(spec.init_seed)
        hf = AutoModelForSequenceClassification.from_pretrained(folder, config=config, dtype=torch.float32)
    _initialise_head(hf, folder, tokenizer, spec)
    return Network(hf, spec.optimisation.precision)


def load_trained(folder: Path, execution: Execution, objective: str) -> Network:
    """Load a finished stage's model for prediction."""
    auto = AutoModelForCausalLM if objective == "next_token" else AutoModelForSequenceClassification
    with sharded_loading(execution):
        return Network(auto.from_pretrained(folder, dtype=torch.float32), "fp32")


def save_network(
    network: Network,
    weights: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    context_tokens: int,
) -> None:
    """Write a folder that `AutoModelFor…` and `AutoTokenizer` load; `weights` are the network's, in one piece.

    Raises:
        StoreError: when there is no room for it.
    """
    require_space(folder, sum(tensor.nbytes for tensor in weights.values()))
    prefix = "hf."
    state = {name.removeprefix(prefix): tensor for name, tensor in weights.items()}
    network.hf.save_pretrained(folder, state_dict=state, safe_serialization=True)
    tokenizer.model_max_length = context_tokens
    tokenizer.save_pretrained(folder)


def _from_scratch(shape: Architecture, tokenizer: PreTrainedTokenizerFast, init_seed: int) -> PreTrainedModel:
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
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(init_seed)
        return LlamaForCausalLM(config).float()


def _initialise_head(hf: PreTrainedModel, folder: Path, tokenizer: PreTrainedTokenizerFast, spec: StageSpec) -> None:
    """Set the head alike on every rank and under every ZeRO stage."""
    head = getattr(hf, "score", None) or getattr(hf, "classifier", None)
    if not isinstance(head, nn.Linear):
        return  # an encoder's own classifier block keeps transformers' initialisation
    digits = [tokenizer.encode(str(label), add_special_tokens=False) for label in range(spec.num_classes)]
    generator = torch.Generator().manual_seed(spec.init_seed)
    rows_CD = torch.randn((spec.num_classes, head.in_features), generator=generator) * _HEAD_STD
    if all(len(tokens) == 1 for tokens in digits):
        found_CD = _unembedding_rows(hf, folder, [tokens[0] for tokens in digits])
        if found_CD.shape == rows_CD.shape:
            rows_CD = found_CD
    with whole([head.weight]), torch.no_grad():
        head.weight.copy_(rows_CD)
    if head.bias is not None:
        with whole([head.bias]), torch.no_grad():
            head.bias.zero_()


def _unembedding_rows(hf: PreTrainedModel, folder: Path, tokens: list[int]) -> torch.Tensor:
    """The unembedding's rows: the checkpoint's own, or the embedding's where the two are tied."""
    files = [] if hf.config.tie_word_embeddings else weight_files(folder)
    for file in (file for file in files if file.suffix == ".safetensors"):
        with safe_open(file, framework="pt") as weights:
            for name in (name for name in _UNEMBEDDINGS if name in weights.keys()):  # noqa: SIM118 (no mapping)
                matrix = weights.get_slice(name)
                return torch.cat([matrix[token : token + 1] for token in tokens]).float()
    embeddings_VD: torch.Tensor = hf.get_input_embeddings().weight
    with whole([embeddings_VD]):
        return embeddings_VD.detach()[tokens].clone()


def _with_dropout(config: Any, dropout: float) -> Any:
    """Set every dropout of the configuration; 0 keeps results independent of workers and micro-batches."""
    for name in vars(config):
        if name.endswith(("dropout", "pdrop", "dropout_prob")) and isinstance(getattr(config, name), int | float):
            setattr(config, name, dropout)
    return config
