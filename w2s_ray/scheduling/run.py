"""One run of a study on Ray: a dispatcher, crews, and Tune over the chains.

    Tune (a thread)            which chains are under way     ChainTrial ─┐
    the dispatcher (an actor)     which stage next, which crews  ◀───────────┤
    crews (Ray tasks)          run the stages                 ◀───────────┘
    this thread                visits the dispatcher: opens the crews that it asks for, shows its status

The dispatcher is told of the first chains at once, so that its first crew opens while Tune has not even begun. The run
ends in order, whether the work is done, has failed or was interrupted: trials, crews, the tracker, the dispatcher, and
Ray if it is our own.
"""

import logging
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import ray
from ray.exceptions import RayError

from w2s_ray.errors import Interrupted, LeaseHeld, ResourceError, StoreError, first_line
from w2s_ray.planning.fitting import LongestTexts, check_memory
from w2s_ray.planning.nodes import Node
from w2s_ray.planning.resolve import save_study
from w2s_ray.scheduling.candidates import CandidateJudge
from w2s_ray.scheduling.crews import Crews
from w2s_ray.scheduling.dispatcher import Dispatcher, dispatcher_name
from w2s_ray.scheduling.hold import Hold
from w2s_ray.scheduling.messages import Bulletin, CrewRequest
from w2s_ray.scheduling.search import Search
from w2s_ray.scheduling.session import check_room, cluster_nodes, ray_session
from w2s_ray.scheduling.status import StudyStatus, StudyView, Turn
from w2s_ray.scheduling.study import ChainOutcome, RunSettings, StudyOutcome, is_finished
from w2s_ray.scheduling.trials import Trials, Tuning, ended_for_memory
from w2s_ray.scheduling.worker import CrewPlan
from w2s_ray.scheduling.writer import ActorName, Writer
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution, distinct_stages, num_named
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.search import SearchResult
from w2s_ray.spec.study import Study
from w2s_ray.spec.variants import executions
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.run_status import clear_run_status, write_run_status
from w2s_ray.training.memory.usage import usage_text

if TYPE_CHECKING:
    from ray.actor import ActorHandle

logger = logging.getLogger(__name__)

TICK_SECONDS = 0.25
"""Between two visits to the dispatcher."""
_ANSWER_SECONDS = 120.0
"""How long a dispatcher that is being restarted may take."""
_HEAD_START_SECONDS = 20.0
"""How long Tune waits at most for the first crew, so as not to take the CPU from its start."""
_SAID_SECONDS = 2.0
"""Between two words to those who ask for the study's status."""
_ACTOR_BYTES = 200 * 2**20
"""What the dispatcher and the writer take, each."""
_CLOSE_SECONDS = 30.0
"""How long the tracker may take to write its last words."""


