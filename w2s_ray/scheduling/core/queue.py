"""The queue: every distinct stage once, whichever trials request it, and which stages are ready.

A stage is ready when a trial wants it and everything that it learns from or starts from exists. Ready stages are kept
in one heap per shape of worker groups, ordered by `urgency_key`; a key that is out of date is dropped when it reaches
the top. The identities of a stage and of its predictions are its *products*.
"""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from itertools import islice

from w2s_ray.errors import TrainingError, W2SError
from w2s_ray.spec.chain import PlannedStage, merge
from w2s_ray.spec.execution import GroupShape
from w2s_ray.spec.identity import short


class StageState(StrEnum):
    """State of a stage in the queue."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class CrashKind(StrEnum):
    """Why a worker group died."""

    EXCEPTION = "exception"
    """One of its workers raised an exception that the others did not raise."""
    KILLED = "killed"
    """A process was killed or crashed, without an exception."""
    NODE = "node"
    """A node of the cluster was lost."""
    TIMEOUT = "timeout"
    """A worker did not join a collective in time."""
    MEMORY = "memory"
    """Its machine ran short of memory."""
    SMALLER = "smaller"
    """A device ran out of memory, and the next attempt uses smaller micro-batches."""


@dataclass(frozen=True)
class Crash:
    """Why a worker group died while it ran a stage."""

    cause: str
    kind: CrashKind = CrashKind.KILLED
    hint: str = ""
    """What to do about this cause; if empty, what its kind suggests."""
    is_certain: bool = False
    """Whether the same input causes it again, so that another attempt is pointless."""

    def repeats(self, earlier: "Crash | None") -> bool:
        """Return whether the exception is that of an earlier attempt, numbers aside."""
        if earlier is None or self.kind is not CrashKind.EXCEPTION or earlier.kind is not self.kind:
            return False
        return comparable(self.cause) == comparable(earlier.cause)


def comparable(text: str) -> str:
    """Return `text` without its numbers, which differ between ranks and attempts."""
    return re.sub(r"0x[0-9a-fA-F]+|\d+", "#", text)


_HINTS = {
    CrashKind.EXCEPTION: "the log has the traceback; the same command tries the stage again",
    CrashKind.KILLED: "find what killed it: `dmesg` on its node shows crashes and kills by the kernel, and the batch "
    "system has a log of its own; the same command continues",
    CrashKind.NODE: "the same command continues from the last checkpoint; on nodes that come and go lower "
    "`checkpoint_every_seconds`",
    CrashKind.TIMEOUT: "the log shows what the other workers did last; a hung disk or network, a suspended process "
    "or too few cores may be the reason; the same command continues",
    CrashKind.MEMORY: "free memory on that machine, lower `tokens_per_micro_batch`, raise `zero_stage` or "
    "set `activation_checkpointing: true`; `w2s plan` shows what each worker needs",
}


@dataclass(slots=True)
class QueuedStage:
    """One distinct stage."""

    stage: PlannedStage
    order: int
    """How many distinct stages were requested before it."""
    cost: float
    """How long it takes, in a unit that is the same for all stages."""
    remaining: float = 0.0
    """Cost of the longest path that starts with it."""
    state: StageState = StageState.WAITING
    wanted_by: set[str] = field(default_factory=set)
    """Trials that request it."""
    missing: set[str] = field(default_factory=set)
    """Identities that it learns from or starts from and that do not exist yet."""
    assigned_products: frozenset[str] = frozenset()
    """Products that trials wanted when it was assigned."""
    num_deaths: int = 0
    """Groups in a row that died while they ran it without reaching a later checkpoint."""
    saved_step: int = 0
    """Step of its last known checkpoint."""
    saved_at_death: int = 0
    """`saved_step` when its last group died."""
    crash: Crash | None = None
    """First cause of death that a worker of its group reported."""
    last_crash: Crash | None = None
    """Why its last group died."""
    stopping: bool = False
    blocked: str | None = None
    """Why it may not run now although it is ready: another run holds its lease."""
    error: W2SError | None = None

    @property
    def ready(self) -> bool:
        """Whether a group could start it now."""
        return self.state is StageState.WAITING and bool(self.wanted_by) and not self.missing and self.blocked is None


def work_of(stage: PlannedStage) -> float:
    """Return the most tokens that each worker of a stage trains on: its cost if its model's size is unknown."""
    examples = sum(part.split.num_examples for part in stage.spec.train)
    return examples * stage.spec.num_readings * stage.spec.optimisation.context_tokens / stage.execution.workers


