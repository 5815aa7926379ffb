"""Attention over texts that follow each other in one row without padding (feed.py, `Packing`).

    sdpa     not packed: padded rows, and the attention that transformers chooses
    varlen   packed: PyTorch's variable-length kernel on a GPU; on a CPU, text by text, to test what a GPU computes
    flash    packed: the kernel of the package flash_attn

`use_attention` registers one function with transformers, which every supported model calls in each layer. A forward
pass with a packing ignores masks; one without is transformers' `sdpa`, so padded batches and generation work as before.
"""

import functools
import importlib.util
import itertools
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.attention.varlen import varlen_attn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PretrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from w2s_ray.errors import ModelError, first_line
from w2s_ray.spec.execution import Attention
from w2s_ray.spec.stage import Optimisation, Precision
from w2s_ray.training.feed import Packing
from w2s_ray.training.models.catalogue import packing_obstacle
from w2s_ray.training.workers import Workers

AttentionKind = Literal["sdpa", "varlen", "flash"]

_OFFSET_POSITIONS = frozenset(("roberta", "xlm-roberta"))
"""Encoders whose first position is that of the padding token plus 1."""
_LEAST_CAPABILITY = (8, 0)
"""The compute capability of an NVIDIA GPU (Ampere) from which on both kernels work."""
_LARGEST_ERROR = 0.05
"""Largest error of a kernel in bf16, relative to the largest value."""


def use_attention(
    hf: PreTrainedModel, wanted: Attention, optimisation: Optimisation, precision: Precision, workers: Workers
) -> AttentionKind:
    """Prepare a model for the attention that the study asks for; return its kind, the same on every rank. Collective.

    Args:
        hf: the model.
        wanted: `auto` packs texts where all devices, the settings and the model allow it.
        optimisation: the stage's settings.
        precision: in which the stage trains on these devices.
        workers: the stage's workers.

    Raises:
        ModelError: on every rank, when packing is asked for and a device, a setting or the model does not allow it.
    """
    if wanted == "sdpa":
        return "sdpa"
    kind: AttentionKind = "varlen" if wanted == "auto" else wanted
    config, device = hf.config.get_text_config(), workers.device
    on_gpu = device.type == "cuda"
    size = _head_size(config)
    own = packing_obstacle(
        config.model_type,
        size,
        is_own_code=not type(hf).__module__.startswith("transformers."),
        dropout=optimisation.dropout,
        precision=precision,
        on_gpu=on_gpu,
    )
    if not own and on_gpu:
        assert size is not None, config.model_type
        own = _gpu_obstacle(kind, device, size)
    elif not own and (kind == "flash" or wanted == "auto"):
        own = "it needs a GPU"
    obstacle = next(filter(None, workers.on_every_rank(lambda: own)), "")
    if obstacle and wanted != "auto":
        raise ModelError(f"attention: {wanted} is not possible: {obstacle}", "set `attention: auto` or `sdpa`")
    if obstacle:
        return "sdpa"
    name = f"w2s_{'varlen' if kind == 'varlen' else 'fa'}"  # transformers treats names with "flash" as its own
    AttentionInterface.register(name, partial(_attention, kind))
    AttentionMaskInterface.register(name, sdpa_mask)
    hf.set_attn_implementation(name)
    return kind


