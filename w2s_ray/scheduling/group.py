"""A crew's process group: how its workers are connected, and the few words that they exchange between stages.

Train calls `on_start` in its controller, which needs no torch for it; torch is imported by the workers alone.
"""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import ray
from ray.train.backend import Backend, BackendConfig

if TYPE_CHECKING:
    from w2s_ray.training.workers import Workers

_AGREE_SECONDS = 20.0
"""How long a rank with an error waits to hear that all others have it too."""

T = TypeVar("T")


@dataclass
class GroupConfig(BackendConfig):
    """The torch process group of a crew."""

    timeout_seconds: float
    num_threads: int
    on_gpus: bool

    @property
    def backend_cls(self) -> type[Backend]:
        """What sets the group up."""
        return _Setup


class _Setup(Backend):
    """Connects the workers: gloo for what is on the host, NCCL beside it for what is on GPUs."""

    share_cuda_visible_devices = True

    def on_start(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Have every worker join."""
        address, port = worker_group.execute_single(0, _free_address)
        ranks = range(len(worker_group))
        ray.get([worker_group.execute_single_async(rank, _join, address, port, backend_config) for rank in ranks])

    def on_shutdown(self, worker_group: Any, backend_config: BackendConfig) -> None:
        """Do nothing: the processes end, and to wait for a group whose member died would only take time."""


def _free_address() -> tuple[str, int]:
    from ray.train._internal.utils import get_address_and_port

    address, port = get_address_and_port()
    return str(address), int(port)


def _join(address: str, port: int, config: GroupConfig) -> None:
    """Join the process group; runs in each worker."""
    if not config.on_gpus:  # before torch looks: a crew of CPU workers leaves a machine's GPUs to the others
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    import torch
    import torch.distributed as dist

    context = ray.train.get_context()
    places = {
        "MASTER_ADDR": address,
        "MASTER_PORT": port,
        "RANK": context.get_world_rank(),
        "WORLD_SIZE": context.get_world_size(),
        "LOCAL_RANK": context.get_local_rank(),
        "LOCAL_WORLD_SIZE": context.get_local_world_size(),
        "NODE_RANK": context.get_node_rank(),
    }
    os.environ |= {name: str(value) for name, value in places.items()}
    torch.set_num_threads(config.num_threads)
    dist.init_process_group(
        backend="cpu:gloo,cuda:nccl" if config.on_gpus else "gloo",
        timeout=timedelta(seconds=config.timeout_seconds),
    )


class Group:
    """This worker's place in its crew, and what it can ask the others."""

    def __init__(self, rank: int, size: int, on_gpu: bool) -> None:
        """The group is connected already; torch is not needed before the first word."""
        self.rank, self.size, self._on_gpu = rank, size, on_gpu

    @property
    def leads(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def workers(self) -> "Workers":
        """Return the group as a stage sees it, with this thread set to the worker's own device."""
        import torch

        from w2s_ray.training.workers import Workers

        device = torch.device("cpu")
        if self._on_gpu:
            from ray.train.torch import get_device

            device = get_device()
            torch.cuda.set_device(device)  # here, because every thread has a current device of its own
        return Workers(rank=self.rank, size=self.size, device=device)

    def share(self, value: T | None) -> T:
        """Give rank 0's value to all."""
        if self.size > 1:
            import torch
            import torch.distributed as dist

            values = [value]
            dist.broadcast_object_list(values, src=0, device=torch.device("cpu"))
            value = values[0]
        assert value is not None
        return value

    def any(self, flag: bool) -> bool:
        """Say whether any rank raised the flag."""
        if self.size == 1:
            return flag
        import torch
        import torch.distributed as dist

        raised = torch.tensor([int(flag)])
        dist.all_reduce(raised, op=dist.ReduceOp.MAX)
        return bool(raised.item())

    def all_came(self, what: str) -> bool:
        """Say whether every rank comes here with the same text within a while.

        It is asked after an error, when a collective may be under way, so the word goes through the group's store.
        """
        if self.size == 1:
            return True
        import torch.distributed as dist

        store = dist.distributed_c10d._get_default_store()
        keys = [f"w2s/{what}/{rank}" for rank in range(self.size)]
        store.set(keys[self.rank], "here")
        try:
            store.wait(keys, timedelta(seconds=_AGREE_SECONDS))
        except dist.DistStoreError:
            return False
        return True
