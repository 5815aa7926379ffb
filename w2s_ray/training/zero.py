"""The only file that knows DeepSpeed: one engine for every ZeRO stage, its checkpoints, its weights.

The engine is given fp32 master weights; bf16 is autocast inside the model's forward (models.py), so no learning rate
falls below the resolution of the weights, and one path serves ZeRO 0 to 3. Gradient accumulation is ragged
(micro-batches follow a token budget), so DeepSpeed's own counter stays at one and the boundary is set by hand.
"""

import gc
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
os.environ.setdefault("LOCAL_RANK", "0")  # DeepSpeed insists on it; a worker group sets the real one before
import deepspeed
from transformers.integrations import HfDeepSpeedConfig, unset_hf_deepspeed_config

from w2s_ray.spec.stage import Execution, Optimisation
from w2s_ray.training.memory.footprint import LARGE_MODEL, Limits, limits_for
from w2s_ray.training.memory.usage import give_memory_back

_MAPPED = 64 * 2**20
"""Bytes from which on memory is the kernel's own, fresh and zeroed, and not what the process has kept."""
_WORTH_FREEING = _MAPPED
_LINEAR = torch.nn.functional.linear

# An operator for inference on CPU workers, which DeepSpeed would compile in the first stage of every new machine.
deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def engine_config(execution: Execution, max_grad_norm: float, limits: Limits) -> dict[str, Any]:
    """Return DeepSpeed's configuration for one stage."""
    zero: dict[str, Any] = {
        "stage": execution.zero_stage,
        "reduce_bucket_size": limits.bucket,
        "allgather_bucket_size": limits.bucket,
        "overlap_comm": torch.cuda.is_available(),
        "contiguous_gradients": True,
        "round_robin_gradients": False,
    }
    if execution.zero_stage == 3:
        zero |= {
            "stage3_prefetch_bucket_size": limits.prefetch,
            "stage3_max_live_parameters": limits.live,
            "stage3_max_reuse_distance": limits.reuse,
            "stage3_param_persistence_threshold": limits.persistence,
            "sub_group_size": limits.sub_group,
        }
    if execution.offload_optimizer:
        zero["offload_optimizer"] = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": max_grad_norm,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
    }


@contextmanager
def sharded_loading(execution: Execution) -> Iterator[None]:
    """Let `from_pretrained` inside shard the parameters as it reads them, where the execution asks for ZeRO-3."""
    if execution.zero_stage != 3:
        yield
        return
    try:
        config = HfDeepSpeedConfig(engine_config(execution, 1.0, limits_for(1_000_000, 1)))
        yield
        del config
    finally:
        unset_hf_deepspeed_config()


@contextmanager
def whole(parameters: Sequence[torch.Tensor]) -> Iterator[None]:
    """Gather sharded `parameters` inside the block; what rank 0 writes to them is everybody's afterwards."""
    sharded = [parameter for parameter in parameters if hasattr(parameter, "ds_id")]
    with deepspeed.zero.GatheredParameters(sharded, modifier_rank=0, enabled=bool(sharded)):
        yield


def count_parameters(parameters: Iterable[torch.Tensor]) -> int:
    """Return the number of weights, sharded or not."""
    return sum(getattr(parameter, "ds_numel", parameter.numel()) for parameter in parameters)


