"""DeepSpeed: one engine for every ZeRO stage, its weights, and the state that it resumes from.

The engine gets fp32 master weights; bf16 is autocast inside the model's forward pass (models/network.py), so updates
are never smaller than the resolution of the weights, and one code path serves ZeRO 0 to 3. The number of micro-batches
varies by step (they follow a token budget), so DeepSpeed's accumulation counter stays at one and the boundary is set by
hand. Workarounds for DeepSpeed carry their reason where they are; tests/training/test_zero.py tests them.
"""

import gc
import itertools
import math
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed requires it; worker groups set their own
import deepspeed
from deepspeed.runtime.torch_autocast import PARAM_COMM_DTYPE_ATTR_NAME
from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config
from transformers.pytorch_utils import Conv1D

from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import Optimisation
from w2s_ray.training.engine_config import engine_config, loading_config
from w2s_ray.training.memory.footprint import LARGE_MODEL
from w2s_ray.training.memory.limits import limits_for
from w2s_ray.training.memory.usage import give_memory_back
from w2s_ray.training.placement import masters_to_files, moves_to_host, share_masters, weights_to_files, zeros_in_file

_MAPPED = 64 * 2**20
"""Size in bytes from which on glibc maps an allocation anew, zeroed by the kernel (mallopt(3), M_MMAP_THRESHOLD)."""
_WORTH_FREEING = _MAPPED
_LINEAR = torch.nn.functional.linear
_LINEAR_LAYERS = (nn.Linear, Conv1D)
MOMENTS = ("exp_avg", "exp_avg_sq")
"""The moments of AdamW, by torch's names."""
Read = Callable[[str, str, int, torch.Tensor], None]
"""Fills a tensor with a part of a weight (`weight` or a moment), by the weight's name and the first element's place."""

# An operator for CPU inference, which DeepSpeed would compile in the first stage on every new machine.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


@contextmanager
def sharded_loading(execution: Execution) -> Iterator[None]:
    """Under ZeRO-3, let `from_pretrained` inside the block shard the parameters as it reads them."""
    if execution.zero_stage != 3:
        yield
        return
    try:
        config = HfDeepSpeedConfig(loading_config(execution))
        yield
        del config
    finally:
        unset_hf_deepspeed_config()


@contextmanager
def gathered(parameters: Sequence[torch.Tensor]) -> Iterator[None]:
    """Gather sharded `parameters` inside the block; what rank 0 writes to them is broadcast at its end."""
    sharded = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    with deepspeed.zero.GatheredParameters(sharded, modifier_rank=0, enabled=bool(sharded)):
        yield


def count_parameters(parameters: Iterable[torch.Tensor]) -> int:
    """Count the weights, sharded or not."""
    return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in parameters)


@dataclass(frozen=True)
class Shard:
    """Consecutive elements of one trained weight and of its moments."""

    name: str
    start: int
    """Place of the first element in the flat weight."""
    tensors: dict[str, torch.Tensor]
    """Views by part (`weight` or a moment), one-dimensional, in fp32."""

    @property
    def num_elements(self) -> int:
        return self.tensors["weight"].numel()


