"""The exported model of a stage: a folder that `AutoModelFor…` and `AutoTokenizer` load, and that predicts the same."""

import copy
from pathlib import Path

import numpy as np
import torch
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from w2s_ray.data.tokens import special_tokens
from w2s_ray.spec.stage import StageSpec
from w2s_ray.store.files import require_space
from w2s_ray.training.feed import TokenRow
from w2s_ray.training.models.adapters import merge_adapters
from w2s_ray.training.models.exports import READ, read_only_ids, write_labels
from w2s_ray.training.models.network import Network


def exported_tokenizer(
    tokenizer: PreTrainedTokenizerFast, before: TokenRow, after: TokenRow, spec: StageSpec
) -> PreTrainedTokenizerFast:
    """Return a tokenizer that gives what the stage's model reads: its special tokens around a text, and no segments.

    A stage that learns text alone, from which others start, keeps the special tokens of its source.
    """
    exported = copy.deepcopy(tokenizer)
    own = special_tokens(tokenizer)
    if spec.objective != "next_token" and not all(map(np.array_equal, own, (before, after))):
        start, end = (tokenizer.convert_ids_to_tokens(tokens.tolist()) for tokens in (before, after))
        exported.backend_tokenizer.post_processor = TemplateProcessing(
            single=[*start, "$A", *end],
            pair=[*start, "$A", *end, "$B:1", *(f"{token}:1" for token in end)],
            special_tokens=[*zip(start, before.tolist(), strict=True), *zip(end, after.tolist(), strict=True)],
        )
        exported = PreTrainedTokenizerFast(  # other classes may build the special tokens again
            tokenizer_object=exported.backend_tokenizer,
            split_special_tokens=True,
            padding_side="right",
            truncation_side="left",
            chat_template=tokenizer.chat_template,
            **tokenizer.special_tokens_map,
        )
    exported.model_input_names = list(READ)
    return exported


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
    write_labels(folder, network.hf.config.id2label)
    tokenizer.model_max_length = context_tokens
    tokenizer.save_pretrained(folder)
    read_only_ids(folder)
