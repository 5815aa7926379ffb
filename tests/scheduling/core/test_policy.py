"""The policy and the scheduler around it: which actions follow from which events."""

import pytest

from tests.scheduling.studies import chains_of, small_study, stage_of
from w2s_ray.errors import StoreError, TrainingError
from w2s_ray.planning.nodes import FreeResources, Node
from w2s_ray.scheduling.core.groups import GroupStatus
from w2s_ray.scheduling.core.policy import Assign, CancelGroup, OpenGroup, RetireGroup, StopStage, decide
from w2s_ray.scheduling.core.queue import Crash, CrashKind, Queue, StageState
from w2s_ray.scheduling.core.scheduler import (
    MAX_CROWDED_DEATHS,
    Action,
    CheckpointSaved,
    Closing,
    CrashReported,
    GroupEnded,
    GroupStarted,
    Requested,
    Scheduler,
    StageBlocked,
    StageLost,
    StageReturned,
    StageUnblocked,
    TrialChanged,
    Withdrawn,
)
from w2s_ray.scheduling.dispatcher.reports import study_status
from w2s_ray.spec.chain import Chain
from w2s_ray.spec.execution import GroupShape

PAIR = GroupShape(workers=2, cpus_per_worker=1, gpus_per_worker=0)
SINGLE = GroupShape(workers=1, cpus_per_worker=1, gpus_per_worker=0)
EIGHT = GroupShape(workers=8, cpus_per_worker=1, gpus_per_worker=0)


def scheduler_with(*chains: Chain, cpus: float = 2) -> Scheduler:
    """A scheduler whose queue has the chains and that has decided nothing yet."""
    scheduler = Scheduler([Node(cpus)])
    for chain in chains:
        scheduler.queue.request(chain.name, chain.stages, frozenset())
    scheduler.queue.take_changed()
    return scheduler


def add_idle(scheduler: Scheduler, group: str, shape: GroupShape = PAIR) -> None:
    scheduler.groups.open(group, shape)
    scheduler.groups.started(group)


def assign(scheduler: Scheduler, group: str, identity: str) -> None:
    scheduler.queue.start(identity)
    scheduler.groups.assign(group, identity)


def actions(scheduler: Scheduler) -> list[Action]:
    """The decisions in the present state."""
    return list(decide(scheduler.queue, scheduler.groups, scheduler.closing).decisions)


def opened(taken: list[Action]) -> list[GroupShape]:
    return [action.shape for action in taken if isinstance(action, OpenGroup)]


def without_reports(taken: list[Action]) -> list[Action]:
    return [action for action in taken if not isinstance(action, TrialChanged)]


def naive_chain() -> Chain:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    return chain


def mixed_chain() -> Chain:
    """A floor on one worker, students on two."""
    ladder = {
        "s": {"model": "w2s:small", "execution": {"workers": 1}},
        "l": {"model": "w2s:large", "execution": {"workers": 2}},
    }
    (chain,) = chains_of(small_study(ladder=ladder, methods={"naive": {}}))
    return chain


def test_no_stages_need_no_action() -> None:
    assert actions(scheduler_with()) == []


def test_a_request_opens_a_group_and_a_started_group_gets_the_most_urgent_stage() -> None:
    scheduler, chain = Scheduler([Node(2)]), naive_chain()
    opening, changed = scheduler.handle(Requested("trial", chain.stages))
    assert isinstance(opening, OpenGroup) and opening.shape == PAIR
    assert changed == TrialChanged("trial")
    (assigned, _) = scheduler.handle(GroupStarted(opening.group))
    assert isinstance(assigned, Assign)
    assert (assigned.group, assigned.stage) == (opening.group, stage_of(chain, "floor", "s"))


def test_a_second_group_is_not_opened_where_it_does_not_fit() -> None:
    scheduler = scheduler_with(*chains_of(small_study()))
    assert opened(actions(scheduler)) == [PAIR]
    scheduler.groups.open("a", PAIR)
    assert actions(scheduler) == []


def test_a_larger_cluster_gets_a_group_for_every_ready_stage() -> None:
    assert opened(actions(scheduler_with(*chains_of(small_study()), cpus=100))) == [PAIR, PAIR]


def test_deciding_changes_nothing() -> None:
    scheduler = scheduler_with(*chains_of(small_study()))
    add_idle(scheduler, "a")
    assert actions(scheduler) == actions(scheduler) != []


