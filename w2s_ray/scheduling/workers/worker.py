"""A worker: each process of a worker group, from its first stage to its last.

Rank 0 asks the dispatcher for an order and broadcasts it, empty ones included, so that no rank waits in a collective
for longer than the dispatcher's long poll. Then all ranks run the stage, and rank 0 returns the outcome. The libraries
are imported while the first order is on its way.

An exception that all ranks raise alike is an outcome (failures.py). After an exception of one rank its process ends,
and with it the group: the other ranks may be inside a collective, which cannot be interrupted.
"""

import gc
import importlib
import logging
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import ray
from ray.exceptions import GetTimeoutError, RayActorError

from w2s_ray.errors import W2SError
from w2s_ray.scheduling.core.queue import Crash, CrashKind, comparable
from w2s_ray.scheduling.dispatcher.reports import LEAVE, Order
from w2s_ray.scheduling.workers.failures import ATTEMPT, crash_of, in_one_line, may_be_outcome, outcome_of
from w2s_ray.scheduling.workers.memory_watch import MemoryWatch
from w2s_ray.scheduling.workers.process_group import Ranks
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.execution import GroupShape
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import output_to
from w2s_ray.store.run_status import log_path
from w2s_ray.training.progress import NullObserver, StageProgress, StageResult

if TYPE_CHECKING:
    from ray.actor import ActorHandle

    from w2s_ray.scheduling.dispatcher.dispatcher import Dispatcher

logger = logging.getLogger(__name__)

Runner = Callable[..., StageResult]

REPORT_SECONDS = 0.5
"""Between two progress reports to the dispatcher while a stage runs."""
ANSWER_SECONDS = 120.0
"""How long the dispatcher may take to answer before the worker gives up."""
_CRASH_SECONDS = 5
_LOST_PEER_SECONDS = 3.0
"""How long a worker that lost its connection to another one waits to be ended by the group."""
_PROGRESS_KEPT = 1000
_STAGES_BEFORE_BASELINE = 2
"""Stages after which a worker's memory should not grow any more."""
_MAX_GROWTH, _MAX_GROWTH_BYTES = 1.5, 512 * 2**20
"""A group ends when a worker's memory between stages has grown by this factor, and by at least these bytes."""


@dataclass(frozen=True)
class GroupPlan:
    """Everything that a group's processes need to know."""

    group: str
    shape: GroupShape
    dispatcher: "ActorHandle[Dispatcher]"
    store: ArtifactStore
    study: str
    runner: str
    """`module:function` that runs a stage."""
    collective_seconds: float
    """After which a collective that a worker does not join fails."""


def run_worker(config: dict[str, Any]) -> None:
    """Run stages until the dispatcher lets the group end; what Train calls in each worker."""
    plan: GroupPlan = config["plan"]
    imports = threading.Thread(target=_import_all, args=(plan.runner,), daemon=True)
    imports.start()
    context = ray.train.get_context()
    ranks = Ranks(context.get_world_rank(), context.get_world_size(), plan.shape.gpus_per_worker > 0)
    client = DispatcherClient(plan.dispatcher, plan.group) if ranks.rank == 0 else None
    worker = _Worker(plan, ranks, client)
    leaves = False
    while not leaves:
        order: Order = ranks.broadcast(client.next_order() if client is not None else None)
        leaves = order.leave
        if order.stage is not None:
            imports.join()
            leaves = worker.run_stage(order.stage)


class DispatcherClient:
    """Rank 0's connection to the dispatcher, and the observer of the stages that it runs.

    A stage never waits for it: progress goes into a list, and whether to stop is read from a flag. A thread sends the
    list twice a second and updates the flag. If the dispatcher is gone the stage stops and the group ends.
    """

    def __init__(self, dispatcher: "ActorHandle[Dispatcher]", group: str) -> None:
        self._dispatcher, self._group = dispatcher, group
        self._stop = self._is_lost = False
        self._progress: list[StageProgress] = []

    def should_stop(self) -> bool:
        """Return whether the dispatcher wants the stage stopped, as of the last report."""
        return self._stop

    def report(self, progress: StageProgress) -> None:
        """Keep progress for the next report to the dispatcher."""
        if len(self._progress) < _PROGRESS_KEPT:
            self._progress.append(progress)

    def next_order(self) -> Order:
        """Ask for work; waits a few seconds at most."""
        if self._is_lost:  # the dispatcher may not know that this group has no stage any more
            return LEAVE
        try:
            order: Order = ray.get(self._dispatcher.next_order.remote(self._group), timeout=ANSWER_SECONDS)
        except (RayActorError, GetTimeoutError):
            logger.exception("the dispatcher does not answer; this worker group ends")
            return LEAVE
        return order

    def return_stage(self, identity: str, outcome: StageResult | W2SError, leaves: bool) -> None:
        """Return a stage's outcome, even if its last progress cannot be sent."""
        try:
            self._send_progress(identity)
        except (RayActorError, GetTimeoutError):
            logger.exception("the dispatcher does not answer; the stage's last progress is lost")
        try:
            returned = self._dispatcher.return_stage.remote(self._group, identity, outcome, leaves)
            ray.get(returned, timeout=ANSWER_SECONDS)
        except (RayActorError, GetTimeoutError):
            logger.exception("the dispatcher does not answer; this worker group ends, and the store has what was done")
            self._is_lost = True

    @contextmanager
    def observing(self, identity: str) -> Iterator["DispatcherClient"]:
        """Send the stage's progress while the context lasts."""
        self._stop = False
        self._progress.clear()
        done = threading.Event()
        thread = threading.Thread(target=self._send_until, args=(identity, done), name="w2s-progress", daemon=True)
        thread.start()
        try:
            yield self
        finally:
            done.set()
            thread.join()

    def _send_until(self, identity: str, done: threading.Event) -> None:
        while not done.wait(REPORT_SECONDS):
            try:
                self._stop = self._send_progress(identity)
            except (RayActorError, GetTimeoutError):
                logger.exception("the dispatcher does not answer; the stage stops")
                self._stop = True

    def _send_progress(self, identity: str) -> bool:
        progress, self._progress = self._progress, []
        sent = self._dispatcher.progress.remote(self._group, identity, progress)
        stop: bool = ray.get(sent, timeout=ANSWER_SECONDS)
        return stop


