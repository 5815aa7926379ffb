"""Where the engine's tensors are: masters that share memory with the weights, and offloaded state in files.

Offload to the host's memory is DeepSpeed's own. With `execution.nvme_folder` the tensors on the host that DeepSpeed
updates in place (masters, moments, sharded weights) are moved into memory-mapped files. The kernel reads and writes
their pages as they are used, so they take no memory that is needed otherwise, and all code that uses them stays the
same: optimizer steps, gathers, checkpoints. DeepSpeed's own swapping to NVMe is not used. It needs a compiled operator
with the library libaio, and tensors that are swapped out can be neither written into a checkpoint nor restored.
"""

import os
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import torch
from torch import nn

from w2s_ray.errors import StoreError
from w2s_ray.spec.execution import Execution
from w2s_ray.store.files import require_space, writing


def device_has_own_memory() -> bool:
    """Return whether the device's memory is not the host's."""
    return torch.cuda.is_available()


def moves_to_host(execution: Execution) -> bool:
    """Return whether DeepSpeed keeps the optimizer's state on the host, apart from the device."""
    return execution.offload_optimizer and device_has_own_memory()


def share_masters(model: nn.Module, optimizer: Any, execution: Execution) -> None:
    """Make ZeRO's fp32 master weights views of the fp32 weights, of which DeepSpeed makes a second copy.

    This is possible where both are on one device. DeepSpeed has code for it under ZeRO-3, but compares a `torch.device`
    with a string, which are never equal.
    """
    if not execution.zero_stage:
        return
    if execution.zero_stage < 3:
        for parameter in model.parameters():
            # References to the second copy (and later to the moments), which are not used otherwise.
            parameter._hp_mapping = None  # type: ignore[attr-defined]
    if moves_to_host(execution) and not execution.offload_parameters:  # the weights are on the device
        return
    if execution.zero_stage == 3:
        masters, weights = optimizer.fp32_partitioned_groups_flat, optimizer.fp16_partitioned_groups_flat
    else:
        rank = torch.distributed.get_rank()
        masters = optimizer.single_partition_of_fp32_groups
        weights = [shards[rank] for shards in optimizer.parallel_partitioned_bit16_groups]
    for master, weight in zip(masters, weights, strict=True):
        assert (master.dtype, master.shape) == (weight.dtype, weight.shape)
        if master.device == weight.device:
            master.data = weight.data


def masters_to_files(optimizer: Any, execution: Execution, folder: Path) -> None:
    """Move the masters that DeepSpeed keeps on the host, which are then no views of the weights, into files."""
    if not (execution.zero_stage and moves_to_host(execution)):
        return
    shards = optimizer.fp32_partitioned_groups_flat if execution.zero_stage == 3 else None
    for master in optimizer.single_partition_of_fp32_groups if shards is None else shards:
        master.data = copied_to_file(master, folder)


def weights_to_files(model: nn.Module, optimizer: Any, folder: Path) -> None:
    """Move this rank's shards of all weights that are on the host into files, under ZeRO-3.

    Args:
        model: sharded.
        optimizer: DeepSpeed's, which holds the shards of trained weights in flat buffers; None without training.
        folder: for the files.
    """
    moved: set[int] = set()
    for number, shard in enumerate(getattr(optimizer, "fp16_partitioned_groups_flat", ())):
        shard.data = copied_to_file(shard, folder)
        optimizer._unflatten_partitioned_parameters(number)
        moved |= {id(part) for part in optimizer.fp16_partitioned_groups[number]}
    if moved:  # the buffers that the shards were views of
        optimizer.lp_param_buffer = None
        optimizer.param_groups_fp16_flat_cpu_memory.clear()
    for parameter in model.parameters():
        part = getattr(parameter, "ds_tensor", None)
        if part is not None and id(part) not in moved and part.device.type == "cpu":
            part.data = copied_to_file(part, folder)


def copied_to_file(tensor: torch.Tensor, folder: Path) -> torch.Tensor:
    """Return a copy of an fp32 tensor in a file."""
    copied = zeros_in_file(tensor, folder)
    copied.copy_(tensor.detach())
    return copied


def zeros_in_file(like: torch.Tensor, folder: Path) -> torch.Tensor:
    """Return zeros in the shape of an fp32 tensor, in a file of their own.

    The file has no name, so its space is free again when the last view is gone, and after a kill. Its blocks are
    reserved at once: a page of a mapped file that finds no room on the disk kills the process.

    Raises:
        StoreError: when the folder cannot be created or written, or its disk has too little room.
    """
    assert like.dtype == torch.float32, like.dtype
    if not like.numel():
        return torch.zeros(like.shape)
    try:
        require_space(folder, like.nbytes)
        with writing(folder), NamedTemporaryFile(dir=folder, prefix="w2s-offloaded-") as file:
            os.posix_fallocate(file.fileno(), 0, like.nbytes)
            mapped = torch.from_file(file.name, shared=True, size=like.numel(), dtype=torch.float32)
    except StoreError as error:
        hint = "choose a folder on a local disk with room, on each machine; it is created if it does not exist"
        raise StoreError(f"execution.nvme_folder cannot be used: {error.message}", hint) from error
    return mapped.view(like.shape)
