"""How a stage runs. Nothing in here may change its result, so none of it is part of an identity."""

from typing import Literal, NamedTuple

from pydantic import Field

from w2s_ray.spec.base import Positive, Spec

ZeroStage = Literal[0, 1, 2, 3]


class GroupShape(NamedTuple):
    """What a crew is made of; stages of one shape share warm workers, whatever their ZeRO stage."""

    workers: int
    cpus_per_worker: float
    gpus_per_worker: float


class Execution(Spec):
    """Where and in which pieces a stage is computed."""

    workers: Positive = 1
    """Worker processes that train the stage together."""
    cpus_per_worker: float = Field(default=1.0, gt=0)
    gpus_per_worker: float = Field(default=0.0, ge=0)
    zero_stage: ZeroStage = 0
    """What DeepSpeed shards: 0 nothing, 1 optimizer state, 2 and gradients, 3 and parameters."""
    offload_optimizer: bool = False
    """Keep the optimizer state in host memory (GPU only)."""
    tokens_per_micro_batch: Positive = 4096
    """Padded tokens of one forward pass on one worker; halved, and remembered so, where a device runs out of memory."""
    activation_checkpointing: bool | Literal["auto"] = "auto"
    """Keep the inputs of each layer alone and compute the rest again for the gradients; `auto` where a worker's memory
    would not do otherwise."""
    checkpoint_every_seconds: float = Field(default=60.0, ge=0)
    """Seconds between resume checkpoints; 0 writes one after every step."""

    @property
    def group_shape(self) -> GroupShape:
        """The crew that can run it."""
        return GroupShape(
            workers=self.workers, cpus_per_worker=self.cpus_per_worker, gpus_per_worker=self.gpus_per_worker
        )