class _Worker:
    def __init__(self, plan: GroupPlan, ranks: Ranks, client: DispatcherClient | None) -> None:
        self._plan, self._ranks, self._client = plan, ranks, client
        self._stage: PlannedStage | None = None
        """The one that runs now."""
        self._watch = MemoryWatch(self._give_way)
        self._num_stages = 0
        self._memory = self._baseline_memory = 0

    def run_stage(self, stage: PlannedStage) -> bool:
        """Run one stage and return its outcome to the dispatcher; return whether the group ends after it."""
        self._stage = stage
        self._num_stages += 1
        client = self._client
        is_ours = True
        with output_to(self._log):
            sys.stderr.write(f"{ATTEMPT}rank {self._ranks.rank}, {datetime.now():%Y-%m-%d %H:%M:%S}\n")
            outcome: StageResult | W2SError
            with client.observing(stage.identity) if client is not None else nullcontext(NullObserver()) as observer:
                try:
                    run_stage, workers = load_runner(self._plan.runner), self._ranks.workers()
                    with self._watch:
                        outcome = run_stage(stage, store=self._plan.store, workers=workers, observer=observer)
                except BaseException as error:
                    sys.stderr.write(traceback.format_exc())  # Train prints each line of `print` twice
                    if not self._all_have(error):
                        self._report_exception(error)
                        raise
                    is_ours = isinstance(error, W2SError)
                    outcome = outcome_of(error, stage, self._log)
            # After an exception of a library a collective may be half done, and would hang the next one.
            leaves = not is_ours or self._ranks.any(self._has_grown())
        if isinstance(outcome, StageResult):
            outcome = replace(outcome, memory_bytes=self._memory)
        if client is not None:
            client.return_stage(stage.identity, outcome, leaves)
        return leaves

    @property
    def _log(self) -> Path:
        assert self._stage is not None
        return log_path(self._plan.store, self._plan.study, self._stage)

    def _all_have(self, error: BaseException) -> bool:
        """Return whether every rank raised this error, so that it is the stage's outcome.

        Our own errors are compared by class, as they are raised on all ranks alike; others by their first line too.
        """
        if not may_be_outcome(error, self._ranks.size):
            return False
        line = type(error).__name__ if isinstance(error, W2SError) else comparable(in_one_line(error))
        return self._ranks.all_have(str(self._num_stages), line)

    def _report_exception(self, error: BaseException) -> None:
        """Report the exception that is about to end this process."""
        crash = crash_of(error, f"rank {self._ranks.rank}", self._log, f"{self._plan.collective_seconds:g} s")
        if crash is not None:
            self._report_crash(crash)
        else:  # Ray finds out how the other process ended, unless this one ends the group first
            time.sleep(_LOST_PEER_SECONDS)

    def _give_way(self, reason: str) -> None:
        """End this process because its machine is short of memory."""
        sys.stderr.write(f"rank {self._ranks.rank} ends: {reason}\n")
        self._report_crash(Crash(f"rank {self._ranks.rank}: {reason} (log: {self._log})", CrashKind.MEMORY))
        os._exit(1)

    def _report_crash(self, crash: Crash) -> None:
        stage = self._stage
        assert stage is not None
        try:
            ray.get(self._plan.dispatcher.crashed.remote(stage.identity, crash), timeout=_CRASH_SECONDS)
        except Exception:
            logger.exception("rank %d could not report why it ends", self._ranks.rank)

    def _has_grown(self) -> bool:
        """Free memory and return whether more of it is left than should be."""
        if "torch" in sys.modules:
            from w2s_ray.training.memory.usage import give_memory_back

            give_memory_back()
        self._memory = psutil.Process().memory_info().rss
        if self._num_stages <= _STAGES_BEFORE_BASELINE:
            self._baseline_memory = self._memory
        sys.stderr.write(f"rank {self._ranks.rank}: {self._memory / 2**20:.0f} MiB between stages\n")
        allowed = max(self._baseline_memory + _MAX_GROWTH_BYTES, _MAX_GROWTH * self._baseline_memory)
        return self._memory > allowed


def load_runner(runner: str) -> Runner:
    """Import what runs a stage (`module:function`), and with it torch and everything else."""
    module, _, name = runner.partition(":")
    function: Runner = getattr(importlib.import_module(module), name)
    return function


def _import_all(runner: str) -> None:
    """Import what stages need, and keep later garbage collections from scanning it."""
    load_runner(runner)
    gc.collect()
    gc.freeze()
