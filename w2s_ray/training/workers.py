"""The process group of a stage: this process's rank, and the few collectives that training needs.

Two groups connect the same workers. The default one carries tensors, and a collective that a worker does not join in
time fails, so that a hanging GPU is noticed. Waiting for work that some ranks do and others do not (reading, writing,
hashing, tokenising) goes through a second one on gloo without a limit: such work takes as long as the disk needs, and a
worker that dies closes its connections, which ends the wait at once.
"""

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

_NO_LIMIT = timedelta(days=365)
_waiting_groups: dict[dist.ProcessGroup, dist.ProcessGroup] = {}
"""The group without a limit beside a default group."""


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

    @classmethod
    def alone(cls) -> "Workers":
        """Return this process on its CPU, without a process group."""
        return cls(0, 1, torch.device("cpu"))

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

    def on_rank_0(self, work: Callable[[], T]) -> T:
        """Run `work` on rank 0 and return its result on every rank, however long it takes.

        Raises:
            Exception: on every rank, when rank 0 raised it; otherwise the others would wait in a collective forever.
        """
        return self._shared(work, self.is_rank_0)[0]

    def on_each_node(self, work: Callable[[], T]) -> T:
        """Run `work` on one rank of each machine, however long it takes, and return rank 0's result on every rank.

        Raises:
            Exception: on every rank, the first one that `work` raised.
        """
        return self._shared(work, self.is_rank_0 or os.environ.get("LOCAL_RANK", "0") == "0")[0]

    def on_every_rank(self, work: Callable[[], T]) -> list[T]:
        """Run `work` on every rank, however long it takes, and return the results by rank on each.

        Raises:
            Exception: on every rank, the first one that `work` raised.
        """
        return self._shared(work, True)

    def _shared(self, work: Callable[[], T], runs_here: bool) -> list[T]:
        """Run `work` on some ranks, and return the results by rank; that of a rank without work means nothing."""
        if self.size == 1:
            return [work()]
        outcome: tuple[T | None, Exception | None] = (None, None)
        if runs_here:
            try:
                outcome = (work(), None)
            except Exception as error:
                outcome = (None, _picklable(error))
        outcomes: list[tuple[T | None, Exception | None]] = [(None, None)] * self.size
        dist.all_gather_object(outcomes, outcome, group=_waiting_group())
        for _, raised in outcomes:
            if raised is not None:
                raise raised
        return [value for value, _ in outcomes]  # type: ignore[misc]

    def all_compute_bf16(self) -> bool:
        """Return whether every rank's device has bf16 instructions. Collective."""
        return not self.any(not computes_bf16(self.device))

    def barrier(self) -> None:
        """Wait for all ranks, however long they take."""
        if self.size > 1:
            dist.barrier(_waiting_group())


def _waiting_group() -> dist.ProcessGroup:
    """Return the group without a limit, which the first call connects. Collective."""
    default = dist.group.WORLD
    assert default is not None
    if default not in _waiting_groups:
        _waiting_groups.clear()
        _waiting_groups[default] = dist.new_group(backend="gloo", timeout=_NO_LIMIT)
    return _waiting_groups[default]


def _picklable(error: Exception) -> Exception:
    """Return the error, or one with its text if it does not survive pickling, as with some libraries' own classes."""
    try:
        survives = type(pickle.loads(pickle.dumps(error))) is type(error)
    except Exception:
        survives = False
    return error if survives else TrainingError(f"{type(error).__name__}: {first_line(error)}")
