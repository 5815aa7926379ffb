"""The policy: what to do next, a pure function of the queue and the worker groups.

A *shape* is the number of workers of a group and what each of them needs; a stage runs on groups of its shape. `decide`
reads the state and returns decisions, each with its reason, and for each shape why its ready stages wait. Its rules, in
this order:

1. A running stage that no trial wants is stopped; it keeps its checkpoint and frees its group.
2. An idle group gets the most urgent ready stage of its shape: longest remaining path first, then wanted by most trials
   (`Queue.urgency_key`).
3. A shape with more ready stages than groups gets another group where one fits. After failed starts it gets none while
   another group of the shape works or is opening.
4. If a group does not fit because groups of less urgent shapes use the resources, those are reserved: idle groups of
   these shapes leave. Groups of shapes that have ready stages leave too, once they are idle, if what waits is clearly
   more urgent and fills what they free. Meanwhile less urgent shapes open groups only for short stages.
5. If only groups of the same or of more urgent shapes use the resources, the shape waits, and others fill the gaps.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from w2s_ray.planning.nodes import FreeResources
from w2s_ray.scheduling.core.groups import GroupStatus, WorkerGroup, WorkerGroups
from w2s_ray.scheduling.core.queue import Queue, name_of
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.execution import GroupShape

MAX_FAILED_STARTS = 3
"""Groups of a shape that may end in a row before their workers start."""
MORE_URGENT = 1.1
"""A group that has work leaves for a stage whose remaining path is this many times as long."""
FILLER_SHARE = 0.25
"""Stages of at most this share of the cost of the one that waits may fill the gap."""


@dataclass(frozen=True)
class StopStage:
    """Stop a running stage at its next step."""

    identity: str
    reason: str


@dataclass(frozen=True)
class Assign:
    """Give a ready stage to an idle group."""

    group: str
    stage: PlannedStage
    reason: str

    def __str__(self) -> str:
        return f"{self.group} gets {name_of(self.stage)}: {self.reason}"


@dataclass(frozen=True)
class OpenGroup:
    """Start a worker group."""

    group: str
    shape: GroupShape
    reason: str


@dataclass(frozen=True)
class RetireGroup:
    """Let an idle group end."""

    group: str
    reason: str


@dataclass(frozen=True)
class CancelGroup:
    """End a group whose workers have not started yet."""

    group: str
    reason: str


Decision = StopStage | Assign | OpenGroup | RetireGroup | CancelGroup


@dataclass(frozen=True)
class Verdict:
    """The policy's answer."""

    decisions: list[Decision]
    waits: dict[GroupShape, str]
    """Why ready stages of a shape wait although nothing that they learn from is missing."""


def decide(queue: Queue, groups: WorkerGroups, closing: bool = False) -> Verdict:
    """Return what to do now; `closing` stops what runs and ends every group."""
    if closing:
        return Verdict(_close(queue, groups), dict.fromkeys(queue.ready_shapes, "the run ends"))
    unwanted = [identity for identity in sorted(queue.unwanted) if not queue.stages[identity].stopping]
    stops: list[Decision] = [StopStage(identity, "no trial wants it any more") for identity in unwanted]
    verdict = _Round(queue, groups).verdict()
    return Verdict(stops + verdict.decisions, verdict.waits)


def may_open(groups: WorkerGroups, shape: GroupShape) -> bool:
    """Return whether another group is worth starting: after failed starts, not beside one that may still work."""
    may_work = (GroupStatus.OPENING, GroupStatus.IDLE, GroupStatus.BUSY)
    return groups.num_failed_starts.get(shape, 0) < MAX_FAILED_STARTS or not groups.of(shape, *may_work)


def _close(queue: Queue, groups: WorkerGroups) -> list[Decision]:
    decisions: list[Decision] = []
    for group in groups.by_id.values():
        match group.status:
            case GroupStatus.OPENING:
                decisions.append(CancelGroup(group.id, "the run ends"))
            case GroupStatus.IDLE:
                decisions.append(RetireGroup(group.id, "the run ends"))
            case GroupStatus.BUSY if group.identity is not None and not queue.stages[group.identity].stopping:
                decisions.append(StopStage(group.identity, "the run ends"))
    return decisions


