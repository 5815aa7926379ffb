"""One run of a study on Ray.

    Tune (a thread)          which chains are under way      trials ───┐
    the dispatcher (actor)   which stage next, which groups  ◀─────────┤
    worker groups (tasks     run the stages                  ◀─────────┘
      of the dispatcher)
    this thread              polls the dispatcher, shows its status, renews the study's lease

Everything that must survive is in the store, so recovery is always the same: what died is started again, empty, and
finds what is done. The policy replaces a worker group, Tune a trial, Ray the writer. If the dispatcher dies its worker
groups die with it; this thread then stops Tune and starts both again. If this process dies, so does everything else,
and the same command continues.
"""

import logging
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import ray
from ray.exceptions import ActorDiedError, ActorUnavailableError, OutOfMemoryError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from w2s_ray.errors import Interrupted, LeaseHeld, StoreError, TrainingError
from w2s_ray.planning.contexts import check_contexts
from w2s_ray.planning.memory import check_memory, longest_text
from w2s_ray.planning.nodes import Node
from w2s_ray.planning.resolve import save_study
from w2s_ray.scheduling import ray_adapter
from w2s_ray.scheduling.dispatcher.dispatcher import Dispatcher
from w2s_ray.scheduling.dispatcher.leases import StageLeases, StudyLease
from w2s_ray.scheduling.dispatcher.writer import ActorName, Writer
from w2s_ray.scheduling.ray_errors import how_it_ended, in_our_words, translated
from w2s_ray.scheduling.session import check_cluster, cluster_nodes, ray_session
from w2s_ray.scheduling.status import StageEvent, StudyStatus, StudyView
from w2s_ray.scheduling.study import ChainOutcome, RunSettings, StudyOutcome, is_finished
from w2s_ray.scheduling.tune.candidates import CandidateJudge
from w2s_ray.scheduling.tune.search import Search
from w2s_ray.scheduling.tune.trials import ChainTuning, Tuning
from w2s_ray.scheduling.workers.group import RayGroupLauncher
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution, distinct_stages, num_named
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.points import executions
from w2s_ray.spec.search import SearchResult
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.run_status import clear_run_status, logs_folder, write_run_status
from w2s_ray.store.search_result import Failures, write_failures
from w2s_ray.tracking.fanout import POINTS

if TYPE_CHECKING:
    from ray.actor import ActorHandle

logger = logging.getLogger(__name__)

DISPATCHER_NAME, WRITER_NAME = "w2s-dispatcher", "w2s-writer"
POLL_SECONDS = 0.25
_ANSWER_SECONDS = 120.0
_HEAD_START_SECONDS = 20.0
"""How long Tune waits at most for the first worker group, so that it does not compete with its start for CPUs."""
_STATUS_FILE_SECONDS = 2.0
"""Between two updates of the file from which other processes read the run's status."""
_ACTOR_BYTES = 200 * 2**20
"""Memory of the dispatcher and of the writer, each."""
_CLOSE_SECONDS = 45.0
"""How long worker groups, and Tune, may take to end. Shorter than the life of a lease, which is not renewed then."""
_FREE_SECONDS = 10.0
"""How long the controllers of killed worker groups may take to end, so that their resources are freed."""
_TRACKER_SECONDS = 30.0
"""How long the tracker may take to write what is left."""
_DEATHS = (ActorDiedError, ActorUnavailableError, OutOfMemoryError)
"""Raised by a call of a dispatcher that is dead or cannot be reached; the last if Ray's memory monitor killed it."""
_MAX_DEATHS = 3
"""Deaths of the dispatcher in a row, without a stage finished between them, after which the run fails."""


