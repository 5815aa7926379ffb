"""State of the worker groups, and what is free on the cluster beside them.

Groups are indexed by shape and status, and the free resources are kept up to date, because the policy reads both at
every event.
"""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from w2s_ray.planning.nodes import FreeResources, Node, Placement
from w2s_ray.spec.execution import GroupShape


class GroupStatus(StrEnum):
    """State of a worker group."""

    OPENING = "opening"
    IDLE = "idle"
    BUSY = "busy"
    LEAVING = "leaving"


@dataclass(slots=True)
class WorkerGroup:
    """Workers that stay warm from stage to stage."""

    id: str
    shape: GroupShape
    status: GroupStatus = GroupStatus.OPENING
    identity: str | None = None
    """The stage that it was given."""
    has_started: bool = False
    """Whether its workers are up: they have asked for work."""
    placement: Placement | None = None
    """An estimate of where its workers are; None where they did not fit."""


class WorkerGroups:
    """All worker groups, and the cluster that they share."""

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.by_id: dict[str, WorkerGroup] = {}
        self.num_opened = 0
        self.num_failed_starts: dict[GroupShape, int] = {}
        """Groups of a shape that ended one after another before their workers started, though they had found room."""
        self.without_room: set[GroupShape] = set()
        """Shapes whose last group found no room on the cluster, which others use too."""
        self.num_by_shape: dict[GroupShape, int] = {}
        self.running: dict[str, str] = {}
        """Group that has a stage, by the stage's identity."""
        self._free = FreeResources(tuple(nodes))
        self._by: dict[tuple[GroupShape, GroupStatus], dict[str, WorkerGroup]] = defaultdict(dict)
        self._num: dict[GroupStatus, int] = defaultdict(int)

    def open(self, group: str, shape: GroupShape) -> None:
        """Add a group that is being started."""
        added = WorkerGroup(group, shape, placement=self._free.take(shape))
        self.by_id[group] = added
        self.num_opened += 1
        self.num_by_shape[shape] = self.num_by_shape.get(shape, 0) + 1
        self._by[shape, added.status][group] = added
        self._num[added.status] += 1

    def started(self, group: str) -> None:
        """Its workers are up and ask for work."""
        known = self.by_id[group]
        known.has_started = True
        self.num_failed_starts[known.shape] = 0
        self.without_room.discard(known.shape)
        if known.status is GroupStatus.OPENING:
            self._set_status(known, GroupStatus.IDLE)

    def assign(self, group: str, identity: str) -> None:
        """Give a stage to a group."""
        known = self.by_id[group]
        known.identity = identity
        self.running[identity] = group
        self._set_status(known, GroupStatus.BUSY)

    def returned_stage(self, group: str) -> None:
        """A group has no stage any more."""
        known = self.by_id[group]
        self._drop_stage(known)
        if known.status is not GroupStatus.LEAVING:
            self._set_status(known, GroupStatus.IDLE)

    def leave(self, group: str) -> None:
        """A group was told to end, or will end by itself."""
        self._set_status(self.by_id[group], GroupStatus.LEAVING)

    def ended(self, group: str, found_room: bool) -> str | None:
        """Remove a group; return the stage that it had, if any."""
        known = self.by_id.pop(group)
        identity = known.identity
        self._drop_stage(known)
        self._unindex(known)
        self.num_by_shape[known.shape] -= 1
        if known.placement is not None:
            self._free.give_back(known.shape, known.placement)
        if not found_room:
            self.without_room.add(known.shape)
        elif not known.has_started and known.status is not GroupStatus.LEAVING:
            self.num_failed_starts[known.shape] = self.num_failed_starts.get(known.shape, 0) + 1
        return identity

    def has_stage(self, group: str, identity: str) -> bool:
        """Return whether the group exists and has this stage."""
        return group in self.by_id and self.by_id[group].identity == identity

    def of(self, shape: GroupShape, *statuses: GroupStatus) -> list[WorkerGroup]:
        """Return the groups of a shape that have one of `statuses`."""
        return [group for status in statuses for group in self._by[shape, status].values()]

    def num_of(self, shape: GroupShape, status: GroupStatus) -> int:
        """Return how many groups of a shape have `status`."""
        return len(self._by[shape, status])

    def num(self, status: GroupStatus) -> int:
        """Return how many groups have `status`."""
        return self._num[status]

    def free(self) -> FreeResources:
        """Return a copy of what is free on each node."""
        return self._free.copy()

    def _drop_stage(self, group: WorkerGroup) -> None:
        if group.identity is not None and self.running.get(group.identity) == group.id:
            del self.running[group.identity]
        group.identity = None

    def _set_status(self, group: WorkerGroup, status: GroupStatus) -> None:
        self._unindex(group)
        group.status = status
        self._by[group.shape, status][group.id] = group
        self._num[status] += 1

    def _unindex(self, group: WorkerGroup) -> None:
        del self._by[group.shape, group.status][group.id]
        self._num[group.status] -= 1
