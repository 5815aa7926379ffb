"""The process group of a stage: this process's rank, and the few collectives that training needs."""

import os
import pickle
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist

from w2s_ray.errors import TrainingError, first_line

T = TypeVar("T")


def computes_bf16(device: torch.device) -> bool:
    """Return whether `device` has bf16 instructions; emulated, a matrix product takes tens of times as long."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return torch._C._has_mkldnn and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


@dataclass(frozen=True)
class Workers:
    """This process's place in torch's default process group, which the caller has initialised."""

    rank: int
    size: int
    device: torch.device

    @property
    def local_size(self) -> int:
        """Workers of the group on this machine; all of them when LOCAL_WORLD_SIZE is not set."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", self.size))

    @property
    def is_rank_0(self) -> bool:
        return self.rank == 0

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Add `tensor` over all ranks, in place, and return it."""
        if self.size > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Return whether the flag is true on any rank."""
        if self.size == 1:
            return flag
        raised = torch.tensor(flag, dtype=torch.int32, device=self.device)
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return bool(raised)

    def min(self, value: int) -> int:
        """Return the smallest `value` of all ranks."""
        if self.size == 1:
            return value
        smallest = torch.tensor(value, device=self.device)
        dist.all_reduce(smallest, op=dist.ReduceOp.MIN)
        return int(smallest)

    def on_rank_0(self, work: Callable[[], T], seconds: float | None = None) -> T:
        """Run `work` on rank 0 and broadcast the result.

        Args:
            work: called without arguments.
            seconds: how long the other ranks wait; if not given, as long as in every collective.

        Raises:
            Exception: on every rank, when rank 0 raised it; otherwise the others would wait in a collective forever.
        """
        if self.size == 1:
            return work()
        patient = None if seconds is None else dist.new_group(timeout=timedelta(seconds=seconds), backend="gloo")
        outcome: list[tuple[T | None, Exception | None]] = [(None, None)]
        if self.is_rank_0:
            try:
                outcome = [(work(), None)]
            except Exception as error:
                outcome = [(None, _picklable(error))]
        device = self.device if patient is None else torch.device("cpu")
        dist.broadcast_object_list(outcome, src=0, group=patient, device=device)
        if patient is not None:
            dist.destroy_process_group(patient)
        value, raised = outcome[0]
        if raised is not None:
            raise raised
        return value  # type: ignore[return-value]

    def all_compute_bf16(self) -> bool:
        """Return whether every rank's device has bf16 instructions. Collective."""
        return not self.any(not computes_bf16(self.device))

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.size > 1:
            dist.barrier()


def _picklable(error: Exception) -> Exception:
    """Return the error, or one with its text if it does not survive pickling, as with some libraries' own classes."""
    try:
        survives = type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        survives = False
    return error if survives else TrainingError(f"{type(error).__name__}: {first_line(error)}")