class Run:
    """One run; used once."""

    def __init__(
        self,
        study: Study,
        resolution: Resolution,
        chains: Sequence[Chain] | None,
        search: SearchResult | None,
        store: ArtifactStore,
        view: StudyView,
        interrupt: threading.Event,
        settings: RunSettings,
    ) -> None:
        """`chains` is None if a search has to choose them first; the others are those of `run_study`."""
        self._study, self._resolution, self._store = study, resolution, store
        self._search, self._view, self._interrupt, self._settings = search, view, interrupt, settings
        self._lease = StudyLease(study, store)
        self._namespace = f"w2s-{uuid.uuid4().hex}"
        self._judge: CandidateJudge | None = None
        if chains is None:
            self._judge = CandidateJudge(study, resolution, store)
            chains = self._judge.listed()
        self._chains: tuple[Chain, ...] = ()
        self._num_stages = self._num_shared = 0
        self._unfinished: dict[str, PlannedStage] = {}
        """Stages that the store did not have when their chains were added."""
        self._add_chains(chains)
        self._events: list[StageEvent] = []
        self._failures = Failures()
        self._num_deaths, self._finished_at_death = 0, 0
        self._started_at = 0.0
        self._status_file_at = 0.0

    def go(self, address: str | None) -> StudyOutcome:
        """Run the study; see `run_study`."""
        check_contexts(self._unfinished.values(), self._resolution, self._store)
        chains = None
        with self._study_lease(), translated(self._dispatcher_log), ray_session(address):
            nodes = cluster_nodes()
            check_cluster(executions(self._study), nodes)
            longest = longest_text(self._store, self._resolution)
            check_memory(self._unfinished.values(), self._resolution, nodes, longest)
            with self._writer() as writer:
                while chains is None:
                    try:
                        with self._dispatcher(nodes, writer) as dispatcher:
                            if self._judge is not None:
                                self._run_search(self._judge, dispatcher)
                            chains = self._run_chains(dispatcher)
                    except _DEATHS as error:
                        self._count_death(error)
            outcome = StudyOutcome(
                chains=chains,
                trained=tuple(self._trained()),
                events=tuple(self._events),
                search=self._search,
                num_shared=self._num_shared,
                started_at=self._started_at,
            )
            self._failures = self._failures.model_copy(update={"chains": outcome.failures})
        return outcome

    def _count_death(self, error: RayError) -> None:
        """Allow the dispatcher to be started again.

        Raises:
            TrainingError: when it died several times without a stage finished.
            Interrupted: when the run should stop.
        """
        num_finished = len(self._trained())
        self._num_deaths = self._num_deaths + 1 if num_finished == self._finished_at_death else 1
        self._finished_at_death = num_finished
        if self._interrupt.is_set() and (self._judge is not None or self._left()):
            raise self._interrupted()
        end, _ = how_it_ended(error)
        if end == "raised" or (end == "memory" and self._num_deaths == _MAX_DEATHS):
            raise error  # an exception at its start would be raised again
        if self._num_deaths == _MAX_DEATHS:
            raise TrainingError(
                f"the dispatcher died {_MAX_DEATHS} times in a row without a stage finished: "
                f"{in_our_words(error).message}",
                f"{self._dispatcher_log} may have the reason; the same command continues",
            ) from error
        logger.warning("the dispatcher died and is started again: %s", error)

    def _run_search(self, judge: CandidateJudge, dispatcher: "ActorHandle[Dispatcher]") -> None:
        """Let Tune judge the candidates, and add the chains of the best."""
        search = Search(judge, self._search, dispatcher)
        self._work(dispatcher, search)
        if self._interrupt.is_set():
            raise self._interrupted()
        ray.get(dispatcher.withdraw_all.remote(), timeout=_ANSWER_SECONDS)
        self._search, self._judge = search.result(), None
        self._add_chains(compile_study(self._study, self._resolution, self._search))

    def _run_chains(self, dispatcher: "ActorHandle[Dispatcher]") -> dict[str, ChainOutcome]:
        """Run the chains that are judged on the test set."""
        done = {chain.name: ChainOutcome("done") for chain in self._chains}
        if not self._left():
            return done
        for chain in self._chains[: self._study.max_concurrent]:  # the first groups start before Tune does
            ray.get(dispatcher.request.remote(chain.name, (chain,)), timeout=_ANSWER_SECONDS)
        self._started_at = self._started_at or time.time()
        deadline = time.monotonic() + _HEAD_START_SECONDS
        while self._poll(dispatcher).is_opening and time.monotonic() < deadline:
            if self._interrupt.wait(POLL_SECONDS):
                break
        tuning = ChainTuning(self._study, self._chains, dispatcher, self._store)
        self._work(dispatcher, tuning)
        if self._interrupt.is_set():
            if self._left():
                raise self._interrupted()
            return done
        return tuning.outcomes()

    def _work(self, dispatcher: "ActorHandle[Dispatcher]", tuning: Tuning) -> None:
        """Poll the dispatcher until Tune has ended its last trial, the run is interrupted or the dispatcher dies."""
        self._started_at = self._started_at or time.time()
        tuning.start()
        try:
            while not self._interrupt.is_set() and not tuning.wait(POLL_SECONDS):
                self._poll(dispatcher)
        finally:
            if self._interrupt.is_set():
                dispatcher.close.remote()  # so that no stage goes on while Tune ends
            tuning.stop()
            if not tuning.wait(_CLOSE_SECONDS) and not self._interrupt.is_set():
                raise TrainingError(f"Tune did not end within {_CLOSE_SECONDS:.0f} s", "the same command continues")
        self._poll(dispatcher)  # the last events; raises if it was the dispatcher's death that ended Tune

    def _poll(self, dispatcher: "ActorHandle[Dispatcher]") -> StudyStatus:
        status: StudyStatus = ray.get(dispatcher.poll.remote(), timeout=_ANSWER_SECONDS)
        self._events += status.events
        self._failures = Failures(stages={**self._failures.stages, **status.failures})
        held_back = max(0, self._num_stages - status.num_stages)
        waiting = dict(status.waiting)
        if held_back:
            limit = self._study.max_concurrent
            waiting[f"{held_back} more stages"] = f"wait for their chains to start (max_concurrent: {limit})"
        self._view.update(
            replace(
                status,
                num_stages=status.num_stages + held_back,
                num_waiting=status.num_waiting + held_back,
                num_shared=self._num_shared,
            )
        )
        if time.monotonic() - self._status_file_at > _STATUS_FILE_SECONDS:
            self._status_file_at = time.monotonic()
            try:
                self._lease.renew()
                write_run_status(status.groups, waiting, self._study, self._store)
            except LeaseHeld:
                raise
            except StoreError:  # the disk may be full for a while
                logger.exception("the status file was not written")
        return status

    def _close(self, dispatcher: "ActorHandle[Dispatcher]") -> None:
        """Let the worker groups end; those that take too long are killed with the dispatcher."""
        deadline = time.monotonic() + _CLOSE_SECONDS
        try:
            ray.get(dispatcher.close.remote(), timeout=_ANSWER_SECONDS)
            while self._poll(dispatcher).groups and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
        except (RayError, LeaseHeld):
            logger.exception("not waiting for the worker groups")

    def _add_chains(self, chains: Iterable[Chain]) -> None:
        self._chains = tuple(chains)
        stages = distinct_stages(self._chains)
        self._num_stages = len(stages)
        self._num_shared = num_named(self._chains) - self._num_stages
        self._unfinished |= {key: stage for key, stage in stages.items() if not is_finished(stage, self._store)}

    def _left(self) -> int:
        """Return how many stages of the run's chains are not finished."""
        return sum(not is_finished(stage, self._store) for stage in self._unfinished.values())

    def _trained(self) -> list[str]:
        """Return the stages that this run finished, including those of candidates that a sampler drew."""
        known = [identity for identity, stage in self._unfinished.items() if is_finished(stage, self._store)]
        returned = [event.stage.identity for event in self._events if event.result and event.result.attempts_trained]
        return list(dict.fromkeys([*known, *(key for key in returned if self._store.find(key) is not None)]))

    @property
    def _dispatcher_log(self) -> Path:
        return logs_folder(self._store, self._study.name) / "dispatcher.log"

    def _interrupted(self) -> Interrupted:
        if self._judge is not None:
            done = f"the search is not finished; stages of this run that are done: {len(self._trained())}"
        else:
            stages = distinct_stages(self._chains)
            num_done = sum(is_finished(stage, self._store) for stage in stages.values())
            done = f"{num_done} of {len(stages)} stages done"
        return Interrupted(f"stopped on request: {done}", "run the same command again to continue")

    @contextmanager
    def _study_lease(self) -> Iterator[None]:
        self._lease.take(self._view, self._interrupt)
        try:
            save_study(self._study, self._resolution, self._store)
            write_failures(self._failures, self._study, self._store)
            yield
        finally:
            with suppress(OSError, StoreError):  # the file is soon out of date
                clear_run_status(self._study, self._store)
            with suppress(StoreError):
                write_failures(self._failures, self._study, self._store)
            self._lease.release()

    @contextmanager
    def _dispatcher(self, nodes: Sequence[Node], writer: ActorName) -> "Iterator[ActorHandle[Dispatcher]]":
        sizes = {name: float(model.num_parameters or 0) for name, model in self._resolution.models.items()}
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        dispatcher = (
            ray.remote(Dispatcher)
            .options(
                num_cpus=0,
                memory=_ACTOR_BYTES,
                name=DISPATCHER_NAME,
                namespace=self._namespace,
                scheduling_strategy=here,
            )
            .remote(
                study=self._study.name,
                nodes=nodes,
                leases=StageLeases(self._store, self._lease.owner, self._lease.process),
                launcher=RayGroupLauncher(
                    self._store, self._study.name, self._settings.runner, self._settings.collective_seconds
                ),
                writer=writer,
                parameters=sizes if all(sizes.values()) else None,
                serves=_chain_names(self._chains),
                log=self._dispatcher_log,
            )
        )
        try:
            yield dispatcher
        except _DEATHS:
            raise
        except BaseException:
            self._close(dispatcher)
            raise
        else:
            self._close(dispatcher)
        finally:
            with _logged("what dead worker groups hold was not freed"):
                ray.kill(dispatcher)
                ray_adapter.wait_for_placement_groups(_FREE_SECONDS)

    @contextmanager
    def _writer(self) -> Iterator[ActorName]:
        name = ActorName(WRITER_NAME, self._namespace)
        assert self._settings.tracker is not None
        options = {"num_cpus": 0, "memory": _ACTOR_BYTES, "max_restarts": -1}
        named = {"name": name.name, "namespace": name.namespace}
        writer = ray.remote(Writer).options(**options, **named).remote(self._settings.tracker, self._settings.judge)
        try:
            yield name
        finally:
            try:
                for line in ray.get(writer.close.remote(), timeout=_TRACKER_SECONDS):
                    self._settings.notify(line)
            except Exception:  # of Ray, or of a tracker
                logger.exception("the tracker was not closed")
                points = self._store.study_folder(self._study.name) / POINTS
                self._settings.notify(f"the tracker did not take the last metrics in time; {points} has all of them")
            with _logged("the tracker's process was not ended"):
                ray.kill(writer)


@contextmanager
def _logged(message: str) -> Iterator[None]:
    """Log an exception at a run's end, which must not replace the one that ended the run."""
    try:
        yield
    except Exception:  # Ray's private functions have no list of what they raise
        logger.exception(message)


def _chain_names(chains: Iterable[Chain]) -> dict[str, list[str]]:
    """Return the names of the chains that each stage serves, by the stage's identity."""
    names: dict[str, list[str]] = {}
    for chain in chains:
        for identity in dict.fromkeys(stage.identity for stage in chain.stages):
            names.setdefault(identity, []).append(chain.name)
    return names
