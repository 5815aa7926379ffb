"""The policy: what to do next, as a pure function of the queue and the roster.

`decide` reads the state and returns decisions, each with its reason; it changes nothing. The dispatcher carries them
out and tells the state so, and a simulation can do the same on a virtual clock. The rules, in this order:

1. A running stage that nobody wants is stopped; it keeps its checkpoint and frees its crew.
2. An idle crew takes the most urgent ready stage of its shape: longest remaining path first, shared before private.
3. A shape with more ready stages than crews gets another crew, where there is room; when the last ones would not start,
   not beside one that works or is on its way.
4. Where there is none and less urgent crews stand on it, room is kept: the idle ones among them leave, those that have
   work too if what waits is clearly more urgent and fills what they free; and no less urgent shape gets a new crew,
   unless its stages are so short that they fill the gap while the room is being made.
5. Where only its own or more urgent crews stand on the room, the shape waits for them, and others fill the gaps.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from w2s_ray.errors import TrainingError, W2SError
from w2s_ray.planning.nodes import Room
from w2s_ray.scheduling.queue import Crash, CrashKind, Queue, Status
from w2s_ray.scheduling.roster import Crew, CrewStatus, Roster
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.stage import GroupShape

MAX_DEATHS = 3
"""Crew deaths that one stage is given before it fails."""
MAX_CROWDED_DEATHS = 20
"""The same where its machine ran short of memory while other crews of the run were working."""
MAX_NOT_BEGUN = 10
"""Crews that may end with a stage that they never said they had begun; more than enough for what is lost on its way."""
MAX_FAILED_STARTS = 3
"""Crews of one shape that may end before they speak; then its stages fail, unless they have another crew."""
MORE_URGENT = 1.1
"""How many times as long the remaining path must be for which a crew that has work itself makes way."""
FILLER_SHARE = 0.25
"""Stages that take no longer than this share of the one that room is kept for may fill the gap."""


@dataclass(frozen=True)
class StopStage:
    """Stop a running stage at its next step."""

    identity: str
    reason: str


@dataclass(frozen=True)
class Assign:
    """Give a ready stage to an idle crew."""

    crew: str
    identity: str
    reason: str


@dataclass(frozen=True)
class OpenCrew:
    """Start a crew."""

    shape: GroupShape
    reason: str


@dataclass(frozen=True)
class RetireCrew:
    """Let an idle crew go."""

    crew: str
    reason: str


Decision = StopStage | Assign | OpenCrew | RetireCrew


@dataclass
class State:
    """All that a decision looks at; events that concern both stages and crews are told here."""

    queue: Queue
    roster: Roster
    closing: bool = False
    """The run ends: what runs is stopped, nothing is begun."""
    _lost: list[str] = field(default_factory=list)

    def submitted(self, trial: str, stages: Sequence[PlannedStage], found: frozenset[str] | W2SError) -> None:
        """A trial asks for stages; the store has `found`, or could not be read."""
        self.queue.submitted(trial, stages, frozenset() if isinstance(found, W2SError) else found)
        for stage in stages:
            self._recognise(stage.identity)
        if isinstance(found, W2SError):
            for stage in stages:
                if self.queue.entries[stage.identity].status is Status.WAITING:
                    self.queue.failed(stage.identity, found)

    def started(self, crew: str, identity: str) -> None:
        """A stage was given to a crew."""
        self.queue.started(identity)
        self.roster.took(crew, identity)

    def ended(self, crew: str, identity: str, error: W2SError | None, stopped: bool) -> None:
        """A crew is through with a stage: finished, failed with `error`, or stopped as it was told."""
        entry = self.queue.entries.get(identity)
        if self.has_in_hand(crew, identity):
            self.roster.idle(crew)
        if entry is None or entry.status is not Status.RUNNING:
            return
        if error is not None:
            self.queue.failed(identity, error)
        elif stopped:
            self.queue.stopped(identity)
        else:
            self.queue.finished(identity)

    def taken_back(self, crew: str, identity: str) -> None:
        """A stage that was given to a crew never reached it, or what became of it was never heard."""
        self.ended(crew, identity, error=None, stopped=True)

    def has_in_hand(self, crew: str, identity: str) -> bool:
        """Say whether the crew is here and has this stage."""
        return crew in self.roster.crews and self.roster.crews[crew].identity == identity

    def crew_spoke(self, crew: str, shape: GroupShape, incarnation: str, identity: str | None, crash: Crash) -> None:
        """A crew's workers speak and say what they run; another incarnation means that the one before died."""
        begun = self._has_begun(crew)
        lost = self.roster.spoke(crew, shape, incarnation, identity)
        if lost is not None:
            self._lose(lost, begun, crash)
        if identity is not None:
            self._recognise(identity)

    def _recognise(self, identity: str) -> None:
        """A stage that a crew says it runs does run, though the dispatcher forgot that when it was restarted."""
        entry = self.queue.entries.get(identity)
        if entry is not None and entry.status is Status.WAITING and identity in self.roster.in_hand:
            self.queue.started(identity)

    def crew_ended(self, crew: str, crash: Crash, found_room: bool = True) -> None:
        """A crew is gone, with the error that ended it or of itself; one without room may find some another time."""
        known, begun = self.roster.crews.get(crew), self._has_begun(crew)
        lost = self.roster.ended(crew, found_room)
        if lost is not None:
            self._lose(lost, begun, crash)
        if known is None or known.incarnation is not None or not found_room:
            return
        if self._starts_fail(known.shape) and self.may_open(known.shape):
            self._fail_shape(known.shape, crash.cause)

    def may_open(self, shape: GroupShape) -> bool:
        """Say whether another crew is worth trying: if the last ones would not start, not beside one that may work."""
        may_work = (CrewStatus.OPENING, CrewStatus.UNHEARD, CrewStatus.IDLE, CrewStatus.BUSY)
        return not (self._starts_fail(shape) and self.roster.of(shape, *may_work))

    def _starts_fail(self, shape: GroupShape) -> bool:
        """Whether the last crews of a shape all ended before they spoke."""
        return self.roster.num_failed_starts.get(shape, 0) >= MAX_FAILED_STARTS

    def take_lost(self) -> list[str]:
        """Return the stages whose crews died since this was last asked."""
        lost, self._lost = self._lost, []
        return lost

    def _has_begun(self, crew: str) -> bool:
        return crew in self.roster.crews and self.roster.crews[crew].begun

    def _lose(self, identity: str, begun: bool, crash: Crash) -> None:
        self._lost.append(identity)
        entry = self.queue.entries.get(identity)
        if entry is None or entry.status is not Status.RUNNING:
            return
        if self.closing:
            self.queue.stopped(identity)
        elif begun:
            is_crowded = crash.kind is CrashKind.MEMORY and len(self.roster.in_hand) > 0
            self.queue.crew_died(identity, MAX_CROWDED_DEATHS if is_crowded else MAX_DEATHS, crash)
        else:
            self.queue.not_begun(identity, MAX_NOT_BEGUN, crash)

    def _fail_shape(self, shape: GroupShape, cause: str) -> None:
        for entry in self.queue.best(shape, len(self.queue.entries)):
            value = f"no crew of {shape.workers} workers could be started: {cause}"
            error = TrainingError(value, "workers must start", "see the log; `w2s doctor` checks the machine")
            self.queue.failed(entry.stage.identity, error)


