"""The dispatcher, called directly (an actor is only a process around it), with a launcher that starts nothing."""

import asyncio
import functools
import json
import multiprocessing
import subprocess
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ParamSpec

import numpy as np
import pytest

from tests.scheduling.studies import chains_of, small_study, stage_of
from tests.tracking.null_tracker import NullTracker
from w2s_ray.errors import OutOfMemory, StoreError, TrainingError
from w2s_ray.planning.nodes import Node
from w2s_ray.scheduling.core.queue import Crash, CrashKind, StageState
from w2s_ray.scheduling.core.scheduler import GroupEnded
from w2s_ray.scheduling.dispatcher import dispatcher as module
from w2s_ray.scheduling.dispatcher.dispatcher import Dispatcher
from w2s_ray.scheduling.dispatcher.leases import StageLeases
from w2s_ray.scheduling.dispatcher.reports import LEAVE
from w2s_ray.scheduling.dispatcher.writer import Writer
from w2s_ray.scheduling.status import EventKind
from w2s_ray.spec.chain import Chain, PlannedStage
from w2s_ray.spec.execution import GroupShape
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.lease import LEASE_NAME, Lease, Process, _locked
from w2s_ray.tracking.jsonl import JsonLinesTracker
from w2s_ray.tracking.tracker import chain_run_id, stage_run_id
from w2s_ray.training.progress import Activity, StageProgress, StageResult

P = ParamSpec("P")


