"""The roster: which crews there are, what they do, and whether another one would find room.

Pure bookkeeping, like the queue. A crew is on its way (`opening`), idle, busy, or leaving; after the dispatcher was
restarted the crews that it has only been told of are `unheard`, and nothing is handed out until each has spoken. Crews
are indexed by shape and status, and the room is kept up to date, because the policy asks at every event.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from w2s_ray.planning.nodes import Node, Place, Room
from w2s_ray.spec.stage import GroupShape


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
    shape: GroupShape
    status: CrewStatus
    identity: str | None = None
    """The stage that it runs, or that is on its way to it."""
    begun: bool = False
    """Whether it has said that it runs the stage."""
    incarnation: str | None = None
    """Which start of its workers spoke last."""
    place: Place | None = None
    """Where it stands, as far as can be guessed; None where it would not have fitted."""


class Roster:
    """All crews, and the cluster that they stand on."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        """Begin without crews."""
        self.crews: dict[str, Crew] = {}
        self.num_failed_starts: dict[GroupShape, int] = {}
        """How many crews of a shape ended one after another before they spoke, though they had found room."""
        self.crowded_out: set[GroupShape] = set()
        """Shapes whose last crew found no room on the cluster, which others use too."""
        self.shapes: dict[GroupShape, int] = {}
        """How many crews there are of each shape."""
        self.in_hand: dict[str, str] = {}
        """Which crew runs a stage, by identity."""
        self._room = Room(tuple(nodes))
        self._by: dict[tuple[GroupShape, CrewStatus], dict[str, Crew]] = defaultdict(dict)
        self._num: dict[CrewStatus, int] = defaultdict(int)

    def opening(self, crew: str, shape: GroupShape) -> None:
        """A crew was sent for."""
        self._add(crew, shape, CrewStatus.OPENING)

    def told_of(self, crew: str, shape: GroupShape) -> None:
        """Somebody else says that there is a crew; it has not spoken itself."""
        if crew not in self.crews:
            self._add(crew, shape, CrewStatus.UNHEARD)

    def spoke(self, crew: str, shape: GroupShape, incarnation: str, identity: str | None) -> str | None:
        """A crew's workers speak; return the stage that an earlier start of them took to its grave, if any."""
        self.told_of(crew, shape)
        known = self.crews[crew]
        self.num_failed_starts[shape] = 0
        self.crowded_out.discard(shape)
        lost = known.identity if known.incarnation not in (None, incarnation) else None
        if lost is not None:
            self._holds(known, None)
        known.incarnation = incarnation
        if known.identity is None:
            self._holds(known, identity)
        if identity is not None and identity == known.identity:
            known.begun = True
        if known.status is not CrewStatus.LEAVING:
            self._turn(known, CrewStatus.IDLE if known.identity is None else CrewStatus.BUSY)
        return lost

    def took(self, crew: str, identity: str) -> None:
        """A crew was given a stage."""
        self._holds(self.crews[crew], identity)
        self._turn(self.crews[crew], CrewStatus.BUSY)

    def began(self, identity: str) -> None:
        """Whoever has a stage in hand runs it, as somebody says."""
        if identity in self.in_hand:
            self.crews[self.in_hand[identity]].begun = True

    def idle(self, crew: str) -> None:
        """A crew is through with its stage."""
        known = self.crews[crew]
        self._holds(known, None)
        if known.status is not CrewStatus.LEAVING:
            self._turn(known, CrewStatus.IDLE)

    def leaving(self, crew: str) -> None:
        """A crew will end of itself."""
        self._turn(self.crews[crew], CrewStatus.LEAVING)

    def ended(self, crew: str, found_room: bool = True) -> str | None:
        """A crew is gone, perhaps for want of room; return the stage that it leaves behind, if any."""
        known = self.crews.pop(crew, None)
        if known is None:
            return None
        identity = known.identity
        self._holds(known, None)
        self._leave_index(known)
        self.shapes[known.shape] -= 1
        if known.place is not None:
            self._room.free(known.shape, known.place)
        if not found_room:
            self.crowded_out.add(known.shape)
        elif known.incarnation is None and known.status is not CrewStatus.LEAVING:
            self.num_failed_starts[known.shape] = self.num_failed_starts.get(known.shape, 0) + 1
        return identity

    def of(self, shape: GroupShape, *statuses: CrewStatus) -> list[Crew]:
        """Return the crews of a shape that are in one of `statuses`."""
        if len(statuses) == 1:
            return list(self._by[shape, statuses[0]].values())
        return [crew for status in statuses for crew in self._by[shape, status].values()]

    def num_of(self, shape: GroupShape, status: CrewStatus) -> int:
        """Return how many crews of a shape are in `status`."""
        return len(self._by[shape, status])

    def num(self, status: CrewStatus) -> int:
        """Return how many crews are in `status`."""
        return self._num[status]

    def room(self) -> Room:
        """Return what is free on each node; it may be filled."""
        return self._room.copy()

    def _add(self, crew: str, shape: GroupShape, status: CrewStatus) -> None:
        known = Crew(crew, shape, status, place=self._room.place(shape))
        self.crews[crew] = known
        self.shapes[shape] = self.shapes.get(shape, 0) + 1
        self._by[shape, status][crew] = known
        self._num[status] += 1

    def _holds(self, crew: Crew, identity: str | None) -> None:
        if crew.identity is not None and self.in_hand.get(crew.identity) == crew.id:
            del self.in_hand[crew.identity]
        crew.identity, crew.begun = identity, False
        if identity is not None:
            self.in_hand[identity] = crew.id

    def _turn(self, crew: Crew, status: CrewStatus) -> None:
        self._leave_index(crew)
        crew.status = status
        self._by[crew.shape, status][crew.id] = crew
        self._num[status] += 1

    def _leave_index(self, crew: Crew) -> None:
        del self._by[crew.shape, crew.status][crew.id]
        self._num[crew.status] -= 1
