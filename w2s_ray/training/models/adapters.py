"""Which weights of a network are trained: all, the head alone (probe), or LoRA adapters and the head.

Frozen weights keep the source's values. LoRA adapters are merged into their layers when the stage is saved, so the
store holds a plain model, unless `execution.keep_adapters` stores them apart (unmerged.py).
"""

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from w2s_ray.errors import ModelError
from w2s_ray.spec.stage import Lora, Probe, StageSpec

ADAPTER = "default"
"""peft's name of a model's only adapter."""


def freeze(hf: PreTrainedModel, spec: StageSpec) -> None:
    """Freeze the weights of `hf` that the stage does not train, and add LoRA adapters if it trains those.

    Raises:
        ModelError: when `trainable.targets` names modules that the model does not have or that are not linear.
    """
    match spec.trainable:
        case Probe():
            hf.base_model.requires_grad_(False)
        case Lora() as lora:
            _add_lora(hf, lora, spec)


def merge_adapters(hf: PreTrainedModel, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return `weights` of `hf`, of all or some of its layers, with LoRA adapters merged: W + alpha / rank · B·A."""
    merged = {name: tensor for name, tensor in weights.items() if ".lora_" not in name}
    for name, layer in hf.named_modules():
        if isinstance(layer, LoraLayer) and f"{name}.base_layer.weight" in weights:
            a_RI, b_OR = (weights[f"{name}.lora_{part}.{ADAPTER}.weight"] for part in "AB")
            added = b_OR @ a_RI * layer.scaling[ADAPTER]
            added = added.T if isinstance(layer.get_base_layer(), Conv1D) else added
            merged[f"{name}.base_layer.weight"] = merged[f"{name}.base_layer.weight"] + added
    return {name.replace(".base_layer.", "."): tensor for name, tensor in merged.items()}


def _add_lora(hf: PreTrainedModel, lora: Lora, spec: StageSpec) -> None:
    body = f"{hf.base_model_prefix}."
    linear = [name for name, module in hf.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    for target in lora.targets or ():
        matching = [name for name, _ in hf.named_modules() if name == target or name.endswith(f".{target}")]
        if not matching or not set(matching).issubset(linear):
            raise ModelError(
                f"trainable.targets names {target!r}, and {spec.starts_from.name} has no linear layer of that name",
                f"its linear layers are {', '.join(sorted({name.rsplit('.', 1)[-1] for name in linear}))}",
            )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type] # peft divides it by the rank, integer or not
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets) if lora.targets else [name for name in linear if name.startswith(body)],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.init_seed)
        inject_adapter_in_model(config, hf, adapter_name=ADAPTER)
    if not spec.is_language_model:
        for name, parameter in hf.named_parameters():
            if not name.startswith(body):
                parameter.requires_grad_(True)  # the head, which peft has frozen too
