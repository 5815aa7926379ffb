"""Networks: a decoder or encoder with a classification head, a language model, or one that scores completions.

A network maps the tokens of examples to logits: of classes, or of every next token. For pairs one head with one output
scores both texts, and the two scores are the logits of which text is better: their softmax is sigmoid(score2 - score1)
(Burns et al. 2023, reward modelling).

Pooling uses the attention mask and never looks for a padding token: `"!"` is token 0 in GPT-2, and a text may end in
the padding token. Rows are padded on the right, so a causal decoder needs no mask: no real token sees padding.

The classification head is linear. It is initialised from the unembedding rows of "0", "1", … (Burns et al. 2023; for
pairs that of "1"), or from the stage's seed where these are not single tokens.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from w2s_ray.errors import ModelError, first_line
from w2s_ray.spec.stage import Architecture, Execution, ModelSource, Precision, Score, StageSpec
from w2s_ray.store.files import require_space
from w2s_ray.training.feed import TokenRow
from w2s_ray.training.models.adapters import freeze, merge_adapters
from w2s_ray.training.models.files import weight_files
from w2s_ray.training.zero import gathered, sharded_loading

_HEAD_STD = 0.02
_UNEMBEDDINGS = ("lm_head.weight", "embed_out.weight")


class Network(nn.Module):
    """A transformers model that maps right-padded tokens to logits, at the last token or at every token."""

    def __init__(self, hf: PreTrainedModel, precision: Precision) -> None:
        super().__init__()
        self.hf = hf
        self.precision = precision

    def forward(self, tokens_RT: torch.Tensor, last_R: torch.Tensor) -> torch.Tensor:
        """Return logits_RC of each row's last token (classification) or logits_RTV (language), in fp32."""
        with torch.autocast(tokens_RT.device.type, torch.bfloat16, enabled=self.precision == "bf16" and self.training):
            if not hasattr(self.hf, "score"):
                return self._own_logits(tokens_RT, last_R).float()
            hidden_RTD = self.hf.base_model(input_ids=tokens_RT, use_cache=False).last_hidden_state
            pooled_RD = hidden_RTD[torch.arange(len(last_R), device=last_R.device), last_R]
            logits_RC: torch.Tensor = self.hf.score(pooled_RD)
            return logits_RC.float()

    def _own_logits(self, tokens_RT: torch.Tensor, last_R: torch.Tensor) -> torch.Tensor:
        """Return the logits of a language model, or of an encoder whose classifier pools by itself with the mask."""
        arguments: dict[str, Any] = {}
        if isinstance(self.hf, PreTrainedModel) and "SequenceClassification" in type(self.hf).__name__:
            positions_T = torch.arange(tokens_RT.shape[1], device=tokens_RT.device)
            arguments["attention_mask"] = (positions_T[None, :] <= last_R[:, None]).long()
        else:
            arguments["use_cache"] = False
        logits: torch.Tensor = self.hf(input_ids=tokens_RT, **arguments).logits
        return logits


class PairNetwork(Network):
    """Compares two texts: their scores are the logits of which is better."""

    def forward(self, tokens_RT: torch.Tensor, last_R: torch.Tensor) -> torch.Tensor:
        """Return logits_B2 of B pairs; their first texts are the first half of the rows."""
        scores_R1 = super().forward(tokens_RT, last_R)
        return scores_R1.view(2, -1).T


