"""How a stage is computed: on which workers, and in which pieces.

None of it may change the trained weights, and it is never part of an identity. `ExecutionSpec` is what a study says;
where it has `auto`, `Execution` has what was chosen.
"""

import os
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import BeforeValidator, Field, model_validator

from w2s_ray.spec.base import KeyFault, Positive, Spec, yaml_text
from w2s_ray.spec.deepspeed_keys import DeepSpeedSettings

ZeroStage = Literal[0, 1, 2, 3]
Attention = Literal["auto", "sdpa", "varlen", "flash"]
"""How attention is computed: `sdpa` over padded texts, `varlen` and `flash` over texts in one row without padding."""


def _no_truth(value: Any) -> Any:
    """Refuse true and false, which are equal to 1 and 0."""
    if isinstance(value, bool):
        raise KeyFault(f"{yaml_text(value)} must be one of 0, 1, 2, 3, auto", "for example zero_stage: auto")
    return value


class GroupShape(NamedTuple):
    """The shape of a worker group; stages of one shape share warm workers, whatever their ZeRO stage."""

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float


class ExecutionSpec(Spec):
    """How a stage is to be computed: on which workers and in which pieces.

    `auto` is settled for the memory of the workers (training/memory/settle.py), which gives an `Execution`.
    """

    workers: Positive = 1
    """Worker processes that train the stage together."""
    cpus_per_worker: float = Field(default=1.0, gt=0)
    gpus_per_worker: float = Field(default=0.0, ge=0)
    zero_stage: Annotated[ZeroStage | Literal["auto"], BeforeValidator(_no_truth)] = 0
    """State that DeepSpeed shards: 0 nothing, 1 optimizer state, 2 and gradients, 3 and parameters. `auto` takes the
    cheapest setting in time that fits into a worker's memory, with offload where it must."""
    offload_optimizer: bool = False
    """Keep the optimizer state in host memory (for GPUs, from ZeRO-1 on), or in files of `nvme_folder`."""
    offload_parameters: bool = False
    """Keep the shards of the weights in host memory (for GPUs), or in files of `nvme_folder`; under ZeRO-3 only."""
    nvme_folder: Path | None = None
    """An absolute path on a fast local disk of each machine, created if needed; what is offloaded is in files
    there. Also for CPUs."""
    tokens_per_micro_batch: Positive = 4096
    """Padded tokens of one forward pass on one worker; halved, and remembered, when a device runs out of memory."""
    activation_checkpointing: bool | Literal["auto"] = "auto"
    """Keep the inputs of each layer alone and recompute the rest for the gradients; `auto` does so where a worker's
    memory would not be enough otherwise."""
    keep_adapters: bool = False
    """Store LoRA adapters without the model that they were trained on; the merged model is made where it is read."""
    attention: Attention = "auto"
    """`varlen` uses PyTorch's kernel, `flash` that of the package flash_attn. `auto` is `varlen` on a GPU where the
    precision and the model allow it, else `sdpa`."""
    checkpoint_every_seconds: float | None = Field(default=None, ge=0)
    """Seconds between resume checkpoints; 0 writes one after every step. If not given, their cost decides: they take at
    most 2 % of the training time."""
    deepspeed: DeepSpeedSettings = ()
    """Further keys of DeepSpeed's configuration (deepspeed_keys.py)."""

    @model_validator(mode="after")
    def _flash_has_a_gpu(self) -> Self:
        if self.attention == "flash" and not self.gpus_per_worker:
            raise KeyFault(
                "attention: flash needs a GPU, and gpus_per_worker is 0", "set gpus_per_worker or attention: auto"
            )
        return self

    @model_validator(mode="after")
    def _offload_is_possible(self) -> Self:
        if self.offload_parameters and self.zero_stage not in (3, "auto"):
            rule = f"offload_parameters needs ZeRO-3, and zero_stage is {self.zero_stage}"
            raise KeyFault(rule, "set zero_stage: 3 or zero_stage: auto")
        if self.offload_optimizer and self.zero_stage == 0 and self.gpus_per_worker:
            rule = "offload_optimizer needs ZeRO-1 or higher on a GPU, and zero_stage is 0"
            raise KeyFault(rule, "set zero_stage: 2 or zero_stage: auto")
        if self.nvme_folder is None:
            return self
        if not self.nvme_folder.is_absolute():
            whole = os.path.abspath(os.path.expanduser(self.nvme_folder))
            raise KeyFault(f"nvme_folder = {self.nvme_folder} must be an absolute path", f"write {whole}")
        if not (self.offload_optimizer or self.offload_parameters or self.zero_stage == "auto"):
            hint = "set offload_optimizer: true, offload_parameters: true or zero_stage: auto"
            raise KeyFault("nvme_folder is given, and nothing is offloaded", hint)
        return self

    @property
    def workers_per_gpu(self) -> int:
        """Workers that share one GPU."""
        return int(1 / self.gpus_per_worker) if 0 < self.gpus_per_worker < 1 else 1

    @property
    def group_shape(self) -> GroupShape:
        """The shape of the worker group that runs it."""
        return GroupShape(
            workers=self.workers, cpus_per_worker=self.cpus_per_worker, gpus_per_worker=self.gpus_per_worker
        )


class Execution(ExecutionSpec):
    """How a stage is computed, with nothing left to choose."""

    zero_stage: ZeroStage = 0
    activation_checkpointing: bool = False

    @property
    def memory_settings(self) -> str:
        """Describe the settings that `auto` chooses."""
        where = "in host memory" if self.nvme_folder is None else "in files"
        parts = (
            f"ZeRO-{self.zero_stage}",
            "activations recomputed" if self.activation_checkpointing else "",
            f"the optimizer state {where}" if self.offload_optimizer else "",
            f"the weights {where}" if self.offload_parameters else "",
        )
        return ", ".join(part for part in parts if part)