class Engine:
    """A model under DeepSpeed: forward, backward, step, save, restore, and its gathered weights.

    Without `optimisation` the model only predicts: DeepSpeed shards it under ZeRO-3, and is not used under ZeRO 0 to 2.
    """

    def __init__(self, model: nn.Module, execution: Execution, optimisation: Optimisation | None) -> None:
        self.num_parameters = count_parameters(model.parameters())
        self.num_trained = count_parameters(weight for weight in model.parameters() if weight.requires_grad)
        self.model = model
        """For calls under `no_grad`; under ZeRO-3 each layer gathers its parameters for its forward pass."""
        self._names: dict[torch.Tensor, str] = {
            weight: name for name, weight in model.named_parameters() if weight.requires_grad
        }
        self.zero_stage = execution.zero_stage
        self._engine: Any = None
        self._optimizer: Any = None
        self._gradients: torch.Tensor | None = None
        self._moments_in = execution.nvme_folder if execution.offload_optimizer else None  # None: in memory
        limits = limits_for(self.num_parameters, _hidden_size(model))
        self._sends_bf16 = False
        config = engine_config(execution, 1.0 if optimisation is None else optimisation.max_grad_norm, limits)
        unsharded = config["zero_optimization"].get("stage3_param_persistence_threshold", 0)
        self._linear = self._weights_sent_in_bf16(unsharded) if execution.zero_stage else []
        if self._linear and optimisation is not None and getattr(model, "precision", "fp32") == "bf16":
            self._send_bf16(True)  # DeepSpeed marks no modules of its own:
            config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16", "lower_precision_safe_modules": []}
        if optimisation is None:
            if execution.zero_stage == 3:
                self._engine, *_ = deepspeed.initialize(model=model, config=config)
                self._place(execution)
            return
        optimizer = torch.optim.AdamW(
            _parameter_groups(model, optimisation.weight_decay),
            lr=optimisation.learning_rate,
            betas=(0.9, 0.95),
            fused=True,
        )
        self._optimizer = optimizer
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        self._engine.train()
        self._limit_buckets(config["zero_optimization"]["reduce_bucket_size"])
        self._place(execution)
        if execution.zero_stage == 3 and not moves_to_host(execution):
            self._gradients = self._engine.optimizer.grad_partitions_flat_buffer
            self._gradient_bytes = self._gradients.untyped_storage().nbytes()
            self._free_gradients()

    def _weights_sent_in_bf16(self, unsharded: int) -> list[nn.Parameter]:
        """Return the weights that workers exchange in bf16 while the model computes in bf16: those of linear layers.

        Autocast rounds these for every product, so gathered weights lose nothing; their gradients are rounded before
        they are summed. Small models keep fp32, which costs them nothing. So do embeddings, the head, which predicts in
        fp32, and weights of up to `unsharded` elements, which every worker has for fp32 passes too.
        """
        if self.num_parameters < LARGE_MODEL or torch.distributed.get_world_size() == 1:
            return []
        model: Any = self.model
        model.body.register_forward_pre_hook(lambda *_: self._send_bf16(model.computes_in == "bf16"))
        head = model.head
        others = [module for module in self.model.modules() if type(module) not in _LINEAR_LAYERS]
        kept = {id(weight) for module in others for weight in module.parameters(recurse=False)}
        kept |= {id(weight) for weight in ([] if head is None else head.parameters())}
        return [
            weight
            for weight in self.model.parameters()
            if id(weight) not in kept and count_parameters([weight]) > unsharded
        ]

    def _send_bf16(self, sends: bool) -> None:
        """Mark the weights for DeepSpeed, which exchanges what is not marked in fp32."""
        if sends == self._sends_bf16:
            return
        self._wait_for_fetches()
        self._sends_bf16 = sends
        for weight in self._linear:
            if sends:
                setattr(weight, PARAM_COMM_DTYPE_ATTR_NAME, torch.bfloat16)
            else:
                delattr(weight, PARAM_COMM_DTYPE_ATTR_NAME)

    def _limit_buckets(self, bucket_size: int) -> None:
        """Without ZeRO, DeepSpeed reduces 5e8 gradients at once, and no setting changes that."""
        if not self._engine.zero_optimization():
            reduce = self._engine.allreduce_gradients
            self._engine.allreduce_gradients = partial(reduce, bucket_size=bucket_size)

    def _place(self, execution: Execution) -> None:
        """Share masters with weights, and move offloaded state into files if the execution has a folder for them."""
        optimizer, folder = self._engine.optimizer, execution.nvme_folder
        if folder is not None and execution.offload_parameters:
            weights_to_files(self.model, optimizer, folder)
            self._refresh_persistent()
        if self._optimizer is None:
            return
        if folder is not None and not execution.offload_parameters:
            masters_to_files(optimizer, execution, folder)
        share_masters(self.model, optimizer, execution)
        if self._moments_in is not None:
            list(self._held())  # creates the moments

    def _refresh_persistent(self) -> None:
        """Gather the weights that ZeRO-3 keeps gathered again, after their shards were written."""
        persistent = getattr(self._engine.optimizer, "persistent_parameters", None)
        if persistent:
            persistent[0].partition(persistent)
            persistent[0].all_gather(persistent)

    def _free_gradients(self) -> None:
        """Free ZeRO-3's gradient buffer until the next backward pass; other ZeRO stages free theirs themselves."""
        if self._gradients is not None and self._gradient_bytes >= _WORTH_FREEING:
            self._gradients.untyped_storage().resize_(0)

    def _allocate_gradients(self) -> None:
        """Allocate the freed buffer again; DeepSpeed's views of it stay valid.

        On a CPU the kernel zeroes memory of this size page by page as gradients arrive, while the activations of
        finished layers are freed; zeroing it here would make both exist at once.
        """
        if self._gradients is None or self._gradients.untyped_storage().nbytes():
            return
        self._gradients.untyped_storage().resize_(self._gradient_bytes)
        is_fresh = self._gradients.device.type == "cpu" and self._gradient_bytes >= _MAPPED
        if not is_fresh or "LD_PRELOAD" in os.environ:  # another allocator may reuse memory
            self._gradients.zero_()

    def __call__(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Return the logits of a micro-batch's inputs, in training mode with a graph."""
        return self._engine(*inputs)  # type: ignore[no-any-return]

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        """Add the gradients of one micro-batch; after the last one of a step, reduce them over the ranks."""
        self._allocate_gradients()
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> torch.Tensor:
        """Take one optimizer step; return the gradient norm before clipping, which the device may still compute.

        The norm is not finite when the gradients are not: ZeRO 1 to 3 then skip the step silently, ZeRO 0 takes it.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = self._unsharded_norm()
        self._engine.step()
        self._free_gradients()
        if norm is None:
            norm = self._engine.get_global_grad_norm()
        return torch.as_tensor(math.nan if norm is None else norm)

    def _unsharded_norm(self) -> torch.Tensor | None:
        """Return the gradient norm without ZeRO, which DeepSpeed computes for clipping and does not expose."""
        if self._engine.zero_optimization():
            return None
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        return torch.nn.utils.get_total_norm(gradients)

    @property
    def trained_sizes(self) -> dict[str, int]:
        """Number of elements of each trained weight by name."""
        return {name: count_parameters([weight]) for weight, name in self._names.items()}

    def shards(self) -> list[Shard]:
        """Return the trained weights and moments that this rank writes into a checkpoint: its share of all of them."""
        if self._engine.zero_optimization():
            return list(self._held())
        rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
        shares = []
        for shard in self._held():  # all of them, on every rank
            first, last = (shard.num_elements * part // size for part in (rank, rank + 1))
            tensors = {part: tensor[first:last] for part, tensor in shard.tensors.items()}
            shares.append(Shard(shard.name, first, tensors))
        return [shard for shard in shares if shard.num_elements]

    def restore(self, read: Read, step: int | None) -> None:
        """Fill weights and moments as they were after `step`, and without a step the weights alone; collective."""
        self._wait_for_fetches()
        parts = ("weight", *(() if step is None else MOMENTS))
        for shard in self._held():
            for part in parts:
                read(part, shard.name, shard.start, shard.tensors[part])
        for state in self._optimizer.state.values() if step is not None else ():
            state["step"].fill_(step)
        optimizer, zero_stage = self._engine.optimizer, self._engine.zero_optimization_stage()
        if zero_stage in (1, 2):  # each rank has all weights, and masters for its share
            for weight, name in self._names.items():
                read("weight", name, 0, weight.data.view(-1))
        elif zero_stage == 3:
            masters, weights = optimizer.fp32_partitioned_groups_flat, optimizer.fp16_partitioned_groups_flat
            for master, weight in zip(masters, weights, strict=True):
                weight.data.copy_(master.data)  # the same memory, unless the optimizer is offloaded
            self._refresh_persistent()

    def _held(self) -> Iterator[Shard]:
        """Yield what this rank updates: consecutive elements of trained weights, as views of its master weights."""
        optimizer = self._engine.optimizer
        rank, zero_stage = torch.distributed.get_rank(), self._engine.zero_optimization_stage()
        if zero_stage == 0:
            for weight in self._names:
                yield from self._views(weight, [(weight, 0, 0, weight.numel())])
        elif zero_stage == 3:
            for master, weights in zip(optimizer.fp32_partitioned_groups_flat, optimizer.fp16_groups, strict=True):
                sizes = [weight.partition_numel() for weight in weights]
                places = itertools.accumulate(sizes, initial=0)
                parts = [
                    (weight, place, rank * size, max(0, min(size, weight.ds_numel - rank * size)))
                    for weight, place, size in zip(weights, places, sizes, strict=False)
                ]
                yield from self._views(master, parts)
        else:
            for number, master in enumerate(optimizer.single_partition_of_fp32_groups):
                first, last = (part * optimizer.partition_size[number] for part in (rank, rank + 1))
                weights, places = (
                    optimizer.round_robin_bit16_groups[number],
                    optimizer.round_robin_bit16_offsets[number],
                )
                parts = []
                for weight, place in zip(weights, places, strict=True):
                    begin, end = max(place, first), min(place + weight.numel(), last)
                    parts.append((weight, begin - first, begin - place, end - begin))
                yield from self._views(master, parts)

    def _views(self, master: torch.Tensor, parts: Iterable[tuple[torch.Tensor, int, int, int]]) -> Iterator[Shard]:
        """Yield a shard for each part of `master`: its weight, its place in the master and in the weight, its size.

        Before the first step moments do not exist, and are created.
        """
        state = self._optimizer.state[master]
        if not state:
            state["step"] = torch.zeros((), device=master.device)
            state |= {moment: self._new_moment(master) for moment in MOMENTS}
        tensors = {"weight": master, **{moment: state[moment] for moment in MOMENTS}}
        for weight, place, start, size in parts:
            if size > 0:
                views = {part: tensor.detach().view(-1)[place : place + size] for part, tensor in tensors.items()}
                yield Shard(self._names[weight], start, views)

    def _new_moment(self, master: torch.Tensor) -> torch.Tensor:
        if self._moments_in is not None and master.device.type == "cpu":  # ZeRO-0 leaves them on a GPU
            return zeros_in_file(master, self._moments_in)
        return torch.zeros_like(master, requires_grad=False)

    @property
    def saved_bytes(self) -> dict[str, int]:
        """Bytes of each weight and buffer of the model by name, buffers first."""
        kept = self.model.state_dict().keys()
        buffers = {name: buffer.nbytes for name, buffer in self.model.named_buffers() if name in kept}
        weights = self.model.named_parameters()
        return buffers | {name: count_parameters([weight]) * weight.element_size() for name, weight in weights}

    def gather(self, names: Collection[str], *, keeps: bool) -> dict[str, torch.Tensor]:
        """Return weights and buffers, complete, in the memory of the host on ranks that keep them; collective.

        They may be views of the model's own memory.
        """
        self._send_bf16(False)
        self._wait_for_fetches()
        tensors = dict(self.model.named_buffers()) | dict(self.model.named_parameters())
        gathered = {}
        for name in names:  # one at a time: a device may not hold all of them
            tensor, is_sharded = tensors[name], hasattr(tensors[name], "ds_id")
            with deepspeed.zero.GatheredParameters([tensor], enabled=is_sharded):
                if keeps:
                    gathered[name] = tensor.detach().clone().cpu() if is_sharded else tensor.detach().cpu()
        return gathered

    def _wait_for_fetches(self) -> None:
        """Wait for the parameters that ZeRO-3 fetches ahead, and release them.

        A forward pass without a backward pass leaves fetches under way, and DeepSpeed can neither gather nor shard a
        parameter in that state (deepspeedai/DeepSpeed#3068).
        """
        if self._engine is not None:
            self._engine.empty_partition_cache()

    def forget_moments(self) -> None:
        """Free the optimizer's moments after training, before the model predicts."""
        self._optimizer.state.clear()
        if self.num_parameters >= LARGE_MODEL:  # small models predict faster in memory that the allocator keeps
            give_memory_back()

    def destroy(self) -> None:
        """Free the memory; `del` alone does not (deepspeedai/DeepSpeed#7204)."""
        if self._engine is not None:
            self._engine.destroy()
        del self._engine, self.model, self._gradients
        torch.nn.functional.linear = _LINEAR  # ZeRO-3 leaves a slower one there (DeepSpeed#952)
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _hidden_size(model: nn.Module) -> int:
    """Return the hidden size of the model inside a network; 1 if its configuration has none."""
    config = getattr(getattr(model, "hf", None), "config", None)
    return int(getattr(config, "hidden_size", 1))


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Group trained weights for AdamW: matrices decay, norms and biases do not."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in (weight for weight in model.parameters() if weight.requires_grad):
        shape = getattr(parameter, "ds_shape", parameter.shape)
        (matrices if len(shape) > 1 else vectors).append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
