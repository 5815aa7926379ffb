"""The policy: what to do next, as a pure function of the queue and the roster.

`decide` reads the state and returns decisions, each with its reason; it changes nothing. The foreman carries them out
and tells the state so, and a simulation can do the same on a virtual clock. The rules, in this order:

1. A running stage that nobody wants is stopped; it keeps its checkpoint and frees its crew.
2. An idle crew takes the most urgent ready stage of its shape: longest remaining path first, shared before private.
3. A shape with more ready stages than crews gets another crew, where there is room; not beside one that works when the
   last ones would not start.
4. Where there is none, idle crews of shapes that have nothing to do leave for it. The shape that waits for room keeps
   its place: no less urgent shape is given what it waits for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from w2s_ray.errors import TrainingError, W2SError
from w2s_ray.scheduling.queue import Queue, Status
from w2s_ray.scheduling.roster import CrewStatus, Roster
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.execution import CrewShape

MAX_DEATHS = 3
"""Crew deaths that one stage is given before it fails."""
MAX_FAILED_STARTS = 3
"""Crews of one shape that may end before they speak; then its stages fail, unless they have another crew."""


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

    shape: CrewShape
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
        self.recognise()
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
        """A stage that was given to a crew never reached it."""
        self.ended(crew, identity, error=None, stopped=True)

    def has_in_hand(self, crew: str, identity: str) -> bool:
        """Say whether the crew is here and has this stage."""
        return crew in self.roster.crews and self.roster.crews[crew].identity == identity

    def crew_spoke(self, crew: str, shape: CrewShape, incarnation: str, identity: str | None, cause: str) -> None:
        """A crew's workers speak and say what they run; another incarnation means that the one before died."""
        lost = self.roster.spoke(crew, shape, incarnation, identity)
        if lost is not None:
            self._lose(lost, cause)
        self.recognise()

    def recognise(self) -> None:
        """A stage that a crew says it runs does run, though the foreman forgot that when it was restarted."""
        for crew in self.roster.crews.values():
            entry = self.queue.entries.get(crew.identity or "")
            if entry is not None and entry.status is Status.WAITING:
                self.queue.started(entry.stage.identity)

    def crew_ended(self, crew: str, error: str) -> None:
        """A crew is gone, with the error that ended it or of itself."""
        known = self.roster.crews.get(crew)
        lost = self.roster.ended(crew)
        if lost is not None:
            self._lose(lost, error)
        if known is None or known.incarnation is not None:
            return
        if self._starts_fail(known.shape) and self.may_open(known.shape):
            self._fail_shape(known.shape, error)

    def may_open(self, shape: CrewShape) -> bool:
        """Say whether another crew is worth trying: not beside one that works, when the last ones would not start."""
        working = self.roster.of(shape, CrewStatus.IDLE, CrewStatus.BUSY, CrewStatus.UNHEARD)
        return not (working and self._starts_fail(shape))

    def _starts_fail(self, shape: CrewShape) -> bool:
        """Whether the last crews of a shape all ended before they spoke."""
        return self.roster.num_failed_starts.get(shape, 0) >= MAX_FAILED_STARTS

    def take_lost(self) -> list[str]:
        """Return the stages whose crews died since this was last asked."""
        lost, self._lost = self._lost, []
        return lost

    def _lose(self, identity: str, cause: str) -> None:
        self._lost.append(identity)
        entry = self.queue.entries.get(identity)
        if entry is not None and entry.status is Status.RUNNING:
            self.queue.crew_died(identity, MAX_DEATHS, cause)

    def _fail_shape(self, shape: CrewShape, cause: str) -> None:
        for entry in self.queue.best(shape, len(self.queue.entries)):
            value = f"no crew of {shape.workers} workers could be started: {cause}"
            error = TrainingError(value, "workers must start", "see the log; `w2s doctor` checks the machine")
            self.queue.failed(entry.stage.identity, error)


def decide(state: State) -> list[Decision]:
    """Return what is to be done now; nothing, when all is as it should be."""
    decisions: list[Decision] = [
        StopStage(identity, "the run ends" if state.closing else "nobody wants it any more")
        for identity in _to_stop(state)
    ]
    if state.closing or any(crew.status is CrewStatus.UNHEARD for crew in state.roster.crews.values()):
        return decisions
    waiting: dict[CrewShape, int] = {}
    for shape, num_ready in state.queue.ready_shapes.items():
        idle = state.roster.of(shape, CrewStatus.IDLE)
        for crew, entry in zip(idle, state.queue.best(shape, len(idle)), strict=False):
            path = f"longest remaining path ({entry.remaining:.3g}), wanted by {len(entry.wanted_by)}"
            decisions.append(Assign(crew.id, entry.stage.identity, path))
        waiting[shape] = num_ready - len(idle) - len(state.roster.of(shape, CrewStatus.OPENING))
    return decisions + _make_room(state, {shape: num for shape, num in waiting.items() if num > 0})


def _to_stop(state: State) -> list[str]:
    if state.closing:
        running = (crew.identity for crew in state.roster.crews.values() if crew.identity in state.queue.entries)
        identities = [identity for identity in running if identity is not None]
    else:
        identities = sorted(state.queue.unwanted)
    return [identity for identity in identities if not state.queue.entries[identity].stopping]


def _make_room(state: State, waiting: dict[CrewShape, int]) -> list[Decision]:
    """Open crews for the shapes that wait, most urgent first; let idle crews go where that is what is missing."""
    decisions: list[Decision] = []
    room = state.roster.room()
    for shape, num in waiting.items():
        for _ in range(num if state.may_open(shape) else 0):
            if not room.place(shape):
                return decisions + _retire_for(shape, state)
            decisions.append(OpenCrew(shape, f"{num} ready stages wait for {shape.workers} workers"))
    return decisions


def _retire_for(shape: CrewShape, state: State) -> list[Decision]:
    """Return which idle crews leave so that one of `shape` fits, if that is what it takes."""
    ready = state.queue.ready_shapes
    gone = [crew.id for crew in state.roster.crews.values() if crew.status is CrewStatus.LEAVING]
    if state.roster.room(without=gone).place(shape):
        return []  # those on their way out are enough
    spare = [crew for crew in state.roster.crews.values() if crew.status is CrewStatus.IDLE and crew.shape not in ready]
    for num, crew in enumerate(spare, start=1):
        gone.append(crew.id)
        if state.roster.room(without=gone).place(shape):
            reason = f"idle, and a crew of {shape.workers} workers waits for room"
            return [RetireCrew(one.id, reason) for one in spare[:num]]
    return []
