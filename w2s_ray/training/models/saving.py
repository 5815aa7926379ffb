"""The exported model of a stage: a folder that `AutoModelFor…` and `AutoTokenizer` load, and that predicts the same."""

import copy
import json
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from w2s_ray.data.tokens import special_tokens
from w2s_ray.spec.stage import Precision, StageSpec
from w2s_ray.store.files import digest_file, require_space, sync_file, writing
from w2s_ray.training.feed import TokenRow
from w2s_ray.training.memory.footprint import FILE_BYTES
from w2s_ray.training.models.adapters import merge_adapters
from w2s_ray.training.models.exports import READ, read_only_ids, write_labels, write_precision
from w2s_ray.training.models.files import WEIGHTS, WEIGHTS_INDEX
from w2s_ray.training.models.network import Network
from w2s_ray.training.workers import Workers

_UNLIMITED = "1000TB"
_DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16}


class Gather(Protocol):
    """Returns weights by name, complete, on ranks that keep them; collective."""

    def __call__(self, names: Collection[str], *, keeps: bool) -> dict[str, torch.Tensor]: ...


def exported_tokenizer(
    tokenizer: PreTrainedTokenizerFast, before: TokenRow, after: TokenRow, spec: StageSpec
) -> PreTrainedTokenizerFast:
    """Return a tokenizer that gives what the stage's model reads: its special tokens around a text, and no segments.

    A stage that learns text alone, from which others start, keeps the special tokens of its source.
    """
    exported = copy.deepcopy(tokenizer)
    padding = exported.backend_tokenizer.padding
    if padding is not None and padding["pad_id"] != tokenizer.pad_token_id:  # that of the source, which was replaced
        exported.backend_tokenizer.no_padding()
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


@dataclass(frozen=True)
class ExportFolder:
    """A folder to be written that `AutoModelFor…` and `AutoTokenizer` load."""

    path: Path
    tokenizer: PreTrainedTokenizerFast
    context_tokens: int
    """The most tokens of a text."""
    precision: Precision = "fp32"
    """Precision of the weights in the files."""

    def save(self, network: Network, sizes: dict[str, int], gather: Gather, workers: Workers) -> dict[str, str]:
        """Write a model, its weights in files of about `FILE_BYTES`; collective.

        Each rank gathers, writes and hashes its share of the files, one at a time, so no process holds more than one.

        Args:
            network: whose configuration is written, and whose LoRA adapters are merged.
            sizes: bytes of each of its weights and buffers by name.
            gather: returns some of them.
            workers: the ranks that call this.

        Returns:
            The SHA-256 of each file of weights by name.

        Raises:
            StoreError: on every rank, when the disk has no room for it.
        """
        share = _DTYPES[self.precision].itemsize / torch.float32.itemsize
        workers.on_rank_0(lambda: require_space(self.path, int(sum(sizes.values()) * share)))
        files = _files(sizes)
        digests: dict[str, str] = {}
        for first in range(0, len(files), workers.size):
            own: dict[str, torch.Tensor] = {}
            for rank, names in enumerate(files[first : first + workers.size]):
                own |= gather(names, keeps=rank == workers.rank)
            number = first + workers.rank + 1
            file = WEIGHTS if len(files) == 1 else f"model-{number:05}-of-{len(files):05}.safetensors"
            write = partial(_write_file, network, own, self.path / file, _DTYPES[self.precision])
            for written in workers.on_every_rank(write):
                digests |= written
        workers.on_rank_0(lambda: self._write_rest(network, sorted(digests)))
        return digests

    def save_alone(self, network: Network, changed: dict[str, torch.Tensor] | None = None) -> dict[str, str]:
        """Write a model that this process holds, with some weights `changed`; return the digests as `save` does."""
        kept = network.state_dict().keys()
        held = {name: tensor for name, tensor in network.named_buffers() if name in kept}
        held |= {name: weight.detach() for name, weight in network.named_parameters()} | (changed or {})
        sizes = {name: tensor.nbytes for name, tensor in held.items()}

        def gather(names: Collection[str], *, keeps: bool) -> dict[str, torch.Tensor]:
            return {name: held[name] for name in names}

        return self.save(network, sizes, gather, Workers.alone())

    def _write_rest(self, network: Network, files: list[str]) -> None:
        """Write the class names, the precision, the tokenizer, and the index of several files of weights."""
        write_labels(self.path, network.hf.config.id2label)
        write_precision(self.path, str(_DTYPES[self.precision]).removeprefix("torch."))
        if len(files) > 1:
            index: dict[str, Any] = {"metadata": {"total_size": 0}, "weight_map": {}}
            for name in files:
                with safe_open(self.path / name, framework="pt") as weights:
                    index["weight_map"] |= dict.fromkeys(weights.keys(), name)
                index["metadata"]["total_size"] += (self.path / name).stat().st_size
            (self.path / WEIGHTS_INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
        self.tokenizer.model_max_length = self.context_tokens
        self.tokenizer.save_pretrained(self.path)
        read_only_ids(self.path)


@contextmanager
def disk_errors() -> Iterator[None]:
    """Raise what safetensors meets on the disk inside the block as the OSError that it is, for example a full disk."""
    try:
        yield
    except SafetensorError as error:
        number = re.search(r"os error (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


def _files(sizes: dict[str, int]) -> list[list[str]]:
    """Distribute weights over files. Those of a layer stay together: transformers may join or split them in a file."""
    layers: dict[str, list[str]] = {}
    for name in sizes:
        layers.setdefault(_layer(name), []).append(name)
    files: list[list[str]] = [[]]
    for names in layers.values():
        if files[-1] and sum(sizes[name] for name in (*files[-1], *names)) > FILE_BYTES:
            files.append([])
        files[-1] += names
    return files


def _layer(name: str) -> str:
    """Return the name of a weight's layer, or of its module outside of the layers; adapters belong to their module."""
    layer = re.match(r".*?\.\d+(?=\.)", name)
    return layer[0] if layer else re.split(r"\.(?:base_layer|lora_\w+)\.|\.\w+$", name)[0]


def _write_file(network: Network, weights: dict[str, torch.Tensor], path: Path, dtype: torch.dtype) -> dict[str, str]:
    """Write one file of weights, and the configuration beside it; return its digest by name, without weights none."""
    if not weights:
        return {}
    state = merge_adapters(network.hf, {name.removeprefix("hf."): tensor for name, tensor in weights.items()})
    state = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    aside = path.with_name(f".{path.name}")
    network.hf.should_save_on_this_rank = lambda is_main_process: True  # not rank 0 alone
    with writing(path), disk_errors():
        network.hf.save_pretrained(aside, state_dict=state, max_shard_size=_UNLIMITED)
        for written in aside.iterdir():
            written.replace(path if written.name == WEIGHTS else path.with_name(written.name))
        aside.rmdir()
        sync_file(path)
    return {path.name: digest_file(path)}
