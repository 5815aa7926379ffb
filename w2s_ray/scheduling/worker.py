"""A crew's worker: what each process of the group does from the first stage to the last.

Rank 0 asks the dispatcher for an order and shares it, a "wait" included, so that no rank sits in a collective for
longer than the dispatcher's long poll. Then all ranks run the stage, and rank 0 hands the result back. The libraries
are imported while the first order is on its way.

An error on which all ranks agree is a result. An error of one rank ends its process, and Train starts the group again:
the others may be inside a collective, and there is no way to call them back.
"""

import gc
import importlib
import logging
import os
import sys
import threading
import traceback
import uuid
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import psutil
import ray

from w2s_ray.errors import DeviceFull, OutOfMemory, W2SError
from w2s_ray.scheduling.group import Group
from w2s_ray.scheduling.line import Line
from w2s_ray.scheduling.memory_watch import MemoryWatch
from w2s_ray.scheduling.messages import CrewCard, Order
from w2s_ray.scheduling.queue import Crash, CrashKind
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.stage import GroupShape
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import output_to
from w2s_ray.store.run_status import log_path
from w2s_ray.training.progress import NullObserver, Observer, StageResult

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from w2s_ray.scheduling.dispatcher import Dispatcher

logger = logging.getLogger(__name__)

Runner = Callable[..., StageResult]

_FIRST_MEASURED = 2
"""Stages after which a worker's memory is what it should stay at."""


@dataclass(frozen=True)
class CrewPlan:
    """All that a crew's processes need to know."""

    crew: str
    shape: GroupShape
    dispatcher: "ActorHandle[Dispatcher]"
    store: ArtifactStore
    study: str
    runner: str
    """`module:function` that runs a stage."""
    collective_seconds: float
    """After which a collective that nobody joins is given up. Dead processes are noticed much sooner."""
    recycle_growth: float
    """A crew leaves when a worker's memory between stages has grown by this factor, and by `recycle_bytes` at least."""
    recycle_bytes: int


def work(config: dict[str, Any]) -> None:
    """Run stages until there are none; what Train calls in each worker."""
    plan: CrewPlan = config["plan"]
    context = ray.train.get_context()
    group = Group(context.get_world_rank(), context.get_world_size(), plan.shape.gpus_per_worker > 0)
    _Worker(plan, group).run()


def load_runner(plan: CrewPlan) -> Runner:
    """Import what runs a stage, and with it torch and all the rest."""
    module, _, name = plan.runner.partition(":")
    runner: Runner = getattr(importlib.import_module(module), name)
    return runner


def _import_all(plan: CrewPlan) -> None:
    """Import what stages need, and spare every later collection of garbage from going through it."""
    load_runner(plan)
    gc.collect()
    gc.freeze()


class _Worker:
    def __init__(self, plan: CrewPlan, group: Group) -> None:
        self._plan, self._group = plan, group
        card = CrewCard(plan.crew, plan.shape, uuid.uuid4().hex)
        self._line = Line(plan.dispatcher, card) if group.leads else None
        self._stage: PlannedStage | None = None
        """The one that runs now."""
        self._watch = MemoryWatch(self._give_way)
        self._num_stages = 0
        self._memory = self._memory_at_first = 0

    def run(self) -> None:
        """Live a worker's whole life."""
        imports = threading.Thread(target=_import_all, args=(self._plan,), daemon=True)
        imports.start()
        leaving = False
        while not leaving:
            order: Order = self._group.share(self._line.next_stage() if self._line is not None else None)
            leaving = order.leave
            if order.stage is not None:
                imports.join()
                leaving = self._run(order.stage)

    def _run(self, stage: PlannedStage) -> bool:
        """Run one stage and hand back what came of it; say whether the crew leaves after it."""
        with output_to(log_path(self._plan.store, self._plan.study, stage)):
            if self._line is None:
                outcome = self._outcome(stage, NullObserver())
            else:
                with self._line.observing(stage.identity) as observer:
                    outcome = self._outcome(stage, observer)
            leaving = self._group.any(self._has_grown())
        if isinstance(outcome, StageResult):
            outcome = replace(outcome, memory_bytes=self._memory)
        if self._line is not None:
            self._line.finished(stage.identity, outcome, leaving)
        return leaving

    def _outcome(self, stage: PlannedStage, observer: Observer) -> StageResult | W2SError:
        self._num_stages += 1
        self._stage = stage
        try:
            run_stage = load_runner(self._plan)
            with self._watch:
                return run_stage(stage, store=self._plan.store, workers=self._group.workers(), observer=observer)
        except W2SError as error:
            traceback.print_exc()
            # Memory runs out anywhere, so the ranks may stand in different collectives though all of them ran out.
            in_step = self._group.size == 1 or not isinstance(error, DeviceFull)
            if in_step and self._group.all_came(f"{self._num_stages} {type(error).__name__}"):
                error.__cause__ = error.__context__ = None  # their frames would keep the stage's model alive
                return error.with_traceback(None)
            self._say_crashed(stage)
            raise
        except BaseException:
            traceback.print_exc()
            self._say_crashed(stage)
            raise

    def _say_crashed(self, stage: PlannedStage) -> None:
        """Leave word of what ends this process, as far as anybody listens."""
        raised = sys.exception()
        error = f"{raised.value} ({raised.rule})" if isinstance(raised, W2SError) else _named(raised)
        shrinks, is_full = isinstance(raised, OutOfMemory), isinstance(raised, DeviceFull)
        kind = CrashKind.SMALLER if shrinks else CrashKind.MEMORY if is_full else CrashKind.ERROR
        self._tell(stage, error, kind)

    def _give_way(self, figures: str) -> None:
        """End this process because its machine is short of memory."""
        assert self._stage is not None
        sys.stderr.write(f"rank {self._group.rank} ends: {figures}\n")
        self._tell(self._stage, figures, CrashKind.MEMORY)
        os._exit(1)

    def _tell(self, stage: PlannedStage, error: str, kind: CrashKind) -> None:
        log = log_path(self._plan.store, self._plan.study, stage)
        crash = Crash(f"rank {self._group.rank}: {error} (log: {log})", kind)
        try:
            ray.get(self._plan.dispatcher.stage_crashed.remote(stage.identity, crash), timeout=5)
        except Exception:
            logger.exception("nobody heard why rank %d ends", self._group.rank)

    def _has_grown(self) -> bool:
        """Give memory back, and say whether more of it stays than should."""
        _give_memory_back()
        memory = self._memory = psutil.Process().memory_info().rss
        if self._num_stages <= _FIRST_MEASURED:
            self._memory_at_first = memory
        sys.stderr.write(f"rank {self._group.rank}: {memory / 2**20:.0f} MiB between stages\n")
        allowed = max(
            self._memory_at_first + self._plan.recycle_bytes, self._plan.recycle_growth * self._memory_at_first
        )
        return bool(memory > allowed)


def _named(error: BaseException | None) -> str:
    return f"{type(error).__name__}: {error}"


def _give_memory_back() -> None:
    if "torch" in sys.modules:
        from w2s_ray.training.memory.usage import give_memory_back

        give_memory_back()