def decide(state: State) -> list[Decision]:
    """Return what is to be done now; nothing, when all is as it should be."""
    stops: list[Decision] = [
        StopStage(identity, "the run ends" if state.closing else "nobody wants it any more")
        for identity in _to_stop(state)
    ]
    if state.closing or state.roster.num(CrewStatus.UNHEARD):
        return stops
    return stops + _Turn(state).decisions()


def _to_stop(state: State) -> list[str]:
    if state.closing:
        running = (crew.identity for crew in state.roster.crews.values() if crew.identity in state.queue.entries)
        identities = [identity for identity in running if identity is not None]
    else:
        identities = sorted(state.queue.unwanted)
    return [identity for identity in identities if not state.queue.entries[identity].stopping]


class _Turn:
    """One look at the shapes that have ready stages, the most urgent first: rules 2 to 4."""

    def __init__(self, state: State) -> None:
        self._state, self._queue, self._roster = state, state.queue, state.roster
        self._ready = state.queue.ready_shapes
        self._order = {shape: place for place, shape in enumerate(self._ready)}
        self._decisions: list[Decision] = []
        self._gone: set[str] = set()
        """Crews that are let go in this turn."""
        self._kept_for: GroupShape | None = None
        """The shape for which room is kept; less urgent ones get no new crews."""
        self._room: Room | None = None
        """What is free, less what this turn's new crews take; looked at only where something waits for room."""

    def decisions(self) -> list[Decision]:
        for shape, num_ready in self._ready.items():
            idle = self._idle_of(shape)
            for crew, entry in zip(idle, self._queue.best(shape, len(idle)), strict=False):
                path = f"longest remaining path ({entry.remaining:.3g}), wanted by {len(entry.wanted_by)}"
                self._decisions.append(Assign(crew.id, entry.stage.identity, path))
            num_waiting = num_ready - len(idle) - self._roster.num_of(shape, CrewStatus.OPENING)
            if num_waiting > 0 and self._state.may_open(shape):
                self._make_room(shape, num_waiting)
        return self._decisions

    def _make_room(self, shape: GroupShape, num: int) -> None:
        """Open crews as far as there is room; then see to it that room is made, where that is worth it."""
        reason = f"{num} ready stages wait for {shape.workers} workers"
        self._room = self._room or self._roster.room()
        for num_left in range(num, 0, -1):
            if not self._may_fill(shape) or self._room.place(shape) is None:
                if self._kept_for is None:
                    self._keep_room(shape, num_left)
                return
            self._decisions.append(OpenCrew(shape, reason))

    def _may_fill(self, shape: GroupShape) -> bool:
        """Say whether a new crew of `shape` would not be in the way of the one that room is kept for."""
        if self._kept_for is None:
            return True
        (waiting,), (filler,) = self._queue.best(self._kept_for, 1), self._queue.best(shape, 1)
        return filler.cost <= FILLER_SHARE * waiting.cost

    def _keep_room(self, shape: GroupShape, num: int) -> None:
        """Keep room for `num` crews if less urgent ones stand on it, and let as many of the idle go as it takes."""
        assert self._room is not None
        rivals = [rival for rival in self._roster.shapes if rival != shape and self._is_rival(rival, shape, num)]
        leaving = [crew for each in self._roster.shapes for crew in self._roster.of(each, CrewStatus.LEAVING)]
        if not self._could_fit(shape, rivals, [crew.shape for crew in leaving]):
            return  # its own crews, and more urgent ones, have all there is: nothing is gained by waiting
        self._kept_for = shape
        room = self._room.copy()
        for crew in leaving:
            _empty(room, crew)
        reason = f"idle, and {num} crews of {shape.workers} workers wait for room"
        for crew in self._idle(rivals):
            while num and room.place(shape) is not None:
                num -= 1
            if not num:
                return  # those on their way out are enough
            _empty(room, crew)
            self._gone.add(crew.id)
            self._decisions.append(RetireCrew(crew.id, reason))

    def _is_rival(self, rival: GroupShape, shape: GroupShape, num: int) -> bool:
        """Say whether crews of `rival` should make way: they have nothing to do, or nothing nearly as urgent.

        Those that have work make way only for a shape's first crew, or where `num` crews fill the room of one of them.
        """
        if rival not in self._ready:
            return True
        if self._order[rival] < self._order[shape]:
            return False
        if self._roster.shapes.get(shape) and not _fill(num, shape, rival):
            return False
        (theirs,), (ours,) = self._queue.best(rival, 1), self._queue.best(shape, 1)
        return ours.remaining > MORE_URGENT * theirs.remaining

    def _could_fit(self, shape: GroupShape, rivals: Sequence[GroupShape], leaving: Sequence[GroupShape]) -> bool:
        """Say whether the room would do, as far as the sums go, if rivals and leaving crews were gone."""
        assert self._room is not None
        crews = [(rival, self._roster.shapes[rival]) for rival in rivals]
        crews += [(each, 1) for each in leaving if each not in rivals]
        cpus = sum(num * each.workers * each.cpus_per_worker for each, num in crews)
        gpus = sum(num * each.workers * each.gpus_per_worker for each, num in crews)
        return self._room.has(shape, cpus, gpus)

    def _idle(self, rivals: Sequence[GroupShape]) -> list[Crew]:
        """Idle crews of the rivals: those without work first."""
        spare_first = sorted(rivals, key=lambda rival: rival in self._ready)
        return [crew for rival in spare_first for crew in self._idle_of(rival)]

    def _idle_of(self, shape: GroupShape) -> list[Crew]:
        idle = self._roster.of(shape, CrewStatus.IDLE)
        return [crew for crew in idle if crew.id not in self._gone] if self._gone else idle


def _empty(room: Room, crew: Crew) -> None:
    if crew.place is not None:
        room.free(crew.shape, crew.place)


def _fill(num: int, shape: GroupShape, rival: GroupShape) -> bool:
    """Say whether `num` crews of `shape` fill the room of one crew of `rival`."""
    ours, theirs = num * shape.workers, rival.workers
    if rival.gpus_per_worker:
        return ours * shape.gpus_per_worker >= theirs * rival.gpus_per_worker
    return ours * shape.cpus_per_worker >= theirs * rival.cpus_per_worker
