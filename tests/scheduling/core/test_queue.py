"""The queue: every distinct stage once, ready when what it learns from exists, the most urgent first."""

import time

import pytest

from tests.scheduling.studies import LADDER_OF_THREE, chains_of, small_study, stage_of
from w2s_ray.errors import TrainingError
from w2s_ray.scheduling.core.queue import Crash, CrashKind, Queue, StageState
from w2s_ray.spec.chain import Chain, PlannedStage, distinct_stages

KILLED = Crash("killed by the kernel")


def queue_of(*chains: Chain, stored: frozenset[str] = frozenset()) -> Queue:
    queue = Queue()
    request(queue, *chains, stored=stored)
    return queue


def request(queue: Queue, *chains: Chain, stored: frozenset[str] = frozenset()) -> None:
    for chain in chains:
        queue.request(chain.name, chain.stages, stored)


def run(queue: Queue, *stages: PlannedStage) -> None:
    for stage in stages:
        queue.start(stage.identity)
        queue.finish(stage.identity)


def ready(queue: Queue) -> list[str]:
    """Arms and levels of the ready stages, most urgent first."""
    stages = (queued.stage for shape in queue.ready_shapes for queued in queue.most_urgent(shape, 100))
    return [f"{stage.arm} {stage.level}" for stage in stages]


@pytest.fixture
def chain() -> Chain:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    return chain


@pytest.fixture
def floor(chain: Chain) -> PlannedStage:
    return stage_of(chain, "floor", "s")


def test_stages_that_chains_share_are_queued_once() -> None:
    chains = chains_of(small_study())
    queue = queue_of(*chains)
    assert len(queue.stages) == len(distinct_stages(chains)) == 5
    floor = stage_of(chains[0], "floor", "s")
    assert queue.stages[floor.identity].wanted_by == {chain.name for chain in chains}


def test_a_student_is_ready_when_its_labels_exist(chain: Chain, floor: PlannedStage) -> None:
    queue = queue_of(chain)
    assert ready(queue) == ["floor s", "ceiling l"]
    queue.start(floor.identity)
    assert ready(queue) == ["ceiling l"]
    queue.finish(floor.identity)
    assert sorted(ready(queue)) == ["ceiling l", "chain l"]


def test_longest_path_comes_first_then_the_most_shared_stage() -> None:
    study = small_study(
        ladder=LADDER_OF_THREE, methods={"naive": {}, "half": {"losses": {"l": {"kind": "confidence"}}}}
    )
    chains = chains_of(study)
    queue = queue_of(*chains)
    assert ready(queue)[0] == "floor s", "two students depend on it"
    floor, medium = stage_of(chains[0], "floor", "s"), stage_of(chains[0], "chain", "m")
    assert queue.stages[floor.identity].remaining > queue.stages[medium.identity].remaining
    run(queue, floor, medium)
    order = ready(queue)
    assert order.index("ceiling l") < order.index("chain l"), "as long, and wanted by both chains"


def test_a_stored_stage_is_done_and_its_students_are_ready(chain: Chain, floor: PlannedStage) -> None:
    queue = queue_of(chain, stored=floor.products)
    assert queue.stages[floor.identity].state is StageState.DONE
    assert sorted(ready(queue)) == ["ceiling l", "chain l"]


def test_a_stored_stage_without_a_wanted_prediction_is_ready(chain: Chain, floor: PlannedStage) -> None:
    queue = queue_of(chain, stored=frozenset({floor.identity}))
    assert ready(queue)[0] == "floor s"


def test_a_prediction_requested_while_a_stage_runs_makes_it_wait_again() -> None:
    (short,) = chains_of(small_study(ladder=LADDER_OF_THREE, methods={"naive": {}}, chains=[["s", "l"]]))
    (long,) = chains_of(small_study(ladder=LADDER_OF_THREE, methods={"naive": {}}))
    floor = stage_of(short, "floor", "s")
    queue = queue_of(short)
    queue.start(floor.identity)
    request(queue, long)
    queue.finish(floor.identity)
    assert queue.stages[floor.identity].state is StageState.WAITING, "the medium model's labels are missing"
    assert {"floor s", "chain l"} <= set(ready(queue))
    run(queue, floor)
    assert queue.stages[floor.identity].state is StageState.DONE
    assert "chain m" in ready(queue)


def test_a_running_stage_that_no_trial_wants_is_unwanted_until_one_does() -> None:
    first, second, _ = chains_of(small_study())
    floor = stage_of(first, "floor", "s").identity
    queue = queue_of(first)
    queue.start(floor)
    queue.withdraw(first.name)
    assert queue.unwanted == {floor}
    assert ready(queue) == []
    request(queue, second)
    assert queue.unwanted == set()


def test_a_withdrawn_chain_no_longer_adds_to_the_remaining_path() -> None:
    (long,) = chains_of(small_study(ladder=LADDER_OF_THREE, methods={"naive": {}}))
    (short,) = chains_of(small_study(ladder=LADDER_OF_THREE, methods={"naive": {}}, chains=[["s", "l"]]))
    floor = stage_of(long, "floor", "s").identity
    queue = queue_of(short)
    alone = queue.stages[floor].remaining
    request(queue, long)
    assert queue.stages[floor].remaining > alone
    queue.withdraw(long.name)
    assert queue.stages[floor].remaining == alone