class Run:
    """One run; made and gone through once."""

    def __init__(
        self,
        study: Study,
        resolution: Resolution,
        chains: Sequence[Chain] | None,
        before: SearchResult | None,
        store: ArtifactStore,
        view: StudyView,
        interrupt: threading.Event,
        settings: RunSettings,
    ) -> None:
        """Nothing is begun yet.

        Args:
            study: what was asked for.
            resolution: what its names came to.
            chains: what is to be run; None where a search has to choose it first.
            before: what the search came to, where it is through already, but for candidates that failed if `chains` is
                None.
            store: where everything is kept.
            view: shown the status.
            interrupt: set to stop.
            settings: how to go about it.
        """
        self._before = before
        self._study, self._resolution = study, resolution
        self._store, self._view, self._interrupt, self._settings = store, view, interrupt, settings
        self._chains: tuple[Chain, ...] = ()
        self._hold = Hold(study, store)
        self._unfinished: dict[str, PlannedStage] = {}
        self._judge: CandidateJudge | None = None
        if chains is None:
            self._judge = CandidateJudge(study, resolution, store)
            chains = self._judge.listed()
        self._take(chains)
        self._finished: dict[str, Turn] = {}
        self._cold_start_seconds: float | None = None
        self._working_seconds = 0.0
        self._heard_from, self._num_heard = "", 0
        self._tuning: Tuning | None = None
        self._said_at = 0.0
        self._namespace = f"w2s-{uuid.uuid4().hex}"

    def go(self, address: str | None) -> StudyOutcome:
        """Run the study; see `run_study`."""
        try:
            return self._go(address)
        except (RayError, RuntimeError) as error:
            if not ended_for_memory(error):
                raise
            raise ResourceError(
                f"Ray's memory monitor ended a process that the run cannot do without: {first_line(error)}",
                usage_text(),
                "end what else uses the machine's memory, or give the run another one; the same command goes on",
            ) from error

    def _go(self, address: str | None) -> StudyOutcome:
        with self._study_in_hand(), ray_session(address):
            nodes = cluster_nodes()
            check_room(executions(self._study), nodes)
            longest = LongestTexts(self._store, self._resolution)
            check_memory(self._unfinished.values(), self._resolution, nodes, longest)
            with self._writer() as writer, self._dispatcher(nodes, writer) as dispatcher:
                crews = Crews(lambda request: self._plan(request, dispatcher))
                try:
                    found = self._search(dispatcher, crews) if self._judge is not None else self._before
                    chains = self._run_chains(dispatcher, crews)
                finally:
                    self._farewell(dispatcher, crews)
        trained = self._trained()
        to_go = self._unfinished.keys() - set(trained)
        if self._interrupt.is_set() and to_go:
            raise self._interrupted(len(trained), len(to_go))
        return self._outcome(chains, found, trained)

    def _take(self, chains: Iterable[Chain]) -> None:
        """Count what the store lacks of these chains as this run's work."""
        self._chains = tuple(chains)
        stages = distinct_stages(self._chains)
        self._num_stages = len(stages)
        self._num_shared = num_named(self._chains) - self._num_stages
        self._unfinished |= {key: stage for key, stage in stages.items() if not is_finished(stage, self._store)}

    def _trained(self) -> list[str]:
        """Return the stages that this run finished, those of candidates that a sampler drew on the way included."""
        known = [identity for identity, stage in self._unfinished.items() if is_finished(stage, self._store)]
        told = (key for key, turn in self._finished.items() if turn.result and turn.result.attempts_trained)
        return [*known, *(key for key in told if key not in self._unfinished and self._store.find(key) is not None)]

    def _search(self, dispatcher: "ActorHandle[Dispatcher]", crews: Crews) -> SearchResult:
        """Let Tune judge the candidates; take up the chains of the best."""
        assert self._judge is not None
        search = Search(self._judge, self._before, dispatcher, self._settings, self._interrupt)
        self._work(dispatcher, crews, search)
        if self._interrupt.is_set():
            done = sum(is_finished(stage, self._store) for stage in self._unfinished.values())
            raise self._interrupted(done, None)
        ray.get(dispatcher.withdraw_all.remote(), timeout=_ANSWER_SECONDS)
        found = search.found()
        self._take(compile_study(self._study, self._resolution, found))
        return found

    def _run_chains(self, dispatcher: "ActorHandle[Dispatcher]", crews: Crews) -> dict[str, ChainOutcome]:
        """Run the chains that are judged on the test set."""
        if not any(stage.identity in self._unfinished for chain in self._chains for stage in chain.stages):
            return {chain.name: ChainOutcome("done") for chain in self._chains}
        for chain in self._chains[: self._study.max_concurrent]:
            ray.get(dispatcher.submit.remote((chain,), chain.name), timeout=_ANSWER_SECONDS)
        began = time.monotonic()
        while self._visit(dispatcher, crews).is_opening and time.monotonic() - began < _HEAD_START_SECONDS:
            if self._interrupt.wait(TICK_SECONDS):
                break
        trials = Trials(self._study, self._chains, dispatcher, self._store, self._settings)
        self._work(dispatcher, crews, trials)
        return trials.outcomes()

    def _work(self, dispatcher: "ActorHandle[Dispatcher]", crews: Crews, tuning: Tuning) -> None:
        """Keep everything going until Tune is through with its last trial."""
        self._tuning = tuning
        tuning.start()
        while not tuning.wait(TICK_SECONDS):
            self._visit(dispatcher, crews)

    def _interrupted(self, done: int, to_go: int | None) -> Interrupted:
        rest = f"{to_go} to go" if to_go is not None else "the search is not through"
        return Interrupted(
            f"stopped on request: {done} stages done, {rest}",
            "a run that is stopped keeps what is done, and a checkpoint of what was under way",
            "run the same command again to go on",
        )

    def _visit(self, dispatcher: "ActorHandle[Dispatcher]", crews: Crews, closing: bool = False) -> Bulletin:
        """Tell the dispatcher of the crews, and do what it asks for."""
        crews.look_after()
        closing = closing or self._interrupt.is_set()
        told = dispatcher.visit.remote(crews.shapes, crews.ended, closing, self._num_heard)
        bulletin: Bulletin = ray.get(told, timeout=_ANSWER_SECONDS)
        if bulletin.dispatcher != self._heard_from:  # its first word, or its first after a restart
            self._heard_from, self._num_heard = bulletin.dispatcher, 0
            turns: tuple[Turn, ...] = ()
        else:
            turns = bulletin.turns
            self._num_heard += len(turns)
            self._finished |= {turn.stage.identity: turn for turn in turns if turn.result is not None}
        self._working_seconds = max(self._working_seconds, bulletin.working_seconds)
        if self._cold_start_seconds is None:
            self._cold_start_seconds = bulletin.cold_start_seconds
        for request in bulletin.requests:
            (crews.give_up if closing else crews.open)(request)
        self._view.update(self._whole(bulletin.status, turns))
        if time.monotonic() - self._said_at > _SAID_SECONDS:
            self._said_at = time.monotonic()
            self._write_run_status(bulletin.status)
        return bulletin

    def _write_run_status(self, status: StudyStatus) -> None:
        """Tell other processes that the run goes on; on a disk that is full for a while they hear it later."""
        try:
            self._hold.renew()
            write_run_status(status.crews, status.waiting, self._study, self._store)
        except LeaseHeld:
            raise
        except StoreError:
            logger.exception("others are not told that the run goes on")

    def _whole(self, status: StudyStatus, turns: tuple[Turn, ...]) -> StudyStatus:
        """Add the turns, and count the chains too that the dispatcher was not told of, because Tune keeps them back."""
        kept_back = max(0, self._num_stages - status.num_stages)
        return replace(
            status,
            turns=turns,
            num_stages=status.num_stages + kept_back,
            num_waiting=status.num_waiting + kept_back,
            num_shared=self._num_shared,
        )

    def _farewell(self, dispatcher: "ActorHandle[Dispatcher]", crews: Crews) -> None:
        """See the crews off; those that do not leave are ended."""
        deadline = time.monotonic() + self._settings.farewell_seconds
        try:
            self._visit(dispatcher, crews, closing=True)
            while crews.shapes and time.monotonic() < deadline:
                time.sleep(TICK_SECONDS)
                self._visit(dispatcher, crews, closing=True)
        except (RayError, LeaseHeld):
            logger.exception("the crews are not waited for")
        finally:
            crews.end_now()
        clear_run_status(self._study, self._store)
        if self._tuning is not None:
            self._tuning.wait(self._settings.farewell_seconds)

    def _outcome(
        self, chains: dict[str, ChainOutcome], found: SearchResult | None, trained: Sequence[str]
    ) -> StudyOutcome:
        return StudyOutcome(
            chains=chains,
            found=found,
            trained=tuple(trained),
            results={identity: turn.result for identity, turn in self._finished.items() if turn.result is not None},
            seconds_in_hand={identity: turn.seconds for identity, turn in self._finished.items()},
            num_shared=self._num_shared,
            cold_start_seconds=self._cold_start_seconds,
            working_seconds=self._working_seconds,
        )

    def _plan(self, request: CrewRequest, dispatcher: "ActorHandle[Dispatcher]") -> CrewPlan:
        settings = self._settings
        return CrewPlan(
            crew=request.crew,
            shape=request.shape,
            dispatcher=dispatcher,
            store=self._store,
            study=self._study.name,
            runner=settings.runner,
            collective_seconds=settings.collective_seconds,
            recycle_growth=settings.recycle_growth,
            recycle_bytes=settings.recycle_bytes,
        )

    @contextmanager
    def _study_in_hand(self) -> Iterator[None]:
        self._hold.take(self._view, self._interrupt)
        try:
            save_study(self._study, self._resolution, self._store)
            yield
        finally:
            self._hold.release()

    @contextmanager
    def _dispatcher(self, nodes: Sequence[Node], writer: ActorName) -> "Iterator[ActorHandle[Dispatcher]]":
        weights = {name: float(model.num_parameters or 0) for name, model in self._resolution.models.items()}
        options = {"num_cpus": 0, "memory": _ACTOR_BYTES, "max_restarts": -1, "max_task_retries": -1}
        dispatcher = (
            ray.remote(Dispatcher)
            .options(**options, name=dispatcher_name(self._store), namespace=self._namespace)
            .remote(
                store=self._store,
                study=self._study.name,
                owner=self._hold.owner,
                nodes=nodes,
                writer=writer,
                weights=weights if all(weights.values()) else None,
                serves=_serves(self._chains),
                process=self._hold.process,
            )
        )
        try:
            yield dispatcher
        finally:
            ray.kill(dispatcher)

    @contextmanager
    def _writer(self) -> Iterator[ActorName]:
        name = ActorName("w2s-writer", self._namespace)
        assert self._settings.tracker is not None
        options = {"num_cpus": 0, "memory": _ACTOR_BYTES, "max_restarts": -1}
        named = {"name": name.name, "namespace": name.namespace}
        writer = ray.remote(Writer).options(**options, **named).remote(self._settings.tracker, self._settings.judge)
        try:
            yield name
        finally:
            with suppress(RayError):
                for line in ray.get(writer.close.remote(), timeout=_CLOSE_SECONDS):
                    self._settings.say(line)
            ray.kill(writer)


def _serves(chains: Iterable[Chain]) -> dict[str, list[str]]:
    """Return the names of the chains that each stage serves, by its identity."""
    found: dict[str, list[str]] = {}
    for chain in chains:
        for identity in dict.fromkeys(stage.identity for stage in chain.stages):
            found.setdefault(identity, []).append(chain.name)
    return found
