"""The dispatcher, called directly: an actor is only a process around it."""

import asyncio
import json
import multiprocessing
import subprocess
from collections.abc import Coroutine, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tests.scheduling.studies import chains_of, small_study
from tests.scheduling.test_queue import stage_of
from tests.tracking.null_tracker import NullTracker
from w2s_ray.errors import OutOfMemory, StoreError, TrainingError
from w2s_ray.planning.nodes import Node
from w2s_ray.scheduling import askers as askers_module
from w2s_ray.scheduling import dispatcher as dispatcher_module
from w2s_ray.scheduling import ownership
from w2s_ray.scheduling.dispatcher import Dispatcher
from w2s_ray.scheduling.messages import CrewCard, CrewEnd
from w2s_ray.scheduling.queue import Crash, CrashKind, Status
from w2s_ray.scheduling.writer import Writer
from w2s_ray.spec.chain import Chain, PlannedStage
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.lease import LEASE_NAME, Lease, Process, _locked
from w2s_ray.tracking.jsonl import JsonLinesTracker
from w2s_ray.tracking.tracker import chain_run_id, stage_run_id
from w2s_ray.training.progress import StageProgress, StageResult


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatcher_module, "LONG_POLL_SECONDS", 0.5)
    monkeypatch.setattr(dispatcher_module, "HELD_SECONDS", 0.1)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


def dispatcher_of(store: ArtifactStore, cpus: float = 2) -> Dispatcher:
    return Dispatcher(store, "small", "this run", [Node(cpus)])


def one_chain() -> Chain:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    return chain


def commit(store: ArtifactStore, stage: PlannedStage) -> None:
    spec = stage.spec
    if store.find(spec.identity) is None:
        store.begin("stage", spec.slug, spec.identity)
        store.commit(kind="stage", slug=spec.slug, spec=spec, identity=spec.identity, parents=(), metrics={"loss": 0.5})
    for prediction in stage.predicts:
        store.write_predictions(prediction, ["a"], np.array([[0.5, 0.5]]))


async def crew_of(dispatcher: Dispatcher, known: dict[str, Any] | None = None) -> CrewCard:
    """Open the crew that the dispatcher asks for."""
    bulletin = await dispatcher.visit(known or {}, {}, closing=False, num_heard=0)
    (request,) = bulletin.requests
    return CrewCard(request.crew, request.shape, "first start")


async def crew_for(dispatcher: Dispatcher, chain: Chain) -> CrewCard:
    """Ask for a chain, and open the crew that the dispatcher then asks for."""
    await dispatcher.submit((chain,), "trial")
    return await crew_of(dispatcher)


async def stage_for(dispatcher: Dispatcher, card: CrewCard) -> PlannedStage:
    """The stage that the crew is given."""
    order = await dispatcher.next_stage(card)
    assert order.stage is not None
    return order.stage


async def next_stage_for(dispatcher: Dispatcher, card: CrewCard) -> PlannedStage:
    """The stage that the crew is given in the end."""
    order = await dispatcher.next_stage(card)
    while order.stage is None:
        order = await dispatcher.next_stage(card)
    return order.stage


async def waits_for_the_other_run(
    dispatcher: Dispatcher, card: CrewCard, store: ArtifactStore, floor: PlannedStage
) -> None:
    """The floor, which another run has in hand, is passed over until that run has finished it."""
    stage = await next_stage_for(dispatcher, card)
    assert stage.arm == "ceiling"
    commit(store, floor)
    store.release(floor.identity, floor.spec.slug, "another run")
    await finish(dispatcher, card, store, stage)
    assert (await next_stage_for(dispatcher, card)).arm == "chain", "the other run's floor was found"


async def finish(dispatcher: Dispatcher, card: CrewCard, store: ArtifactStore, stage: PlannedStage) -> None:
    commit(store, stage)
    await dispatcher.stage_finished(card, stage.identity, StageResult(stage.identity, False, True), False)


