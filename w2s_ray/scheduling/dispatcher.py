"""The dispatcher: one asynchronous actor that holds the queue, hands out stages and carries out the policy's decisions.

It holds no truth of its own. What is done stands in the store; what is wanted the trials say, again whenever they are
not known; which crews there are the run says at each visit, and the crews themselves with every word. So it may die at
any moment: Ray starts it anew and within seconds it knows all that matters. Until the run has visited it once and every
crew that it was told of has spoken, nothing is decided.

Every method is idempotent, because Ray repeats the calls that were under way when the dispatcher died.
"""

import asyncio
import hashlib
import logging
import time
import uuid
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import Any

from w2s_ray.errors import LeaseHeld, OutOfMemory, W2SError
from w2s_ray.planning.nodes import Node
from w2s_ray.scheduling.askers import SILENT_SECONDS, Askers
from w2s_ray.scheduling.clock import Clock
from w2s_ray.scheduling.mail import Mail
from w2s_ray.scheduling.messages import LEAVE, Bulletin, CrewCard, CrewEnd, CrewRequest, Order, TrialReport
from w2s_ray.scheduling.ownership import Ownership
from w2s_ray.scheduling.policy import Assign, Decision, OpenCrew, RetireCrew, State, StopStage, decide
from w2s_ray.scheduling.queue import Crash, Entry, Queue, Status, work_of
from w2s_ray.scheduling.roster import CrewStatus, Roster
from w2s_ray.scheduling.snapshot import chain_metrics, study_status, trial_report
from w2s_ray.scheduling.status import Turn
from w2s_ray.scheduling.writer import ActorName, find_writer
from w2s_ray.spec.chain import Chain, PlannedStage, distinct_stages
from w2s_ray.spec.stage import GroupShape
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.lease import Process
from w2s_ray.tracking.tracker import chain_run, stage_run, stage_run_id
from w2s_ray.training.progress import StageProgress, StageResult

logger = logging.getLogger(__name__)

LONG_POLL_SECONDS = 5.0
"""How long a crew or a trial is kept waiting for news before it hears that there are none."""
HELD_SECONDS = 3.0
"""Between two looks at a stage that another run has in hand."""
UNKNOWN_SECONDS = 30.0
"""How long a crew may run a stage that nobody asks for: after a restart trials ask again, if they are still there."""


def dispatcher_name(store: ArtifactStore) -> str:
    """Return the name of a store's dispatcher."""
    return f"w2s-dispatcher-{hashlib.sha256(str(store.root).encode()).hexdigest()[:12]}"