def test_an_unwanted_stage_is_stopped_once_and_frees_its_group() -> None:
    chain = naive_chain()
    scheduler, floor = scheduler_with(chain), stage_of(chain, "floor", "s").identity
    add_idle(scheduler, "a")
    assign(scheduler, "a", floor)
    (stop,) = without_reports(scheduler.handle(Withdrawn(chain.name)))
    assert isinstance(stop, StopStage) and stop.identity == floor
    assert actions(scheduler) == []
    scheduler.handle(StageReturned("a", floor, stopped=True))
    assert scheduler.groups.by_id["a"].status is GroupStatus.IDLE


def test_an_idle_group_leaves_for_a_shape_that_does_not_fit_beside_it() -> None:
    chain = mixed_chain()
    scheduler, floor = scheduler_with(chain), stage_of(chain, "floor", "s").identity
    add_idle(scheduler, "small", SINGLE)
    assign(scheduler, "small", floor)
    assert actions(scheduler) == [], "the pair does not fit beside it, and it is busy"
    (retire,) = without_reports(scheduler.handle(StageReturned("small", floor)))
    assert isinstance(retire, RetireGroup) and retire.group == "small"
    assert actions(scheduler) == [], "it leaves already"
    assert opened(scheduler.handle(GroupEnded("small"))) == [PAIR]


def test_a_group_with_work_gives_way_only_to_what_is_clearly_more_urgent() -> None:
    chain = mixed_chain()
    scheduler = scheduler_with(chain)
    add_idle(scheduler, "pair", PAIR)
    (decision,) = actions(scheduler)
    assert isinstance(decision, RetireGroup), "the whole path waits for the floor, which no group can run"
    scheduler = Scheduler([Node(2)], Queue(lambda stage: 1.0 if stage.level == "s" else 100.0))
    scheduler.queue.request(chain.name, chain.stages, frozenset())
    add_idle(scheduler, "pair", PAIR)
    assert not any(isinstance(action, RetireGroup) for action in actions(scheduler)), "not worth a cold start"


def one_wide_and_many_narrow() -> Scheduler:
    """A chain of wide stages beside many narrow ones, on eight CPUs that eight narrow groups have taken."""
    ladder = {
        "s": {"model": "w2s:small", "execution": {"workers": 1}},
        "l": {"model": "w2s:large", "execution": {"workers": 8}},
    }
    wide = chains_of(small_study(ladder=ladder, methods={"naive": {}}, optimisation={"epochs": 50}))
    narrow = chains_of(small_study(execution={"workers": 1}, seeds=list(range(1, 40))))
    scheduler = scheduler_with(*wide, *narrow, cpus=8)
    for number in range(8):
        add_idle(scheduler, f"narrow{number}", SINGLE)
    return scheduler


def test_a_wide_shape_is_not_starved_by_narrow_ones() -> None:
    scheduler = one_wide_and_many_narrow()
    for number in range(7):
        (queued,) = scheduler.queue.most_urgent(SINGLE, 1)
        assign(scheduler, f"narrow{number}", queued.stage.identity)
    retired = [action.group for action in actions(scheduler) if isinstance(action, RetireGroup)]
    assert retired == ["narrow7"], "although its shape has work"
    scheduler.groups.leave("narrow7")
    for number in range(7):
        identity = scheduler.groups.by_id[f"narrow{number}"].identity
        assert identity is not None
        scheduler.queue.finish(identity)
        scheduler.groups.returned_stage(f"narrow{number}")
    assert len([action for action in actions(scheduler) if isinstance(action, RetireGroup)]) == 7
    for number in range(8):
        scheduler.groups.ended(f"narrow{number}", found_room=True)
    assert opened(actions(scheduler)) == [EIGHT]


def test_short_shapes_fill_what_no_waiting_group_could_use() -> None:
    queue = one_wide_and_many_narrow().queue
    (wide,) = queue.most_urgent(EIGHT, 1)
    scheduler = Scheduler([Node(8), Node(4)], queue)
    add_idle(scheduler, "wide", EIGHT)
    assign(scheduler, "wide", wide.stage.identity)
    assert opened(actions(scheduler)) == [SINGLE] * 4


