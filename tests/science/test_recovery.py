"""PGR and its intervals: analytic values, the pairing of resamples, and the traps of a small gap."""

import time

import numpy as np
import pytest

from w2s_ray.science.bootstrap import Resamples, interval
from w2s_ray.science.recovery import (
    Sampled,
    compare,
    difference,
    gap,
    holm,
    mean_of,
    minimum_detectable,
    p_value,
    pgr,
    recover,
)


def scored(resamples: Resamples, *correct_SN: np.ndarray) -> list[Sampled]:
    """Each model's accuracy over its seeds (S × N), all on the same resamples."""
    sampled = []
    for model_SN in correct_SN:
        accuracy_BS = resamples.accuracies(model_SN)
        sampled.append(Sampled(float(model_SN.mean()), resamples.over_seeds(accuracy_BS), resamples.num_groups))
    return sampled


def right(num_right: int, num: int = 1000, seeds: int = 1) -> np.ndarray:
    """A model that is right on the first examples."""
    return np.tile(np.arange(num) < num_right, (seeds, 1))


def test_pgr_is_the_share_of_the_gap_that_is_recovered() -> None:
    assert pgr(0.7, 0.6, 0.8) == pytest.approx(0.5)
    assert pgr(0.5, 0.6, 0.8) == pytest.approx(-0.5), "a student below its floor has a negative PGR"
    assert pgr(0.9, 0.6, 0.8) == pytest.approx(1.5)


def test_floor_arm_and_ceiling_share_resamples() -> None:
    resamples = Resamples(np.arange(1000), num_resamples=400)
    floor, student, ceiling = scored(resamples, right(600), right(700), right(800))
    again, *_ = scored(resamples, right(600))
    assert np.array_equal(floor.resampled_B, again.resampled_B), (
        "the same models on the same test set get the same resamples"
    )
    recovery = recover(student, floor, ceiling, min_gap=0.02)
    assert recovery.pgr == pytest.approx(0.5) and recovery.interval is not None
    # Nested models: the student's gain is Binomial(700 − 600, half of the gap); unpaired resamples would be far wider.
    assert 0.08 < recovery.interval.high - recovery.interval.low < 0.20


def test_a_student_equal_to_its_ceiling_has_pgr_1_on_every_resample() -> None:
    resamples = Resamples(np.arange(1000), num_resamples=400)
    floor, student, ceiling = scored(resamples, right(600), right(800), right(800))
    recovery = recover(student, floor, ceiling, min_gap=0.02)
    assert recovery.interval is not None and (recovery.interval.low, recovery.interval.high) == (1.0, 1.0)


def test_the_interval_of_an_accuracy_has_the_binomial_width() -> None:
    resamples = Resamples(np.arange(1000), num_resamples=4000)
    (model,) = scored(resamples, right(700))
    wanted = 1.96 * np.sqrt(0.7 * 0.3 / 1000)
    assert model.interval.low == pytest.approx(0.7 - wanted, abs=0.004)
    assert model.interval.high == pytest.approx(0.7 + wanted, abs=0.004)


