"""The dispatcher: one asynchronous actor per run that assigns stages to worker groups.

    trials         request(), withdraw(), trial_report()               ─┐
    worker groups  next_order(), progress(), return_stage(), crashed() ─┼─▶ Scheduler.handle(event) -> actions
    the run        poll(), close()                                     ─┘        │
                                                                                 ▼
                                                            orders, stops, opened and retired groups

It owns the worker groups: they are Ray tasks of this actor and die with it. Everything that must survive is in the
store (records, checkpoints, leases), so a dispatcher that died is replaced by a new, empty one: see `run.py`.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from w2s_ray.errors import LeaseHeld, OutOfMemory, W2SError
from w2s_ray.planning.nodes import Node
from w2s_ray.scheduling.core import scheduler as core
from w2s_ray.scheduling.core.groups import GroupStatus
from w2s_ray.scheduling.core.policy import Assign, CancelGroup, OpenGroup, RetireGroup, StopStage
from w2s_ray.scheduling.core.queue import Crash, Queue, StageState, work_of
from w2s_ray.scheduling.dispatcher.leases import RENEW_SECONDS, StageLeases
from w2s_ray.scheduling.dispatcher.reports import (
    LEAVE,
    WAIT,
    Order,
    TrialReport,
    chain_metrics,
    study_status,
    trial_report,
    with_phase,
)
from w2s_ray.scheduling.dispatcher.writer import ActorName, find_writer
from w2s_ray.scheduling.status import EventKind, StageEvent, StudyStatus
from w2s_ray.spec.chain import Chain, PlannedStage, distinct_stages
from w2s_ray.spec.execution import GroupShape
from w2s_ray.tracking.tracker import RunInfo, chain_run, stage_run, stage_run_id
from w2s_ray.training.progress import StageProgress, StageResult

logger = logging.getLogger(__name__)

LONG_POLL_SECONDS = 5.0
"""How long a worker group or a trial waits for news before it gets an empty answer."""
BLOCKED_SECONDS = 3.0
"""Between two attempts at a stage whose lease another run holds."""
SILENT_SECONDS = 60.0
"""A trial whose process has not asked for a report for this long is forgotten: the process was killed."""
_TEND_SECONDS = 1.0


class GroupLauncher(Protocol):
    """Starts worker groups."""

    async def run(self, group: str, shape: GroupShape, running: Callable[[], PlannedStage | None]) -> core.GroupEnded:
        """Start a group, stay with it until it is gone, and return how it ended; `running` returns its stage."""
        ...

    def cancel(self, group: str) -> None:
        """Kill a group."""
        ...

    async def remove_orphans(self) -> None:
        """Free resources that dead groups still hold."""
        ...


@dataclass
class _Trial:
    chains: tuple[Chain, ...]
    asker: str | None
    """The process that asked last. Tune may run two processes for one trial: only the last may withdraw."""
    asked_at: float
    report: TrialReport | None = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)


class Dispatcher:
    """See the module docstring."""

    def __init__(
        self,
        *,
        study: str,
        nodes: Sequence[Node],
        leases: StageLeases,
        launcher: GroupLauncher,
        writer: ActorName | None = None,
        parameters: Mapping[str, float] | None = None,
        serves: Mapping[str, Sequence[str]] | None = None,
        log: Path | None = None,
    ) -> None:
        """Start without trials and groups.

        Args:
            study: the study's name.
            nodes: resources of the cluster.
            leases: the store's stages, and leases on them.
            launcher: starts worker groups.
            writer: the actor that owns the tracker.
            parameters: number of parameters by level, which makes costs of different models comparable.
            serves: names of the chains that a stage serves, by identity, including those that no trial requested yet.
            log: file to which every decision is appended, with its reason.
        """
        if log is not None:
            log.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(log)
            handler.setFormatter(logging.Formatter("%(asctime)s %(message)s"))
            logging.getLogger("w2s_ray").addHandler(handler)
            logging.getLogger("w2s_ray").setLevel(logging.INFO)
        weights = parameters or {}
        self._study, self._leases, self._launcher = study, leases, launcher
        self._scheduler = core.Scheduler(nodes, Queue(lambda stage: work_of(stage) * weights.get(stage.level, 1.0)))
        self._writer = find_writer(writer)
        self._serves = serves or {}
        self._trials: dict[str, _Trial] = {}
        self._orders: dict[str, asyncio.Queue[Order]] = {}
        """By group."""
        self._progress: dict[str, StageProgress] = {}
        """Newest progress of running stages, by identity."""
        self._validations: dict[str, tuple[StageProgress, ...]] = {}
        """Validation reports that a search asked for, by identity."""
        self._events: list[StageEvent] = []
        self._stepped: set[str] = set()
        self._background: set[asyncio.Task[None]] = set()
        self._tending: asyncio.Task[None] | None = None
        self._failure: BaseException | None = None
        """An unexpected error of a background task."""

    # Called by trials.

    async def request(self, trial: str, chains: Sequence[Chain], asker: str | None = None) -> None:
        """Request every stage of `chains` for a trial, in place of what it requested before.

        `asker` identifies the calling process; None for the run itself, whose requests stay until they are replaced.
        """
        self._tending = self._tending or self._start(self._tend())
        chains = tuple(chains)
        known = self._trials.get(trial)
        if known is not None and known.chains == chains:
            known.asker, known.asked_at = asker, time.monotonic()
            return
        stages = tuple(distinct_stages(chains).values())
        stored, error = await self._leases.look_up(stages)
        self._trials[trial] = _Trial(chains, asker, time.monotonic())
        for chain in chains:
            self._tell_writer("begin", chain_run(chain))
        self._handle(core.Requested(trial, stages, stored, error))

    async def withdraw(self, trial: str, asker: str | None = None) -> None:
        """Withdraw a trial's request, unless another process has made it since."""
        if (known := self._trials.get(trial)) is not None and known.asker == asker:
            self._forget(trial)

    async def withdraw_all(self) -> None:
        """Withdraw every request: Tune has ended, and kills trials that wait for a report."""
        for trial in tuple(self._trials):
            self._forget(trial)

    async def trial_report(self, trial: str, seen: int = -1, asker: str | None = None) -> TrialReport | None:
        """Return the trial's report, as soon as it is newer than version `seen`; None if the trial is unknown."""
        known = self._trials.get(trial)
        if known is None:
            return None
        known.asker, known.asked_at = asker, time.monotonic()
        if known.report is not None and known.report.version == seen:
            known.changed.clear()
            await _wait(known.changed.wait())
        return known.report

    # Called by rank 0 of a worker group.

    async def next_order(self, group: str) -> Order:
        """Return the group's next order, as soon as there is one."""
        orders = self._orders.get(group)
        if orders is None or self._scheduler.groups.by_id[group].status is GroupStatus.LEAVING:
            return LEAVE  # also to a worker that outlived its group
        if not self._scheduler.groups.by_id[group].has_started:
            self._handle(core.GroupStarted(group))
        return await _wait(orders.get()) or WAIT

    async def progress(self, group: str, identity: str, reports: Sequence[StageProgress]) -> bool:
        """Take a running stage's progress reports; return whether the stage should stop."""
        if not self._scheduler.groups.has_stage(group, identity):
            return True
        queued = self._scheduler.queue.stages[identity]
        for report in reports:
            self._progress[identity] = report
            if report.saved_step > queued.saved_step:
                self._handle(core.CheckpointSaved(identity, report.saved_step))
            if report.activity == "loading" and report.step:
                self._record(EventKind.RESUMED, queued.stage, step=report.step)
            if report.activity == "training" and report.step > 0 and identity not in self._stepped:
                self._stepped.add(identity)
                self._record(EventKind.FIRST_STEP, queued.stage)
            if report.report:  # a stage that fell back to a checkpoint repeats some
                known = (old for old in self._validations.get(identity, ()) if old.report < report.report)
                self._validations[identity] = (*known, report)
                for trial in tuple(queued.wanted_by):
                    self._update_report(trial)
        if reports:
            self._tell_writer("log", list(reports))
        return queued.stopping

    async def return_stage(
        self, group: str, identity: str, outcome: StageResult | W2SError, group_leaves: bool
    ) -> None:
        """Take the outcome of a stage; `group_leaves` if the group ends after it."""
        if not self._scheduler.groups.has_stage(group, identity):
            return
        result, error, stopped, summary = None, None, True, {}
        if isinstance(outcome, StageResult):
            result, stopped = outcome, outcome.stopped
            summary = self._leases.metrics[identity] = dict(result.metrics)
        elif isinstance(outcome, OutOfMemory):
            logger.warning("%s", outcome)  # the stage continues with smaller micro-batches
        else:
            error, stopped, summary = outcome, False, {"failed": 1.0}
        self._end_stage(identity, result)
        run, ended_well = stage_run_id(identity), result is not None and not stopped
        self._tell_writer("finish", run, {} if stopped else summary, ended_well=ended_well)
        self._handle(core.StageReturned(group, identity, stopped, error, group_leaves))
        self._release(identity)

    async def crashed(self, identity: str, crash: Crash) -> None:
        """Take the reason why one worker of a stage's group is about to die."""
        self._handle(core.CrashReported(identity, crash))

    # Called by the run.

    async def poll(self) -> StudyStatus:
        """Return the status, with the events since the last call.

        Raises:
            BaseException: an unexpected error of a background task, after which stages or groups could wait forever.
        """
        if self._failure is not None:
            raise self._failure
        events, self._events = self._events, []
        return study_status(self._scheduler, self._progress, events)

    async def close(self) -> None:
        """Stop what runs, start nothing, and let every group end."""
        self._handle(core.Closing())

    # Actions.

    def _handle(self, event: core.Event) -> None:
        for action in self._scheduler.handle(event):
            if not isinstance(action, core.StageLost | core.TrialChanged):
                logger.info("%s", action)
            match action:
                case Assign(group, stage, _):
                    self._start(self._hand_out(group, stage))
                case OpenGroup(group, shape, _):
                    self._orders[group] = asyncio.Queue()
                    self._start(self._run_group(group, shape))
                case RetireGroup(group, _):
                    self._orders[group].put_nowait(LEAVE)
                case CancelGroup(group, _):
                    self._launcher.cancel(group)
                case core.StageLost(identity):
                    self._end_stage(identity, None)
                    self._release(identity)
                case core.TrialChanged(trial):
                    self._update_report(trial)
                case StopStage():
                    pass  # the next `progress` returns it

    async def _run_group(self, group: str, shape: GroupShape) -> None:
        if self._scheduler.groups.by_id[group].status is GroupStatus.LEAVING:
            ended = core.GroupEnded(group)  # cancelled before it was started
        else:
            ended = await self._launcher.run(group, shape, lambda: self._stage_of(group))
        del self._orders[group]
        self._handle(with_phase(ended, self._progress.get(self._scheduler.groups.by_id[group].identity or "")))

    def _stage_of(self, group: str) -> PlannedStage | None:
        identity = self._scheduler.groups.by_id[group].identity
        return None if identity is None else self._scheduler.queue.stages[identity].stage

    async def _hand_out(self, group: str, stage: PlannedStage) -> None:
        """Take the lease on a stage and order the group to run it, unless it is done, withdrawn or another run's."""
        identity = stage.identity
        queued = self._scheduler.queue.stages[identity]
        wanted = queued.assigned_products
        try:
            stored = await self._leases.take(stage)
        except LeaseHeld as error:
            self._handle(core.StageBlocked(group, identity, error.message))
            self._start(self._try_again(stage))
            return
        except W2SError as error:
            self._handle(core.StageReturned(group, identity, error=error))
        else:
            if self._scheduler.groups.has_stage(group, identity):  # the group did not die meanwhile
                if not wanted <= stored and not queued.stopping:
                    self._stepped.discard(identity)
                    self._tell_writer("begin", self._run_info(stage))
                    self._record(EventKind.ASSIGNED, stage)
                    self._orders[group].put_nowait(Order(stage=queued.stage))
                    return
                self._handle(core.StageReturned(group, identity, stopped=not wanted <= stored))
        self._release(identity)

    async def _try_again(self, stage: PlannedStage) -> None:
        """After a while, unblock a stage whose lease another run held."""
        await asyncio.sleep(BLOCKED_SECONDS)
        self._handle(core.StageUnblocked(stage.identity, *await self._leases.look_up((stage,))))

    # Bookkeeping.

    async def _tend(self) -> None:
        """Once a second: keep leases alive, forget trials whose process is gone, free what dead groups hold."""
        renewed_at = time.monotonic()
        while True:
            await asyncio.sleep(_TEND_SECONDS)
            now = time.monotonic()
            for name, trial in tuple(self._trials.items()):
                has_ended = trial.report is not None and trial.report.ended
                if trial.asker is not None and not has_ended and now - trial.asked_at > SILENT_SECONDS:
                    logger.warning("trial %s is silent and no longer served", name)
                    self._forget(name)
            if self._scheduler.groups.num(GroupStatus.OPENING):
                await self._launcher.remove_orphans()
            if now - renewed_at > RENEW_SECONDS:
                renewed_at = now
                for identity in tuple(self._scheduler.groups.running):
                    stage = self._scheduler.queue.stages[identity].stage
                    await self._leases.renew(stage)
                    if identity not in self._scheduler.groups.running:  # returned in the meantime
                        self._release(identity)
                    else:  # a writer that was restarted knows no runs
                        self._tell_writer("begin", self._run_info(stage))

    def _tell_writer(self, method: str, *args: Any, **settings: Any) -> None:
        if self._writer is not None:
            getattr(self._writer, method).remote(*args, **settings)

    def _run_info(self, stage: PlannedStage) -> RunInfo:
        names = self._serves.get(stage.identity)
        if names is None:  # a candidate's stage, or a winner's: only the trials know its chains
            chains = (c for t in self._scheduler.queue.stages[stage.identity].wanted_by for c in self._trials[t].chains)
            names = [chain.name for chain in chains if any(own.identity == stage.identity for own in chain.stages)]
        return stage_run(self._study, stage, names)

    def _record(self, kind: EventKind, stage: PlannedStage, result: StageResult | None = None, step: int = 0) -> None:
        self._events.append(StageEvent(kind, stage, time.time(), result, step))

    def _end_stage(self, identity: str, result: StageResult | None) -> None:
        self._progress.pop(identity, None)
        self._record(EventKind.ENDED, self._scheduler.queue.stages[identity].stage, result)

    def _release(self, identity: str) -> None:
        """Release a stage's lease, unless the stage was assigned again."""
        if identity not in self._scheduler.groups.running:
            self._start(self._leases.release(self._scheduler.queue.stages[identity].stage))

    def _update_report(self, trial: str) -> None:
        """Make the trial's new report and wake its process."""
        if (known := self._trials.get(trial)) is None:
            return
        before, stages = known.report, self._scheduler.queue.stages
        version = before.version + 1 if before is not None else 0
        queued = [stages[identity] for identity in self._scheduler.queue.by_trial[trial]]
        known.report = trial_report(queued, known.chains, version, self._leases.metrics, self._validations)
        known.changed.set()
        if known.report.ended and (before is None or not before.ended):
            for chain in known.chains:
                ended_well = all(stages[stage.identity].state is StageState.DONE for stage in chain.stages)
                metrics = chain_metrics(chain, self._leases.metrics)
                self._tell_writer("finish_chain", chain, metrics, ended_well=ended_well)

    def _forget(self, trial: str) -> None:
        if self._trials.pop(trial, None) is not None:
            self._handle(core.Withdrawn(trial))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._background.add(task)
        task.add_done_callback(self._finished)
        return task

    def _finished(self, task: asyncio.Task[None]) -> None:
        self._background.discard(task)
        if not task.cancelled() and task.exception() is not None:
            logger.error("the dispatcher failed", exc_info=task.exception())
            self._failure = self._failure or task.exception()


async def _wait(news: Coroutine[Any, Any, Any]) -> Any:
    """Wait for `news` for as long as a long poll may take; None if there are none."""
    try:
        return await asyncio.wait_for(news, LONG_POLL_SECONDS)
    except TimeoutError:
        return None
