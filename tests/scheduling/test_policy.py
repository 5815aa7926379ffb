"""The policy: what is decided in which state, and with which reason."""

from tests.scheduling.studies import chains_of, small_study
from tests.scheduling.test_queue import stage_of, submit_all
from w2s_ray.planning.nodes import Node, Room
from w2s_ray.scheduling.policy import Assign, OpenCrew, RetireCrew, State, StopStage, decide
from w2s_ray.scheduling.queue import Crash, Queue, Status
from w2s_ray.scheduling.roster import CrewStatus, Roster
from w2s_ray.scheduling.snapshot import study_status
from w2s_ray.spec.chain import Chain
from w2s_ray.spec.stage import GroupShape

PAIR = GroupShape(workers=2, cpus_per_worker=1, gpus_per_worker=0)
SINGLE = GroupShape(workers=1, cpus_per_worker=1, gpus_per_worker=0)


def state_with(chains: tuple[Chain, ...], cpus: float = 2) -> State:
    state = State(Queue(), Roster((Node(cpus),)))
    submit_all(state.queue, chains)
    return state


def open_idle(state: State, crew: str, shape: GroupShape = PAIR) -> None:
    state.roster.opening(crew, shape)
    state.crew_spoke(crew, shape, f"start of {crew}", None, Crash(""))


def mixed_chain() -> Chain:
    """A floor on one worker, students on two."""
    ladder = {
        "s": {"model": "w2s:small", "execution": {"workers": 1}},
        "l": {"model": "w2s:large", "execution": {"workers": 2}},
    }
    (chain,) = chains_of(small_study(ladder=ladder, methods={"naive": {}}))
    return chain


def test_nothing_to_do_is_no_decision() -> None:
    assert decide(state_with(())) == []


def test_work_without_a_crew_opens_one_where_there_is_room_for_it() -> None:
    state = state_with(chains_of(small_study()))
    (decision,) = decide(state)
    assert isinstance(decision, OpenCrew)
    assert decision.shape == PAIR
    assert "2 ready stages" in decision.reason
    state.roster.opening("a", PAIR)
    assert decide(state) == [], "one is on its way, and there is no room for two"


def test_a_larger_cluster_gets_as_many_crews_as_there_is_ready_work() -> None:
    state = state_with(chains_of(small_study()), cpus=100)
    assert [type(one) for one in decide(state)] == [OpenCrew, OpenCrew]


def test_an_idle_crew_takes_the_most_urgent_stage() -> None:
    chains = chains_of(small_study())
    state = state_with(chains)
    open_idle(state, "a")
    (decision,) = decide(state)
    assert decision == Assign("a", stage_of(chains[0], "floor", "s").identity, decision.reason)
    assert "wanted by 3" in decision.reason


def test_deciding_changes_nothing() -> None:
    state = state_with(chains_of(small_study()))
    open_idle(state, "a")
    assert decide(state) == decide(state)


def test_a_stage_that_nobody_wants_is_stopped_once() -> None:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    state = state_with((chain,))
    floor = stage_of(chain, "floor", "s").identity
    open_idle(state, "a")
    state.started("a", floor)
    state.queue.withdrawn(chain.name)
    (decision,) = decide(state)
    assert decision == StopStage(floor, "nobody wants it any more")
    state.queue.stop_asked(floor)
    assert decide(state) == []
    state.ended("a", floor, error=None, stopped=True)
    assert state.roster.crews["a"].status is CrewStatus.IDLE


def test_an_idle_crew_leaves_for_a_shape_that_waits_for_room() -> None:
    chain = mixed_chain()
    state = state_with((chain,))
    floor = stage_of(chain, "floor", "s").identity
    open_idle(state, "small", SINGLE)
    state.started("small", floor)
    assert decide(state) == [], "the pair does not fit beside it, and it is busy"
    state.ended("small", floor, error=None, stopped=False)
    (decision,) = decide(state)
    assert isinstance(decision, RetireCrew)
    assert decision.crew == "small"
    assert "crews of 2 workers wait for room" in decision.reason
    state.roster.leaving("small")
    assert decide(state) == [], "it is on its way out"
    state.crew_ended("small", Crash(""))
    assert isinstance(decide(state)[0], OpenCrew)


def test_a_crew_with_work_makes_way_only_for_what_is_clearly_more_urgent() -> None:
    chain = mixed_chain()
    state = state_with((chain,))
    open_idle(state, "pair", PAIR)
    (decision,) = decide(state)
    assert isinstance(decision, RetireCrew), "a floor waits on which a whole path hangs, and no crew could take it"
    short_floor = Queue(lambda stage: 1.0 if stage.level == "s" else 100.0)
    state = State(short_floor, Roster((Node(2),)))
    submit_all(state.queue, (chain,))
    open_idle(state, "pair", PAIR)
    assert not any(isinstance(one, RetireCrew) for one in decide(state)), "not worth a cold start"


