"""The queue: every distinct stage once, whoever asks for it, and which of them can run.

A stage is ready when somebody wants it and all that it learns from or starts from exists. Ready stages are kept in one
heap per crew shape, by the longest path that hangs on them, shared ones first among equals; a key that has become stale
is dropped when it comes to the top. Everything here is bookkeeping: no clock, no store, no Ray. What happens outside
comes in as events (`submitted`, `started`, `finished`, …), so the same queue serves the dispatcher, tests and
simulations.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice

from w2s_ray.errors import TrainingError, W2SError
from w2s_ray.spec.chain import PlannedStage, merge
from w2s_ray.spec.identity import short
from w2s_ray.spec.stage import GroupShape


class Status(StrEnum):
    """Where a stage stands."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class CrashKind(StrEnum):
    """Why a crew died."""

    ERROR = "error"
    """Of an error, or nobody knows."""
    MEMORY = "memory"
    """Its machine ran short of memory."""
    SMALLER = "smaller"
    """A device ran out of memory, and the next attempt takes smaller micro-batches."""


@dataclass(frozen=True)
class Crash:
    """What a crew died of while it ran a stage."""

    cause: str
    kind: CrashKind = CrashKind.ERROR


_REMEDIES = {
    CrashKind.ERROR: "read the log that is named, or those of `w2s logs`; the same command tries the stage again",
    CrashKind.MEMORY: "end what else uses the machine's memory, lower `tokens_per_micro_batch`, raise `zero_stage` or "
    "set `activation_checkpointing: true`; `w2s plan` tells what each worker needs",
}


@dataclass(slots=True)
class Entry:
    """One distinct stage in the queue."""

    stage: PlannedStage
    order: int
    """How many distinct stages were submitted before it."""
    cost: float
    """How long it takes, in units that can only be compared with one another."""
    remaining: float = 0.0
    """Cost of the longest path that begins with it."""
    status: Status = Status.WAITING
    wanted_by: set[str] = field(default_factory=set)
    """Trials that ask for it."""
    missing: set[str] = field(default_factory=set)
    """What it learns from or starts from and what does not exist yet."""
    handed: frozenset[str] = frozenset()
    """What it was asked for when it was handed out."""
    num_deaths: int = 0
    """Crews that died while they ran it, none of which left a later checkpoint than the one before."""
    saved_step: int = 0
    """Step of its last checkpoint, as far as it was heard of."""
    saved_at_death: int = 0
    """The same when its last crew died."""
    num_not_begun: int = 0
    """Crews that ended after it was given to them and before they began it, as far as they were heard."""
    stopping: bool = False
    held: str | None = None
    """Why it may not run just now, though it is ready."""
    error: W2SError | None = None

    @property
    def products(self) -> frozenset[str]:
        """Identities of all that it is asked for: the stage itself and its predictions."""
        return self.stage.products

    @property
    def ready(self) -> bool:
        """Whether a crew could begin it now."""
        return self.status is Status.WAITING and bool(self.wanted_by) and not self.missing and self.held is None


def work_of(stage: PlannedStage) -> float:
    """Return the tokens that each worker of a stage trains on at most: its cost where nothing is known of its model."""
    examples = sum(part.split.num_examples for part in stage.spec.train)
    return examples * stage.spec.optimisation.epochs * stage.spec.optimisation.context_tokens / stage.execution.workers