class CompletionNetwork(Network):
    """Scores completions by their log-probabilities (`Score`): an example's scores are its logits.

    Only the logits that predict a completion's tokens are computed: the hidden states of all others are removed before
    the output embedding, whatever the architecture does to its logits afterwards.
    """

    def __init__(self, hf: PreTrainedModel, precision: Precision, score: Score, num_completions: int) -> None:
        """`num_completions`: completions of one example."""
        super().__init__(hf, precision)
        self.score, self.num_completions = score, num_completions
        self._wanted_RT: torch.Tensor | None = None
        hf.get_output_embeddings().register_forward_pre_hook(self._keep_wanted)

    def forward(
        self,
        tokens_RT: torch.Tensor,
        last_R: torch.Tensor,
        first_R: torch.Tensor | None = None,
        subtracted_BC: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return logits_BC of B examples in fp32.

        First come all rows with the first completion, then those with the second; for calibration then the completions
        without prompts, in the same order.
        """
        assert first_R is not None, "no completions"
        ends_T = torch.arange(1, tokens_RT.shape[1], device=last_R.device)[None, :]
        self._wanted_RT = (ends_T >= first_R[:, None]) & (ends_T <= last_R[:, None])
        logits_MV = super().forward(tokens_RT, last_R)[0]
        losses_M = cross_entropy(logits_MV, tokens_RT[:, 1:][self._wanted_RT], reduction="none")
        losses_RT = torch.zeros(self._wanted_RT.shape, device=last_R.device).masked_scatter(self._wanted_RT, losses_M)
        scores_R = -losses_RT.sum(dim=1)
        if self.score.normalise:
            scores_R = scores_R / (last_R - first_R + 1)
        scores_XB = scores_R.view(-1, len(tokens_RT) // self._texts_per_example)
        if self.score.calibrate:
            scores_XB = scores_XB[: self.num_completions] - scores_XB[self.num_completions :]
        logits_BC = self.score.beta * scores_XB.T
        return logits_BC if subtracted_BC is None else logits_BC - subtracted_BC

    @property
    def _texts_per_example(self) -> int:
        return self.num_completions * (2 if self.score.calibrate else 1)

    def _keep_wanted(self, _: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Return hidden_1MD of the M positions before the completions' tokens, in the order of the rows."""
        hidden_RTD, *others = arguments
        assert self._wanted_RT is not None, "the output embedding is used outside of the network's forward pass"
        return (hidden_RTD[:, :-1][self._wanted_RT][None], *others)


def load_tokenizer(folder: Path, pad_token: str | None) -> PreTrainedTokenizerFast:
    """Load a fast tokenizer that pads on the right and truncates on the left.

    Raises:
        ModelError: when it has no padding token, and `pad_token` is None.
    """
    tokenizer = AutoTokenizer.from_pretrained(  # these settings are saved with it
        folder, split_special_tokens=True, padding_side="right", truncation_side="left"
    )
    if pad_token is not None:
        tokenizer.pad_token = pad_token
    if tokenizer.pad_token_id is None:
        raise ModelError(
            f"the tokenizer of {folder} has no padding token",
            f"add one to the level, for example `pad_token: {tokenizer.eos_token!r}`",
        )
    return tokenizer


def load_network(spec: StageSpec, folder: Path, tokenizer: PreTrainedTokenizerFast, execution: Execution) -> Network:
    """Return the network that `spec` starts from, in fp32, sharded while it loads under ZeRO-3.

    `folder` holds the weights; for a network from scratch it is not read.

    Raises:
        ModelError: when transformers has no head for the objective on this model.
    """
    hf = (
        _language_model(spec, folder, tokenizer, execution)
        if spec.is_language_model
        else _classifier(spec, folder, tokenizer, execution)
    )
    freeze(hf, spec)
    return _network(hf, spec)


def checkpoint_activations(network: Network) -> bool:
    """Keep only the inputs of each layer for the backward pass; return whether the model supports it.

    The backward pass recomputes the layers with the same operations and the same dropout, so no result changes
    (Chen et al. 2016, arXiv 1604.06174).
    """
    if not network.hf.supports_gradient_checkpointing:
        return False
    network.hf.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return True


def load_trained(spec: StageSpec, folder: Path, tokenizer: PreTrainedTokenizerFast, execution: Execution) -> Network:
    """Load a finished stage's network for prediction."""
    auto = AutoModelForCausalLM if spec.is_language_model else AutoModelForSequenceClassification
    with sharded_loading(execution):
        hf = auto.from_pretrained(folder, dtype=torch.float32)
    return _network(hf, spec)


def _network(hf: PreTrainedModel, spec: StageSpec) -> Network:
    precision, score = spec.optimisation.precision, spec.completion_score
    if score is not None:
        return CompletionNetwork(hf, precision, score, spec.num_classes)
    return PairNetwork(hf, precision) if spec.objective == "preference" else Network(hf, precision)


def class_name_tokens(spec: StageSpec, tokenizer: PreTrainedTokenizerFast) -> list[TokenRow]:
    """Return the tokens of each class's name as it follows the cue."""
    encoded = (tokenizer.encode(f" {name}", add_special_tokens=False) for name in spec.class_names)
    return [np.array(tokens, dtype=np.int32) for tokens in encoded]


def _language_model(
    spec: StageSpec, folder: Path, tokenizer: PreTrainedTokenizerFast, execution: Execution
) -> PreTrainedModel:
    source = spec.starts_from
    if isinstance(source, ModelSource) and source.architecture is not None:
        return _from_scratch(source.architecture, tokenizer, spec.init_seed)
    return _loaded(AutoModelForCausalLM, _config(folder, spec, tokenizer), spec, folder, execution)


def _classifier(
    spec: StageSpec, folder: Path, tokenizer: PreTrainedTokenizerFast, execution: Execution
) -> PreTrainedModel:
    assert not isinstance(spec.starts_from, ModelSource) or spec.starts_from.architecture is None
    config = _config(folder, spec, tokenizer)
    config.num_labels = 1 if spec.objective == "preference" else spec.num_classes
    hf = _loaded(AutoModelForSequenceClassification, config, spec, folder, execution)
    _initialise_head(hf, folder, tokenizer, spec)
    return hf


def _config(folder: Path, spec: StageSpec, tokenizer: PreTrainedTokenizerFast) -> PretrainedConfig:
    config = _with_dropout(AutoConfig.from_pretrained(folder), spec.optimisation.dropout)
    if not spec.is_language_model:
        config.pad_token_id = tokenizer.pad_token_id
    return config


def _loaded(auto: Any, config: PretrainedConfig, spec: StageSpec, folder: Path, execution: Execution) -> Any:
    """Load the weights.

    Weights that the checkpoint does not have, such as an encoder's own classifier block, are drawn from the stage's
    seed; for `random` models all are.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.init_seed)
        try:
            if isinstance(spec.starts_from, ModelSource) and spec.starts_from.random:
                return auto.from_config(config, dtype=torch.float32)
            with sharded_loading(execution):
                return auto.from_pretrained(folder, config=config, dtype=torch.float32)
        except ValueError as error:
            raise ModelError(
                f"{spec.starts_from.name} cannot be loaded for {spec.objective}: {first_line(error)}",
                "choose a model that transformers can load as a language model (for answers, prompts and next_token) "
                "or with a sequence classification head (for classes and pairs)",
            ) from error


def save_network(
    network: Network,
    weights: dict[str, torch.Tensor],
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    context_tokens: int,
) -> None:
    """Write a folder that `AutoModelFor…` and `AutoTokenizer` load; `weights` are the network's, gathered.

    Raises:
        StoreError: when the disk has no room for it.
    """
    require_space(folder, sum(tensor.nbytes for tensor in weights.values()))
    prefix = "hf."
    state = merge_adapters(network.hf, {name.removeprefix(prefix): tensor for name, tensor in weights.items()})
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
    """Set the same head on every rank and under every ZeRO stage."""
    head = getattr(hf, "score", None) or getattr(hf, "classifier", None)
    if not isinstance(head, nn.Linear):
        return  # transformers initialises an encoder's own classifier block
    labels = [1] if spec.objective == "preference" else range(spec.num_classes)
    digits = [tokenizer.encode(str(label), add_special_tokens=False) for label in labels]
    generator = torch.Generator().manual_seed(spec.init_seed)
    rows_CD = torch.randn((len(digits), head.in_features), generator=generator) * _HEAD_STD
    if all(len(tokens) == 1 for tokens in digits):
        is_random = isinstance(spec.starts_from, ModelSource) and spec.starts_from.random
        unembedding_CD = _unembedding_rows(hf, None if is_random else folder, [tokens[0] for tokens in digits])
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


def _with_dropout(config: Any, dropout: float) -> Any:
    """Set every dropout of the configuration; 0 makes results independent of workers and micro-batches."""
    for name in vars(config):
        if name.endswith(("dropout", "pdrop", "dropout_prob")) and isinstance(getattr(config, name), int | float):
            setattr(config, name, dropout)
    return config


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, without gradients, inside the block."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