class Dispatcher:
    """See the module; one per store and run."""

    def __init__(
        self,
        store: ArtifactStore,
        study: str,
        owner: str,
        nodes: Sequence[Node],
        writer: ActorName | None = None,
        weights: Mapping[str, float] | None = None,
        serves: Mapping[str, Sequence[str]] | None = None,
        process: Process | None = None,
    ) -> None:
        """Begin with nothing; Ray repeats this with the same arguments when it starts the dispatcher anew.

        Args:
            store: where everything is kept.
            study: the study's name.
            owner: names the run in leases.
            nodes: what the cluster has.
            writer: the actor that owns the tracker.
            weights: the levels' parameters by name, which make costs comparable.
            serves: the names of the chains that a stage serves, by its identity, those that Tune holds back included.
            process: the run's own, with which its leases end; the dispatcher's may be killed while its crews work on.
        """
        self._serves = serves or {}
        self._id = uuid.uuid4().hex
        self._study, self._writer = study, find_writer(writer)
        self._state = State(Queue(_cost_by(weights or {})), Roster(tuple(nodes)))
        self._store = Ownership(store, owner, process)
        self._mail = Mail()
        self._chains: dict[str, tuple[Chain, ...]] = {}
        """By trial."""
        self._askers = Askers()
        self._reports: dict[str, TrialReport] = {}
        self._points: dict[str, StageProgress] = {}
        self._judged: dict[str, tuple[StageProgress, ...]] = {}
        self._turns: list[Turn] = []
        self._clock = Clock()
        self._crashes: dict[str, Crash] = {}
        """What the first rank to say so died of, by the stage that was handed out last."""
        self._unknown: dict[str, float] = {}
        """Since when crews have been heard to run a stage that nobody has asked for, by its identity."""
        self._ended: set[str] = set()
        """Crews that the run has seen the end of: a worker of theirs that is still about is not listened to."""
        self._visited = False
        self._background: set[asyncio.Task[None]] = set()

    # What trials say.

    async def submit(self, chains: Sequence[Chain], trial: str, asker: str | None = None) -> None:
        """Ask for every stage of `chains` on behalf of `trial`; what it asked for before is forgotten.

        `asker` names the process that asks; see `Askers`.
        """
        self._askers.heard(trial, asker)
        if self._chains.get(trial) == tuple(chains):
            return
        stages = tuple(distinct_stages(chains).values())
        found: frozenset[str] | W2SError
        try:
            found = await self._store.look_up(stages)
        except W2SError as error:
            found = error
        if self._chains.get(trial) == tuple(chains):
            return
        self._forget(trial)
        self._chains[trial] = tuple(chains)
        self._state.submitted(trial, stages, found)
        if self._writer is not None:
            for chain in chains:
                self._writer.begin.remote(chain_run(chain))
        self._carry_out()

    async def withdraw(self, trial: str, asker: str | None = None) -> None:
        """Forget what `trial` asked for, unless another process than `asker` was heard asking for it of late."""
        if not self._askers.left(trial, asker):
            self._in_background(self._look_for_askers(trial))
        elif self._forget(trial):
            self._carry_out()

    async def withdraw_all(self) -> None:
        """Forget what every trial asked for: Tune is through, and ends those that wait for a report without a word."""
        for trial in tuple(self._chains):
            self._forget(trial)
        self._carry_out()

    async def trial_report(self, trial: str, seen: int = -1, asker: str | None = None) -> TrialReport | None:
        """Return how the trial's chains stand, as soon as that is news; None where the trial is not known."""
        self._askers.heard(trial, asker)
        if trial in self._reports and self._reports[trial].version == seen:
            await self._mail.wait(trial, LONG_POLL_SECONDS)
        return self._reports.get(trial)

    # What crews say.

    async def next_stage(self, card: CrewCard) -> Order:
        """Return the crew's next order, as soon as there is one."""
        if card.crew in self._ended:
            return LEAVE
        self._hear(card, None)
        if self._state.closing:
            self._dismiss(card.crew)
        if self._mail.is_empty(card.crew):
            await self._mail.wait(card.crew, LONG_POLL_SECONDS)
        return self._mail.read(card.crew)

    async def beat(self, card: CrewCard, identity: str, points: Sequence[StageProgress]) -> bool:
        """A crew at work passes on its points; say whether it should stop."""
        if card.crew in self._ended:
            return True
        self._hear(card, identity)
        self._mail.clear(card.crew, identity)
        self._points |= {point.identity: point for point in points}
        for point in points:
            self._state.queue.saved(point.identity, point.saved_step)
        self._take_judged(point for point in points if point.report)
        self._clock.heard(points)
        if self._writer is not None and points:
            self._writer.log.remote(list(points))
        entry = self._state.queue.entries.get(identity)
        if entry is None:
            since = self._unknown.setdefault(identity, time.monotonic())
            return self._state.closing or time.monotonic() - since > UNKNOWN_SECONDS
        self._unknown.pop(identity, None)
        return self._state.closing or entry.stopping

    async def stage_finished(
        self, card: CrewCard, identity: str, outcome: StageResult | W2SError, leaving: bool
    ) -> None:
        """A crew is through with a stage, one way or the other; `leaving` where it ends after it."""
        if card.crew in self._ended:
            return
        self._hear(card, identity)
        if self._state.roster.crews[card.crew].identity != identity:
            return  # said twice: the crew has gone on to another stage
        self._mail.clear(card.crew, identity)
        self._clock.result_came()
        if isinstance(outcome, StageResult):
            self._store.metrics[identity] = dict(outcome.metrics)
        self._over(identity, outcome if isinstance(outcome, StageResult) else None)
        if isinstance(outcome, OutOfMemory):
            logger.warning("%s", outcome)
        error = outcome if isinstance(outcome, W2SError) and not _stopped(outcome) else None
        self._state.ended(card.crew, identity, error, _stopped(outcome))
        if leaving:
            self._dismiss(card.crew)
        self._points.pop(identity, None)
        if self._writer is not None:
            summary, ended_well = _last_words(outcome)
            self._writer.finish.remote(stage_run_id(identity), summary, ended_well=ended_well)
        self._carry_out()
        self._release(identity)  # unless it was handed out again just now

    async def stage_crashed(self, identity: str, crash: Crash) -> None:
        """One rank is about to die of an error of its own: the cause of its crew's death, unless another was first."""
        self._crashes.setdefault(identity, crash)
        self._state.roster.began(identity)

    # What the run says.

    async def visit(
        self, crews: Mapping[str, GroupShape], ended: Mapping[str, CrewEnd], closing: bool, num_heard: int
    ) -> Bulletin:
        """The run tells which crews it has, which ended (and how) and whether it ends; it hears the news."""
        for crew, shape in crews.items():
            self._state.roster.told_of(crew, shape)
        for crew, end in ended.items():
            self._ended.add(crew)
            self._state.crew_ended(crew, self._crash(crew, end.error), end.found_room)
        if closing and not self._state.closing:
            self._state.closing = True
            self._state.queue.all_changed()
            for crew, known in self._state.roster.crews.items():
                if known.identity is None and known.status is not CrewStatus.OPENING:
                    self._dismiss(crew)
        self._visited = True
        self._carry_out()
        crews_ = self._state.roster.crews.values()
        opening = [crew for crew in crews_ if crew.status is CrewStatus.OPENING]
        return Bulletin(
            dispatcher=self._id,
            status=study_status(self._state, self._points),
            requests=tuple(CrewRequest(crew.id, crew.shape) for crew in opening),
            turns=tuple(self._turns[num_heard:]),
            is_opening=bool(opening) and len(opening) == len(crews_),
            cold_start_seconds=self._clock.cold_start_seconds,
            working_seconds=self._clock.working_seconds,
        )

    # Within.

    def _hear(self, card: CrewCard, identity: str | None) -> None:
        """A crew speaks: perhaps for the first time, perhaps after its workers died."""
        known = self._state.roster.crews.get(card.crew)
        if known is not None and known.incarnation == card.incarnation:
            if identity is None and known.identity is not None and known.begun:
                self._ask_again_for(known.identity, card.crew)
            if identity is None or (identity == known.identity and known.begun):
                return  # nothing else that was not known
        if known is not None and known.incarnation not in (None, card.incarnation):
            self._mail.forget(card.crew)
        self._state.crew_spoke(card.crew, card.shape, card.incarnation, identity, self._crash(card.crew, None))
        if identity is not None:
            self._keep_leases()  # a dispatcher that was started anew did not hand this stage out itself
        self._carry_out()

    def _ask_again_for(self, identity: str, crew: str) -> None:
        """A crew asks for work though it had begun a stage: its word that it is through is lost; the store knows."""
        self._state.taken_back(crew, identity)
        self._over(identity)
        self._carry_out()
        self._release(identity)  # unless it was handed out again just now

    def _crash(self, crew: str, error: str | None) -> Crash:
        known = self._state.roster.crews.get(crew)
        crash = self._crashes.get(known.identity) if known is not None and known.identity is not None else None
        return crash or Crash(error or "its worker processes were ended from outside, without a word")

    def _carry_out(self) -> None:
        """Do what the policy decides, and tell those whom it concerns."""
        for decision in decide(self._state) if self._visited else ():
            logger.info("%s", decision)
            self._do(decision)
        for identity in self._state.take_lost():
            self._over(identity)
            self._release(identity)
        self._tell_trials()

    def _do(self, decision: Decision) -> None:
        match decision:
            case Assign(crew=crew, identity=identity):
                self._crashes.pop(identity, None)
                self._state.started(crew, identity)
                self._clock.handed_out(identity)
                self._in_background(self._hand_out(crew, identity))
            case OpenCrew(shape=shape):
                self._clock.crew_asked_for()
                self._state.roster.opening(f"crew-{uuid.uuid4().hex[:8]}", shape)
            case RetireCrew(crew=crew):
                self._dismiss(crew)
            case StopStage(identity=identity):
                self._state.queue.stop_asked(identity)

    async def _hand_out(self, crew: str, identity: str) -> None:
        """Take a stage's lease and put it into the crew's hands, unless another run has it in hand or has done it."""
        entry = self._state.queue.entries[identity]
        try:
            found = await self._store.take(entry.stage)
        except LeaseHeld as error:
            self._state.taken_back(crew, identity)
            self._state.queue.hold(identity, error.value)
            self._in_background(self._look_again(identity))
            self._carry_out()
            return
        except W2SError as error:
            self._state.ended(crew, identity, error, stopped=False)
            self._carry_out()
            return
        if identity in found and entry.handed <= found:
            self._state.ended(crew, identity, error=None, stopped=False)
            self._release(identity)
        elif self._state.has_in_hand(crew, identity):
            self._keep_leases()
            if self._writer is not None:
                self._writer.begin.remote(stage_run(self._study, entry.stage, self._chains_of(entry)))
            self._mail.post(crew, Order(stage=entry.stage))
            self._turns.append(Turn(entry.stage, began=True))
        self._carry_out()

    def _chains_of(self, entry: Entry) -> Sequence[str]:
        """The names of the chains that a stage serves; of winners, only the trials know."""
        named = self._serves.get(entry.stage.identity)
        asking = (chain for trial in entry.wanted_by for chain in self._chains.get(trial, ()))
        identity = entry.stage.identity
        return named or [chain.name for chain in asking if any(one.identity == identity for one in chain.stages)]

    def _over(self, identity: str, result: StageResult | None = None) -> None:
        """A stage is no longer in a crew's hands."""
        entry = self._state.queue.entries.get(identity)
        if entry is not None:
            self._turns.append(Turn(entry.stage, False, result, self._clock.seconds_in_hand(identity)))

    async def _look_again(self, identity: str) -> None:
        """After a while, see what has become of a stage that another run has in hand, and let it run again."""
        await asyncio.sleep(HELD_SECONDS)
        entry = self._state.queue.entries[identity]
        try:
            found = await self._store.look_up((entry.stage,))
        except W2SError as error:
            self._state.queue.failed(identity, error)
        else:
            self._state.queue.hold(identity, None)
            if identity in found and entry.products <= found:
                self._state.queue.found(identity)
        self._carry_out()

    async def _look_for_askers(self, trial: str) -> None:
        """A process left while another of its trial seemed to be there: forget the trial if that one was dead."""
        await asyncio.sleep(SILENT_SECONDS)
        if self._askers.left(trial, None) and self._forget(trial):
            self._carry_out()

    def _keep_leases(self) -> None:
        if not any(task.get_name() == "leases" for task in self._background):
            self._in_background(self._store.renew_for_ever(self._kept_in_hand), "leases")

    def _kept_in_hand(self) -> Iterator[PlannedStage]:
        """The stages in hand; the writer, which knows of no run once it was started anew, hears of each again."""
        for stage in self._in_hand():
            if self._writer is not None:
                chains = self._chains_of(self._state.queue.entries[stage.identity])
                self._writer.begin.remote(stage_run(self._study, stage, chains))
            yield stage

    def _in_hand(self) -> Iterator[PlannedStage]:
        entries = self._state.queue.entries
        return (entries[one.identity].stage for one in self._state.roster.crews.values() if one.identity in entries)

    def _release(self, identity: str) -> None:
        entry = self._state.queue.entries.get(identity)
        if entry is not None and not any(stage.identity == identity for stage in self._in_hand()):
            self._in_background(self._store.release(entry.stage))

    def _dismiss(self, crew: str) -> None:
        self._state.roster.leaving(crew)
        self._mail.post(crew, LEAVE)

    def _tell_trials(self) -> None:
        """Wake each trial whose chain stands differently from before."""
        for trial in self._state.queue.take_changed():
            chains = self._chains.get(trial)
            if chains is None:
                continue
            known = self._reports.get(trial)
            version = known.version + 1 if known is not None else 0
            report = trial_report(self._state, chains, trial, version, self._store.metrics, self._judged)
            self._reports[trial] = report
            self._mail.ring(trial)
            over = report.status in ("done", "failed")  # an interrupted chain goes on in its own run another time
            if over and self._writer is not None and (known is None or not known.ended):
                entries = self._state.queue.entries
                for chain in chains:
                    ended_well = all(entries[stage.identity].status is Status.DONE for stage in chain.stages)
                    metrics = chain_metrics(chain, self._store.metrics)
                    self._writer.finish_chain.remote(chain, metrics, ended_well=ended_well)

    def _forget(self, trial: str) -> bool:
        """Forget what a trial asked for; say whether it had asked for anything."""
        if self._chains.pop(trial, None) is None:
            return False
        self._reports.pop(trial, None)
        self._state.queue.withdrawn(trial)
        return True

    def _take_judged(self, points: Iterable[StageProgress]) -> None:
        """Keep the reports that schedulers compare, each once; a stage that fell back to a checkpoint repeats some."""
        for point in points:
            before = self._judged.get(point.identity, ())
            kept = (*(one for one in before if one.report < point.report), point)
            self._judged[point.identity] = kept
            self._state.queue.changed(point.identity)
        self._tell_trials()

    def _in_background(self, work: Coroutine[Any, Any, None], name: str | None = None) -> None:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._background.add(task)
        task.add_done_callback(self._background.discard)


def _stopped(outcome: StageResult | W2SError) -> bool:
    """Whether the stage continues from its checkpoint later."""
    return outcome.stopped if isinstance(outcome, StageResult) else isinstance(outcome, OutOfMemory)


def _last_words(outcome: StageResult | W2SError) -> tuple[dict[str, float], bool]:
    """Return what a stage's run ends with, and whether it ended well; one that was stopped may go on in it."""
    if _stopped(outcome):
        return {}, False
    return (dict(outcome.metrics), True) if isinstance(outcome, StageResult) else ({"failed": 1.0}, False)


def _cost_by(weights: Mapping[str, float]) -> Callable[[PlannedStage], float]:
    return lambda stage: work_of(stage) * weights.get(stage.level, 1.0)