def test_a_failed_stage_fails_only_those_that_learn_from_it(chain: Chain, floor: PlannedStage) -> None:
    queue = queue_of(chain)
    queue.start(floor.identity)
    queue.fail(floor.identity, TrainingError("the loss is nan"))
    student = queue.stages[stage_of(chain, "chain", "l").identity]
    assert student.state is StageState.FAILED
    assert student.error is not None and "the loss is nan" in student.error.message
    assert ready(queue) == ["ceiling l"]


def test_a_stage_survives_two_dead_groups_and_fails_with_the_third(chain: Chain, floor: PlannedStage) -> None:
    queue = queue_of(chain)
    for state in (StageState.WAITING, StageState.WAITING, StageState.FAILED):
        queue.start(floor.identity)
        queue.group_died(floor.identity, KILLED, max_deaths=3)
        assert queue.stages[floor.identity].state is state
    assert KILLED.cause in str(queue.stages[floor.identity].error)


def test_deaths_of_groups_that_left_a_later_checkpoint_do_not_add_up(chain: Chain, floor: PlannedStage) -> None:
    queue = queue_of(chain)

    def die(saved_step: int) -> StageState:
        queue.start(floor.identity)
        queue.save(floor.identity, saved_step)
        queue.group_died(floor.identity, KILLED, max_deaths=3)
        return queue.stages[floor.identity].state

    assert [die(step) for step in (0, 0, 10, 10, 20, 30, 30)] == [StageState.WAITING] * 7
    queue.save(floor.identity, 5)
    assert die(30) is StageState.FAILED
    assert "checkpoint of step 30" in str(queue.stages[floor.identity].error)


def test_a_blocked_stage_is_not_ready(chain: Chain, floor: PlannedStage) -> None:
    queue = queue_of(chain)
    queue.block(floor.identity, "another run has it")
    assert ready(queue) == ["ceiling l"]
    assert queue.why_waiting(floor.identity) == "another run has it"
    assert "floor s" in (queue.why_waiting(stage_of(chain, "chain", "l").identity) or "")
    queue.block(floor.identity, None)
    assert ready(queue)[0] == "floor s"


def test_thousands_of_stages_are_ordered_in_seconds() -> None:
    queue = Queue()
    began = time.perf_counter()
    request(queue, *chains_of(small_study(seeds=list(range(400)))))
    (shape,) = queue.ready_shapes
    done = 0
    while queue.ready_shapes:
        (queued,) = queue.most_urgent(shape, 1)
        run(queue, queued.stage)
        done += 1
    assert done == len(queue.stages) == 2_000
    assert time.perf_counter() - began < 10, "minutes would mean that something is quadratic"


def test_deaths_after_which_micro_batches_shrink_do_not_count(chain: Chain, floor: PlannedStage) -> None:
    queue = queue_of(chain)
    for _ in range(10):
        queue.start(floor.identity)
        queue.group_died(floor.identity, Crash("out of memory", CrashKind.SMALLER), max_deaths=3)
    assert queue.stages[floor.identity].state is StageState.WAITING
    assert queue.stages[floor.identity].num_deaths == 0


@pytest.mark.parametrize("kind", set(CrashKind) - {CrashKind.SMALLER})
def test_the_hint_blames_memory_only_where_it_was_short(kind: CrashKind, chain: Chain, floor: PlannedStage) -> None:
    queue = queue_of(chain)
    for _ in range(3):
        queue.start(floor.identity)
        queue.group_died(floor.identity, Crash("it died", kind), max_deaths=3)
    error = queue.stages[floor.identity].error
    assert error is not None
    assert ("memory" in error.hint) == (kind is CrashKind.MEMORY)


def test_each_kind_of_death_has_its_own_hint(chain: Chain, floor: PlannedStage) -> None:
    hints = set()
    for kind in set(CrashKind) - {CrashKind.SMALLER}:
        queue = queue_of(chain)
        for _ in range(3):
            if queue.stages[floor.identity].state is StageState.WAITING:
                queue.start(floor.identity)
                queue.group_died(floor.identity, Crash("it died", kind), max_deaths=3)
        error = queue.stages[floor.identity].error
        assert error is not None
        hints.add(error.hint)
    assert len(hints) == 5


def deaths_until_failed(chain: Chain, floor: PlannedStage, *crashes: Crash, saves: bool = False) -> int:
    """Return after how many of the deaths the stage has failed."""
    queue = queue_of(chain)
    for number, crash in enumerate(crashes, start=1):
        queue.start(floor.identity)
        queue.save(floor.identity, number if saves else 0)
        queue.group_died(floor.identity, crash, max_deaths=3)
        if queue.stages[floor.identity].state is StageState.FAILED:
            return number
    return 0


def test_an_exception_is_not_tried_again_once_it_is_known_to_come_back(chain: Chain, floor: PlannedStage) -> None:
    def raised(text: str, **certain: bool) -> Crash:
        return Crash(text, CrashKind.EXCEPTION, "read it", **certain)

    busy, odd = raised("rank 1: RuntimeError: device 17 is busy"), raised("rank 0: OSError: odd")
    assert deaths_until_failed(chain, floor, raised("rank 1: IndexError: 5", is_certain=True)) == 1
    assert deaths_until_failed(chain, floor, busy, raised("rank 0: RuntimeError: device 18 is busy")) == 2
    assert deaths_until_failed(chain, floor, busy, odd, busy) == 3
    assert deaths_until_failed(chain, floor, KILLED, KILLED, KILLED) == 3, "a kill may be the last"
    assert deaths_until_failed(chain, floor, busy, busy, busy, busy, saves=True) == 0, "it gets further each time"
