"""Answers of the dispatcher: orders to worker groups, reports to trials, the status to the run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Literal

from w2s_ray.scheduling.core.groups import GroupStatus, WorkerGroup
from w2s_ray.scheduling.core.queue import CrashKind, Queue, QueuedStage, StageState, name_of
from w2s_ray.scheduling.core.scheduler import GroupEnded, Scheduler
from w2s_ray.scheduling.status import RunningStage, StageEvent, StudyStatus
from w2s_ray.spec.chain import Chain, PlannedStage
from w2s_ray.training.progress import StageProgress

_REASONS_SHOWN = 8
_FAILURES_SHOWN = 200


@dataclass(frozen=True)
class Order:
    """Answer to a worker group that asks for work: run a stage, end, or (neither) ask again."""

    stage: PlannedStage | None = None
    leave: bool = False


WAIT = Order()
LEAVE = Order(leave=True)


@dataclass(frozen=True)
class TrialReport:
    """State of a trial's chains."""

    version: int
    """Grows with every change; a trial waits for a newer one than it has seen."""
    status: Literal["running", "done", "failed"]
    stages_done: int
    stages: int
    metrics: dict[str, float] = field(default_factory=dict)
    """`<arm>/<level>/<name>` → value, of the finished stages of the trial's first chain."""
    validations: dict[str, tuple[StageProgress, ...]] = field(default_factory=dict)
    """Validation reports, by identity of the stages that were asked for some."""
    error: str | None = None

    @property
    def ended(self) -> bool:
        """Whether no stage is left to wait for."""
        return self.status != "running"


def trial_report(
    queued: Sequence[QueuedStage],
    chains: Sequence[Chain],
    version: int,
    metrics: Mapping[str, Mapping[str, float]],
    validations: Mapping[str, tuple[StageProgress, ...]],
) -> TrialReport:
    """Return the report of a trial that requested the stages `queued` of `chains`."""
    failed = [entry for entry in queued if entry.state is StageState.FAILED]
    causes = [entry for entry in failed if not entry.missing] or failed  # not the stages without a supervisor
    num_done = sum(entry.state is StageState.DONE for entry in queued)
    ended = num_done + len(failed) == len(queued)
    identities = (entry.stage.identity for entry in queued)
    return TrialReport(
        version=version,
        status="running" if not ended else "failed" if failed else "done",
        stages_done=num_done,
        stages=len(queued),
        metrics=chain_metrics(chains[0], metrics),
        validations={identity: validations[identity] for identity in identities if identity in validations},
        error="\n".join(dict.fromkeys(str(entry.error) for entry in causes if entry.error)) or None,
    )


def chain_metrics(chain: Chain, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the metrics of a chain's stages as `<arm>/<level>/<name>` → value."""
    return {
        f"{stage.arm}/{stage.level}/{name}": value
        for stage in chain.stages
        for name, value in metrics.get(stage.identity, {}).items()
    }


def study_status(
    scheduler: Scheduler, progress: Mapping[str, StageProgress], events: Sequence[StageEvent]
) -> StudyStatus:
    """Return the status of the whole run."""
    queue, groups = scheduler.queue, scheduler.groups.by_id.values()
    return StudyStatus(
        running=tuple(
            _running_stage(group, queue.stages[group.identity], progress.get(group.identity))
            for group in groups
            if group.identity is not None
        ),
        events=tuple(events),
        num_done=queue.num[StageState.DONE],
        num_waiting=len(queue.waiting),
        num_failed=queue.num[StageState.FAILED],
        failures=_failures(queue) if queue.num[StageState.FAILED] else {},
        num_stages=len(queue.stages),
        groups=tuple(_group_line(group, scheduler) for group in groups),
        is_opening=bool(groups) and all(group.status is GroupStatus.OPENING for group in groups),
        waiting={
            name_of(queued.stage): scheduler.why_waiting(queued.stage.identity)
            for queued in queue.next_stages(_REASONS_SHOWN)
        },
    )


def _failures(queue: Queue) -> dict[str, str]:
    failed = (one for one in queue.stages.values() if one.state is StageState.FAILED and not one.missing)
    return {one.stage.identity: str(one.error) for one in islice(failed, _FAILURES_SHOWN)}


def _running_stage(group: WorkerGroup, queued: QueuedStage, progress: StageProgress | None) -> RunningStage:
    stage = queued.stage
    running = RunningStage(
        identity=stage.identity,
        arm=stage.arm,
        level=stage.level,
        task=stage.task,
        loss_name=stage.spec.description,
        activity="stopping" if queued.stopping else progress.activity if progress is not None else "starting",
        num_chains=len(queued.wanted_by),
        group=group.id,
    )
    if progress is None:
        return running
    return replace(
        running,
        step=progress.step,
        num_steps=progress.num_steps,
        loss=progress.values.get("loss"),
        tokens_per_second=progress.values.get("tokens_per_second"),
        seconds_left=progress.seconds_left,
    )


def _group_line(group: WorkerGroup, scheduler: Scheduler) -> str:
    doing = str(group.status)
    if group.identity is not None:
        doing = f"{group.status} {name_of(scheduler.queue.stages[group.identity].stage)}"
    elif group.status is GroupStatus.OPENING and group.shape in scheduler.groups.without_room:
        doing = "waits for room on the cluster"
    workers = group.shape.workers
    return f"{group.id}, {workers} worker{'s' * (workers != 1)}: {doing}"


def with_phase(ended: GroupEnded, progress: StageProgress | None) -> GroupEnded:
    """Add what the stage of a killed group reported last to the cause of the group's end."""
    if not ended.cause or ended.kind is not CrashKind.KILLED or progress is None:
        return ended
    step = f", step {progress.step} of {progress.num_steps}" if progress.activity == "training" else ""
    return replace(ended, cause=f"{ended.cause}; the stage's last report: {progress.activity}{step}")
