"""The torch process group of a worker group, and what its workers share between stages.

Train calls `on_start` in its controller, which needs no torch; only the workers import torch.
"""

import os
import socket
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray.train.backend import Backend, BackendConfig

if TYPE_CHECKING:
    from w2s_ray.training.workers import Workers

_AGREE_SECONDS = 20.0
"""How long a rank with an error waits until all others have reported theirs."""

T = TypeVar("T")


@dataclass
class ProcessGroupConfig(BackendConfig):
    """How the workers are connected."""

    timeout_seconds: float
    """After which a collective that a worker does not join fails."""
    num_threads: int
    on_gpus: bool

    @property
    def backend_cls(self) -> type[Backend]:
        return _Connect


class _Connect(Backend):
    """Connects the workers: gloo for tensors on the host, and NCCL beside it for those on GPUs."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        address, port = worker_group.execute_single(0, _free_address)
        ranks = range(len(worker_group))
        ray.get([worker_group.execute_single_async(rank, _join, address, port, backend_config) for rank in ranks])

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Do nothing: the processes end, and waiting for a group with a dead member would only take time."""


def _free_address() -> tuple[str, int]:
    with socket.socket() as server:
        server.bind(("", 0))
        return ray.util.get_node_ip_address(), int(server.getsockname()[1])


def _join(address: str, port: int, config: ProcessGroupConfig) -> None:
    """Join the process group; runs in each worker."""
    if not config.on_gpus:  # before torch is imported: CPU workers leave the GPUs to others
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    import torch
    import torch.distributed as dist

    context = ray.train.get_context()
    variables = {
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
        "RANK": context.get_world_rank(),
        "WORLD_SIZE": context.get_world_size(),
        "LOCAL_RANK": context.get_local_rank(),
        "LOCAL_WORLD_SIZE": context.get_local_world_size(),
        "NODE_RANK": context.get_node_rank(),
    }
    os.environ |= {name: str(value) for name, value in variables.items()}
    torch.set_num_threads(config.num_threads)
    dist.init_process_group(
        backend="cpu:gloo,cuda:nccl" if config.on_gpus else "gloo",
        timeout=timedelta(seconds=config.timeout_seconds),
    )


class Ranks:
    """This worker's rank, and what it can ask the other ranks; torch is imported on first use."""

    def __init__(self, rank: int, size: int, on_gpu: bool) -> None:
        self.rank, self.size, self._on_gpu = rank, size, on_gpu

    def workers(self) -> "Workers":
        """Return the group as a stage sees it, with this thread's current device set to the worker's own."""
        import torch

        from w2s_ray.training.workers import Workers

        device = torch.device("cpu")
        if self._on_gpu:
            from ray.train.torch import get_device

            device = get_device()
            torch.cuda.set_device(device)  # every thread has a current device of its own
        return Workers(rank=self.rank, size=self.size, device=device)

    def broadcast(self, value: T | None) -> T:
        """Return rank 0's value on every rank."""
        if self.size > 1:
            import torch
            import torch.distributed as dist

            values = [value]
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
            value = values[0]
        assert value is not None
        return value

    def any(self, flag: bool) -> bool:
        """Return whether any rank's flag is true."""
        if self.size == 1:
            return flag
        import torch
        import torch.distributed as dist

        flags = torch.tensor([int(flag)])
        dist.all_reduce(flags, op=dist.ReduceOp.MAX)
        return bool(flags.item())

    def all_have(self, key: str, value: str) -> bool:
        """Return whether every rank calls this with the same key and value within a while.

        It is used after an error, when a collective may be under way, so it goes through the group's key-value store.
        """
        if self.size == 1:
            return True
        import torch.distributed as dist

        store = dist.distributed_c10d._get_default_store()
        keys = [f"w2s/{key}/{rank}" for rank in range(self.size)]
        try:
            store.set(keys[self.rank], value)
            store.wait(keys, timedelta(seconds=_AGREE_SECONDS))
            return all(store.get(name) == value.encode() for name in keys)
        except RuntimeError:  # not in time, or rank 0, which serves the values, has ended
            return False