def waiting_for_eight() -> tuple[State, GroupShape]:
    """A chain of wide stages beside many narrow ones, on eight CPUs that eight narrow crews have taken."""
    ladder = {
        "s": {"model": "w2s:small", "execution": {"workers": 1}},
        "l": {"model": "w2s:large", "execution": {"workers": 8}},
    }
    wide = chains_of(small_study(ladder=ladder, methods={"naive": {}}, optimisation={"epochs": 50}))
    narrow = chains_of(small_study(execution={"workers": 1}, seeds=list(range(1, 40))))
    state = state_with((*wide, *narrow), cpus=8)
    for number in range(8):
        open_idle(state, f"narrow{number}", SINGLE)
    return state, GroupShape(workers=8, cpus_per_worker=1, gpus_per_worker=0)


def test_a_large_crew_is_not_starved_by_small_ones() -> None:
    state, eight = waiting_for_eight()
    for number in range(7):  # seven have taken work just before
        entry = state.queue.best(SINGLE, 1)[0]
        state.started(f"narrow{number}", entry.stage.identity)
    retired = [one for one in decide(state) if isinstance(one, RetireCrew)]
    assert [one.crew for one in retired] == ["narrow7"], "room is kept, though its shape has work"
    state.roster.leaving("narrow7")
    for number in range(7):
        state.ended(f"narrow{number}", state.roster.crews[f"narrow{number}"].identity or "", None, stopped=False)
    retired = [one for one in decide(state) if isinstance(one, RetireCrew)]
    assert len(retired) == 7
    for number in range(8):
        state.crew_ended(f"narrow{number}", Crash(""))
    assert [one.shape for one in decide(state) if isinstance(one, OpenCrew)] == [eight]


def test_stages_fill_the_gaps_that_no_waiting_crew_could_use() -> None:
    state, eight = waiting_for_eight()
    wide = state.queue.best(eight, 1)[0]
    assert wide.stage.level == "l"
    state = State(state.queue, Roster((Node(8), Node(4))))
    open_idle(state, "wide", eight)
    state.started("wide", wide.stage.identity)
    opened = [one.shape for one in decide(state) if isinstance(one, OpenCrew)]
    assert opened == [SINGLE] * 4


def test_no_room_is_kept_that_no_crew_with_work_would_make() -> None:
    eight = GroupShape(workers=8, cpus_per_worker=1, gpus_per_worker=0)
    waits = small_study(methods={"naive": {}}, seeds=[1, 2], optimisation={"epochs": 8})
    works = small_study(execution={"workers": 8}, methods={"naive": {}}, optimisation={"epochs": 24})
    small = small_study(
        execution={"workers": 1}, methods={"naive": {}}, seeds=list(range(10)), optimisation={"epochs": 2}
    )
    state = state_with((), cpus=11)
    for number, study in enumerate((waits, works, small)):
        for chain in chains_of(study):
            state.queue.submitted(f"{number} {chain.name}", chain.stages, frozenset())
    for crew, shape in (("eight", eight), ("pair", PAIR)):
        open_idle(state, crew, shape)
        state.started(crew, state.queue.best(shape, 1)[0].stage.identity)
    assert state.queue.ready_shapes == {PAIR: 3, eight: 1, SINGLE: 20}
    assert next(iter(state.queue.ready_shapes)) == PAIR, "the most urgent"
    assert [one.shape for one in decide(state) if isinstance(one, OpenCrew)] == [SINGLE], "the pairs do not fill eight"


def test_when_the_run_ends_everything_is_stopped_and_nothing_begun() -> None:
    chains = chains_of(small_study())
    state = state_with(chains, cpus=4)
    floor = stage_of(chains[0], "floor", "s").identity
    open_idle(state, "a")
    open_idle(state, "b")
    state.started("a", floor)
    state.closing = True
    assert decide(state) == [StopStage(floor, "the run ends")]


def test_after_a_restart_nothing_is_decided_before_every_crew_has_spoken() -> None:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    state = state_with((chain,), cpus=4)
    state.roster.told_of("a", PAIR)
    assert decide(state) == []
    floor = stage_of(chain, "floor", "s").identity
    state.crew_spoke("a", PAIR, "first", floor, Crash(""))
    assert state.queue.entries[floor].status is Status.RUNNING, "it ran all the while"
    (decision,) = decide(state)
    assert isinstance(decision, OpenCrew), "for the ceiling"


def test_a_crew_whose_workers_were_started_again_lost_its_stage() -> None:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    state = state_with((chain,))
    floor = stage_of(chain, "floor", "s").identity
    open_idle(state, "a")
    state.started("a", floor)
    state.crew_spoke("a", PAIR, "start of a", floor, Crash(""))
    state.crew_spoke("a", PAIR, "its second start", None, Crash("rank 1: out of memory"))
    assert state.take_lost() == [floor]
    assert state.queue.entries[floor].num_deaths == 1
    (decision,) = decide(state)
    assert isinstance(decision, Assign), "and goes on with it"


def lose_before_its_first_beat(state: State, floor: str, num: int) -> None:
    """A crew is given the floor and ends, `num` times."""
    for number in range(num):
        open_idle(state, f"lost{number}")
        state.started(f"lost{number}", floor)
        state.crew_ended(f"lost{number}", Crash("killed"))


