"""Run a study: the entry (`run_study`), its settings and its outcome.

Ray is not imported here: it is loaded only when there is something to run.
"""

import logging
import threading
from collections.abc import Callable
from contextlib import chdir, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from w2s_ray.errors import TrainingError
from w2s_ray.planning.resolve import save_study
from w2s_ray.scheduling.dispatcher.writer import ChainJudge, TrackerFactory
from w2s_ray.scheduling.status import EventKind, StageEvent, StudyView
from w2s_ray.spec.chain import PlannedStage, Resolution, distinct_stages, num_named
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.points import check_own_losses
from w2s_ray.spec.search import SearchResult
from w2s_ray.spec.study import Study
from w2s_ray.store import lease
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.search_result import Failures, read_search_result, write_failures
from w2s_ray.tracking.fanout import open_tracker
from w2s_ray.training.progress import StageResult

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunSettings:
    """How a run is carried out; nothing here changes a result."""

    runner: str = "w2s_ray.training.stage:run_stage"
    """`module:function` that runs a stage on a group's workers."""
    tracker: TrackerFactory | None = None
    """Makes the tracker in a process of its own, so it has to pickle. None: the tracker that the study asks for."""
    judge: ChainJudge | None = None
    """Computes a chain's metrics for its tracker run; called in the tracker's process, so it has to pickle."""
    notify: Callable[[str], None] = logger.warning
    """Takes messages for people at the end of the run, such as how to upload W&B runs that were kept offline."""
    collective_seconds: float = 300.0
    """After which a collective that a worker does not join fails; a worker that dies is noticed at once."""


@dataclass(frozen=True)
class ChainOutcome:
    """How a chain ended."""

    status: Literal["done", "failed"]
    error: str | None = None
    label: str = ""
    """Its name with its searched values, if it has some."""


@dataclass(frozen=True)
class StudyOutcome:
    """How a study ended."""

    chains: dict[str, ChainOutcome]
    """By name."""
    trained: tuple[str, ...] = ()
    """Identities of the stages that this run finished; empty if everything was in the store."""
    events: tuple[StageEvent, ...] = ()
    """Events of this run's stages, in order."""
    search: SearchResult | None = None
    """Result of a search that chooses."""
    num_shared: int = 0
    """Trainings that sharing saved: stages that chains name beyond the distinct ones."""
    started_at: float = 0.0
    """When the dispatcher got its first request, in seconds since the epoch."""

    @property
    def results(self) -> dict[str, StageResult]:
        """Results of the stages that this run's groups returned, by identity."""
        return {event.stage.identity: event.result for event in self.events if event.result is not None}

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds from a stage's assignment to its result, by identity."""
        assigned = {event.stage.identity: event.at for event in self.events if event.kind is EventKind.ASSIGNED}
        returned = [event for event in self.events if event.result is not None]
        return {event.stage.identity: event.at - assigned[event.stage.identity] for event in returned}

    @property
    def cold_start_seconds(self) -> float | None:
        """Seconds from the first request to the first optimizer step."""
        steps = [event.at for event in self.events if event.kind is EventKind.FIRST_STEP]
        return min(steps) - self.started_at if steps else None

    @property
    def working_seconds(self) -> float:
        """Seconds from the first optimizer step to the last result."""
        steps = [event.at for event in self.events if event.kind is EventKind.FIRST_STEP]
        return max(event.at for event in self.events) - min(steps) if steps else 0.0

    @property
    def failed(self) -> dict[str, str]:
        """Errors of the chains that failed, by name."""
        return {name: chain.error or "" for name, chain in self.chains.items() if chain.status == "failed"}

    @property
    def failures(self) -> dict[str, str]:
        """The same by the chains' names with their searched values, for people."""
        return {self.chains[name].label or name: error for name, error in self.failed.items()}

    @property
    def counts(self) -> str:
        """How many chains are done, and how many stages were trained now, for people."""
        num = len(self.trained)
        stages = f"{num} stage{'' if num == 1 else 's'} trained now"
        return f"{len(self.chains) - len(self.failed)} of {len(self.chains)} chains done, {stages}"

    @property
    def errors(self) -> list[str]:
        """The failed chains, one entry for all with the same reason, and why a search chose nothing."""
        chains_by_reason: dict[str, list[str]] = {}
        for chain, reason in self.failures.items():
            chains_by_reason.setdefault(reason, []).append(chain)
        errors = [f"failed: {', '.join(chains)}\n{reason}" for reason, chains in chains_by_reason.items()]
        nothing_chosen = self.search.why_nothing_is_chosen if self.search is not None else None
        return errors + ([nothing_chosen] if nothing_chosen is not None else [])

    def raise_failures(self) -> None:
        """Raise a TrainingError if a chain failed or a search chose nothing."""
        if self.errors:
            raise TrainingError(
                "\n".join(self.errors),
                "the next call runs what failed again; raise_on_failure=False returns the outcome instead",
            )


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
    """Run every chain of `study`; chains that fail are listed in the outcome and do not end the others.

    Args:
        study: what to run.
        resolution: its names resolved.
        store: where everything is kept.
        address: a Ray cluster, or None for this machine.
        view: shows the status; updated several times a second from this thread.
        interrupt: set it, from any thread, to stop at the next step.
        settings: how to run it.
        retry_failed: judge failed candidates of its search again; chains that failed are always run again.

    Raises:
        StudyError: when a loss of the study is not registered in this process.
        ResourceError: before anything is trained, when the cluster cannot hold a stage's workers.
        StoreError: when the store holds something that cannot be read.
        LeaseHeld: when another run of the study on this store does not end.
        Interrupted: when `interrupt` was set; each stage under way has a checkpoint.
    """
    check_own_losses(study)
    search = read_search_result(study, store)
    chooses = study.search is not None and study.search.choose_by is not None
    retries = search is not None and retry_failed and any(one.status == "failed" for one in search.candidates)
    chains = compile_study(study, resolution, search) if not chooses or (search is not None and not retries) else None
    if chains is not None and all(is_finished(stage, store) for stage in distinct_stages(chains).values()):
        if lease.holder(store.study_folder(study.name)) is None:
            save_study(study, resolution, store)
        write_failures(Failures(), study, store)
        done = {chain.name: ChainOutcome("done") for chain in chains}
        return StudyOutcome(done, search=search, num_shared=num_named(chains) - len(distinct_stages(chains)))
    from w2s_ray.scheduling.run import Run

    settings = settings or RunSettings()
    if settings.tracker is None:
        settings = replace(settings, tracker=partial(open_tracker, study.tracking, store.study_folder(study.name)))
    # A job's working folder is Ray's: a second node on the same machine replaces it, and Tune asks where it is.
    with chdir(store.root) if address else nullcontext():
        return Run(study, resolution, chains, search, store, view, interrupt, settings).go(address)


def is_finished(stage: PlannedStage, store: ArtifactStore) -> bool:
    """Return whether the store has the stage and every prediction that is wanted of it."""
    wanted = (stage.identity, *(prediction.identity for prediction in stage.predicts))
    return all(store.find(identity) is not None for identity in wanted)