class Engine:
    """A model under DeepSpeed: forward, backward, step, save, restore, and its weights in one piece.

    Without `optimisation` nothing is trained: DeepSpeed shards the weights under ZeRO-3, no optimizer has a state, and
    under ZeRO 0 to 2 every rank just has the model.
    """

    def __init__(self, model: nn.Module, execution: Execution, optimisation: Optimisation | None) -> None:
        self.num_parameters = count_parameters(model.parameters())
        self.num_trained = count_parameters(each for each in model.parameters() if each.requires_grad)
        self.model = model
        """The module, for calls under `no_grad`; under ZeRO-3 it gathers its parameters as it goes."""
        self._engine: Any = None
        self._gradients: torch.Tensor | None = None
        self._shares_shards = False
        """Whether masters are views of all weights, as under ZeRO-1 and 2."""
        limits = limits_for(self.num_parameters, _hidden_size(model))
        config = engine_config(execution, 1.0 if optimisation is None else optimisation.max_grad_norm, limits)
        if optimisation is None:
            if execution.zero_stage == 3:
                self._engine, *_ = deepspeed.initialize(model=model, config=config)
            return
        optimizer = torch.optim.AdamW(
            _parameter_groups(model, optimisation.weight_decay),
            lr=optimisation.learning_rate,
            betas=(0.9, 0.95),
            fused=not execution.offload_optimizer,
        )
        self._optimizer = optimizer
        self._engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config)
        self._engine.train()
        self._reduce_in_buckets(limits)
        self._share_masters(execution)
        if execution.zero_stage == 3 and not execution.offload_optimizer:
            self._gradients = self._engine.optimizer.grad_partitions_flat_buffer
            self._gradient_bytes = self._gradients.untyped_storage().nbytes()
            self._let_gradients_go()

    def _reduce_in_buckets(self, limits: Limits) -> None:
        """Without ZeRO DeepSpeed copies gradients of 5e8 elements at once, a number that no setting changes."""
        if not self._engine.zero_optimization():
            reduce = self._engine.allreduce_gradients
            self._engine.allreduce_gradients = partial(reduce, bucket_size=limits.bucket)

    def _share_masters(self, execution: Execution) -> None:
        """Let the fp32 masters of ZeRO be the fp32 weights themselves, of which DeepSpeed makes a second copy.

        It means to do so for ZeRO-3, but compares a device with its name, which are never equal.
        """
        optimizer = self._engine.optimizer
        if execution.offload_optimizer or not execution.zero_stage:
            return
        self._shares_shards = execution.zero_stage < 3
        if execution.zero_stage == 3:
            masters, weights = optimizer.fp32_partitioned_groups_flat, optimizer.fp16_partitioned_groups_flat
        else:
            rank = torch.distributed.get_rank()
            masters = optimizer.single_partition_of_fp32_groups
            weights = [shards[rank] for shards in optimizer.parallel_partitioned_bit16_groups]
            for parameter in self.model.parameters():
                # Views of the second copy, and after a step of the moments, that nobody reads.
                parameter._hp_mapping = None  # type: ignore[attr-defined]
        for master, weight in zip(masters, weights, strict=True):
            assert (master.dtype, master.shape) == (weight.dtype, weight.shape)
            master.data = weight.data

    def _let_gradients_go(self) -> None:
        """Free ZeRO-3's buffer of gradients until the next backward pass; the other stages free theirs themselves."""
        if self._gradients is not None and self._gradient_bytes >= _WORTH_FREEING:
            self._gradients.untyped_storage().resize_(0)

    def _make_room_for_gradients(self) -> None:
        """Take the buffer back; views of it stay views of it.

        On a CPU the kernel hands out memory of this size zeroed, page by page as gradients arrive: meanwhile the
        activations of the layers that are done are freed.
        """
        if self._gradients is None or self._gradients.untyped_storage().nbytes():
            return
        self._gradients.untyped_storage().resize_(self._gradient_bytes)
        is_fresh = self._gradients.device.type == "cpu" and self._gradient_bytes >= _MAPPED
        if not is_fresh or "LD_PRELOAD" in os.environ:  # another allocator may keep even this much
            self._gradients.zero_()

    def __call__(self, tokens_RT: torch.Tensor, last_R: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        return self._engine(tokens_RT, last_R)  # type: ignore[no-any-return]

    def backward(self, loss: torch.Tensor, *, is_last: bool) -> None:
        """Add the gradients of one micro-batch; the last one of an optimizer batch reduces them over the ranks."""
        self._make_room_for_gradients()
        self._engine.set_gradient_accumulation_boundary(is_last)
        self._engine.backward(loss, scale_wrt_gas=False)

    def step(self, learning_rate: float) -> float:
        """Take one optimizer step; return the gradient norm before clipping.

        It is not finite where the gradients were not: ZeRO 1 to 3 leave such a step out in silence, ZeRO 0 takes it.
        """
        for group in self._engine.optimizer.param_groups:
            group["lr"] = learning_rate
        norm = self._unsharded_norm()
        self._engine.step()
        self._let_gradients_go()
        if norm is None:
            norm = self._engine.get_global_grad_norm()
        return math.nan if norm is None else float(norm)

    def _unsharded_norm(self) -> float | None:
        """The gradient norm without ZeRO, which DeepSpeed clips by and does not tell."""
        if self._engine.zero_optimization():
            return None
        gradients = [parameter.grad for parameter in self.model.parameters() if parameter.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients))

    def save(self, folder: Path, tag: str) -> None:
        """Write a resume checkpoint `folder/tag`; collective."""
        masters = self._engine.optimizer.single_partition_of_fp32_groups if self._shares_shards else []
        shared = [master.data for master in masters]
        for master in masters:
            master.data = master.data.clone()  # of a view, torch would write all that it is a view of
        try:
            self._engine.save_checkpoint(str(folder), tag=tag, save_latest=False)
        finally:
            for master, data in zip(masters, shared, strict=True):
                master.data = data

    def restore(self, folder: Path, tag: str) -> None:
        """Load a resume checkpoint; collective.

        DeepSpeed answers a missing checkpoint with a warning only, so that is checked here.
        """
        self._settle()
        path, _ = self._engine.load_checkpoint(str(folder), tag=tag, load_lr_scheduler_states=False)
        if path is None:
            raise FileNotFoundError(f"no checkpoint {tag} in {folder}")

    def state_dict(self) -> dict[str, torch.Tensor] | None:
        """Return all weights on the CPU on rank 0, None on the others; collective."""
        self._settle()
        model = self.model
        named = dict(model.named_parameters())
        kept = model.state_dict().keys()
        buffers = {name: buffer.cpu().clone() for name, buffer in model.named_buffers() if name in kept}
        rank = torch.distributed.get_rank()
        weights = {}
        for name, parameter in named.items():  # one at a time: all of them may be more than a device holds
            with deepspeed.zero.GatheredParameters([parameter], enabled=hasattr(parameter, "ds_id")):
                if rank == 0:
                    weights[name] = parameter.detach().cpu().clone()
        return buffers | weights if rank == 0 else None

    def _settle(self) -> None:
        """Wait for the parameters that ZeRO-3 fetches ahead, and shard all of them again.

        A forward pass without a backward one leaves fetches for the backward pass under way, and DeepSpeed can neither
        gather nor shard a parameter in that state.
        """
        if self._engine is not None:
            self._engine.empty_partition_cache()

    def forget_moments(self) -> None:
        """Free the optimizer's moments when training is over and the model only predicts."""
        self._optimizer.state.clear()
        if self.num_parameters >= LARGE_MODEL:  # a small model's predictions are faster in memory that is kept
            give_memory_back()

    def destroy(self) -> None:
        """Give the memory back; `del` alone does not."""
        if self._engine is not None:
            self._engine.destroy()
        del self._engine, self.model, self._gradients
        torch.nn.functional.linear = _LINEAR  # ZeRO-3 leaves its own there, slower where nothing is sharded
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _hidden_size(model: nn.Module) -> int:
    """The width of the model inside a network; 1 where it does not say."""
    config = getattr(getattr(model, "hf", None), "config", None)
    return int(getattr(config, "hidden_size", 1))


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay; norms and biases do not; frozen weights are in no group."""
    matrices: list[nn.Parameter] = []
    vectors: list[nn.Parameter] = []
    for parameter in (each for each in model.parameters() if each.requires_grad):
        shape = getattr(parameter, "ds_shape", parameter.shape)
        (matrices if len(shape) > 1 else vectors).append(parameter)
    groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]