class _Round:
    """One pass over the shapes that have ready stages, the most urgent first: rules 2 to 5."""

    def __init__(self, queue: Queue, groups: WorkerGroups) -> None:
        self._queue, self._groups = queue, groups
        self._ready = queue.ready_shapes
        self._order = {shape: place for place, shape in enumerate(self._ready)}
        self._decisions: list[Decision] = []
        self._waits: dict[GroupShape, str] = {}
        self._num_opened = groups.num_opened
        self._retired: set[str] = set()
        self._reserved_for: GroupShape | None = None
        """Less urgent shapes open no groups meanwhile."""
        self._free: FreeResources | None = None
        """Free resources, less those of this round's new groups; computed only where something waits."""

    def verdict(self) -> Verdict:
        for shape, num_ready in self._ready.items():
            idle = self._idle(shape)
            for group, queued in zip(idle, self._queue.most_urgent(shape, len(idle)), strict=False):
                reason = f"longest remaining path ({queued.remaining:.3g}), wanted by {len(queued.wanted_by)}"
                self._decisions.append(Assign(group.id, queued.stage, reason))
            num_opening = self._groups.num_of(shape, GroupStatus.OPENING)
            num_waiting = num_ready - len(idle) - num_opening
            if shape in self._groups.without_room:
                self._waits[shape] = f"other users of the cluster leave no room for {shape.workers} workers"
            elif num_opening:
                self._waits[shape] = f"a group of {shape.workers} workers is starting"
            if num_waiting > 0:
                if may_open(self._groups, shape):
                    self._open(shape, num_waiting)
                else:
                    self._waits[shape] = "the last worker groups failed to start; waits for the one that may still work"
        return Verdict(self._decisions, self._waits)

    def _open(self, shape: GroupShape, num: int) -> None:
        """Open up to `num` groups; where they do not fit, reserve resources for them if that is worth it."""
        reason = f"{num} ready stages wait for {shape.workers} workers"
        self._free = self._free or self._groups.free()
        for num_left in range(num, 0, -1):
            if not self._may_fill(shape):
                assert self._reserved_for is not None
                reserved = f"free resources are reserved for a group of {self._reserved_for.workers} workers"
                self._waits.setdefault(shape, reserved)
                return
            if self._free.take(shape) is None:
                if self._reserved_for is None:
                    self._reserve(shape, num_left)
                until = "less urgent" if self._reserved_for == shape else "other"
                self._waits.setdefault(shape, f"no free resources for {shape.workers} workers until {until} groups end")
                return
            self._num_opened += 1
            self._waits[shape] = f"a group of {shape.workers} workers is starting"
            self._decisions.append(OpenGroup(f"group-{self._num_opened}", shape, reason))

    def _may_fill(self, shape: GroupShape) -> bool:
        """Return whether a new group of `shape` would not delay the shape for which resources are reserved."""
        if self._reserved_for is None:
            return True
        (waiting,), (filler,) = self._queue.most_urgent(self._reserved_for, 1), self._queue.most_urgent(shape, 1)
        return filler.cost <= FILLER_SHARE * waiting.cost

    def _reserve(self, shape: GroupShape, num: int) -> None:
        """Reserve resources for `num` groups if less urgent ones take them, and retire as many idle ones as needed."""
        assert self._free is not None
        shapes = self._groups.num_by_shape
        rivals = [rival for rival in shapes if rival != shape and self._gives_way(rival, shape, num)]
        leaving = [group for each in shapes for group in self._groups.of(each, GroupStatus.LEAVING)]
        if not self._could_fit(shape, rivals, [group.shape for group in leaving]):
            return  # rule 5
        self._reserved_for = shape
        free = self._free.copy()
        for group in leaving:
            _give_back(free, group)
        reason = f"idle, and {num} groups of {shape.workers} workers wait for its resources"
        without_work_first = sorted(rivals, key=lambda rival: rival in self._ready)
        for group in (group for rival in without_work_first for group in self._idle(rival)):
            while num and free.take(shape) is not None:
                num -= 1
            if not num:
                return  # those that leave already are enough
            _give_back(free, group)
            self._retired.add(group.id)
            self._decisions.append(RetireGroup(group.id, reason))

    def _gives_way(self, rival: GroupShape, shape: GroupShape, num: int) -> bool:
        """Return whether groups of `rival` should give way: they have no work, or none nearly as urgent.

        Those that have work give way only for a shape's first group, or where `num` groups fill what one of them frees.
        """
        if rival not in self._ready:
            return True
        if self._order[rival] < self._order[shape]:
            return False
        if self._groups.num_by_shape.get(shape) and not _fills(num, shape, rival):
            return False
        (theirs,), (ours,) = self._queue.most_urgent(rival, 1), self._queue.most_urgent(shape, 1)
        return ours.remaining > MORE_URGENT * theirs.remaining

    def _could_fit(self, shape: GroupShape, rivals: Sequence[GroupShape], leaving: Sequence[GroupShape]) -> bool:
        """Return whether the totals would suffice if rivals and leaving groups were gone."""
        assert self._free is not None
        gone = [(rival, self._groups.num_by_shape[rival]) for rival in rivals]
        gone += [(each, 1) for each in leaving if each not in rivals]
        cpus = sum(num * each.workers * each.cpus_per_worker for each, num in gone)
        gpus = sum(num * each.workers * each.gpus_per_worker for each, num in gone)
        return self._free.suffices(shape, cpus, gpus)

    def _idle(self, shape: GroupShape) -> list[WorkerGroup]:
        return [group for group in self._groups.of(shape, GroupStatus.IDLE) if group.id not in self._retired]


def _give_back(free: FreeResources, group: WorkerGroup) -> None:
    if group.placement is not None:
        free.give_back(group.shape, group.placement)


def _fills(num: int, shape: GroupShape, rival: GroupShape) -> bool:
    """Return whether `num` groups of `shape` fill what one group of `rival` frees."""
    ours, theirs = num * shape.workers, rival.workers
    if rival.gpus_per_worker:
        return ours * shape.gpus_per_worker >= theirs * rival.gpus_per_worker
    return ours * shape.cpus_per_worker >= theirs * rival.cpus_per_worker