def test_a_chain_is_walked_from_the_floor_to_the_last_student(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        arms = []
        for _ in chain.stages:
            stage = await stage_for(dispatcher, card)
            arms.append(stage.arm)
            await finish(dispatcher, card, store, stage)
        assert arms[0] == "floor"
        assert sorted(arms) == ["ceiling", "chain", "floor"]
        report = await dispatcher.trial_report("trial")
        assert report is not None
        assert (report.status, report.stages_done) == ("done", 3)

    run(work())


def test_what_is_in_the_store_is_not_handed_out(store: ArtifactStore) -> None:
    async def work() -> None:
        chain = one_chain()
        for stage in chain.stages:
            commit(store, stage)
        dispatcher = dispatcher_of(store)
        await dispatcher.submit((chain,), "trial")
        report = await dispatcher.trial_report("trial")
        assert report is not None
        assert report.status == "done"
        assert report.metrics["floor/s/loss"] == 0.5
        bulletin = await dispatcher.visit({}, {}, closing=False, num_heard=0)
        assert bulletin.requests == ()

    run(work())


def test_an_order_stays_until_the_crew_acts_on_it(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher = dispatcher_of(store)
        card = await crew_for(dispatcher, one_chain())
        first, again = await dispatcher.next_stage(card), await dispatcher.next_stage(card)
        assert first.stage is not None
        assert first == again, "an answer that was lost on its way is given again"
        await dispatcher.beat(card, first.stage.identity, [])
        await finish(dispatcher, card, store, first.stage)
        second = await stage_for(dispatcher, card)
        assert second.identity != first.stage.identity

    run(work())


def test_a_withdrawn_stage_is_told_to_stop_and_goes_on_for_another_trial(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        stage = await stage_for(dispatcher, card)
        identity = stage.identity
        assert not await dispatcher.beat(card, identity, [StageProgress(identity, "training", 1, 9)])
        await dispatcher.withdraw("trial")
        assert await dispatcher.beat(card, identity, [])
        await dispatcher.stage_finished(
            card, identity, StageResult(identity, stopped=True, attempts_trained=True), False
        )
        assert (await dispatcher.next_stage(card)).stage is None
        await dispatcher.submit((chain,), "another")
        again = await stage_for(dispatcher, card)
        assert again.identity == identity

    run(work())


def test_when_tune_is_through_whatever_is_under_way_is_told_to_stop(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        await dispatcher.submit((chain,), "trial", "a process that Tune ends without a word")
        card = await crew_of(dispatcher)
        stage = await stage_for(dispatcher, card)
        await dispatcher.withdraw_all()
        assert await dispatcher.beat(card, stage.identity, [])
        assert await dispatcher.trial_report("trial") is None

    run(work())


def test_a_failed_stage_fails_its_chain_alone(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher = dispatcher_of(store)
        naive, half, _ = chains_of(small_study())
        await dispatcher.submit((naive,), "naive")
        await dispatcher.submit((half,), "half")
        card = await crew_of(dispatcher)
        bad = stage_of(half, "chain", "l").identity
        for _ in range(4):
            stage = await stage_for(dispatcher, card)
            if stage.identity == bad:
                error = TrainingError("the loss is nan", "a loss must be finite", "lower the learning rate")
                await dispatcher.stage_finished(card, bad, error, False)
            else:
                await finish(dispatcher, card, store, stage)
        failed, done = await dispatcher.trial_report("half"), await dispatcher.trial_report("naive")
        assert failed is not None
        assert (failed.status, failed.stages_done) == ("failed", 2)
        assert "the loss is nan" in (failed.error or "")
        assert done is not None
        assert done.status == "done"

    run(work())


def test_a_stage_that_kills_three_crews_fails_with_the_cause(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        floor = stage_of(chain, "floor", "s").identity
        for start in range(3):
            card = CrewCard(card.crew, card.shape, f"start {start}")
            stage = await stage_for(dispatcher, card)
            assert stage.identity == floor
            await dispatcher.stage_crashed(floor, Crash(f"rank 1: RuntimeError: out of luck at start {start}"))
            await dispatcher.stage_crashed(floor, Crash("rank 0: RuntimeError: connection closed by peer"))
        stage = await stage_for(dispatcher, CrewCard(card.crew, card.shape, "last start"))
        assert stage.arm == "ceiling", "the study goes on"
        report = await dispatcher.trial_report("trial")
        assert report is not None
        assert "3 crews died" in (report.error or "")
        assert "rank 1: RuntimeError: out of luck at start 2" in (report.error or ""), "what the last death began with"

    run(work())


def test_a_stage_that_gets_further_with_every_crew_that_it_loses_goes_on(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        floor = stage_of(chain, "floor", "s").identity
        for start in range(6):
            card = CrewCard(card.crew, card.shape, f"start {start}")
            assert (await stage_for(dispatcher, card)).identity == floor
            await dispatcher.beat(
                card, floor, [StageProgress(floor, "training", 10 * start + 5, 90, saved_step=10 * start)]
            )
        report = await dispatcher.trial_report("trial")
        assert report is not None and report.error is None

    run(work())


def test_a_dispatchers_leases_live_and_die_with_its_run_and_not_with_its_own_process(store: ArtifactStore) -> None:
    driver = subprocess.Popen(["sleep", "60"])

    async def hand_out() -> None:
        dispatcher = Dispatcher(store, "small", "this run", [Node(2)], process=Process.of(driver.pid))
        await stage_for(dispatcher, await crew_for(dispatcher, one_chain()))

    try:
        dispatcher = multiprocessing.get_context("fork").Process(target=lambda: run(hand_out()))
        dispatcher.start()
        dispatcher.join(30)
        floor = stage_of(one_chain(), "floor", "s")
        with pytest.raises(StoreError, match="this run"):
            store.lease(floor.identity, floor.spec.slug, "another run")
    finally:
        driver.kill()
        driver.wait()
    store.lease(floor.identity, floor.spec.slug, "another run")


class InThisProcess:
    """An actor's handle, without the actor."""

    def __init__(self, actor: object) -> None:
        self._actor = actor

    def __getattr__(self, name: str) -> Any:
        return SimpleNamespace(remote=getattr(self._actor, name))


def test_a_writer_that_was_started_anew_hears_of_the_stages_in_hand(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ownership, "LEASE_SECONDS", 0.1)

    def new_writer() -> Any:
        return InThisProcess(Writer(lambda say: JsonLinesTracker(tmp_path / "points")))

    async def work() -> None:
        dispatcher = dispatcher_of(store)
        dispatcher._writer = new_writer()
        card = await crew_for(dispatcher, one_chain())
        stage = await stage_for(dispatcher, card)
        dispatcher._writer = new_writer()
        await asyncio.sleep(0.5)
        await dispatcher.beat(card, stage.identity, [StageProgress(stage.identity, "training", 5, 9, {"loss": 0.5})])
        await finish(dispatcher, card, store, stage)
        lines = (tmp_path / "points" / f"{stage_run_id(stage.identity)}.jsonl").read_text().splitlines()
        assert [json.loads(line)["kind"] for line in lines] == ["run", "run", "point", "summary"]

    run(work())


def test_a_stage_that_another_run_has_in_hand_is_waited_for(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        floor = stage_of(chain, "floor", "s")
        store.lease(floor.identity, floor.spec.slug, "another run")
        card = await crew_for(dispatcher, chain)
        await waits_for_the_other_run(dispatcher, card, store, floor)

    run(work())


def test_a_stage_that_was_lost_to_another_run_is_waited_for(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        floor = await stage_for(dispatcher, card)
        assert floor.arm == "floor"
        path = store.folder(floor.spec.slug, floor.identity) / LEASE_NAME
        with _locked(path):  # a heartbeat of this run is on its way
            held = Lease.model_validate_json(path.read_bytes())
            path.write_text(held.model_copy(update={"owner": "another run"}).model_dump_json())
        lost = StageResult(floor.identity, stopped=True, attempts_trained=True)
        await dispatcher.stage_finished(card, floor.identity, lost, False)
        await waits_for_the_other_run(dispatcher, card, store, floor)

    run(work())


def test_a_dispatcher_that_was_started_anew_takes_up_where_the_old_one_was(store: ArtifactStore) -> None:
    async def work() -> None:
        old, chain = dispatcher_of(store), one_chain()
        card = await crew_for(old, chain)
        stage = await stage_for(old, card)
        identity = stage.identity

        new = dispatcher_of(store)
        assert await new.trial_report("trial", seen=3) is None, "so the trial submits again"
        await new.submit((chain,), "trial")
        bulletin = await new.visit({card.crew: card.shape}, {}, closing=False, num_heard=5)
        assert bulletin.requests == (), "the crew is there; it has only not spoken yet"
        assert not await new.beat(card, identity, [])
        bulletin = await new.visit({card.crew: card.shape}, {}, closing=False, num_heard=0)
        assert [stage.identity for stage in bulletin.status.running] == [identity]
        await finish(new, card, store, stage)
        following = await stage_for(new, card)
        assert following.identity != identity

    run(work())


def test_a_crew_that_leaves_after_a_stage_is_replaced(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        stage = await stage_for(dispatcher, card)
        commit(store, stage)
        result = StageResult(stage.identity, stopped=False, attempts_trained=True)
        await dispatcher.stage_finished(card, stage.identity, result, leaving=True)
        assert (await dispatcher.next_stage(card)).leave
        bulletin = await dispatcher.visit({card.crew: card.shape}, {}, closing=False, num_heard=0)
        assert bulletin.requests == (), "there is no room before it is gone"
        assert [turn.began for turn in bulletin.turns] == [True, False], "both, though it was over between two visits"
        assert [turn.result for turn in bulletin.turns] == [None, result]
        bulletin = await dispatcher.visit({}, {card.crew: CrewEnd()}, closing=False, num_heard=2)
        assert bulletin.turns == ()
        (request,) = bulletin.requests
        assert request.crew != card.crew

    run(work())


def test_at_the_end_every_crew_is_sent_away(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        stage = await stage_for(dispatcher, card)
        await dispatcher.visit({card.crew: card.shape}, {}, closing=True, num_heard=0)
        identity = stage.identity
        assert await dispatcher.beat(card, identity, []), "the run ends"
        running = await dispatcher.trial_report("trial")
        assert running is not None
        assert not running.ended, "its checkpoint is being written"
        await dispatcher.stage_finished(card, identity, StageResult(identity, True, True), False)
        assert (await dispatcher.next_stage(card)).leave
        report = await dispatcher.trial_report("trial")
        assert report is not None
        assert report.status == "interrupted"

    run(work())


def test_a_crew_whose_word_that_it_is_through_was_lost_gets_its_next_stage(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        first = await stage_for(dispatcher, card)
        assert (await stage_for(dispatcher, card)).identity == first.identity, "it has not begun: its order stands"
        await dispatcher.beat(card, first.identity, [])
        commit(store, first)
        order = await dispatcher.next_stage(card)
        while order.stage is None:
            order = await dispatcher.next_stage(card)
        assert order.stage.identity != first.identity, "what it came to was found in the store"
        report = await dispatcher.trial_report("trial")
        assert report is not None and report.stages_done == 1

    run(work())


def test_a_beat_that_comes_after_the_result_keeps_no_crew_waiting(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        await dispatcher.visit({card.crew: card.shape}, {}, closing=False, num_heard=0)
        first = await stage_for(dispatcher, card)
        dispatcher._visited = False  # a dispatcher that was restarted and hears the crew before the run has visited it
        await finish(dispatcher, card, store, first)
        await dispatcher.beat(card, first.identity, [])
        assert (await dispatcher.next_stage(card)).stage is None
        await dispatcher.visit({card.crew: card.shape}, {}, closing=False, num_heard=0)
        assert (await stage_for(dispatcher, card)).identity != first.identity

    run(work())


def test_a_late_word_about_a_finished_stage_leaves_the_next_order_in_the_box(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        first = await stage_for(dispatcher, card)
        await finish(dispatcher, card, store, first)
        second = await stage_for(dispatcher, card)
        await dispatcher.beat(card, first.identity, [])
        assert (await stage_for(dispatcher, card)).identity == second.identity

    run(work())


def test_a_process_that_leaves_late_takes_no_trial_with_it_that_another_has_taken_up(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        stage = await stage_for(dispatcher, card)
        await dispatcher.submit((chain,), "trial", "the one that took over")
        await dispatcher.submit((chain,), "trial", "the one that was kept idle")
        await dispatcher.withdraw("trial", "the one that was kept idle")
        assert not await dispatcher.beat(card, stage.identity, []), "somebody still wants it"
        await dispatcher.withdraw("trial", "the one that took over")
        assert await dispatcher.beat(card, stage.identity, []), "nobody does"

    run(work())


def test_a_trial_that_leaves_after_another_process_of_it_was_killed_is_forgotten_in_the_end(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(askers_module, "SILENT_SECONDS", 0.3)

    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        stage = await stage_for(dispatcher, card)
        await dispatcher.submit((chain,), "trial", "the one that was killed")
        await dispatcher.submit((chain,), "trial", "the one started for it")
        await dispatcher.withdraw("trial", "the one started for it")
        assert not await dispatcher.beat(card, stage.identity, []), "the other was heard a moment ago"
        await asyncio.sleep(0.5)
        assert await dispatcher.beat(card, stage.identity, []), "and never again"

    run(work())


def test_a_trial_that_is_asked_for_anew_is_not_forgotten_with_its_dead_process(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "SILENT_SECONDS", 0.5)
    monkeypatch.setattr(askers_module, "SILENT_SECONDS", 0.5)

    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        stage = await stage_for(dispatcher, card)
        await dispatcher.submit((chain,), "trial", "the one that was killed")
        await dispatcher.withdraw("trial", "the one started for it")
        for _ in range(8):
            await dispatcher.submit((chain,), "trial", "a third")
            await asyncio.sleep(0.1)
        assert not await dispatcher.beat(card, stage.identity, [])

    run(work())


def test_after_a_restart_a_stage_that_no_trial_asks_for_again_is_stopped(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher_module, "UNKNOWN_SECONDS", 0.2)

    async def work() -> None:
        old, chain = dispatcher_of(store), one_chain()
        card = await crew_for(old, chain)
        stage = await stage_for(old, card)
        new = dispatcher_of(store)
        assert not await new.beat(card, stage.identity, []), "its trial may only be late"
        await new.visit({card.crew: card.shape}, {}, closing=False, num_heard=0)
        await asyncio.sleep(0.3)
        assert await new.beat(card, stage.identity, [])
        await new.submit((chain,), "trial")
        assert not await new.beat(card, stage.identity, []), "somebody wants it after all"

    run(work())


def test_a_worker_of_a_crew_that_has_ended_is_not_listened_to(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        stage = await stage_for(dispatcher, card)
        await dispatcher.beat(card, stage.identity, [])
        bulletin = await dispatcher.visit({}, {card.crew: CrewEnd("killed")}, closing=False, num_heard=0)
        assert [(turn.began, turn.result) for turn in bulletin.turns] == [(True, None), (False, None)]
        assert await dispatcher.beat(card, stage.identity, []), "it is told to stop"
        assert (await dispatcher.next_stage(card)).leave
        assert card.crew not in dispatcher._state.roster.crews

    run(work())


def test_a_store_that_cannot_be_written_fails_the_stage_at_once(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("the store is full", "a stage needs room", "make room")

    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        await dispatcher.next_stage(card)
        report = await dispatcher.trial_report("trial")
        assert report is not None and report.ended and "the store is full" in str(report.error)

    monkeypatch.setattr(ArtifactStore, "lease", full)
    run(work())


class LastWords(NullTracker):
    """Keeps how each run ended."""

    def __init__(self) -> None:
        self.of: dict[str, tuple[dict[str, float], bool]] = {}

    def finish(self, run_id: str, summary: Mapping[str, float], *, ended_well: bool) -> None:
        self.of[run_id] = (dict(summary), ended_well)


@pytest.fixture
def last_words(monkeypatch: pytest.MonkeyPatch) -> LastWords:
    """What a tracker is told at the end of runs; the writer in front of it takes calls as its actor does."""
    kept = LastWords()
    writer = Writer(lambda say: kept)
    names = ("begin", "log", "finish", "finish_chain")
    actor = SimpleNamespace(**{name: SimpleNamespace(remote=getattr(writer, name)) for name in names})
    monkeypatch.setattr(dispatcher_module, "find_writer", lambda name: actor)
    return kept


def test_only_what_came_to_its_end_is_tracked_as_finished(store: ArtifactStore, last_words: LastWords) -> None:
    async def work() -> None:
        dispatcher = dispatcher_of(store)
        naive, half, _ = chains_of(small_study())
        await dispatcher.submit((naive, half), "both")
        card = await crew_of(dispatcher)
        bad = stage_of(half, "chain", "l").identity
        for number in range(5):
            stage = await stage_for(dispatcher, card)
            if number == 0:  # Tune, or Ctrl-C, stops it on its way
                await dispatcher.withdraw("both")
                result = StageResult(stage.identity, stopped=True, attempts_trained=True, metrics={"agreement": 0.5})
                await dispatcher.stage_finished(card, stage.identity, result, False)
                assert last_words.of[stage_run_id(stage.identity)] == ({}, False)
                await dispatcher.submit((naive, half), "both")
            elif stage.identity == bad:
                error = TrainingError("the loss is nan", "a loss must be finite", "lower the learning rate")
                await dispatcher.stage_finished(card, bad, error, False)
                assert last_words.of[stage_run_id(bad)] == ({"failed": 1.0}, False)
            else:
                await finish(dispatcher, card, store, stage)
                assert last_words.of[stage_run_id(stage.identity)] == ({}, True)
        assert last_words.of[chain_run_id(naive)][1]
        assert not last_words.of[chain_run_id(half)][1]

    run(work())


def test_a_chain_that_is_interrupted_is_not_tracked_as_finished(store: ArtifactStore, last_words: LastWords) -> None:
    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        stage = await stage_for(dispatcher, card)
        await dispatcher.visit({card.crew: card.shape}, {}, closing=True, num_heard=0)
        await dispatcher.stage_finished(card, stage.identity, StageResult(stage.identity, True, True), False)
        report = await dispatcher.trial_report("trial")
        assert report is not None and report.status == "interrupted"
        assert last_words.of == {stage_run_id(stage.identity): ({}, False)}

    run(work())


def test_a_stage_that_ran_out_of_memory_is_handed_out_again_as_often_as_it_may_shrink(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        for _ in range(5):
            stage = await stage_for(dispatcher, card)
            await dispatcher.beat(card, stage.identity, ())
            outcome = OutOfMemory("too much", "it has less", "it goes on with smaller ones")
            await dispatcher.stage_finished(card, stage.identity, outcome, False)
        again = await stage_for(dispatcher, card)
        assert again.identity == stage.identity
        assert dispatcher._state.queue.entries[stage.identity].error is None

    run(work())


def test_a_crew_whose_rank_ran_out_of_memory_costs_its_stage_no_attempt(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        floor = (await stage_for(dispatcher, card)).identity
        for start in range(5):
            await dispatcher.beat(card, floor, ())
            await dispatcher.stage_crashed(floor, Crash("rank 1: out of memory", CrashKind.SMALLER))
            card = CrewCard(card.crew, card.shape, f"start {start}")
            assert (await stage_for(dispatcher, card)).identity == floor
        assert dispatcher._state.queue.entries[floor].num_deaths == 0

    run(work())


def test_a_stage_whose_machine_was_short_of_memory_three_times_fails_and_says_so(store: ArtifactStore) -> None:
    async def work() -> None:
        dispatcher, chain = dispatcher_of(store), one_chain()
        card = await crew_for(dispatcher, chain)
        for start in range(3):
            floor = (await stage_for(dispatcher, card)).identity
            await dispatcher.beat(card, floor, ())
            await dispatcher.stage_crashed(floor, Crash("rank 0: the machine ran short of memory", CrashKind.MEMORY))
            card = CrewCard(card.crew, card.shape, f"start {start}")
            await dispatcher.next_stage(card)
        entry = dispatcher._state.queue.entries[floor]
        assert entry.status is Status.FAILED
        assert entry.error is not None and "short of memory" in entry.error.value and "memory" in entry.error.remedy

    run(work())