def test_nothing_is_reserved_that_no_busy_group_would_free() -> None:
    waits = small_study(methods={"naive": {}}, seeds=[1, 2], optimisation={"epochs": 8})
    works = small_study(execution={"workers": 8}, methods={"naive": {}}, optimisation={"epochs": 24})
    small = small_study(
        execution={"workers": 1}, methods={"naive": {}}, seeds=list(range(10)), optimisation={"epochs": 2}
    )
    scheduler = scheduler_with(cpus=11)
    for number, study in enumerate((waits, works, small)):
        for chain in chains_of(study):
            scheduler.queue.request(f"{number} {chain.name}", chain.stages, frozenset())
    for group, shape in (("eight", EIGHT), ("pair", PAIR)):
        add_idle(scheduler, group, shape)
        (queued,) = scheduler.queue.most_urgent(shape, 1)
        assign(scheduler, group, queued.stage.identity)
    assert scheduler.queue.ready_shapes == {PAIR: 3, EIGHT: 1, SINGLE: 20}
    assert next(iter(scheduler.queue.ready_shapes)) == PAIR, "the most urgent"
    assert opened(actions(scheduler)) == [SINGLE], "pairs do not fill what a group of eight frees"


def test_closing_stops_what_runs_and_ends_every_group() -> None:
    chains = chains_of(small_study())
    scheduler, floor = scheduler_with(*chains, cpus=6), stage_of(chains[0], "floor", "s").identity
    for group in ("busy", "idle"):
        add_idle(scheduler, group)
    scheduler.groups.open("opening", PAIR)
    assign(scheduler, "busy", floor)
    stop, retire, cancel = without_reports(scheduler.handle(Closing()))
    assert isinstance(stop, StopStage) and stop.identity == floor
    assert isinstance(retire, RetireGroup) and retire.group == "idle"
    assert isinstance(cancel, CancelGroup) and cancel.group == "opening"
    (retire,) = without_reports(scheduler.handle(StageReturned("busy", floor, stopped=True)))
    assert isinstance(retire, RetireGroup) and retire.group == "busy"


def test_a_dead_group_loses_its_stage_which_another_one_gets() -> None:
    chain = naive_chain()
    scheduler, floor = scheduler_with(chain), stage_of(chain, "floor", "s").identity
    add_idle(scheduler, "a")
    assign(scheduler, "a", floor)
    lost, opening = without_reports(scheduler.handle(GroupEnded("a", "killed")))
    assert lost == StageLost(floor)
    assert isinstance(opening, OpenGroup)
    assert scheduler.queue.stages[floor].num_deaths == 1
    (assigned,) = without_reports(scheduler.handle(GroupStarted(opening.group)))
    assert isinstance(assigned, Assign) and assigned.stage.identity == floor


def test_the_first_reported_cause_of_a_death_is_kept() -> None:
    chain = naive_chain()
    scheduler, floor = scheduler_with(chain), stage_of(chain, "floor", "s").identity
    for number in range(3):
        add_idle(scheduler, f"{number}")
        assign(scheduler, f"{number}", floor)
        scheduler.handle(CrashReported(floor, Crash(f"rank 1: nan at attempt {number}")))
        scheduler.handle(CrashReported(floor, Crash("rank 0: connection closed by peer")))
        scheduler.handle(GroupEnded(f"{number}", "a worker died"))
    assert "rank 1: nan at attempt 2" in str(scheduler.queue.stages[floor].error)


@pytest.mark.parametrize(
    ("later", "end", "cause"),
    [
        (None, CrashKind.KILLED, "rank 0 waited"),
        (Crash("rank 1: odd", CrashKind.EXCEPTION, is_certain=True), CrashKind.TIMEOUT, "rank 1: odd"),
        (None, CrashKind.NODE, "the node was lost"),
    ],
)
def test_a_timeout_is_the_cause_unless_it_has_a_cause_itself(later: Crash | None, end: CrashKind, cause: str) -> None:
    chain = naive_chain()
    scheduler, floor = scheduler_with(chain), stage_of(chain, "floor", "s").identity
    for number in range(1 if later else 3):
        add_idle(scheduler, f"{number}")
        assign(scheduler, f"{number}", floor)
        scheduler.handle(CrashReported(floor, Crash("rank 0 waited", CrashKind.TIMEOUT)))
        if later is not None:
            scheduler.handle(CrashReported(floor, later))
        scheduler.handle(GroupEnded(f"{number}", "the node was lost", kind=end))
    assert cause in str(scheduler.queue.stages[floor].error)


def test_a_stage_on_a_crowded_machine_gets_more_attempts() -> None:
    chains = chains_of(small_study())
    scheduler = scheduler_with(*chains, cpus=4)
    floor, ceiling = stage_of(chains[0], "floor", "s").identity, stage_of(chains[0], "ceiling", "l").identity
    add_idle(scheduler, "other")
    assign(scheduler, "other", ceiling)
    for number in range(MAX_CROWDED_DEATHS):
        assert scheduler.queue.stages[floor].state is StageState.WAITING
        add_idle(scheduler, f"{number}")
        assign(scheduler, f"{number}", floor)
        scheduler.handle(CrashReported(floor, Crash("short of memory", CrashKind.MEMORY)))
        scheduler.handle(GroupEnded(f"{number}"))
        for group in [group for group in scheduler.groups.by_id.values() if group.status is GroupStatus.OPENING]:
            scheduler.groups.ended(group.id, found_room=True)
    assert scheduler.queue.stages[floor].state is StageState.FAILED