def in_event_loop(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Run an asynchronous test, for at most 20 s."""

    @functools.wraps(test)
    def run(*args: P.args, **named: P.kwargs) -> None:
        asyncio.run(asyncio.wait_for(test(*args, **named), 20))

    return run


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LONG_POLL_SECONDS", 0.5)
    monkeypatch.setattr(module, "BLOCKED_SECONDS", 0.1)
    monkeypatch.setattr(module, "_TEND_SECONDS", 0.05)


class Groups:
    """A launcher whose groups exist until the test ends them."""

    def __init__(self) -> None:
        self.alive: dict[str, asyncio.Future[GroupEnded]] = {}
        self.num_opened = 0

    async def run(self, group: str, shape: GroupShape, running: object) -> GroupEnded:
        self.num_opened += 1
        self.alive[group] = asyncio.get_running_loop().create_future()
        return await self.alive[group]

    def cancel(self, group: str) -> None:
        if group in self.alive:
            self.end(group, "cancelled")

    async def remove_orphans(self) -> None:
        """There are none."""

    def end(self, group: str, cause: str = "") -> None:
        self.alive.pop(group).set_result(GroupEnded(group, cause))

    async def newest(self) -> str:
        """The group that was opened last."""
        await asyncio.sleep(0)
        return list(self.alive)[-1]


class Setting:
    """A dispatcher of two CPUs, its groups and its store."""

    def __init__(self, store: ArtifactStore, process: Process | None = None) -> None:
        self.store, self.groups = store, Groups()
        leases = StageLeases(store, "this run", process)
        self.dispatcher = Dispatcher(study="small", nodes=[Node(2)], leases=leases, launcher=self.groups)

    async def group_for(self, *chains: Chain, asker: str | None = None) -> str:
        """Request the chains as one trial; return the group that is opened for them."""
        await self.dispatcher.request("trial", chains, asker)
        return await self.groups.newest()

    async def stage_for(self, group: str) -> PlannedStage:
        """The next stage that the group is ordered to run."""
        while (order := await self.dispatcher.next_order(group)).stage is None:
            assert not order.leave
        return order.stage

    async def finish(self, group: str, stage: PlannedStage) -> None:
        commit(self.store, stage)
        await self.dispatcher.return_stage(group, stage.identity, StageResult(stage.identity, False, True), False)

    async def replace(self, group: str, cause: str = "") -> str:
        """End a group, and return the one that is opened in its place."""
        num_opened = self.groups.num_opened
        self.groups.end(group, cause)
        while self.groups.num_opened == num_opened:
            await asyncio.sleep(0.01)
        return await self.groups.newest()


@pytest.fixture
def setting(store: ArtifactStore) -> Setting:
    return Setting(store)


@pytest.fixture
def chain() -> Chain:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    return chain


def commit(store: ArtifactStore, stage: PlannedStage) -> None:
    spec = stage.spec
    if store.find(spec.identity) is None:
        store.begin("stage", spec.slug, spec.identity)
        store.commit(kind="stage", slug=spec.slug, spec=spec, identity=spec.identity, parents=(), metrics={"loss": 0.5})
    for prediction in stage.predicts:
        store.write_predictions(prediction, ["a"], np.array([[0.5, 0.5]]))


@in_event_loop
async def test_a_chain_runs_from_the_floor_to_its_last_student(setting: Setting, chain: Chain) -> None:
    group = await setting.group_for(chain)
    arms = []
    for _ in chain.stages:
        stage = await setting.stage_for(group)
        arms.append(stage.arm)
        await setting.finish(group, stage)
    assert arms[0] == "floor" and sorted(arms) == ["ceiling", "chain", "floor"]
    report = await setting.dispatcher.trial_report("trial")
    assert report is not None
    assert (report.status, report.stages_done) == ("done", 3)
    events = [event.kind for event in (await setting.dispatcher.poll()).events]
    assert events == [EventKind.ASSIGNED, EventKind.ENDED] * 3


@in_event_loop
async def test_stored_stages_are_not_assigned(setting: Setting, chain: Chain) -> None:
    for stage in chain.stages:
        commit(setting.store, stage)
    await setting.dispatcher.request("trial", (chain,))
    report = await setting.dispatcher.trial_report("trial")
    assert report is not None
    assert report.status == "done" and report.metrics["floor/s/loss"] == 0.5
    assert setting.groups.num_opened == 0


@in_event_loop
async def test_a_withdrawn_stage_stops_and_continues_for_another_trial(setting: Setting, chain: Chain) -> None:
    group = await setting.group_for(chain)
    identity = (await setting.stage_for(group)).identity
    progress = StageProgress(identity=identity, activity="training", step=1, num_steps=9)
    assert not await setting.dispatcher.progress(group, identity, [progress])
    await setting.dispatcher.withdraw("trial")
    assert await setting.dispatcher.progress(group, identity, [])
    stopped = StageResult(identity, stopped=True, attempts_trained=True)
    await setting.dispatcher.return_stage(group, identity, stopped, False)
    assert (await setting.dispatcher.next_order(group)).stage is None
    await setting.dispatcher.request("another", (chain,))
    assert (await setting.stage_for(group)).identity == identity


@in_event_loop
async def test_withdrawing_all_requests_stops_what_runs(setting: Setting, chain: Chain) -> None:
    group = await setting.group_for(chain, asker="a process that Tune kills")
    stage = await setting.stage_for(group)
    await setting.dispatcher.withdraw_all()
    assert await setting.dispatcher.progress(group, stage.identity, [])
    assert await setting.dispatcher.trial_report("trial") is None


@in_event_loop
async def test_a_failed_stage_fails_its_own_chain_only(setting: Setting) -> None:
    naive, half, _ = chains_of(small_study())
    await setting.dispatcher.request("naive", (naive,))
    await setting.dispatcher.request("half", (half,))
    group = await setting.groups.newest()
    bad = stage_of(half, "chain", "l").identity
    for _ in range(4):
        stage = await setting.stage_for(group)
        if stage.identity == bad:
            await setting.dispatcher.return_stage(group, bad, TrainingError("the loss is nan"), False)
        else:
            await setting.finish(group, stage)
    failed, done = await setting.dispatcher.trial_report("half"), await setting.dispatcher.trial_report("naive")
    assert failed is not None and done is not None
    assert (failed.status, failed.stages_done) == ("failed", 2)
    assert "the loss is nan" in (failed.error or "")
    assert done.status == "done"


@in_event_loop
async def test_a_stage_that_kills_three_groups_fails_with_the_cause(setting: Setting, chain: Chain) -> None:
    group = await setting.group_for(chain)
    for attempt in range(3):
        stage = await setting.stage_for(group)
        assert stage.arm == "floor"
        await setting.dispatcher.crashed(stage.identity, Crash(f"rank 1: nan at attempt {attempt}"))
        await setting.dispatcher.crashed(stage.identity, Crash("rank 0: connection closed by peer"))
        group = await setting.replace(group)
    assert (await setting.stage_for(group)).arm == "ceiling", "the study goes on"
    report = await setting.dispatcher.trial_report("trial")
    assert report is not None and "rank 1: nan at attempt 2" in (report.error or "")
    failures = (await setting.dispatcher.poll()).failures
    assert failures.keys() == {stage_of(chain, "floor", "s").identity}, "not the stages that learn from it"


@in_event_loop
@pytest.mark.parametrize(
    ("activity", "shown"),
    [
        ("loading", "loading"),
        ("training", "training, step 5 of 9"),
        ("saving", "saving"),
        ("predicting", "predicting"),
    ],
)
async def test_the_cause_of_a_killed_process_has_the_phase_of_its_stage(
    setting: Setting, chain: Chain, activity: Activity, shown: str
) -> None:
    group = await setting.group_for(chain)
    for _ in range(3):
        stage = await setting.stage_for(group)
        progress = StageProgress(identity=stage.identity, activity=activity, step=5, num_steps=9)
        await setting.dispatcher.progress(group, stage.identity, [progress])
        group = await setting.replace(group, "the process of rank 1 was killed")
    report = await setting.dispatcher.trial_report("trial")
    assert report is not None and report.error is not None
    assert f"the process of rank 1 was killed; the stage's last report: {shown}" in report.error


@in_event_loop
async def test_a_stage_that_reaches_a_later_checkpoint_may_lose_any_number_of_groups(
    setting: Setting, chain: Chain
) -> None:
    group = await setting.group_for(chain)
    for attempt in range(6):
        stage = await setting.stage_for(group)
        assert stage.arm == "floor"
        saved = StageProgress(
            identity=stage.identity, activity="training", step=10 * attempt + 5, num_steps=90, saved_step=10 * attempt
        )
        await setting.dispatcher.progress(group, stage.identity, [saved])
        group = await setting.replace(group)
    report = await setting.dispatcher.trial_report("trial")
    assert report is not None and report.error is None


def test_stage_leases_end_with_the_run_and_not_with_the_dispatcher(store: ArtifactStore, chain: Chain) -> None:
    driver = subprocess.Popen(["sleep", "60"])

    @in_event_loop
    async def assign() -> None:
        setting = Setting(store, Process.of(driver.pid))
        await setting.stage_for(await setting.group_for(chain))

    floor = stage_of(chain, "floor", "s")
    try:
        dispatcher = multiprocessing.get_context("fork").Process(target=assign)
        dispatcher.start()
        dispatcher.join(30)
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


@in_event_loop
async def test_a_restarted_writer_learns_which_stages_run(
    setting: Setting, chain: Chain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.1)

    def new_writer() -> Any:
        return InThisProcess(Writer(lambda notify: JsonLinesTracker(tmp_path / "runs")))

    setting.dispatcher._writer = new_writer()
    group = await setting.group_for(chain)
    stage = await setting.stage_for(group)
    setting.dispatcher._writer = new_writer()
    await asyncio.sleep(0.5)
    progress = StageProgress(identity=stage.identity, activity="training", step=5, num_steps=9, values={"loss": 0.5})
    await setting.dispatcher.progress(group, stage.identity, [progress])
    await setting.finish(group, stage)
    lines = (tmp_path / "runs" / f"{stage_run_id(stage.identity)}.jsonl").read_text().splitlines()
    assert [json.loads(line)["kind"] for line in lines] == ["run", "run", "point", "summary"]


async def another_run_finishes(setting: Setting, group: str, floor: PlannedStage) -> None:
    """Check that the group runs other stages until another run, which holds the floor, has finished it."""
    stage = await setting.stage_for(group)
    assert stage.arm == "ceiling"
    commit(setting.store, floor)
    setting.store.release(floor.identity, floor.spec.slug, "another run")
    await setting.finish(group, stage)
    assert (await setting.stage_for(group)).arm == "chain", "the other run's floor was found"


@in_event_loop
async def test_a_stage_that_another_run_holds_is_waited_for(setting: Setting, chain: Chain) -> None:
    floor = stage_of(chain, "floor", "s")
    setting.store.lease(floor.identity, floor.spec.slug, "another run")
    await another_run_finishes(setting, await setting.group_for(chain), floor)


@in_event_loop
async def test_a_stage_that_was_lost_to_another_run_is_waited_for(setting: Setting, chain: Chain) -> None:
    group = await setting.group_for(chain)
    floor = await setting.stage_for(group)
    path = setting.store.folder(floor.spec.slug, floor.identity) / LEASE_NAME
    with _locked(path):  # a heartbeat of this run may be under way
        held = Lease.model_validate_json(path.read_bytes())
        path.write_text(held.model_copy(update={"owner": "another run"}).model_dump_json())
    lost = StageResult(floor.identity, stopped=True, attempts_trained=True)
    await setting.dispatcher.return_stage(group, floor.identity, lost, False)
    await another_run_finishes(setting, group, floor)


@in_event_loop
async def test_a_group_that_leaves_after_a_stage_is_replaced_when_it_is_gone(setting: Setting, chain: Chain) -> None:
    group = await setting.group_for(chain)
    stage = await setting.stage_for(group)
    commit(setting.store, stage)
    result = StageResult(stage.identity, stopped=False, attempts_trained=True)
    await setting.dispatcher.return_stage(group, stage.identity, result, True)
    assert setting.groups.num_opened == 1, "there is no room for another one yet"
    assert await setting.replace(group) != group
    assert [event.result for event in (await setting.dispatcher.poll()).events] == [None, result]


@in_event_loop
async def test_closing_stops_the_stage_and_ends_the_group(setting: Setting, chain: Chain) -> None:
    group = await setting.group_for(chain)
    identity = (await setting.stage_for(group)).identity
    await setting.dispatcher.close()
    assert await setting.dispatcher.progress(group, identity, [])
    report = await setting.dispatcher.trial_report("trial")
    assert report is not None and not report.ended, "its checkpoint is being written"
    await setting.dispatcher.return_stage(group, identity, StageResult(identity, True, True), False)
    assert await setting.dispatcher.next_order(group) == LEAVE
    setting.groups.end(group)
    while (await setting.dispatcher.poll()).groups:
        await asyncio.sleep(0.01)


@in_event_loop
async def test_closing_cancels_a_group_whose_workers_have_not_started(setting: Setting, chain: Chain) -> None:
    await setting.group_for(chain)
    await setting.dispatcher.close()
    assert setting.groups.alive == {}


@in_event_loop
async def test_a_group_that_is_cancelled_at_once_is_never_started(setting: Setting, chain: Chain) -> None:
    await setting.dispatcher.request("trial", (chain,))
    await setting.dispatcher.close()
    while (await setting.dispatcher.poll()).groups:
        await asyncio.sleep(0.01)
    assert setting.groups.num_opened == 0


@in_event_loop
async def test_workers_of_a_cancelled_group_that_start_nevertheless_leave(setting: Setting, chain: Chain) -> None:
    group = await setting.group_for(chain)
    setting.groups.cancel = lambda group: None  # type: ignore[method-assign]
    await setting.dispatcher.close()
    assert await setting.dispatcher.next_order(group) == LEAVE


@in_event_loop
async def test_only_the_process_that_requested_last_may_withdraw(setting: Setting, chain: Chain) -> None:
    group = await setting.group_for(chain, asker="first process")
    stage = await setting.stage_for(group)
    await setting.dispatcher.request("trial", (chain,), "second process")
    await setting.dispatcher.withdraw("trial", "first process")
    assert not await setting.dispatcher.progress(group, stage.identity, []), "still wanted"
    await setting.dispatcher.withdraw("trial", "second process")
    assert await setting.dispatcher.progress(group, stage.identity, [])


@in_event_loop
async def test_a_stage_that_continues_from_a_checkpoint_is_an_event(setting: Setting, chain: Chain) -> None:
    group = await setting.group_for(chain)
    stage = await setting.stage_for(group)
    for report in (
        StageProgress(stage.identity, "loading", 0, 40),
        StageProgress(stage.identity, "loading", 28, 40, saved_step=28),
    ):
        await setting.dispatcher.progress(group, stage.identity, [report])
    events = [(event.kind, event.step) for event in (await setting.dispatcher.poll()).events]
    assert events == [(EventKind.ASSIGNED, 0), (EventKind.RESUMED, 28)]


@in_event_loop
async def test_a_trial_whose_process_was_killed_is_forgotten(
    setting: Setting, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.3)
    group = await setting.group_for(chain, asker="a process that will be killed")
    stage = await setting.stage_for(group)
    for _ in range(3):
        await asyncio.sleep(0.2)
        assert await setting.dispatcher.trial_report("trial", -1, "a process that will be killed") is not None
    assert not await setting.dispatcher.progress(group, stage.identity, [])
    await asyncio.sleep(0.6)
    assert await setting.dispatcher.progress(group, stage.identity, [])
    assert await setting.dispatcher.trial_report("trial") is None, "so its process would request again"


@in_event_loop
async def test_requests_of_the_run_itself_are_not_forgotten(
    setting: Setting, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.1)
    group = await setting.group_for(chain)
    stage = await setting.stage_for(group)
    await asyncio.sleep(0.4)
    assert not await setting.dispatcher.progress(group, stage.identity, [])


@in_event_loop
async def test_a_worker_that_outlived_its_group_is_sent_away(setting: Setting, chain: Chain) -> None:
    group = await setting.group_for(chain)
    stage = await setting.stage_for(group)
    await setting.replace(group, "killed")
    assert [event.kind for event in (await setting.dispatcher.poll()).events] == [EventKind.ASSIGNED, EventKind.ENDED]
    assert await setting.dispatcher.progress(group, stage.identity, [])
    assert await setting.dispatcher.next_order(group) == LEAVE


@in_event_loop
async def test_a_store_that_cannot_be_written_fails_the_stage(
    setting: Setting, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise StoreError("the store is full")

    monkeypatch.setattr(ArtifactStore, "lease", full)
    await setting.dispatcher.next_order(await setting.group_for(chain))
    report = await setting.dispatcher.trial_report("trial")
    assert report is not None and report.ended and "the store is full" in str(report.error)


@in_event_loop
async def test_a_lease_is_released_if_the_store_cannot_be_read(
    setting: Setting, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    group = await setting.group_for(chain)

    def unreadable(*_: object) -> None:
        raise StoreError("the store cannot be read")

    monkeypatch.setattr(ArtifactStore, "find", unreadable)
    await setting.dispatcher.next_order(group)
    leases = list((setting.store.root / "artifacts").rglob(LEASE_NAME))
    assert leases == []


@in_event_loop
async def test_a_stage_that_is_withdrawn_while_it_is_assigned_is_not_started(setting: Setting, chain: Chain) -> None:
    group = await setting.group_for(chain)
    asking = asyncio.create_task(setting.dispatcher.next_order(group))
    while not setting.dispatcher._scheduler.groups.running:
        await asyncio.sleep(0)
    await setting.dispatcher.withdraw_all()
    assert (await asking).stage is None
    assert not list((setting.store.root / "artifacts").rglob(LEASE_NAME))
    assert (await setting.dispatcher.poll()).events == ()


@in_event_loop
async def test_a_lease_that_is_renewed_while_its_stage_returns_is_released(
    setting: Setting, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "RENEW_SECONDS", 0.0)
    group = await setting.group_for(chain)
    stage = await setting.stage_for(group)
    renewing, returned, renew = asyncio.Event(), asyncio.Event(), StageLeases.renew

    async def renew_late(self: StageLeases, stage: PlannedStage) -> None:
        renewing.set()
        await returned.wait()
        await renew(self, stage)

    monkeypatch.setattr(StageLeases, "renew", renew_late)
    await renewing.wait()
    await setting.dispatcher.withdraw_all()
    await setting.dispatcher.return_stage(group, stage.identity, StageResult(stage.identity, True, True), False)
    path = setting.store.folder(stage.spec.slug, stage.identity) / LEASE_NAME
    while path.exists():
        await asyncio.sleep(0.01)
    returned.set()
    await asyncio.sleep(0.3)
    assert not path.exists()


@in_event_loop
async def test_silent_trials_are_forgotten(setting: Setting, chain: Chain, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SILENT_SECONDS", 0.3)
    await setting.group_for(chain, asker="a process that will be killed")
    await asyncio.sleep(0.6)
    assert await setting.dispatcher.trial_report("trial") is None


@in_event_loop
async def test_an_unexpected_error_ends_the_run_instead_of_leaving_a_stage_forever(
    setting: Setting, chain: Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> frozenset[str]:
        raise RuntimeError("a bug")

    monkeypatch.setattr(StageLeases, "take", broken)
    await setting.dispatcher.next_order(await setting.group_for(chain))
    with pytest.raises(RuntimeError, match="a bug"):
        await setting.dispatcher.poll()


class Summaries(NullTracker):
    """Keeps how each run ended."""

    def __init__(self) -> None:
        self.of: dict[str, tuple[dict[str, float], bool]] = {}

    def finish(self, run_id: str, summary: Mapping[str, float], *, ended_well: bool) -> None:
        self.of[run_id] = (dict(summary), ended_well)


@pytest.fixture
def summaries(setting: Setting) -> Summaries:
    """How tracked runs end; the writer takes calls as its actor does."""
    kept = Summaries()
    writer: Any = InThisProcess(Writer(lambda notify: kept))
    setting.dispatcher._writer = writer
    return kept


@in_event_loop
async def test_only_finished_stages_are_tracked_as_finished(setting: Setting, summaries: Summaries) -> None:
    naive, half, _ = chains_of(small_study())
    group = await setting.group_for(naive, half)
    bad = stage_of(half, "chain", "l").identity
    for number in range(5):
        stage = await setting.stage_for(group)
        if number == 0:  # Tune, or Ctrl-C, stops it
            await setting.dispatcher.withdraw("trial")
            result = StageResult(stage.identity, stopped=True, attempts_trained=True, metrics={"agreement": 0.5})
            await setting.dispatcher.return_stage(group, stage.identity, result, False)
            assert summaries.of[stage_run_id(stage.identity)] == ({}, False)
            await setting.dispatcher.request("trial", (naive, half))
        elif stage.identity == bad:
            await setting.dispatcher.return_stage(group, bad, TrainingError("the loss is nan"), False)
            assert summaries.of[stage_run_id(bad)] == ({"failed": 1.0}, False)
        else:
            await setting.finish(group, stage)
            assert summaries.of[stage_run_id(stage.identity)] == ({}, True)
    assert summaries.of[chain_run_id(naive)][1]
    assert not summaries.of[chain_run_id(half)][1]


@in_event_loop
async def test_an_interrupted_chain_is_not_tracked_as_finished(
    setting: Setting, chain: Chain, summaries: Summaries
) -> None:
    group = await setting.group_for(chain)
    stage = await setting.stage_for(group)
    await setting.dispatcher.close()
    await setting.dispatcher.return_stage(group, stage.identity, StageResult(stage.identity, True, True), False)
    assert summaries.of == {stage_run_id(stage.identity): ({}, False)}


@in_event_loop
async def test_a_stage_out_of_memory_is_assigned_again_as_often_as_it_can_shrink(
    setting: Setting, chain: Chain
) -> None:
    group = await setting.group_for(chain)
    first = await setting.stage_for(group)
    for _ in range(5):
        await setting.dispatcher.return_stage(group, first.identity, OutOfMemory("micro-batches are too large"), False)
        assert await setting.stage_for(group) == first
    assert setting.dispatcher._scheduler.queue.stages[first.identity].error is None


@in_event_loop
async def test_a_group_whose_rank_ran_out_of_memory_costs_no_attempt(setting: Setting, chain: Chain) -> None:
    group = await setting.group_for(chain)
    for _ in range(5):
        floor = await setting.stage_for(group)
        await setting.dispatcher.crashed(floor.identity, Crash("rank 1: out of memory", CrashKind.SMALLER))
        group = await setting.replace(group)
    queued = setting.dispatcher._scheduler.queue.stages[floor.identity]
    assert floor.arm == "floor" and queued.num_deaths == 0


@in_event_loop
async def test_a_stage_whose_machine_was_short_of_memory_three_times_fails(setting: Setting, chain: Chain) -> None:
    group = await setting.group_for(chain)
    for _ in range(3):
        floor = await setting.stage_for(group)
        await setting.dispatcher.crashed(floor.identity, Crash("the machine ran short of memory", CrashKind.MEMORY))
        group = await setting.replace(group)
    queued = setting.dispatcher._scheduler.queue.stages[floor.identity]
    assert queued.state is StageState.FAILED
    assert queued.error is not None and "short of memory" in queued.error.message and "memory" in queued.error.hint
