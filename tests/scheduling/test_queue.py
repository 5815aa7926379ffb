"""The queue: every distinct stage once, ready when what it learns from exists, the most urgent first."""

import pytest
from w2s_ray.scheduling.queue import Crash, CrashKind, Queue, Status

from tests.scheduling.studies import chains_of, small_study
from w2s_ray.errors import TrainingError
from w2s_ray.spec.chain import Chain, PlannedStage, distinct_stages

NOTHING: frozenset[str] = frozenset()
LADDER = {"s": {"model": "w2s:small"}, "m": {"model": "w2s:medium"}, "l": {"model": "w2s:large"}}


def stage_of(chain: Chain, arm: str, level: str) -> PlannedStage:
    stage = chain.find(arm, level)  # type: ignore[arg-type]
    assert stage is not None
    return stage


def submit_all(queue: Queue, chains: tuple[Chain, ...], found: frozenset[str] = NOTHING) -> None:
    for chain in chains:
        queue.submitted(chain.name, chain.stages, found)


def ready(queue: Queue) -> list[str]:
    """Arms and levels of what is ready, most urgent first."""
    return [
        f"{entry.stage.arm} {entry.stage.level}" for shape in queue.ready_shapes for entry in queue.best(shape, 100)
    ]


def made_by(stage: PlannedStage) -> frozenset[str]:
    return frozenset({stage.identity, *(prediction.identity for prediction in stage.predicts)})


def test_stages_that_chains_share_are_one_entry_wanted_by_all() -> None:
    chains = chains_of(small_study())
    queue = Queue()
    submit_all(queue, chains)
    assert len(queue.entries) == len(distinct_stages(chains)) == 5
    assert queue.num_asked == 9
    floor = stage_of(chains[0], "floor", "s")
    assert queue.entries[floor.identity].wanted_by == {chain.name for chain in chains}


def test_a_student_is_ready_only_when_its_labels_exist() -> None:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    queue = Queue()
    submit_all(queue, (chain,))
    assert ready(queue) == ["floor s", "ceiling l"]
    floor = stage_of(chain, "floor", "s").identity
    queue.started(floor)
    assert ready(queue) == ["ceiling l"]
    queue.finished(floor)
    assert sorted(ready(queue)) == ["ceiling l", "chain l"]


def test_the_longest_remaining_path_comes_first_and_shared_stages_before_private_ones() -> None:
    chains = chains_of(
        small_study(ladder=LADDER, methods={"naive": {}, "half": {"losses": {"l": {"kind": "confidence"}}}})
    )
    queue = Queue()
    submit_all(queue, chains)
    assert ready(queue)[0] == "floor s", "two links hang on it"
    floor, medium = stage_of(chains[0], "floor", "s"), stage_of(chains[0], "chain", "m")
    assert queue.entries[floor.identity].remaining > queue.entries[medium.identity].remaining
    for stage in (floor, medium):
        queue.started(stage.identity)
        queue.finished(stage.identity)
    order = ready(queue)
    assert order.index("ceiling l") < order.index("chain l"), "as long, and wanted by both chains"


def test_what_the_store_has_is_done_and_lets_others_begin() -> None:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    floor = stage_of(chain, "floor", "s")
    queue = Queue()
    submit_all(queue, (chain,), found=made_by(floor))
    assert queue.entries[floor.identity].status is Status.DONE
    assert sorted(ready(queue)) == ["ceiling l", "chain l"]


def test_a_finished_stage_without_a_wanted_prediction_is_still_work() -> None:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    floor = stage_of(chain, "floor", "s")
    queue = Queue()
    submit_all(queue, (chain,), found=frozenset({floor.identity}))
    assert ready(queue)[0] == "floor s"


def test_a_prediction_that_is_asked_for_late_brings_a_stage_back() -> None:
    (short,) = chains_of(small_study(ladder=LADDER, methods={"naive": {}}, chains=[["s", "l"]]))
    (long,) = chains_of(small_study(ladder=LADDER, methods={"naive": {}}))
    floor = stage_of(short, "floor", "s").identity
    queue = Queue()
    submit_all(queue, (short,))
    queue.started(floor)
    submit_all(queue, (long,))
    queue.finished(floor)
    assert queue.entries[floor].status is Status.WAITING, "the medium's labels were not asked for when it began"
    assert {"floor s", "chain l"} <= set(ready(queue))
    queue.started(floor)
    queue.finished(floor)
    assert queue.entries[floor].status is Status.DONE
    assert "chain m" in ready(queue)


def test_a_running_stage_that_nobody_wants_is_listed_until_somebody_does() -> None:
    first, second, _ = chains_of(small_study())
    floor = stage_of(first, "floor", "s").identity
    queue = Queue()
    submit_all(queue, (first,))
    queue.started(floor)
    queue.withdrawn(first.name)
    assert queue.unwanted == {floor}
    assert ready(queue) == []
    submit_all(queue, (second,))
    assert queue.unwanted == set()


