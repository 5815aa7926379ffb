"""The scheduler: the only door to the pure core. An event goes in, the actions that follow from it come out.

    handle(*events) -> list[Action]

The caller reports everything that happens and carries out every action; the scheduler has updated its own state as if
all of them were done. `queue` and `groups` may be read from outside, and must not be changed there.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from w2s_ray.errors import TrainingError, W2SError
from w2s_ray.planning.nodes import Node
from w2s_ray.scheduling.core.groups import GroupStatus, WorkerGroups
from w2s_ray.scheduling.core.policy import (
    MAX_FAILED_STARTS,
    Assign,
    Decision,
    OpenGroup,
    StopStage,
    decide,
    may_open,
)
from w2s_ray.scheduling.core.queue import Crash, CrashKind, Queue, StageState
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.execution import GroupShape

MAX_DEATHS = 3
"""Groups in a row that may die running a stage, without a later checkpoint, before the stage fails."""
MAX_CROWDED_DEATHS = 20
"""The same where the machine ran short of memory while other groups of the run worked."""


@dataclass(frozen=True)
class Requested:
    """A trial wants these stages, instead of those that it wanted before."""

    trial: str
    stages: Sequence[PlannedStage]
    stored: frozenset[str] = frozenset()
    """Identities, of stages and predictions, that the store has."""
    error: W2SError | None = None
    """Why the store could not be read; the stages fail with it."""


@dataclass(frozen=True)
class Withdrawn:
    """A trial wants its stages no more."""

    trial: str


@dataclass(frozen=True)
class GroupStarted:
    """A group's workers are up and ask for work."""

    group: str


@dataclass(frozen=True)
class GroupEnded:
    """A group is gone."""

    group: str
    cause: str = ""
    """Why, for people."""
    found_room: bool = True
    """False if Ray did not place its workers in time, because others use the cluster too."""
    kind: CrashKind = CrashKind.KILLED


@dataclass(frozen=True)
class CrashReported:
    """A worker reported why it is about to die; the first report of a stage's group counts, timeouts aside."""

    identity: str
    crash: Crash


@dataclass(frozen=True)
class CheckpointSaved:
    """A running stage has a checkpoint at `step`."""

    identity: str
    step: int


@dataclass(frozen=True)
class StageReturned:
    """A group returned its stage: finished, stopped (it can continue later), or failed with `error`."""

    group: str
    identity: str
    stopped: bool = False
    error: W2SError | None = None
    group_leaves: bool = False
    """Whether the group ends after this stage."""


@dataclass(frozen=True)
class StageBlocked:
    """Another run holds the lease of a stage that was assigned."""

    group: str
    identity: str
    reason: str


@dataclass(frozen=True)
class StageUnblocked:
    """A blocked stage may be tried again, or exists by now, or could not be looked up."""

    identity: str
    stored: frozenset[str] = frozenset()
    error: W2SError | None = None


@dataclass(frozen=True)
class Closing:
    """The run ends: what runs is stopped, nothing is started, and every group ends."""


Event = (
    Requested
    | Withdrawn
    | GroupStarted
    | GroupEnded
    | CrashReported
    | CheckpointSaved
    | StageReturned
    | StageBlocked
    | StageUnblocked
    | Closing
)


@dataclass(frozen=True)
class StageLost:
    """A group died and no longer has the stage: release its lease."""

    identity: str


@dataclass(frozen=True)
class TrialChanged:
    """A stage of the trial changed: send it a new report."""

    trial: str


Action = Decision | StageLost | TrialChanged


