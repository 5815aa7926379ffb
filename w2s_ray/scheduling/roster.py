"""The roster: which crews there are, what they do, and whether another one would find room.

Pure bookkeeping, like the queue. A crew is on its way (`opening`), idle, busy, or leaving; after the foreman was
restarted the crews that it has only been told of are `unheard`, and nothing is handed out until each has spoken.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from w2s_ray.spec.execution import CrewShape


class CrewStatus(StrEnum):
    """What a crew does."""

    OPENING = "opening"
    UNHEARD = "unheard"
    IDLE = "idle"
    BUSY = "busy"
    LEAVING = "leaving"


@dataclass(slots=True)
class Crew:
    """A group of workers that stays warm from stage to stage."""

    id: str
    shape: CrewShape
    status: CrewStatus
    identity: str | None = None
    """The stage that it runs."""
    incarnation: str | None = None
    """Which start of its workers spoke last."""


@dataclass(frozen=True)
class Node:
    """What one machine of the cluster has in all."""

    cpus: float
    gpus: float = 0.0


@dataclass
class Roster:
    """All crews, and the cluster that they stand on."""

    nodes: tuple[Node, ...]
    crews: dict[str, Crew] = field(default_factory=dict)
    num_failed_starts: dict[CrewShape, int] = field(default_factory=dict)
    """How many crews of a shape ended one after another before they spoke."""

    def opening(self, crew: str, shape: CrewShape) -> None:
        """A crew was sent for."""
        self.crews[crew] = Crew(crew, shape, CrewStatus.OPENING)

    def told_of(self, crew: str, shape: CrewShape) -> None:
        """Somebody else says that there is a crew; it has not spoken itself."""
        if crew not in self.crews:
            self.crews[crew] = Crew(crew, shape, CrewStatus.UNHEARD)

    def spoke(self, crew: str, shape: CrewShape, incarnation: str, identity: str | None) -> str | None:
        """A crew's workers speak; return the stage that an earlier start of them took to its grave, if any."""
        known = self.crews.setdefault(crew, Crew(crew, shape, CrewStatus.UNHEARD))
        self.num_failed_starts[shape] = 0
        lost = known.identity if known.incarnation not in (None, incarnation) else None
        if lost is not None:
            known.identity = None
        known.incarnation = incarnation
        if known.identity is None:
            known.identity = identity
        if known.status is not CrewStatus.LEAVING:
            known.status = CrewStatus.IDLE if known.identity is None else CrewStatus.BUSY
        return lost

    def took(self, crew: str, identity: str) -> None:
        """A crew was given a stage."""
        self.crews[crew].identity, self.crews[crew].status = identity, CrewStatus.BUSY

    def idle(self, crew: str) -> None:
        """A crew is through with its stage."""
        known = self.crews[crew]
        known.identity = None
        if known.status is not CrewStatus.LEAVING:
            known.status = CrewStatus.IDLE

    def leaving(self, crew: str) -> None:
        """A crew will end of itself."""
        self.crews[crew].status = CrewStatus.LEAVING

    def ended(self, crew: str) -> str | None:
        """A crew is gone; return the stage that it leaves behind, if any."""
        known = self.crews.pop(crew, None)
        if known is None:
            return None
        if known.incarnation is None and known.status is not CrewStatus.LEAVING:
            self.num_failed_starts[known.shape] = self.num_failed_starts.get(known.shape, 0) + 1
        return known.identity

    def of(self, shape: CrewShape, *statuses: CrewStatus) -> list[Crew]:
        """Return the crews of a shape that are in one of `statuses`."""
        return [crew for crew in self.crews.values() if crew.shape == shape and crew.status in statuses]

    def room(self, without: Iterable[str] = ()) -> "Room":
        """Return what is free on each node, as if the crews `without` were gone."""
        room = Room(self.nodes)
        gone = set(without)
        for crew in sorted(self.crews.values(), key=lambda each: each.shape.cpus_per_worker, reverse=True):
            if crew.id not in gone:
                room.place(crew.shape)
        return room


class Room:
    """What is free on each node, filled first-fit."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        """Begin with all of it free."""
        self._free = [[node.cpus, node.gpus] for node in nodes]

    def place(self, shape: CrewShape) -> bool:
        """Take the room of a crew; say whether there was enough (where there was not, nothing is taken)."""
        free = [list(node) for node in self._free]
        for _ in range(shape.workers):
            for node in free:
                if node[0] >= shape.cpus_per_worker and node[1] >= shape.gpus_per_worker:
                    node[0] -= shape.cpus_per_worker
                    node[1] -= shape.gpus_per_worker
                    break
            else:
                return False
        self._free = free
        return True