def test_withdrawal_takes_the_weight_of_what_is_no_longer_wanted() -> None:
    (long,) = chains_of(small_study(ladder=LADDER, methods={"naive": {}}))
    (short,) = chains_of(small_study(ladder=LADDER, methods={"naive": {}}, chains=[["s", "l"]]))
    floor = stage_of(long, "floor", "s").identity
    queue = Queue()
    submit_all(queue, (short,))
    alone = queue.entries[floor].remaining
    submit_all(queue, (long,))
    assert queue.entries[floor].remaining > alone
    queue.withdrawn(long.name)
    assert queue.entries[floor].remaining == alone


def test_a_failed_stage_fails_those_that_learn_from_it_and_no_others() -> None:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    queue = Queue()
    submit_all(queue, (chain,))
    floor = stage_of(chain, "floor", "s").identity
    queue.started(floor)
    queue.failed(floor, TrainingError("the loss is nan", "finite", "lower it"))
    student = queue.entries[stage_of(chain, "chain", "l").identity]
    assert student.status is Status.FAILED
    assert student.error is not None
    assert "the loss is nan" in student.error.rule
    assert ready(queue) == ["ceiling l"]


def test_a_stage_survives_two_dead_crews_and_fails_with_the_third() -> None:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    floor = stage_of(chain, "floor", "s").identity
    queue = Queue()
    submit_all(queue, (chain,))
    for _ in range(2):
        queue.started(floor)
        queue.crew_died(floor, 3, Crash("killed"))
        assert queue.entries[floor].status is Status.WAITING
    queue.started(floor)
    queue.crew_died(floor, 3, Crash("killed by the kernel"))
    assert queue.entries[floor].status is Status.FAILED
    assert "killed by the kernel" in str(queue.entries[floor].error)


def test_deaths_of_crews_that_left_a_later_checkpoint_do_not_add_up() -> None:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    floor = stage_of(chain, "floor", "s").identity
    queue = Queue()
    submit_all(queue, (chain,))

    def die(saved_step: int) -> Status:
        queue.started(floor)
        queue.saved(floor, saved_step)
        queue.crew_died(floor, 3, Crash("the node was taken away"))
        return queue.entries[floor].status

    assert [die(step) for step in (0, 0, 10, 10, 20, 30, 30)] == [Status.WAITING] * 7
    queue.saved(floor, 5)
    assert die(30) is Status.FAILED
    said = str(queue.entries[floor].error)
    assert "3 crews died while they ran it, and none got to a checkpoint after that of step 30" in said


def test_a_stage_that_another_run_holds_is_not_ready_and_says_why() -> None:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    floor = stage_of(chain, "floor", "s").identity
    queue = Queue()
    submit_all(queue, (chain,))
    queue.hold(floor, "another run has it")
    assert ready(queue) == ["ceiling l"]
    assert queue.why_waiting(floor) == "another run has it"
    assert "floor s" in queue.why_waiting(stage_of(chain, "chain", "l").identity)
    queue.hold(floor, None)
    assert ready(queue)[0] == "floor s"


def test_thousands_of_stages_are_ordered_fast() -> None:
    import time

    chains = chains_of(small_study(seeds=list(range(400))))
    queue = Queue()
    began = time.perf_counter()
    submit_all(queue, chains)
    (shape,) = queue.ready_shapes
    done = 0
    while queue.ready_shapes:
        (entry,) = queue.best(shape, 1)
        queue.started(entry.stage.identity)
        queue.finished(entry.stage.identity)
        done += 1
    assert done == len(queue.entries) == 2_000
    assert time.perf_counter() - began < 10, "minutes would mean that something is quadratic"


def test_deaths_after_which_micro_batches_are_smaller_fail_no_stage() -> None:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    queue, floor = Queue(), stage_of(chain, "floor", "s").identity
    submit_all(queue, (chain,))
    for _ in range(10):
        queue.started(floor)
        queue.crew_died(floor, 3, Crash("out of memory", CrashKind.SMALLER))
    assert queue.entries[floor].status is Status.WAITING
    assert queue.entries[floor].num_deaths == 0


@pytest.mark.parametrize("kind", [CrashKind.ERROR, CrashKind.MEMORY])
def test_memory_is_named_in_the_remedy_only_where_it_was_short(kind: CrashKind) -> None:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    queue, floor = Queue(), stage_of(chain, "floor", "s").identity
    submit_all(queue, (chain,))
    for _ in range(3):
        queue.started(floor)
        queue.crew_died(floor, 3, Crash("it died", kind))
    error = queue.entries[floor].error
    assert error is not None
    assert ("memory" in error.remedy) == (kind is CrashKind.MEMORY)
