"""Room: what the cluster's nodes have free, and where a crew's workers would go.

First fit, node by node; CPU crews begin with the last nodes, for those with GPUs come first. It is an estimate of what
Ray will do, never an order to it: Ray places the workers.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

from w2s_ray.spec.stage import GroupShape
from w2s_ray.training.memory.usage import gpu_bytes, host_memory

Place = tuple[tuple[int, int], ...]
"""Pairs of a node's number and how many workers stand on it."""
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster has in all."""

    cpus: float
    gpus: float = 0.0
    memory_bytes: int | None = None
    """None where it is not known."""
    gpu_bytes: int | None = None
    """Memory of its smallest GPU."""


def this_machine() -> Node:
    """Return what the machine has on which this process runs."""
    gpus = gpu_bytes()
    return Node(
        cpus=os.cpu_count() or 1,
        gpus=len(gpus),
        memory_bytes=host_memory().total,
        gpu_bytes=min(gpus, default=None),
    )


class Room:
    """What is free on each node."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        """Begin with all of it free."""
        self._free = [(node.cpus, node.gpus) for node in nodes]
        self.cpus = sum(node.cpus for node in nodes)
        """Free on all nodes together."""
        self.gpus = sum(node.gpus for node in nodes)
        self._with_gpus = {number: None for number, node in enumerate(nodes) if node.gpus > 0}
        """Nodes that have a GPU free, or a share of one: in a full cluster few among many."""

    def copy(self) -> "Room":
        """Return another one that can be filled without changing this one."""
        room = Room(())
        room._free, room.cpus, room.gpus = self._free.copy(), self.cpus, self.gpus
        room._with_gpus = self._with_gpus.copy()
        return room

    def has(self, shape: GroupShape, cpus: float = 0.0, gpus: float = 0.0) -> bool:
        """Say whether a crew could fit as far as the sums go, with `cpus` and `gpus` more than is free."""
        short_of_cpus = self.cpus + cpus + _ROUNDING < shape.workers * shape.cpus_per_worker
        return not short_of_cpus and self.gpus + gpus + _ROUNDING >= shape.workers * shape.gpus_per_worker

    def place(self, shape: GroupShape) -> Place | None:
        """Take the room of a crew and return where it is; None, and nothing taken, where there is not enough."""
        if not self.has(shape):
            return None
        left, place = shape.workers, []
        for node in self._with_gpus if shape.gpus_per_worker else reversed(range(len(self._free))):
            cpus, gpus = self._free[node]
            num = min(left, _times(cpus, shape.cpus_per_worker), _times(gpus, shape.gpus_per_worker))
            if num:
                place.append((node, num))
                left -= num
            if not left:
                self._give(shape, place, sign=-1)
                return tuple(place)
        return None

    def free(self, shape: GroupShape, place: Place) -> None:
        """Give the room of a crew back."""
        self._give(shape, place, sign=1)

    def _give(self, shape: GroupShape, place: Sequence[tuple[int, int]], sign: int) -> None:
        cpus_each, gpus_each = sign * shape.cpus_per_worker, sign * shape.gpus_per_worker
        for node, num in place:
            cpus, gpus = self._free[node]
            self._free[node] = (cpus + num * cpus_each, gpus + num * gpus_each)
            if self._free[node][1] > _ROUNDING:
                self._with_gpus[node] = None
            else:
                self._with_gpus.pop(node, None)
        self.cpus += shape.workers * cpus_each
        self.gpus += shape.workers * gpus_each


def _times(free: float, each: float) -> int:
    """How many workers find what they need of one resource."""
    return int((free + _ROUNDING) / each) if each > 0 else 1_000_000_000
