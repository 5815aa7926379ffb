"""Run a study: what goes in, what comes out, and the one case that needs no Ray: everything is there already."""

import logging
import threading
from collections.abc import Callable
from contextlib import chdir, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial

from w2s_ray.planning.resolve import save_study
from w2s_ray.scheduling.status import StudyView
from w2s_ray.scheduling.writer import ChainJudge, TrackerFactory
from w2s_ray.spec.chain import PlannedStage, Resolution, distinct_stages, num_named
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.search import SearchResult
from w2s_ray.spec.study import Study
from w2s_ray.store import lease
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.search_result import read_search_result, write_failures
from w2s_ray.tracking.fanout import open_tracker
from w2s_ray.training.progress import StageResult

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSettings:
    """How a run goes about its work; nothing here changes a result."""

    runner: str = "w2s_ray.training.stage:run_stage"
    """`module:function` that runs a stage on a crew's workers."""
    tracker: TrackerFactory | None = None
    """Makes the tracker, in a process of its own; has to pickle. None: the one that the study asks for."""
    judge: ChainJudge | None = None
    """Says what came of a chain, for the tracker's summary of it; runs in the tracker's process, has to pickle."""
    say: Callable[[str], None] = logger.warning
    """Takes what people should know when the run is over, such as how W&B runs that were kept offline are sent."""
    collective_seconds: float = 300.0
    """After which a collective that a worker does not join is given up; a worker that dies is noticed at once."""
    recycle_growth: float = 1.5
    """A crew is replaced when a worker's memory between stages has grown by this factor since its second stage …"""
    recycle_bytes: int = 512 * 2**20
    """… and by at least this much."""
    farewell_seconds: float = 60.0
    """How long crews may take to leave at the end before they are ended."""
    max_trial_failures: int = 3
    """Times that Tune starts a trial again whose process died."""


@dataclass(frozen=True)
class ChainOutcome:
    """What became of one chain."""

    status: str
    """`done`, `failed`, or `interrupted` where the run ended before the chain did."""
    error: str | None = None


@dataclass(frozen=True)
class StudyOutcome:
    """What became of a study."""

    chains: dict[str, ChainOutcome]
    """By name."""
    trained: tuple[str, ...] = ()
    """Identities of the stages that this run finished; empty where everything was there already."""
    results: dict[str, StageResult] = field(default_factory=dict)
    """What the crews handed back, by identity: seconds and metrics."""
    seconds_in_hand: dict[str, float] = field(default_factory=dict)
    """From handing a stage out to having its result, by identity."""
    found: SearchResult | None = None
    """What a search that chooses has come to."""
    num_shared: int = 0
    """Stages that the chains name beyond the distinct ones: trainings that sharing saves."""
    cold_start_seconds: float | None = None
    """From the decision to open the first crew to its first optimizer step."""
    working_seconds: float = 0.0
    """From the first optimizer step to the last result."""

    @property
    def failed(self) -> dict[str, str]:
        """The chains that failed, and why."""
        return {name: chain.error or "" for name, chain in self.chains.items() if chain.status != "done"}


def run_study(
    study: Study,
    *,
    resolution: Resolution,
    store: ArtifactStore,
    address: str | None,
    view: StudyView,
    interrupt: threading.Event,
    settings: RunSettings | None = None,
    retry_failed: bool = False,
) -> StudyOutcome:
    """Run every chain of `study`; chains that fail are listed in the outcome and end nobody else.

    Args:
        study: what was asked for.
        resolution: what its names came to.
        store: where everything is kept.
        address: a Ray cluster, or None for this machine.
        view: shown the status twice a second, from this thread.
        interrupt: set it, from anywhere, to stop at the next step.
        settings: how to go about it.
        retry_failed: judge the candidates of its search again that failed; chains that failed are always run again.

    Raises:
        ResourceError: before anything is trained, when the cluster cannot hold a stage's workers.
        StoreError: when the store holds something that cannot be read.
        LeaseHeld: when another run of the study on this store does not end.
        Interrupted: when `interrupt` was set; each stage under way has a checkpoint.
    """
    found = read_search_result(study, store)
    searches = study.search is not None and study.search.choose_by is not None
    is_through = found is not None and not (retry_failed and any(one.status == "failed" for one in found.candidates))
    chains = compile_study(study, resolution, found) if is_through or not searches else None
    if chains is not None:
        stages = distinct_stages(chains)
        if all(is_finished(stage, store) for stage in stages.values()):
            num_shared = num_named(chains) - len(stages)
            done = {chain.name: ChainOutcome("done") for chain in chains}
            if lease.holder(store.study_folder(study.name)) is None:
                save_study(study, resolution, store)
            write_failures({}, study, store)
            return StudyOutcome(done, found=found, num_shared=num_shared)
    from w2s_ray.scheduling.run import Run  # Ray is only loaded where there is something to run

    settings = settings or RunSettings()
    if settings.tracker is None:
        settings = replace(settings, tracker=partial(open_tracker, study.tracking, store.study_folder(study.name)))
    # A job's working folder is Ray's: a second node on the same machine replaces it, and Tune asks where it is.
    with chdir(store.root) if address else nullcontext():
        outcome = Run(study, resolution, chains, found, store, view, interrupt, settings).go(address)
    write_failures(outcome.failed, study, store)
    return outcome


def is_finished(stage: PlannedStage, store: ArtifactStore) -> bool:
    """Say whether the store has the stage and every prediction that is asked of it."""
    wanted = (stage.identity, *(prediction.identity for prediction in stage.predicts))
    return all(store.find(identity) is not None for identity in wanted)
