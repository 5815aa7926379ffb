"""Nodes: what the machines of a cluster have, what is free on them, and where the workers of a group would go.

First fit, node by node. GPU groups start with the first nodes, CPU groups with the last, because nodes with GPUs come
first. This estimates what Ray will do: Ray places the workers.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from w2s_ray.errors import ResourceError, W2SError
from w2s_ray.spec.execution import GroupShape
from w2s_ray.training.memory.usage import gpu_bytes, host_memory

Placement = tuple[tuple[int, int], ...]
"""Pairs of a node's number and how many workers are on it."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Node:
    """Total resources of one machine."""

    cpus: float
    gpus: float = 0.0
    memory_bytes: int | None = None
    """None where unknown."""
    gpu_bytes: int | None = None
    """Memory of its smallest GPU."""


def this_machine() -> Node:
    """Return the resources of the machine on which this process runs."""
    gpus = gpu_bytes()
    return Node(
        cpus=os.cpu_count() or 1,
        gpus=len(gpus),
        memory_bytes=host_memory().total,
        gpu_bytes=min(gpus, default=None),
    )


class FreeResources:
    """CPUs and GPUs that are free on each node."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._free = [(node.cpus, node.gpus) for node in nodes]
        self.cpus = sum(node.cpus for node in nodes)
        """Free on all nodes together."""
        self.gpus = sum(node.gpus for node in nodes)
        self._with_gpus = {number: None for number, node in enumerate(nodes) if node.gpus > 0}
        """Nodes with a free GPU, or a share of one: in a full cluster few among many."""

    def copy(self) -> "FreeResources":
        copied = FreeResources(())
        copied._free, copied.cpus, copied.gpus = self._free.copy(), self.cpus, self.gpus
        copied._with_gpus = self._with_gpus.copy()
        return copied

    def suffices(self, shape: GroupShape, cpus: float = 0.0, gpus: float = 0.0) -> bool:
        """Return whether the totals, with `cpus` and `gpus` more than is free, are enough for a group."""
        needs_cpus, needs_gpus = shape.workers * shape.cpus_per_worker, shape.workers * shape.gpus_per_worker
        return self.cpus + cpus + _ROUNDING >= needs_cpus and self.gpus + gpus + _ROUNDING >= needs_gpus

    def take(self, shape: GroupShape) -> Placement | None:
        """Take the resources of a group and return where they are; None, and nothing taken, if they do not fit."""
        if not self.suffices(shape):
            return None
        left, placement = shape.workers, []
        for node in self._with_gpus if shape.gpus_per_worker else reversed(range(len(self._free))):
            cpus, gpus = self._free[node]
            num = min(left, _times(cpus, shape.cpus_per_worker), _times(gpus, shape.gpus_per_worker))
            if num:
                placement.append((node, num))
                left -= num
            if not left:
                self._add(shape, placement, sign=-1)
                return tuple(placement)
        return None

    def give_back(self, shape: GroupShape, placement: Placement) -> None:
        """Return the resources of a group."""
        self._add(shape, placement, sign=1)

    def _add(self, shape: GroupShape, placement: Sequence[tuple[int, int]], sign: int) -> None:
        cpus_each, gpus_each = sign * shape.cpus_per_worker, sign * shape.gpus_per_worker
        for node, num in placement:
            cpus, gpus = self._free[node]
            self._free[node] = (cpus + num * cpus_each, gpus + num * gpus_each)
            if self._free[node][1] > _ROUNDING:
                self._with_gpus[node] = None
            else:
                self._with_gpus.pop(node, None)
        self.cpus += shape.workers * cpus_each
        self.gpus += shape.workers * gpus_each


def misfit(level: str, shape: GroupShape, nodes: Sequence[Node]) -> W2SError | None:
    """Return why a worker group of a level does not fit into the empty nodes; None if it fits."""
    if FreeResources(nodes).take(shape) is not None:
        return None
    has = f"the nodes have {', '.join(_amounts(node.cpus, node.gpus) for node in nodes) or 'nothing'}"
    keys = f"`ladder.{level}.execution"
    for name in ("gpus", "cpus"):
        need, most = getattr(shape, f"{name}_per_worker"), max((getattr(node, name) for node in nodes), default=0.0)
        if need > most:
            needed = _amount(need, name[:-1].upper())
            limit = f"no node has more than {most:g}" if most else "there is no GPU"
            return ResourceError(
                f"level {level} has {name}_per_worker = {need:g}, and {limit}; {has}",
                f"set {keys}.{name}_per_worker` to {most:g}, or run where a node has {needed}",
            )
    needs = _amounts(shape.cpus_per_worker, shape.gpus_per_worker)
    room = sum(min(_times(n.cpus, shape.cpus_per_worker), _times(n.gpus, shape.gpus_per_worker)) for n in nodes)
    if not room:
        return ResourceError(
            f"each worker of level {level} needs {needs} on one node; {has}",
            f"lower {keys}.cpus_per_worker` to what the nodes with GPUs have",
        )
    return ResourceError(
        f"level {level} needs {_amount(shape.workers, 'worker')} with {needs} each at once, "
        f"and there is room for {room}; {has}",
        f"lower {keys}.workers` to {room}, or run where there is room for {shape.workers}",
    )


def _amounts(cpus: float, gpus: float) -> str:
    """Return, for example, `4 CPUs and 1 GPU`; GPUs only where there are some."""
    return _amount(cpus, "CPU") + (f" and {_amount(gpus, 'GPU')}" if gpus else "")


def _amount(number: float, noun: str) -> str:
    return f"{number:g} {noun}" + "s" * (number != 1)


def _times(free: float, each: float) -> int:
    """Return how many workers fit into what is free of one resource."""
    return int((free + _ROUNDING) / each) if each > 0 else 1_000_000_000