def test_a_group_killed_while_the_run_ends_does_not_count_as_a_death() -> None:
    chain = naive_chain()
    scheduler, floor = scheduler_with(chain), stage_of(chain, "floor", "s").identity
    add_idle(scheduler, "a")
    assign(scheduler, "a", floor)
    scheduler.handle(Closing())
    assert StageLost(floor) in scheduler.handle(GroupEnded("a", "killed"))
    assert scheduler.queue.stages[floor].state is StageState.WAITING
    assert scheduler.queue.stages[floor].num_deaths == 0


def test_a_stage_that_another_run_holds_is_tried_again_when_unblocked() -> None:
    chain = naive_chain()
    scheduler, floor = scheduler_with(chain), stage_of(chain, "floor", "s")
    add_idle(scheduler, "a")
    assign(scheduler, "a", floor.identity)
    (assigned,) = without_reports(scheduler.handle(StageBlocked("a", floor.identity, "another run")))
    assert isinstance(assigned, Assign) and assigned.stage.arm == "ceiling"
    scheduler.handle(StageUnblocked(floor.identity, floor.products))
    assert scheduler.queue.stages[floor.identity].state is StageState.DONE, "the other run finished it"


def test_a_late_look_into_the_store_does_not_fail_a_running_stage() -> None:
    chain = naive_chain()
    scheduler, floor = scheduler_with(chain), stage_of(chain, "floor", "s").identity
    add_idle(scheduler, "a")
    assign(scheduler, "a", floor)
    scheduler.handle(StageUnblocked(floor, error=StoreError("the store cannot be read")))
    assert scheduler.queue.stages[floor].state is StageState.RUNNING


def test_a_store_that_cannot_be_read_fails_the_stages() -> None:
    scheduler, chain = Scheduler([Node(2)]), naive_chain()
    scheduler.handle(Requested("trial", chain.stages, error=StoreError("cannot be read")))
    assert {queued.state for queued in scheduler.queue.stages.values()} == {StageState.FAILED}


def test_a_returned_error_fails_the_stage_and_frees_the_group() -> None:
    chain = naive_chain()
    scheduler, floor = scheduler_with(chain), stage_of(chain, "floor", "s").identity
    add_idle(scheduler, "a")
    assign(scheduler, "a", floor)
    (assigned,) = without_reports(scheduler.handle(StageReturned("a", floor, error=TrainingError("the loss is nan"))))
    assert isinstance(assigned, Assign) and assigned.stage.arm == "ceiling"
    assert scheduler.queue.stages[floor].state is StageState.FAILED


def test_events_of_a_group_that_has_ended_are_ignored() -> None:
    chain = naive_chain()
    scheduler, floor = scheduler_with(chain), stage_of(chain, "floor", "s").identity
    add_idle(scheduler, "a")
    assign(scheduler, "a", floor)
    scheduler.handle(GroupEnded("a", "killed"))
    for late in (GroupStarted("a"), StageReturned("a", floor), GroupEnded("a"), StageBlocked("a", floor, "no")):
        assert scheduler.handle(late) == []
    assert scheduler.queue.stages[floor].state is StageState.WAITING


def test_checkpoints_of_unknown_stages_are_ignored() -> None:
    assert scheduler_with().handle(CheckpointSaved("unknown", 3)) == []


@pytest.mark.parametrize(("kind", "num_starts"), [(CrashKind.KILLED, 3), (CrashKind.EXCEPTION, 2)])
def test_groups_that_never_start_fail_the_stages_of_their_shape(kind: CrashKind, num_starts: int) -> None:
    scheduler, chain = Scheduler([Node(2)]), naive_chain()
    taken = scheduler.handle(Requested("trial", chain.stages))
    for _ in range(num_starts):
        (opening,) = [action for action in taken if isinstance(action, OpenGroup)]
        taken = scheduler.handle(GroupEnded(opening.group, "no module named torch", kind=kind))
    assert {queued.state for queued in scheduler.queue.stages.values()} == {StageState.FAILED}
    assert opened(taken) == []


