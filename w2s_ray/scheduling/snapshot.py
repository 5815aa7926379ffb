"""What the dispatcher's state looks like from outside: the live view's status and a trial's report."""

from collections.abc import Mapping, Sequence

from w2s_ray.scheduling.messages import TrialReport
from w2s_ray.scheduling.policy import State
from w2s_ray.scheduling.queue import Entry, Status, name_of
from w2s_ray.scheduling.roster import Crew, CrewStatus
from w2s_ray.scheduling.status import RunningStage, StudyStatus
from w2s_ray.spec.chain import Chain
from w2s_ray.training.progress import StageProgress

_REASONS_SHOWN = 8


def study_status(state: State, points: Mapping[str, StageProgress]) -> StudyStatus:
    """Return the whole run at this moment."""
    queue = state.queue
    crews = list(state.roster.crews.values())
    busy = [(crew, queue.entries[crew.identity]) for crew in crews if crew.identity in queue.entries]
    return StudyStatus(
        running=tuple(_stage_status(crew, entry, points.get(entry.stage.identity)) for crew, entry in busy),
        num_done=queue.num[Status.DONE],
        num_waiting=len(queue.waiting),
        num_failed=queue.num[Status.FAILED],
        num_shared=queue.num_asked - len(queue.entries),
        num_stages=len(queue.entries),
        crews=tuple(_crew_line(crew, state) for crew in crews),
        waiting={
            name_of(one.stage): queue.why_waiting(one.stage.identity) for one in queue.most_urgent(_REASONS_SHOWN)
        },
    )


def trial_report(
    state: State,
    chains: Sequence[Chain],
    trial: str,
    version: int,
    metrics: Mapping[str, Mapping[str, float]],
    judged: Mapping[str, tuple[StageProgress, ...]],
) -> TrialReport:
    """Return how the chains of one trial stand."""
    entries = [state.queue.entries[identity] for identity in state.queue.trials[trial]]
    failed = [entry for entry in entries if entry.status is Status.FAILED]
    open_ = [entry for entry in entries if entry.status in (Status.WAITING, Status.RUNNING)]
    if open_:
        running = any(entry.status is Status.RUNNING for entry in open_)
        status = "running" if not state.closing or running else "interrupted"
    else:
        status = "failed" if failed else "done"
    return TrialReport(
        version=version,
        status=status,
        stages_done=sum(entry.status is Status.DONE for entry in entries),
        stages=len(entries),
        metrics=chain_metrics(chains[0], metrics),
        judged={identity: judged[identity] for identity in state.queue.trials[trial] if identity in judged},
        error="\n".join(str(entry.error) for entry in failed if entry.error) or None,
    )


def chain_metrics(chain: Chain, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the metrics of a chain's stages under `<arm>/<level>/<name>`."""
    return {
        f"{stage.arm}/{stage.level}/{name}": value
        for stage in chain.stages
        for name, value in metrics.get(stage.identity, {}).items()
    }


def _stage_status(crew: Crew, entry: Entry, point: StageProgress | None) -> RunningStage:
    stage = entry.stage
    values = point.values if point is not None else {}
    return RunningStage(
        identity=stage.identity,
        arm=stage.arm,
        level=stage.level,
        task=stage.task,
        loss_name=stage.spec.description,
        activity="stopping" if entry.stopping else point.activity if point is not None else "starting",
        step=point.step if point is not None else 0,
        num_steps=point.num_steps if point is not None else 0,
        loss=values.get("loss"),
        tokens_per_second=values.get("tokens_per_second"),
        seconds_left=point.seconds_left if point is not None else None,
        num_chains=len(entry.wanted_by),
        crew=crew.id,
    )


def _crew_line(crew: Crew, state: State) -> str:
    entry = state.queue.entries.get(crew.identity or "")
    doing = f"{crew.status} {name_of(entry.stage)}" if entry is not None else str(crew.status)
    if crew.status is CrewStatus.OPENING and crew.shape in state.roster.crowded_out:
        doing = "waits for room on the cluster"
    return f"{crew.id} of {crew.shape.workers}: {doing}"