class Queue:
    """Every distinct stage by identity, and the ready ones in order."""

    def __init__(self, cost: Callable[[PlannedStage], float] = work_of) -> None:
        """Begin empty; `cost` tells how long a stage takes, in any unit."""
        self.entries: dict[str, Entry] = {}
        self.trials: dict[str, tuple[str, ...]] = {}
        """What each trial asked for, in its order."""
        self.unwanted: set[str] = set()
        """Stages that run and that nobody wants, stop asked for or not."""
        self.num: Counter[Status] = Counter()
        """Stages by where they stand."""
        self.waiting: dict[str, None] = {}
        """Stages that wait and that somebody wants, in the order in which they came to it."""
        self.num_asked = 0
        """Stages that trials have asked for, each as often as it was named."""
        self._known_trials: set[str] = set()
        self._changed: set[str] = set()
        self._cost = cost
        self._counted: dict[str, Status] = {}
        self._exists: set[str] = set()
        self._producer: dict[str, str] = {}
        self._consumers: dict[str, set[str]] = defaultdict(set)
        self._ready: dict[GroupShape, set[str]] = defaultdict(set)
        self._heaps: dict[GroupShape, list[tuple[float, int, int, str]]] = defaultdict(list)

    # What happens outside.

    def submitted(self, trial: str, stages: Iterable[PlannedStage], found: frozenset[str]) -> None:
        """`trial` asks for `stages`; `found` are the identities, of stages and predictions, that the store has."""
        stages = tuple(stages)
        self.num_asked += len(stages) if trial not in self._known_trials else 0
        self._known_trials.add(trial)
        self.trials[trial] = tuple(stage.identity for stage in stages)
        for stage in stages:
            self._add(stage, trial)
            self._exists |= (stage.requires | stage.products) & found
        for identity in self.trials[trial]:
            entry = self.entries[identity]
            entry.missing = set(entry.stage.requires) - self._exists
            if entry.status is Status.WAITING and identity in found and entry.products <= self._exists:
                entry.status = Status.DONE
        for identity in reversed(self.trials[trial]):
            self._raise_producers(self.entries[identity])
            self._index(identity)
        for identity in self.trials[trial]:
            self._fail_if_supervisor_failed(identity)
        self._changed.add(trial)

    def withdrawn(self, trial: str) -> None:
        """`trial` wants nothing any more; what runs for it alone is listed as unwanted."""
        for identity in self.trials.pop(trial, ()):
            entry = self.entries[identity]
            entry.wanted_by.discard(trial)
            if not entry.wanted_by:
                self._weigh_producers(entry)
            self._refresh(identity)

    def started(self, identity: str) -> None:
        """A crew has it."""
        entry = self.entries[identity]
        entry.status, entry.stopping, entry.handed = Status.RUNNING, False, entry.products
        self._refresh(identity)

    def stop_asked(self, identity: str) -> None:
        """Its crew was told to stop it."""
        self.entries[identity].stopping = True

    def finished(self, identity: str) -> None:
        """Trained, with every prediction that was asked for when it was handed out."""
        entry = self.entries[identity]
        entry.status = Status.DONE if entry.products <= entry.handed else Status.WAITING
        self._refresh(identity)
        for product in entry.handed:
            self._exists.add(product)
            for consumer in self._consumers[product]:
                self.entries[consumer].missing.discard(product)
                self._refresh(consumer)

    def stopped(self, identity: str) -> None:
        """It stopped with a checkpoint, as it was told; whoever wants it again goes on from there."""
        self.entries[identity].status = Status.WAITING
        self._refresh(identity)

    def crew_died(self, identity: str, max_deaths: int, crash: Crash) -> None:
        """The crew that ran it died; after `max_deaths` of them in a row that got no further the stage fails.

        On nodes that come and go a long training may lose any number of crews, as long as each leaves a checkpoint.
        A death after which micro-batches are smaller does not count: they cannot become smaller for ever.
        """
        entry = self.entries[identity]
        if crash.kind is CrashKind.SMALLER:
            self.stopped(identity)
            return
        entry.num_deaths = 1 if entry.saved_step > entry.saved_at_death else entry.num_deaths + 1
        entry.saved_at_death = entry.saved_step
        what = f"{entry.num_deaths} crews died while they ran it"
        if entry.saved_step:
            what += f", and none got to a checkpoint after that of step {entry.saved_step}"
        self._lost(entry, entry.num_deaths < max_deaths, what, crash)

    def saved(self, identity: str, step: int) -> None:
        """It has a checkpoint at `step`."""
        if identity in self.entries:
            self.entries[identity].saved_step = max(step, self.entries[identity].saved_step)

    def not_begun(self, identity: str, max_not_begun: int, crash: Crash) -> None:
        """The crew that it was given to ended before it said that it had begun; after `max_not_begun` it fails."""
        if crash.kind is CrashKind.SMALLER:
            self.stopped(identity)
            return
        entry = self.entries[identity]
        num = entry.num_not_begun = entry.num_not_begun + 1
        self._lost(entry, num < max_not_begun, f"{num} crews ended before they began it", crash)

    def _lost(self, entry: Entry, again: bool, what: str, crash: Crash) -> None:
        """Its crew is gone; it is tried again, or fails."""
        if again:
            self.stopped(entry.stage.identity)
            return
        value = f"{name_of(entry.stage)}: {what}; the last one: {crash.cause}"
        rule = "a stage is given up where crew after crew dies without getting further"
        self.failed(entry.stage.identity, TrainingError(value, rule, _REMEDIES[crash.kind]))

    def failed(self, identity: str, error: W2SError) -> None:
        """It failed for good, and with it all that learns from it."""
        entry = self.entries[identity]
        entry.status, entry.error = Status.FAILED, error
        self._refresh(identity)
        for product in entry.products:
            for consumer in tuple(self._consumers[product]):
                self._fail_if_supervisor_failed(consumer)

    def hold(self, identity: str, reason: str | None) -> None:
        """Keep it from running for `reason`; let it run again with None."""
        self.entries[identity].held = reason
        self._refresh(identity)

    def found(self, identity: str) -> None:
        """Another run has done it meanwhile."""
        if self.entries[identity].status is Status.WAITING:
            self.started(identity)
            self.finished(identity)

    def changed(self, identity: str) -> None:
        """Something happened to a stage that concerns its trials."""
        self._changed |= self.entries[identity].wanted_by if identity in self.entries else set()

    def all_changed(self) -> None:
        """Something happened that concerns every trial."""
        self._changed |= set(self.trials)

    # What can be asked.

    def take_changed(self) -> set[str]:
        """Return the trials that have a stage which changed since this was last asked."""
        changed, self._changed = self._changed, set()
        return changed

    @property
    def ready_shapes(self) -> dict[GroupShape, int]:
        """How many stages of each shape are ready; the shape with the most urgent stage comes first."""
        shapes = [shape for shape, ready in self._ready.items() if ready]
        return {shape: len(self._ready[shape]) for shape in sorted(shapes, key=lambda each: self._best_key(each))}

    def best(self, shape: GroupShape, num: int) -> list[Entry]:
        """Return the `num` most urgent ready stages of a shape."""
        heap = self._heaps[shape]
        keys: list[tuple[float, int, int, str]] = []
        while heap and len(keys) < num:
            key = heapq.heappop(heap)
            if self._current(key) and key not in keys:
                keys.append(key)
        for key in keys:
            heapq.heappush(heap, key)
        return [self.entries[key[-1]] for key in keys]

    def why_waiting(self, identity: str) -> str:
        """Say what a waiting stage waits for."""
        entry = self.entries[identity]
        if entry.held is not None:
            return entry.held
        if entry.missing:
            producers = {self._producer.get(product, product) for product in entry.missing}
            names = [name_of(self.entries[one].stage) if one in self.entries else short(one) for one in producers]
            return f"waits for {', '.join(sorted(names))}"
        if not entry.wanted_by:
            return "nobody wants it any more"
        workers = entry.stage.execution.workers
        path = f"remaining path {entry.remaining:.3g}, wanted by {len(entry.wanted_by)}"
        return f"ready, waits for a crew of {workers} workers; longer paths come first, then shared stages ({path})"

    def most_urgent(self, num: int) -> list[Entry]:
        """Return up to `num` waiting stages: the ready ones by urgency, then others."""
        first = [entry for shape in self.ready_shapes for entry in self.best(shape, num)][:num]
        known = {entry.stage.identity for entry in first}
        others = (self.entries[identity] for identity in self.waiting if identity not in known)
        return [*first, *islice(others, num - len(first))]

    # Keeping the indices.

    def _add(self, stage: PlannedStage, trial: str) -> None:
        entry = self.entries.get(stage.identity)
        if entry is None:
            cost = self._cost(stage)
            entry = Entry(stage=stage, order=len(self.entries), cost=cost, remaining=cost)
            self.entries[stage.identity] = entry
        else:
            entry.stage = merge(entry.stage, stage)
            if entry.status is Status.DONE and not entry.products <= self._exists:
                entry.status = Status.WAITING
                self._changed |= entry.wanted_by
        entry.wanted_by.add(trial)
        for product in stage.products:
            self._producer[product] = stage.identity
        for required in stage.requires:
            self._consumers[required].add(stage.identity)

    def _refresh(self, identity: str) -> None:
        """Bring the indices up to date with an entry that has changed, which its trials should hear of."""
        self._changed |= self.entries[identity].wanted_by
        self._index(identity)

    def _index(self, identity: str) -> None:
        entry = self.entries[identity]
        before = self._counted.get(identity)
        if before is not entry.status:
            self._counted[identity] = entry.status
            self.num[entry.status] += 1
            if before is not None:
                self.num[before] -= 1
        if entry.status is Status.WAITING and entry.wanted_by:
            self.waiting[identity] = None
        else:
            self.waiting.pop(identity, None)
        shape = entry.stage.execution.group_shape
        if entry.ready:
            self._ready[shape].add(identity)
            heapq.heappush(self._heaps[shape], self._key(entry))
        else:
            self._ready[shape].discard(identity)
        if entry.status is Status.RUNNING and not entry.wanted_by:
            self.unwanted.add(identity)
        else:
            self.unwanted.discard(identity)

    def _weigh(self, identity: str) -> None:
        """Find the longest path that begins here; where it has changed, so have those of its supervisors."""
        entry = self.entries[identity]
        consumers = {one for product in entry.products for one in self._consumers[product]}
        after = (self.entries[one].remaining for one in consumers if self.entries[one].wanted_by)
        remaining = entry.cost + max(after, default=0.0)
        if remaining != entry.remaining:
            entry.remaining = remaining
            self._index(identity)
            self._weigh_producers(entry)

    def _weigh_producers(self, entry: Entry) -> None:
        for producer in self._producers(entry):
            if self.entries[producer].status is not Status.DONE:  # then no path begins there any more
                self._weigh(producer)

    def _raise_producers(self, entry: Entry) -> None:
        """Let the paths that lead to an entry be as long as it asks; spares a look at all that hangs on them."""
        for identity in self._producers(entry):
            producer = self.entries[identity]
            if producer.remaining < producer.cost + entry.remaining:
                producer.remaining = producer.cost + entry.remaining
                self._index(identity)
                self._raise_producers(producer)

    def _producers(self, entry: Entry) -> set[str]:
        return {self._producer[one] for one in entry.stage.requires if one in self._producer}

    def _fail_if_supervisor_failed(self, identity: str) -> None:
        entry = self.entries[identity]
        if entry.status is not Status.WAITING:
            return
        for required in entry.missing:
            supervisor = self.entries.get(self._producer.get(required, ""))
            if supervisor is not None and supervisor.status is Status.FAILED:
                value = f"{name_of(entry.stage)} cannot learn: {name_of(supervisor.stage)} failed"
                reason = supervisor.error.value if supervisor.error else "it failed"
                rule = f"a student needs its supervisor ({reason})"
                self.failed(identity, TrainingError(value, rule, "mend that stage"))
                return

    def _key(self, entry: Entry) -> tuple[float, int, int, str]:
        return (-entry.remaining, -len(entry.wanted_by), entry.order, entry.stage.identity)

    def _current(self, key: tuple[float, int, int, str]) -> bool:
        entry = self.entries[key[-1]]
        return entry.ready and key == self._key(entry)

    def _best_key(self, shape: GroupShape) -> tuple[float, int, int, str]:
        heap = self._heaps[shape]
        while not self._current(heap[0]):
            heapq.heappop(heap)
        return heap[0]


def name_of(stage: PlannedStage) -> str:
    """Return a stage's name for people: arm, level, loss and identity."""
    return f"{stage.arm} {stage.level} ({stage.spec.slug}, {short(stage.identity)})"
