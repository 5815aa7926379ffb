import numpy as np
import pytest

from w2s_ray.data.batches import num_steps, partition, plan_steps

LENGTHS_N = np.random.default_rng(0).integers(1, 100, 1000)


def plan(**changes: float) -> list[np.ndarray]:
    known = {"epochs": 2.0, "examples_per_step": 32, "order_seed": 5, "bucketing_window": 4}
    return plan_steps(LENGTHS_N, **(known | changes))  # type: ignore[arg-type]


def test_trap_16_every_epoch_visits_every_example_once_and_drops_no_tail() -> None:
    steps = plan()
    assert [len(step) for step in steps[:32]] == [32] * 31 + [8]
    for epoch in (steps[:32], steps[32:]):
        assert sorted(np.concatenate(epoch)) == list(range(1000))


def test_trap_16_the_order_differs_between_epochs_and_seeds() -> None:
    steps, others = plan(), plan(order_seed=6)
    assert {tuple(sorted(step)) for step in steps[:31]}.isdisjoint(tuple(sorted(step)) for step in steps[32:63])
    assert {tuple(sorted(step)) for step in steps[:31]}.isdisjoint(tuple(sorted(step)) for step in others[:31])


def test_a_plan_depends_on_its_arguments_alone() -> None:
    first = plan()
    np.random.default_rng().random(5)
    np.random.seed(1)
    for one, other in zip(first, plan(), strict=True):
        np.testing.assert_array_equal(one, other)


def test_plans_are_pinned() -> None:
    """If these change, all results change: increase RECIPE in spec/stage.py and pin the new values."""
    assert plan()[0][:4].tolist() == [633, 29, 474, 380]
    assert plan()[40][:4].tolist() == [23, 330, 586, 158]


@pytest.mark.parametrize(("epochs", "expected"), [(1, 32), (0.5, 16), (2.25, 72), (0.01, 1), (1.5, 48)])
def test_fractions_of_an_epoch_are_cut_at_whole_steps(epochs: float, expected: int) -> None:
    assert num_steps(1000, epochs=epochs, examples_per_step=32) == expected
    steps = plan(epochs=epochs)
    assert len(steps) == expected
    for short, long in zip(steps, plan(epochs=3.0), strict=False):
        np.testing.assert_array_equal(short, long)


def test_a_window_gathers_texts_of_similar_length_and_shuffles_the_batches() -> None:
    def spread(steps: list[np.ndarray]) -> float:
        return float(np.mean([np.ptp(LENGTHS_N[step]) for step in steps]))

    bucketed = plan(bucketing_window=8)
    assert spread(bucketed) < 0.3 * spread(plan(bucketing_window=1))
    longest = [int(LENGTHS_N[step].max()) for step in bucketed[:8]]
    assert longest != sorted(longest)


def test_the_tail_batch_is_drawn_at_random_and_not_the_longest_texts() -> None:
    tails = np.concatenate([plan(epochs=1.0, order_seed=seed)[-1] for seed in range(50)])
    assert abs(LENGTHS_N[tails].mean() - LENGTHS_N.mean()) < 6


def test_fewer_examples_than_a_step_are_one_step() -> None:
    (step,) = plan_steps(np.array([3, 1]), epochs=1, examples_per_step=32, order_seed=0, bucketing_window=4)
    assert sorted(step) == [0, 1]


@pytest.mark.parametrize("world", [1, 2, 3, 8])
@pytest.mark.parametrize("tokens", [1, 64, 256, 1000, 100_000])
def test_a_partition_has_each_example_once_within_the_token_budget(world: int, tokens: int) -> None:
    for step in plan(epochs=0.2):
        ranks = partition(step, LENGTHS_N, world=world, tokens_per_micro_batch=tokens)
        assert len(ranks) == world
        assert len({len(pieces) for pieces in ranks}) == 1
        pieces = [piece for rank in ranks for piece in rank if len(piece)]
        assert sorted(np.concatenate(pieces)) == sorted(step)
        assert all(len(piece) == 1 or LENGTHS_N[piece].max() * len(piece) <= tokens for piece in pieces)
        assert any(len(rank[-1]) for rank in ranks)


def test_ranks_get_about_the_same_number_of_padded_tokens() -> None:
    imbalances = []
    for step in plan(bucketing_window=1):
        ranks = partition(step, LENGTHS_N, world=2, tokens_per_micro_batch=512)
        loads = [sum(LENGTHS_N[piece].max() * len(piece) for piece in rank if len(piece)) for rank in ranks]
        imbalances.append(max(loads) / (sum(loads) / 2))
    assert np.mean(imbalances) < 1.15


def test_a_rank_with_the_larger_piece_gets_the_smaller_one_next() -> None:
    ranks = partition(np.arange(4), np.array([40, 30, 20, 10]), world=2, tokens_per_micro_batch=1)
    assert [[piece.tolist() for piece in rank] for rank in ranks] == [[[0], [3]], [[1], [2]]]


def test_a_batch_that_fits_one_micro_batch_is_still_shared_among_the_ranks() -> None:
    ranks = partition(np.arange(32), np.full(32, 10), world=2, tokens_per_micro_batch=100_000)
    assert [[len(piece) for piece in rank] for rank in ranks] == [[16], [16]]


def test_ranks_without_examples_get_empty_fillers() -> None:
    ranks = partition(np.array([7]), LENGTHS_N, world=3, tokens_per_micro_batch=64)
    assert [[len(piece) for piece in rank] for rank in ranks] == [[1], [0], [0]]


def test_one_worker_with_enough_memory_takes_the_whole_batch_at_once() -> None:
    step = plan()[0]
    ((piece,),) = partition(step, LENGTHS_N, world=1, tokens_per_micro_batch=32 * 100)
    assert sorted(piece) == sorted(step)


def test_the_order_within_a_batch_does_not_change_its_partition() -> None:
    step = plan()[3]
    one, other = (partition(item, LENGTHS_N, world=2, tokens_per_micro_batch=300) for item in (step, step[::-1]))
    for first, second in zip(one, other, strict=True):
        for piece, twin in zip(first, second, strict=True):
            np.testing.assert_array_equal(piece, twin)