def test_failed_starts_fail_nothing_while_another_group_opens() -> None:
    scheduler = Scheduler([Node(16)])
    chains = chains_of(small_study(seeds=list(range(8))))
    assert opened(scheduler.handle(*(Requested(chain.name, chain.stages) for chain in chains))) == [PAIR] * 8
    while len(scheduler.groups.by_id) > 1:
        scheduler.handle(GroupEnded(next(iter(scheduler.groups.by_id)), "a slow disk"))
        assert scheduler.queue.num[StageState.FAILED] == 0
    (last,) = scheduler.groups.by_id
    assert opened(scheduler.handle(GroupEnded(last, "a slow disk"))) == []
    assert {queued.state for queued in scheduler.queue.stages.values()} == {StageState.FAILED}


def test_a_group_that_starts_after_others_failed_to_gets_work() -> None:
    scheduler = scheduler_with(*chains_of(small_study()), cpus=8)
    for group in "abcd":
        scheduler.groups.open(group, PAIR)
    for group in "abc":
        scheduler.handle(GroupEnded(group, "a slow disk"))
    taken = without_reports(scheduler.handle(GroupStarted("d")))
    assert {type(action) for action in taken} == {Assign, OpenGroup}


def test_groups_without_room_fail_nothing_and_are_opened_again() -> None:
    scheduler, chain = Scheduler([Node(2)]), naive_chain()
    taken = scheduler.handle(Requested("trial", chain.stages))
    for _ in range(5):
        (opening,) = [action for action in taken if isinstance(action, OpenGroup)]
        taken = scheduler.handle(GroupEnded(opening.group, "others use the GPUs", found_room=False))
    (line,) = study_status(scheduler, {}, ()).groups
    assert "waits for room" in line
    (opening,) = [action for action in taken if isinstance(action, OpenGroup)]
    assert [type(action) for action in without_reports(scheduler.handle(GroupStarted(opening.group)))] == [Assign]


def test_extra_groups_that_never_start_do_not_harm_the_one_that_works() -> None:
    chains = chains_of(small_study())
    scheduler = scheduler_with(*chains, cpus=4)
    add_idle(scheduler, "a")
    assign(scheduler, "a", stage_of(chains[0], "floor", "s").identity)
    for number in range(3):
        assert opened(actions(scheduler)) == [PAIR]
        scheduler.groups.open(f"extra{number}", PAIR)
        scheduler.groups.ended(f"extra{number}", found_room=True)
    assert actions(scheduler) == []
    assert scheduler.queue.num[StageState.FAILED] == 0
    assert opened(scheduler.handle(GroupEnded("a", "killed"))) != [], "without it another one is tried"
    for group in tuple(scheduler.groups.by_id):
        scheduler.handle(GroupEnded(group, "a slow disk"))
    assert scheduler.queue.num[StageState.FAILED] > 0


def test_every_waiting_stage_has_its_reason() -> None:
    scheduler = Scheduler([Node(2)])
    chains = chains_of(small_study(seeds=[0, 1]))
    scheduler.handle(*(Requested(chain.name, chain.stages) for chain in chains))
    floor, student = stage_of(chains[0], "floor", "s").identity, stage_of(chains[0], "chain", "l").identity
    assert "is starting" in scheduler.why_waiting(floor)
    assert "floor s" in scheduler.why_waiting(student)
    (group,) = scheduler.groups.by_id
    scheduler.handle(GroupStarted(group))
    ceiling = stage_of(chains[0], "ceiling", "l").identity
    assert "no free resources for 2 workers" in scheduler.why_waiting(ceiling)
    scheduler.handle(StageBlocked(group, floor, "another run has it"))
    assert scheduler.why_waiting(floor) == "another run has it"


def test_a_wide_shape_waits_until_narrow_groups_end() -> None:
    scheduler = one_wide_and_many_narrow()
    for number in range(7):
        (queued,) = scheduler.queue.most_urgent(SINGLE, 1)
        assign(scheduler, f"narrow{number}", queued.stage.identity)
    waits = decide(scheduler.queue, scheduler.groups).waits
    assert "until less urgent groups end" in waits[EIGHT]
    assert SINGLE in waits


def test_resources_are_counted_node_by_node() -> None:
    wide = GroupShape(workers=2, cpus_per_worker=3, gpus_per_worker=0)
    assert not FreeResources([Node(3), Node(2), Node(2)]).take(wide)
    assert FreeResources([Node(3), Node(4)]).take(wide)
    free = FreeResources([Node(8, gpus=2)])
    pair_of_gpus = GroupShape(workers=2, cpus_per_worker=1, gpus_per_worker=1)
    assert free.take(pair_of_gpus)
    assert not free.take(pair_of_gpus)
    assert free.take(PAIR)