def _head_size(config: PretrainedConfig) -> int | None:
    """Return the dimensions of an attention head; None for models without heads."""
    heads = getattr(config, "num_attention_heads", None)
    return getattr(config, "head_dim", None) or (config.hidden_size // heads if heads else None)


def _gpu_obstacle(kind: AttentionKind, device: torch.device, size: int) -> str:
    """Return why a GPU cannot read packed texts with heads of this size; empty if it can."""
    if kind == "flash" and importlib.util.find_spec("flash_attn") is None:
        return "the package flash_attn is not installed"
    capability = torch.cuda.get_device_capability(device)
    if capability < _LEAST_CAPABILITY:
        name = torch.cuda.get_device_name(device)
        return f"{name} has compute capability {capability[0]}.{capability[1]}, and the kernel needs 8.0"
    return _kernel_fault(kind, device, size)


@functools.cache
def _kernel_fault(kind: AttentionKind, device: torch.device, size: int) -> str:
    """Try a kernel on a few tokens; return what is wrong with its values or gradients on this device, if anything."""
    packing = Packing.of(np.array([5, 1, 9]), torch.device("cpu"))
    on_device = Packing.of(np.array([5, 1, 9]), device)
    generator = torch.Generator().manual_seed(0)
    expected = [torch.randn(15, 2, size, generator=generator).requires_grad_() for _ in range(3)]
    given = [tensor.detach().to(device, torch.bfloat16).requires_grad_() for tensor in expected]
    try:
        outputs = []
        ways: tuple[tuple[AttentionKind, list[torch.Tensor], Packing], ...] = (
            ("varlen", expected, packing),  # on the CPU
            (kind, given, on_device),
        )
        for tried, (q_MHD, k_MHD, v_MHD), own in ways:
            mixed_MHD = _mixed(tried, q_MHD, k_MHD, v_MHD, own, None, (-1, 0))
            gradients = torch.autograd.grad(mixed_MHD.square().sum(), (q_MHD, k_MHD, v_MHD))
            outputs.append([mixed_MHD.detach(), *gradients])
        errors = [
            float((got.cpu().float() - wanted).abs().max() / wanted.abs().max())
            for wanted, got in zip(*outputs, strict=True)
        ]
    except Exception as error:  # whatever a kernel raises on a device that it does not support
        fault = f"its kernel fails on this device: {first_line(error)}"
    else:
        wrong = max(errors) > _LARGEST_ERROR
        fault = f"its kernel is off by {max(errors):.0%} on this device" if wrong else ""
    if fault:
        print(f"attention: {kind}: {fault}", flush=True)
    return fault


def packed_arguments(hf: PreTrainedModel, packing: Packing) -> dict[str, Any]:
    """Return the arguments of a base model's forward pass over a packed row, besides its tokens."""
    offset = hf.config.pad_token_id + 1 if hf.config.model_type in _OFFSET_POSITIONS else 0
    no_mask = torch.empty((1, 1, 0, 0), dtype=torch.bool, device=packing.positions_M.device)
    # A mask of four dimensions is passed on as it is; without one transformers would build M × M masks.
    return {"position_ids": packing.positions_M[None] + offset, "attention_mask": no_mask, "packing": packing}


def encoder_logits(hf: PreTrainedModel, hidden_1MD: torch.Tensor, packing: Packing) -> torch.Tensor:
    """Return logits_RC of an encoder's own classifier, whose pooling expects padded rows."""
    first_R1D = hidden_1MD[0, packing.bounds_S[:-1]][:, None]
    logits_RC: torch.Tensor
    match hf.config.model_type:
        case "bert":
            logits_RC = hf.classifier(hf.dropout(hf.bert.pooler(first_R1D)))
        case "modernbert":
            pooled_RD = first_R1D[:, 0]
            if hf.config.classifier_pooling == "mean":
                sums_RD = torch.zeros_like(pooled_RD).index_add(0, packing.text_M, hidden_1MD[0])
                pooled_RD = sums_RD / packing.bounds_S.diff()[:, None]
            logits_RC = hf.classifier(hf.drop(hf.head(pooled_RD)))
        case _:
            logits_RC = hf.classifier(first_R1D)
    return logits_RC


def _attention(
    kind: AttentionKind,
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    packing: Packing | None = None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention as transformers' layers call it: (1, heads, M, size) to (1, M, heads, size).

    `sliding_window` counts the tokens that a token sees in each direction, itself included.
    """
    if packing is None:
        mixed: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **others
        )
        return mixed
    dtype = value.dtype
    if torch.is_autocast_enabled(query.device.type):  # rotary embeddings have made fp32 of queries and keys
        dtype = torch.get_autocast_dtype(query.device.type)
    q_MHD, k_MHD, v_MHD = (tensor[0].transpose(0, 1).to(dtype) for tensor in (query, key, value))
    left = -1 if sliding_window is None else sliding_window - 1
    is_causal = others.get("is_causal")
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    window = (left, 0 if is_causal else left)
    return _mixed(kind, q_MHD, k_MHD, v_MHD, packing, scaling, window)[None], None


def _mixed(
    kind: AttentionKind,
    q_MHD: torch.Tensor,
    k_MHD: torch.Tensor,
    v_MHD: torch.Tensor,
    packing: Packing,
    scaling: float | None,
    window: tuple[int, int],
) -> torch.Tensor:
    """Return each token's mixture of values, of the tokens in `window` of its own text (-1: all)."""
    if kind == "flash":
        from flash_attn import flash_attn_varlen_func

        bounds, longest = (packing.bounds_S,) * 2, (packing.longest,) * 2
        is_causal = window[1] == 0
        mixed_MHD: torch.Tensor = flash_attn_varlen_func(
            q_MHD, k_MHD, v_MHD, *bounds, *longest, softmax_scale=scaling, causal=is_causal, window_size=window
        )
        return mixed_MHD
    if q_MHD.device.type == "cpu":
        return _text_by_text(q_MHD, k_MHD, v_MHD, packing, scaling, window)
    return varlen_attn(  # type: ignore[return-value] # a tensor, since nothing else is asked for
        q_MHD.contiguous(),
        k_MHD.contiguous(),
        v_MHD.contiguous(),
        packing.bounds_S,
        packing.bounds_S,
        packing.longest,
        packing.longest,
        scale=scaling,
        window_size=window,
        enable_gqa=q_MHD.shape[1] != k_MHD.shape[1],
    )


def _text_by_text(
    q_MHD: torch.Tensor,
    k_MHD: torch.Tensor,
    v_MHD: torch.Tensor,
    packing: Packing,
    scaling: float | None,
    window: tuple[int, int],
) -> torch.Tensor:
    """Return what the kernels compute, for CPUs: attention within each text, over `window` tokens (-1: all)."""
    mixed = []
    bounds = packing.bounds_S.tolist()
    for begin, end in itertools.pairwise(bounds):
        places_L = torch.arange(end - begin)
        ahead_LL = places_L[None, :] - places_L[:, None]
        left, right = (size if size >= 0 else end - begin for size in window)
        q_1HLD, k_1HLD, v_1HLD = (tensor[begin:end].transpose(0, 1)[None] for tensor in (q_MHD, k_MHD, v_MHD))
        mask_LL = (ahead_LL >= -left) & (ahead_LL <= right)
        mixed_1HLD = scaled_dot_product_attention(
            q_1HLD, k_1HLD, v_1HLD, attn_mask=mask_LL, scale=scaling, enable_gqa=q_MHD.shape[1] != k_MHD.shape[1]
        )
        mixed.append(mixed_1HLD[0].transpose(0, 1))
    return torch.cat(mixed)