class Queue:
    """Every distinct stage by identity, and the ready ones in order."""

    def __init__(self, cost: Callable[[PlannedStage], float] = work_of) -> None:
        """Create an empty queue; `cost` returns how long a stage takes, in any unit."""
        self.stages: dict[str, QueuedStage] = {}
        self.by_trial: dict[str, tuple[str, ...]] = {}
        """Identities that each trial requested, in its order."""
        self.unwanted: set[str] = set()
        """Stages that run though no trial wants them."""
        self.num: Counter[StageState] = Counter()
        self.waiting: dict[str, None] = {}
        """Waiting stages that a trial wants, in the order in which they became so."""
        self._changed: set[str] = set()
        self._cost = cost
        self._counted: dict[str, StageState] = {}
        self._exists: set[str] = set()
        self._producer: dict[str, str] = {}
        self._consumers: dict[str, set[str]] = defaultdict(set)
        self._ready: dict[GroupShape, set[str]] = defaultdict(set)
        self._heaps: dict[GroupShape, list[tuple[float, int, int, str]]] = defaultdict(list)

    # Changes.

    def request(self, trial: str, stages: Iterable[PlannedStage], stored: frozenset[str]) -> None:
        """Add a trial's stages; `stored` are the identities, of stages and predictions, that the store has."""
        self.withdraw(trial)
        stages = tuple(stages)
        identities = self.by_trial[trial] = tuple(stage.identity for stage in stages)
        for stage in stages:
            self._add(stage, trial)
            self._exists |= (stage.requires | stage.products) & stored
        for identity in identities:
            queued = self.stages[identity]
            queued.missing = set(queued.stage.requires) - self._exists
            if queued.state is StageState.WAITING and identity in stored and queued.stage.products <= self._exists:
                queued.state = StageState.DONE
        for identity in reversed(identities):
            self._raise_producers(self.stages[identity])
            self._index(identity)
        for identity in identities:
            self._fail_if_supervisor_failed(identity)
        self._changed.add(trial)

    def withdraw(self, trial: str) -> None:
        """Remove a trial's request; stages that now run for no trial become `unwanted`."""
        for identity in self.by_trial.pop(trial, ()):
            queued = self.stages[identity]
            queued.wanted_by.discard(trial)
            if not queued.wanted_by:
                self._weigh_producers(queued)
            self._refresh(identity)

    def start(self, identity: str) -> None:
        """A group has the stage."""
        queued = self.stages[identity]
        queued.state, queued.stopping, queued.crash = StageState.RUNNING, False, None
        queued.assigned_products = queued.stage.products
        self._refresh(identity)

    def finish(self, identity: str) -> None:
        """The stage is trained, with every prediction that was wanted when it was assigned."""
        queued = self.stages[identity]
        is_all = queued.stage.products <= queued.assigned_products
        queued.state = StageState.DONE if is_all else StageState.WAITING
        self._refresh(identity)
        for product in queued.assigned_products:
            self._exists.add(product)
            for consumer in self._consumers[product]:
                self.stages[consumer].missing.discard(product)
                self._refresh(consumer)

    def stop(self, identity: str) -> None:
        """The stage stopped and can continue from its checkpoint."""
        self.stages[identity].state = StageState.WAITING
        self._refresh(identity)

    def fail(self, identity: str, error: W2SError) -> None:
        """The stage failed, and every stage that learns from it."""
        queued = self.stages[identity]
        queued.state, queued.error = StageState.FAILED, error
        self._refresh(identity)
        for product in queued.stage.products:
            for consumer in tuple(self._consumers[product]):
                self._fail_if_supervisor_failed(consumer)

    def group_died(self, identity: str, crash: Crash, max_deaths: int) -> None:
        """The group that ran the stage died; after `max_deaths` in a row without a later checkpoint the stage fails.

        On nodes that come and go a long training may lose any number of groups, provided that each leaves a checkpoint.
        A death after which micro-batches are smaller does not count, because they cannot shrink for ever. An exception
        that is certain to be raised again, or that two attempts in a row raised, fails the stage at once.
        """
        queued = self.stages[identity]
        if crash.kind is CrashKind.SMALLER:
            self.stop(identity)
            return
        queued.num_deaths = 1 if queued.saved_step > queued.saved_at_death else queued.num_deaths + 1
        queued.saved_at_death = queued.saved_step
        is_useless = crash.is_certain or (queued.num_deaths > 1 and crash.repeats(queued.last_crash))
        queued.last_crash = crash
        if queued.num_deaths < max_deaths and not is_useless:
            self.stop(identity)
            return
        since = f" without getting past the checkpoint of step {queued.saved_step}" if queued.saved_step else ""
        what = f"{queued.num_deaths} worker groups died running it{since}; the last cause:"
        if crash.kind is CrashKind.EXCEPTION:
            what = "failed:" if queued.num_deaths == 1 else f"failed {queued.num_deaths} times{since}:"
        message = f"{name_of(queued.stage)}: {what} {crash.cause}"
        self.fail(identity, TrainingError(message, crash.hint or _HINTS[crash.kind]))

    def save(self, identity: str, step: int) -> None:
        """The stage has a checkpoint at `step`."""
        queued = self.stages[identity]
        queued.saved_step = max(step, queued.saved_step)

    def block(self, identity: str, reason: str | None) -> None:
        """Keep the stage from running for `reason`; None lets it run again."""
        self.stages[identity].blocked = reason
        self._refresh(identity)

    def take_changed(self) -> list[str]:
        """Return the trials with a stage that changed since the last call."""
        changed, self._changed = self._changed, set()
        return sorted(changed & self.by_trial.keys())

    # Queries.

    @property
    def ready_shapes(self) -> dict[GroupShape, int]:
        """Number of ready stages of each shape; the shape with the most urgent stage comes first."""
        shapes = [shape for shape, ready in self._ready.items() if ready]
        return {shape: len(self._ready[shape]) for shape in sorted(shapes, key=self._best_key)}

    def most_urgent(self, shape: GroupShape, num: int) -> list[QueuedStage]:
        """Return the `num` most urgent ready stages of a shape."""
        heap = self._heaps[shape]
        keys: list[tuple[float, int, int, str]] = []
        while heap and len(keys) < num:
            key = heapq.heappop(heap)
            if self._is_current(key) and key not in keys:
                keys.append(key)
        for key in keys:
            heapq.heappush(heap, key)
        return [self.stages[key[-1]] for key in keys]

    def next_stages(self, num: int) -> list[QueuedStage]:
        """Return up to `num` waiting stages: the ready ones by urgency, whatever their shape, then others."""
        ready = [queued for shape in self.ready_shapes for queued in self.most_urgent(shape, num)]
        first = sorted(ready, key=self.urgency_key)[:num]
        known = {queued.stage.identity for queued in first}
        others = (self.stages[identity] for identity in self.waiting if identity not in known)
        return [*first, *islice(others, num - len(first))]

    def why_waiting(self, identity: str) -> str | None:
        """Return why a waiting stage is not ready (its lease is held, or inputs are missing); None if it is ready."""
        queued = self.stages[identity]
        if queued.blocked is not None:
            return queued.blocked
        if queued.missing:
            producers = {self._producer.get(product, product) for product in queued.missing}
            names = (name_of(self.stages[key].stage) if key in self.stages else short(key) for key in producers)
            return f"waits for {', '.join(sorted(names))}"
        return None

    # Indices.

    def _add(self, stage: PlannedStage, trial: str) -> None:
        queued = self.stages.get(stage.identity)
        if queued is None:
            cost = self._cost(stage)
            queued = QueuedStage(stage=stage, order=len(self.stages), cost=cost, remaining=cost)
            self.stages[stage.identity] = queued
        else:
            queued.stage = merge(queued.stage, stage)
            if queued.state is StageState.DONE and not queued.stage.products <= self._exists:
                queued.state = StageState.WAITING
                self._changed |= queued.wanted_by
        queued.wanted_by.add(trial)
        for product in stage.products:
            self._producer[product] = stage.identity
        for required in stage.requires:
            self._consumers[required].add(stage.identity)

    def _refresh(self, identity: str) -> None:
        """Update the indices after a change that the stage's trials should see."""
        self._changed |= self.stages[identity].wanted_by
        self._index(identity)

    def _index(self, identity: str) -> None:
        queued = self.stages[identity]
        before = self._counted.get(identity)
        if before is not queued.state:
            self._counted[identity] = queued.state
            self.num[queued.state] += 1
            if before is not None:
                self.num[before] -= 1
        if queued.state is StageState.WAITING and queued.wanted_by:
            self.waiting[identity] = None
        else:
            self.waiting.pop(identity, None)
        shape = queued.stage.execution.group_shape
        if queued.ready:
            self._ready[shape].add(identity)
            heapq.heappush(self._heaps[shape], self.urgency_key(queued))
        else:
            self._ready[shape].discard(identity)
        if queued.state is StageState.RUNNING and not queued.wanted_by:
            self.unwanted.add(identity)
        else:
            self.unwanted.discard(identity)

    def _weigh(self, identity: str) -> None:
        """Recompute the longest path that starts here and, where it changed, those of its producers."""
        queued = self.stages[identity]
        consumers = {consumer for product in queued.stage.products for consumer in self._consumers[product]}
        after = (self.stages[consumer].remaining for consumer in consumers if self.stages[consumer].wanted_by)
        remaining = queued.cost + max(after, default=0.0)
        if remaining != queued.remaining:
            queued.remaining = remaining
            self._index(identity)
            self._weigh_producers(queued)

    def _weigh_producers(self, queued: QueuedStage) -> None:
        for producer in self._producers(queued):
            if self.stages[producer].state is not StageState.DONE:  # no path starts at a stage that is done
                self._weigh(producer)

    def _raise_producers(self, queued: QueuedStage) -> None:
        """Lengthen the paths that lead to a new stage; cheaper than `_weigh`, which looks at all consumers."""
        for identity in self._producers(queued):
            producer = self.stages[identity]
            if producer.remaining < producer.cost + queued.remaining:
                producer.remaining = producer.cost + queued.remaining
                self._index(identity)
                self._raise_producers(producer)

    def _producers(self, queued: QueuedStage) -> set[str]:
        return {self._producer[required] for required in queued.stage.requires if required in self._producer}

    def _fail_if_supervisor_failed(self, identity: str) -> None:
        queued = self.stages[identity]
        if queued.state is not StageState.WAITING:
            return
        for required in queued.missing:
            supervisor = self.stages.get(self._producer.get(required, ""))
            if supervisor is not None and supervisor.state is StageState.FAILED:
                reason = supervisor.error.message if supervisor.error else "it failed"
                message = f"{name_of(queued.stage)} has no supervisor: {name_of(supervisor.stage)} failed: {reason}"
                self.fail(identity, TrainingError(message))
                return

    def urgency_key(self, queued: QueuedStage) -> tuple[float, int, int, str]:
        """Return the key by which ready stages are ordered: longest remaining path, then wanted by most trials."""
        return (-queued.remaining, -len(queued.wanted_by), queued.order, queued.stage.identity)

    def _is_current(self, key: tuple[float, int, int, str]) -> bool:
        queued = self.stages[key[-1]]
        return queued.ready and key == self.urgency_key(queued)

    def _best_key(self, shape: GroupShape) -> tuple[float, int, int, str]:
        heap = self._heaps[shape]
        while not self._is_current(heap[0]):
            heapq.heappop(heap)
        return heap[0]


def name_of(stage: PlannedStage) -> str:
    """Return a stage's name for people: arm, level, method and identity."""
    return f"{stage.arm} {stage.level} ({stage.spec.slug}, {short(stage.identity)})"