class Scheduler:
    """Stages, worker groups and the policy that matches them."""

    def __init__(self, nodes: Sequence[Node], queue: Queue | None = None) -> None:
        self.queue = queue or Queue()
        self.groups = WorkerGroups(nodes)
        self.closing = False
        self._waits: dict[GroupShape, str] = {}
        self._failed_starts: dict[GroupShape, Crash] = {}
        """Why the last group of a shape failed to start, if none has started since."""

    def handle(self, *events: Event) -> list[Action]:
        """Update the state by what has just happened, and return what has to be done."""
        actions = [action for event in events for action in self._apply(event)]
        verdict = decide(self.queue, self.groups, self.closing)
        for decision in verdict.decisions:
            self._record(decision)
            actions.append(decision)
        self._waits = verdict.waits
        return [*actions, *map(TrialChanged, self.queue.take_changed())]

    def why_waiting(self, identity: str) -> str:
        """Return why a waiting stage waits, for people."""
        shape = self.queue.stages[identity].stage.execution.group_shape
        reason = self.queue.why_waiting(identity) or self._waits.get(shape)
        return reason or "ready; every worker group of its size runs a more urgent stage"

    def _apply(self, event: Event) -> list[Action]:
        queue, groups = self.queue, self.groups
        match event:
            case Requested(trial, stages, stored, error):
                queue.request(trial, stages, stored)
                if error is not None:
                    for stage in stages:
                        if queue.stages[stage.identity].state is StageState.WAITING:
                            queue.fail(stage.identity, error)
            case Withdrawn(trial):
                queue.withdraw(trial)
            case GroupStarted(group) if group in groups.by_id:
                groups.started(group)
                self._failed_starts.pop(groups.by_id[group].shape, None)
            case GroupEnded() if event.group in groups.by_id:
                return self._end_group(event)
            case CrashReported(identity, crash) if identity in queue.stages:
                known = queue.stages[identity].crash
                if known is None or known.kind is CrashKind.TIMEOUT:  # what follows may be why the worker did not join
                    queue.stages[identity].crash = crash
            case CheckpointSaved(identity, step) if identity in queue.stages:
                queue.save(identity, step)
            case StageReturned() if groups.has_stage(event.group, event.identity):
                self._return_stage(event)
            case StageBlocked(group, identity, reason) if groups.has_stage(group, identity):
                groups.returned_stage(group)
                queue.stop(identity)
                queue.block(identity, reason)
            case StageUnblocked(identity, stored, error):
                queue.block(identity, None)
                if queue.stages[identity].state is not StageState.WAITING:
                    return []  # it was assigned in the meantime
                if error is not None:
                    queue.fail(identity, error)
                elif queue.stages[identity].stage.products <= stored:
                    queue.start(identity)
                    queue.finish(identity)
            case Closing():
                self.closing = True
        return []

    def _record(self, decision: Decision) -> None:
        """Update the state as if the decision were carried out."""
        match decision:
            case Assign(group, stage, _):
                self.queue.start(stage.identity)
                self.groups.assign(group, stage.identity)
            case OpenGroup(group, shape, _):
                self.groups.open(group, shape)
            case StopStage(identity, _):
                self.queue.stages[identity].stopping = True
            case _:  # RetireGroup or CancelGroup
                self.groups.leave(decision.group)

    def _return_stage(self, event: StageReturned) -> None:
        self.groups.returned_stage(event.group)
        if event.group_leaves:
            self.groups.leave(event.group)
        if event.error is not None:
            self.queue.fail(event.identity, event.error)
        elif event.stopped:
            self.queue.stop(event.identity)
        else:
            self.queue.finish(event.identity)

    def _end_group(self, event: GroupEnded) -> list[Action]:
        group = self.groups.by_id[event.group]
        could_not_start = not group.has_started and group.status is not GroupStatus.LEAVING and event.found_room
        identity = self.groups.ended(event.group, event.found_room)
        if could_not_start:
            self._fail_if_starts_fail(group.shape, Crash(event.cause, event.kind))
        if identity is None:
            return []
        crash = self.queue.stages[identity].crash
        if crash is None or (crash.kind is CrashKind.TIMEOUT and event.kind in (CrashKind.NODE, CrashKind.MEMORY)):
            crash = Crash(event.cause or "its processes were killed from outside", event.kind)
        if self.closing:
            self.queue.stop(identity)
        else:
            is_crowded = crash.kind is CrashKind.MEMORY and bool(self.groups.running)
            self.queue.group_died(identity, crash, MAX_CROWDED_DEATHS if is_crowded else MAX_DEATHS)
        return [StageLost(identity)]

    def _fail_if_starts_fail(self, shape: GroupShape, crash: Crash) -> None:
        """Fail the ready stages of a shape if its last groups failed to start and no other one may still work.

        An exception that two starts in a row raised is not tried a third time.
        """
        if crash.repeats(self._failed_starts.get(shape)):
            self.groups.num_failed_starts[shape] = MAX_FAILED_STARTS
        self._failed_starts[shape] = crash
        if self.groups.num_failed_starts.get(shape, 0) < MAX_FAILED_STARTS or not may_open(self.groups, shape):
            return
        for queued in self.queue.most_urgent(shape, len(self.queue.stages)):
            message = f"no group of {shape.workers} workers could be started: {crash.cause}"
            self.queue.fail(queued.stage.identity, TrainingError(message, "`w2s doctor` checks the machine"))
