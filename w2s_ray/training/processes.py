"""Worker processes on this machine without Ray, for measurements: one process group, on CPUs or on the local GPUs.

Torch is imported only in the workers, after the environment that it reads is set.
"""

import os
import traceback
from collections.abc import Callable
from multiprocessing import connection, get_context
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from w2s_ray.errors import TrainingError, W2SError
from w2s_ray.spec.execution import ExecutionSpec
from w2s_ray.training.memory.usage import ALLOCATOR

if TYPE_CHECKING:
    from w2s_ray.training.workers import Workers

T = TypeVar("T")


def run_on_workers(work: "Callable[[Workers], T]", execution: ExecutionSpec, folder: Path) -> list[T]:
    """Call `work` in new processes that form one process group; return the results by rank.

    Args:
        work: a function that can be pickled.
        execution: number of workers, and the cores and GPUs of each.
        folder: for the file through which the processes meet.

    Raises:
        W2SError: the first one that a worker raised; the other workers are ended.
        TrainingError: when a worker process died.
    """
    context = get_context("spawn")
    meeting = folder / f"meeting-{os.urandom(4).hex()}"
    os.environ |= ALLOCATOR  # read by glibc when a process starts
    receivers: list[connection.Connection] = []
    processes = []
    for rank in range(execution.workers):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_work, args=(work, rank, execution, meeting, sender), daemon=True)
        process.start()
        sender.close()
        receivers.append(receiver)
        processes.append(process)
    results: dict[int, T] = {}
    try:
        while len(results) < len(processes):
            waiting = [receiver for rank, receiver in enumerate(receivers) if rank not in results]
            for ready in connection.wait(waiting):
                rank = receivers.index(ready)  # type: ignore[arg-type]
                results[rank] = _result(receivers[rank], rank)
        for process in processes:
            process.join()
    finally:
        for process in processes:
            process.kill()
    return [results[rank] for rank in range(execution.workers)]


def _result(receiver: connection.Connection, rank: int) -> Any:
    try:
        result = receiver.recv()
    except EOFError:
        raise TrainingError(f"the process of worker {rank} died") from None
    if isinstance(result, W2SError):
        raise result
    return result


def _work(
    work: "Callable[[Workers], Any]", rank: int, execution: ExecutionSpec, meeting: Path, sender: connection.Connection
) -> None:
    """Join the process group, call `work` and send its result; what a worker process does."""
    on_gpus = execution.gpus_per_worker > 0
    gpu = int(rank * execution.gpus_per_worker)
    ranks = {"RANK": rank, "LOCAL_RANK": gpu if on_gpus else rank}
    ranks |= {"WORLD_SIZE": execution.workers, "LOCAL_WORLD_SIZE": execution.workers}
    os.environ |= {name: str(value) for name, value in ranks.items()}
    if not on_gpus:
        os.environ |= {"CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    import torch
    import torch.distributed as dist

    from w2s_ray.training.workers import Workers

    device = torch.device("cuda", gpu) if on_gpus else torch.device("cpu")
    if on_gpus:
        torch.cuda.set_device(device)
    torch.set_num_threads(max(1, int(execution.cpus_per_worker)))
    backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
    dist.init_process_group(backend, init_method=f"file://{meeting}", rank=rank, world_size=execution.workers)
    try:
        sender.send(work(Workers(rank, execution.workers, device)))
    except W2SError as error:
        traceback.print_exc()
        sender.send(error)
    dist.destroy_process_group()
