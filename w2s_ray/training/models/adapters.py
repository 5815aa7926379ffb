"""Which of a network's weights are trained: all, the head alone, or low-rank additions and the head.

Frozen weights stay what the source says; low-rank additions live beside the layers that they add to while the stage
trains, and are merged into them when it is saved, so that what is stored is a plain model whatever was trained.
"""

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from w2s_ray.errors import ModelError
from w2s_ray.spec.stage import Lora, Probe, StageSpec

_ADAPTER = "default"
"""The name that peft gives to the only adapter of a model."""


def restrict(hf: PreTrainedModel, spec: StageSpec) -> None:
    """Let only those weights of `hf` be trained that the stage trains.

    Raises:
        ModelError: when low-rank additions are asked for at modules that the model does not have, or that are no
            linear layers.
    """
    match spec.trainable:
        case Probe():
            hf.base_model.requires_grad_(False)
        case Lora() as lora:
            _add_low_rank(hf, lora, spec)


def merged(hf: PreTrainedModel, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return `weights`, those of `hf` in one piece, with low-rank additions W + alpha / rank · B·A in their places."""
    plain = {name: tensor for name, tensor in weights.items() if ".lora_" not in name}
    for name, layer in hf.named_modules():
        if isinstance(layer, LoraLayer):
            a_RI, b_OR = (weights[f"{name}.lora_{part}.{_ADAPTER}.weight"] for part in "AB")
            added = b_OR @ a_RI * layer.scaling[_ADAPTER]
            plain[f"{name}.base_layer.weight"] += added.T if isinstance(layer.get_base_layer(), Conv1D) else added
    return {name.replace(".base_layer.", "."): tensor for name, tensor in plain.items()}


def _add_low_rank(hf: PreTrainedModel, lora: Lora, spec: StageSpec) -> None:
    body = f"{hf.base_model_prefix}."
    linear = [name for name, each in hf.named_modules() if isinstance(each, nn.Linear | Conv1D)]
    for target in lora.targets or ():
        named = [name for name, _ in hf.named_modules() if name == target or name.endswith(f".{target}")]
        if not named or not set(named).issubset(linear):
            raise ModelError(
                f"trainable.targets names {target!r}, and {spec.starts_from.name} has no linear layer of that name",
                "targets name linear layers of the model",
                f"name some of {', '.join(sorted({name.rsplit('.', 1)[-1] for name in linear}))}",
            )
    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,  # type: ignore[arg-type] # peft divides it by the rank, whole or not
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets) if lora.targets else [name for name in linear if name.startswith(body)],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(spec.init_seed)
        inject_adapter_in_model(config, hf, adapter_name=_ADAPTER)
    if not spec.is_language_model:
        for name, parameter in hf.named_parameters():
            if not name.startswith(body):
                parameter.requires_grad_(True)  # the head, which peft has frozen with the rest
