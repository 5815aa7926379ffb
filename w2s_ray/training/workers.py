"""The process group that a stage runs on: who am I, and the few collectives that the room needs."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from w2s_ray.errors import W2SError

T = TypeVar("T")


def computes_bf16(device: torch.device) -> bool:
    """Return whether `device` has instructions for bf16; imitated, a product takes tens of times as long."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass(frozen=True)
class Workers:
    """This process's place in the group; the group itself is torch's default one and is initialised already."""

    rank: int
    size: int
    device: torch.device

    @property
    def local_size(self) -> int:
        """Workers of the group on this machine; all of them where nobody says."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.size))

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which talks to the outside."""
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Add `tensor` up over all ranks, in place."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Return for each flag whether any rank raised it; one small all-reduce."""
        if self.size == 1:
            return flags
        raised = torch.tensor(flags, dtype=torch.int32, device=self.device)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return tuple(bool(flag) for flag in raised.tolist())

    def min(self, value: int) -> int:
        """Return the least `value` of any rank."""
        if self.size == 1:
            return value
        least = torch.tensor(value, device=self.device)
        dist.all_reduce(least, op=dist.ReduceOp.MIN)
        return int(least)

    def led(self, work: Callable[[], T]) -> T:
        """Do `work` on rank 0 while the others wait, and give what comes of it to all.

        Raises:
            W2SError: on every rank alike, what rank 0 met: the others must not wait in a collective for it.
        """
        if self.size == 1:
            return work()
        outcome: list[tuple[T | None, W2SError | None]] = [(None, None)]
        if self.leads:
            try:
                outcome = [(work(), None)]
            except W2SError as met:
                outcome = [(None, met)]
        dist.broadcast_object_list(outcome, src=0, device=self.device)
        value, error = outcome[0]
        if error is not None:
            raise error
        return value  # type: ignore[return-value]

    def compute_bf16(self) -> bool:
        """Return whether every worker's device has instructions for bf16. Collective."""
        (imitates,) = self.any(not computes_bf16(self.device))
        return not imitates

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()