def test_related_examples_are_resampled_together() -> None:
    alone = Resamples(np.arange(1000), num_resamples=2000)
    related = Resamples(np.arange(1000) // 10, num_resamples=2000)
    (narrow,), (wide,) = scored(alone, right(700)), scored(related, right(700))
    # All ten of a group are right or wrong at once, so there are 100 examples' worth of evidence: √10 times as wide.
    assert wide.resampled_B.std() / narrow.resampled_B.std() == pytest.approx(np.sqrt(10), rel=0.1)


def test_a_group_counts_by_its_number_of_examples() -> None:
    group_of_N = np.array([0] * 90 + list(range(1, 11)))
    (model,) = scored(Resamples(group_of_N, num_resamples=200), (group_of_N == 0)[None, :])
    assert model.value == pytest.approx(0.9)
    assert set(np.round(model.resampled_B[model.resampled_B < 1], 6)) <= {
        round(90 * k / (90 * k + 11 - k), 6) for k in range(11)
    }


def test_pgr_over_seeds_is_the_ratio_of_means() -> None:
    floor_SN = np.concatenate([right(600), right(600)])
    student_SN = np.concatenate([right(640), right(800)])  # PGRs .8 and .5; their mean would be .65
    ceiling_SN = np.concatenate([right(650), right(1000)])
    resamples = Resamples(np.arange(1000), num_resamples=200)
    floor, student, ceiling = scored(resamples, floor_SN, student_SN, ceiling_SN)
    assert recover(student, floor, ceiling, min_gap=0.02).pgr == pytest.approx((0.72 - 0.6) / (0.825 - 0.6))


def test_seeds_are_resampled_as_blocks_shared_by_floor_arm_and_ceiling() -> None:
    """Seeds differ widely, but within a seed all three move together: the PGR hardly varies, the accuracy does."""
    shift = np.arange(5) * 50
    floor_SN, student_SN, ceiling_SN = (
        np.concatenate([right(base + num) for num in shift]) for base in (400, 500, 600)
    )
    resamples = Resamples(np.arange(1000), num_resamples=2000)
    floor, student, ceiling = scored(resamples, floor_SN, student_SN, ceiling_SN)
    assert student.resampled_B.std() > 0.03, "five seeds that spread by .2 are not sure of their mean"
    recovery = recover(student, floor, ceiling, min_gap=0.02)
    assert recovery.interval is not None and recovery.interval.high - recovery.interval.low < 0.12
    weights_BS = resamples.seed_weights(5)
    assert weights_BS.shape == (2000, 5) and np.allclose(weights_BS.sum(axis=1), 1)
    assert np.array_equal(weights_BS, resamples.seed_weights(5))


def test_a_resample_on_which_two_arms_are_equal_is_an_exact_tie() -> None:
    """Each is right on what the other is in another seed: where a resample has every seed once, they are equal."""
    one_SN, two_SN, three_SN = right(413, 700), right(447, 700), right(561, 700)
    resamples = Resamples(np.arange(700), num_resamples=2000)
    first, second = scored(
        resamples, np.concatenate([one_SN, two_SN, three_SN]), np.concatenate([three_SN, one_SN, two_SN])
    )
    alike_B = (resamples.seed_weights(3) == 1 / 3).all(axis=1)
    assert alike_B.sum() > 300
    assert (first.resampled_B - second.resampled_B)[alike_B].any(), "their sums differ in the last digit"
    assert not difference(first, second).resampled_B[alike_B].any()


def test_trap_15_a_tiny_gap_makes_the_pgr_undefined_with_a_reason() -> None:
    resamples = Resamples(np.arange(1000), num_resamples=400)
    floor, student, ceiling = scored(resamples, right(600), right(660), right(615))
    recovery = recover(student, floor, ceiling, min_gap=0.02)
    assert recovery.pgr is None and recovery.interval is None
    assert recovery.undefined is not None and "0.015" in recovery.undefined and "0.02" in recovery.undefined
    assert recover(student, floor, ceiling, min_gap=0.0).pgr == pytest.approx(4.0), "the bound decides, not the student"


def test_a_single_group_of_examples_has_no_pgr_and_a_reason() -> None:
    resamples = Resamples(np.zeros(100), num_resamples=400)
    floor, student, ceiling = scored(resamples, right(60, 100), right(70, 100), right(80, 100))
    recovery = recover(student, floor, ceiling, min_gap=0.02)
    assert recovery.pgr is None and recovery.interval is None
    assert recovery.undefined is not None and "1 group" in recovery.undefined and "at least 2" in recovery.undefined
    two = scored(Resamples(np.arange(100) % 2, num_resamples=400), right(60, 100), right(80, 100))
    other = scored(resamples, right(60, 100), right(80, 100))
    assert gap(*two).num_groups == 2 and mean_of([two[0], other[0]]).num_groups == 1, "the task with the fewest decides"


def test_a_ceiling_below_its_floor_makes_the_pgr_undefined() -> None:
    resamples = Resamples(np.arange(1000), num_resamples=400)
    floor, student, ceiling = scored(resamples, right(600), right(650), right(500))
    assert recover(student, floor, ceiling, min_gap=0.0).undefined is not None
    assert gap(floor, ceiling).value == pytest.approx(-0.1)


def test_trap_15_the_pooled_pgr_includes_tasks_with_a_small_gap() -> None:
    """Of three tasks one has no gap; leaving it out would make .5 of what is (.05 + .1 − .06) / (.1 + .2 + .0)."""
    tasks = [
        scored(
            Resamples(np.arange(1000), num_resamples=400, test_set=name), right(floor), right(student), right(ceiling)
        )
        for name, floor, student, ceiling in (("a", 600, 650, 700), ("b", 600, 700, 800), ("c", 600, 540, 600))
    ]
    assert [recover(student, floor, ceiling, min_gap=0.02).pgr is None for floor, student, ceiling in tasks] == [
        False, False, True,
    ]  # fmt: skip
    floor, student, ceiling = (mean_of(arm) for arm in zip(*tasks, strict=True))
    pooled = recover(student, floor, ceiling, min_gap=0.02)
    assert pooled.pgr == pytest.approx((0.05 + 0.1 - 0.06) / (0.1 + 0.2 + 0.0))
    assert pooled.interval is not None and pooled.interval.low < pooled.pgr < pooled.interval.high


def test_tasks_are_resampled_independently_and_seeds_together() -> None:
    a, b = (Resamples(np.arange(1000), num_resamples=2000, test_set=name) for name in ("a", "b"))
    first, second = a.accuracies(right(600))[:, 0], b.accuracies(right(600))[:, 0]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1
    assert np.array_equal(a.seed_weights(3), b.seed_weights(3))


def test_the_minimum_detectable_difference_is_2_8_standard_errors() -> None:
    difference_B = np.random.default_rng(0).normal(0.1, 0.05, 4000)
    assert minimum_detectable(difference_B) == pytest.approx(2.8 * 0.05, rel=0.05)


def test_a_resample_with_a_tiny_gap_does_not_change_the_detectable_difference() -> None:
    difference_B = np.random.default_rng(0).normal(0.1, 0.05, 4000)
    difference_B[:4] = [90, -40, 200, -60]
    assert difference_B.std() > 3
    assert minimum_detectable(difference_B) == pytest.approx(2.8 * 0.05, rel=0.05)


def test_arms_are_compared_on_the_same_resamples() -> None:
    resamples = Resamples(np.arange(1000), num_resamples=400)
    floor, first, second, ceiling = scored(resamples, right(600), right(700), right(660), right(800))
    better, worse = (recover(arm, floor, ceiling, min_gap=0.02) for arm in (first, second))
    compared = compare(better, worse)
    assert compared is not None and compared.value == pytest.approx(0.2)
    assert compared.interval.low > 0, "nested models: the better one is better on every resample"
    assert 0 < minimum_detectable(compared.resampled_B) < 0.3
    same = compare(better, better)
    assert same is not None and minimum_detectable(same.resampled_B) == 0
    assert compare(better, recover(first, ceiling, floor, min_gap=0.02)) is None


def test_predictions_for_other_examples_are_refused() -> None:
    with pytest.raises(AssertionError, match="same examples"):
        Resamples(np.arange(10), num_resamples=10).accuracies(np.ones((1, 9), dtype=bool))


def test_resamples_without_a_value_are_left_out_of_an_interval() -> None:
    bounds = interval(np.array([0.1, np.nan, 0.3]))
    assert 0.1 <= bounds.low < bounds.high <= 0.3


def test_2000_resamples_of_4000_examples_and_10_arms_take_under_2_seconds() -> None:
    correct_KN = np.random.default_rng(0).random((10, 4000)) < 0.7
    began = time.perf_counter()
    Resamples(np.arange(4000), num_resamples=2000).accuracies(correct_KN)
    assert time.perf_counter() - began < 2


def test_a_difference_with_one_sign_on_all_resamples_has_the_smallest_p_value() -> None:
    assert p_value(np.full(1999, 0.1)) == p_value(np.full(1999, -0.1)) == 0.001


def test_as_many_positive_as_negative_differences_have_p_value_1() -> None:
    assert p_value(np.array([-1.0, 1.0] * 50)) == 1.0
    assert p_value(np.zeros(100)) == 1.0


def test_the_p_value_is_twice_the_share_on_the_rarer_side_of_zero() -> None:
    difference_B = np.concatenate([np.full(30, -0.01), np.full(969, 0.1)])
    assert p_value(difference_B) == pytest.approx(2 * 31 / 1000)
    assert p_value(np.concatenate([difference_B, [np.nan]])) == pytest.approx(2 * 31 / 1000)


@pytest.mark.parametrize(("mean", "is_clear"), [(0.03, True), (0.01, False)])
def test_a_p_value_below_5_percent_agrees_with_an_interval_without_zero(mean: float, is_clear: bool) -> None:
    difference_B = np.random.default_rng(0).normal(mean, 0.01, 2000)
    assert (p_value(difference_B) < 0.05) == is_clear == (interval(difference_B).low > 0)


def test_without_a_difference_5_percent_of_p_values_are_below_5_percent() -> None:
    random = np.random.default_rng(1)
    errors = random.normal(0, 1, 400)
    p_values = [p_value(random.normal(error, 1, 400)) for error in errors]
    assert 0.02 < np.mean(np.array(p_values) < 0.05) < 0.085


def test_holm_multiplies_by_the_number_of_remaining_tests_and_never_falls() -> None:
    assert holm([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04] and holm([]) == []


def test_holm_counts_a_comparison_without_a_p_value() -> None:
    assert holm([0.02, None]) == [0.04, None]