def test_an_order_that_never_reached_its_crew_is_no_death_and_is_not_repeated_for_ever() -> None:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    state = state_with((chain,))
    floor = stage_of(chain, "floor", "s").identity
    lose_before_its_first_beat(state, floor, 9)
    assert state.queue.entries[floor].status is Status.WAITING
    assert state.queue.entries[floor].num_deaths == 0
    lose_before_its_first_beat(state, floor, 1)
    assert state.queue.entries[floor].status is Status.FAILED, "it may be the stage that kills them so early"
    assert "10 crews ended before they began it; the last one: killed" in str(state.queue.entries[floor].error)


def test_a_crew_that_is_ended_as_the_run_ends_is_no_death() -> None:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    state = state_with((chain,))
    floor = stage_of(chain, "floor", "s").identity
    for number in range(3):
        open_idle(state, f"crew{number}")
        state.started(f"crew{number}", floor)
        state.crew_spoke(f"crew{number}", PAIR, f"start of crew{number}", floor, Crash(""))
        state.closing = number == 2
        state.crew_ended(f"crew{number}", Crash("killed"))
    assert state.queue.entries[floor].status is Status.WAITING
    assert state.queue.entries[floor].num_deaths == 2


def test_crews_that_never_begin_fail_the_stages_of_their_shape() -> None:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    state = state_with((chain,))
    for crew in ("a", "b", "c"):
        assert isinstance(decide(state)[0], OpenCrew)
        state.roster.opening(crew, PAIR)
        state.crew_ended(crew, Crash("no module named torch"))
    assert {entry.status for entry in state.queue.entries.values()} == {Status.FAILED}
    assert decide(state) == []


def test_crews_that_never_begin_fail_nothing_while_others_are_on_their_way() -> None:
    state = state_with(chains_of(small_study(seeds=list(range(8)))), cpus=16)
    assert [type(one) for one in decide(state)] == [OpenCrew] * 8
    for number in range(8):
        state.roster.opening(f"crew{number}", PAIR)
    for number in range(7):
        state.crew_ended(f"crew{number}", Crash("a slow disk"))
    assert not any(entry.status is Status.FAILED for entry in state.queue.entries.values())
    assert decide(state) == [], "the last one will show whether it is worth trying"
    state.crew_ended("crew7", Crash("a slow disk"))
    assert {entry.status for entry in state.queue.entries.values()} == {Status.FAILED}


def test_a_crew_that_speaks_after_others_would_not_start_takes_the_work() -> None:
    state = state_with(chains_of(small_study()), cpus=8)
    for crew in ("a", "b", "c", "d"):
        state.roster.opening(crew, PAIR)
    for crew in ("a", "b", "c"):
        state.crew_ended(crew, Crash("a slow disk"))
    state.crew_spoke("d", PAIR, "start of d", None, Crash(""))
    assert {type(one) for one in decide(state)} == {Assign, OpenCrew}


def test_crews_that_find_no_room_fail_nothing_and_are_opened_again() -> None:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    state = state_with((chain,))
    for number in range(5):
        assert [type(one) for one in decide(state)] == [OpenCrew]
        state.roster.opening(f"crew{number}", PAIR)
        state.crew_ended(f"crew{number}", Crash("another run has the GPUs"), found_room=False)
    state.roster.opening("patient", PAIR)
    assert study_status(state, {}).crews == ("patient of 2: waits for room on the cluster",)
    state.crew_spoke("patient", PAIR, "start", None, Crash(""))
    assert [type(one) for one in decide(state)] == [Assign]
    assert study_status(state, {}).crews == ("patient of 2: idle",)


def test_extra_crews_that_never_begin_leave_the_one_that_works_in_peace() -> None:
    chains = chains_of(small_study())
    state = state_with(chains, cpus=4)
    open_idle(state, "a")
    state.started("a", stage_of(chains[0], "floor", "s").identity)
    for number in range(3):
        assert [type(one) for one in decide(state)] == [OpenCrew]
        state.roster.opening(f"extra{number}", PAIR)
        state.crew_ended(f"extra{number}", Crash("a slow disk"))
    assert decide(state) == [], "enough of trying"
    assert not any(entry.status is Status.FAILED for entry in state.queue.entries.values())
    state.crew_ended("a", Crash("killed"))
    assert OpenCrew in [type(one) for one in decide(state)], "without it, another is tried"
    state.roster.opening("last", PAIR)
    state.crew_ended("last", Crash("a slow disk"))
    assert any(entry.status is Status.FAILED for entry in state.queue.entries.values())


def test_room_is_counted_node_by_node() -> None:
    wide = GroupShape(workers=2, cpus_per_worker=3, gpus_per_worker=0)
    assert not Room((Node(3), Node(2), Node(2))).place(wide)
    assert Room((Node(3), Node(4))).place(wide)
    room = Room((Node(8, gpus=2),))
    pair_of_gpus = GroupShape(workers=2, cpus_per_worker=1, gpus_per_worker=1)
    assert room.place(pair_of_gpus)
    assert not room.place(pair_of_gpus)
    assert room.place(PAIR)
