"""PGR and its intervals: analytic values, the pairing of resamples, and the traps of a small gap."""

import time

import numpy as np
import pytest

from tests.science.scoring import scored, without_test_noise
from w2s_ray.science import BoolArray
from w2s_ray.science.bootstrap import Resamples
from w2s_ray.science.estimates import Interval, difference, mean_of, p_value
from w2s_ray.science.recovery import Recovery, compare, gap, holm, minimum_detectable, recover


def value(recovery: Recovery) -> float | None:
    return recovery.pgr.value if recovery.pgr is not None else None


def width(recovery: Recovery) -> float:
    assert recovery.pgr is not None
    return recovery.pgr.interval.high - recovery.pgr.interval.low


def right(num_right: int, num: int = 1000, seeds: int = 1) -> BoolArray:
    """A model that is right on the first examples."""
    return np.tile(np.arange(num) < num_right, (seeds, 1))


def test_floor_arm_and_ceiling_share_resamples() -> None:
    resamples = Resamples(np.arange(1000), num_resamples=400)
    floor, student, ceiling = scored(resamples, right(600), right(700), right(800))
    again, *_ = scored(resamples, right(600))
    assert np.array_equal(floor.draws_B, again.draws_B), "the same models on the same test set get the same resamples"
    recovery = recover(student, floor, ceiling, min_gap=0.02)
    assert value(recovery) == pytest.approx(0.5)
    # Nested models: the student's gain is Binomial(700 − 600, half of the gap); unpaired resamples would be far wider.
    assert 0.08 < width(recovery) < 0.20


def test_a_student_equal_to_its_ceiling_has_pgr_1_on_every_resample() -> None:
    resamples = Resamples(np.arange(1000), num_resamples=400)
    floor, student, ceiling = scored(resamples, right(600), right(800), right(800))
    recovery = recover(student, floor, ceiling, min_gap=0.02)
    assert recovery.pgr is not None and recovery.pgr.value == 1
    assert (recovery.pgr.interval.low, recovery.pgr.interval.high) == pytest.approx((1, 1))


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
    assert wide.draws_B.std() / narrow.draws_B.std() == pytest.approx(np.sqrt(10), rel=0.1)


def test_a_group_counts_by_its_number_of_examples() -> None:
    group_of_N = np.array([0] * 90 + list(range(1, 11)))
    (model,) = scored(Resamples(group_of_N, num_resamples=200), (group_of_N == 0)[None, :])
    assert model.value == pytest.approx(0.9)
    assert set(np.round(model.draws_B[model.draws_B < 1], 6)) <= {
        round(90 * k / (90 * k + 11 - k), 6) for k in range(11)
    }


def test_pgr_over_seeds_is_the_ratio_of_means() -> None:
    """The PGRs are .9, .3, .5, .5 and .5; their mean would be .54."""
    gains, gaps = (90, 90, 100, 100, 100), (100, 300, 200, 200, 200)
    floor_SN = right(600, seeds=5)
    student_SN, ceiling_SN = (np.concatenate([right(600 + num) for num in nums]) for nums in (gains, gaps))
    floor, student, ceiling = scored(Resamples(np.arange(1000), num_resamples=200), floor_SN, student_SN, ceiling_SN)
    assert value(recover(student, floor, ceiling, min_gap=0.02)) == pytest.approx(0.48)


def test_seeds_are_shared_by_floor_arm_and_ceiling() -> None:
    """Seeds differ widely, but within a seed all three move together: the PGR hardly varies, the accuracy does."""
    shift = np.arange(5) * 50
    floor_SN, student_SN, ceiling_SN = (
        np.concatenate([right(base + num) for num in shift]) for base in (400, 500, 600)
    )
    resamples = Resamples(np.arange(1000), num_resamples=2000)
    floor, student, ceiling = scored(resamples, floor_SN, student_SN, ceiling_SN)
    assert student.draws_B.std() > 0.03, "five seeds that spread by .2 are not sure of their mean"
    recovery = recover(student, floor, ceiling, min_gap=0.02)
    assert width(recovery) < 0.14


def test_arms_that_are_equal_over_seeds_are_an_exact_tie() -> None:
    """Each is right on what the other is in another seed."""
    one_SN, two_SN, three_SN = right(413, 700), right(447, 700), right(561, 700)
    resamples = Resamples(np.arange(700), num_resamples=2000)
    first, second = scored(
        resamples, np.concatenate([one_SN, two_SN, three_SN]), np.concatenate([three_SN, one_SN, two_SN])
    )
    assert p_value(difference(first, second)) > 0.99


def test_trap_15_a_tiny_gap_makes_the_pgr_undefined_with_a_reason() -> None:
    resamples = Resamples(np.arange(1000), num_resamples=400)
    floor, student, ceiling = scored(resamples, right(600), right(660), right(615))
    recovery = recover(student, floor, ceiling, min_gap=0.02)
    assert recovery.pgr is None
    assert recovery.undefined is not None and "0.015" in recovery.undefined and "0.02" in recovery.undefined
    assert value(recover(student, floor, ceiling, min_gap=0.0)) == pytest.approx(4.0), (
        "the bound decides, not the student"
    )


def test_a_single_group_of_examples_has_no_pgr_and_a_reason() -> None:
    resamples = Resamples(np.zeros(100), num_resamples=400)
    floor, student, ceiling = scored(resamples, right(60, 100), right(70, 100), right(80, 100))
    recovery = recover(student, floor, ceiling, min_gap=0.02)
    assert recovery.pgr is None
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
    assert value(pooled) == pytest.approx((0.05 + 0.1 - 0.06) / (0.1 + 0.2 + 0.0))
    assert pooled.pgr is not None and pooled.pgr.interval.low < pooled.pgr.value < pooled.pgr.interval.high


def test_tasks_are_resampled_independently() -> None:
    a, b = (Resamples(np.arange(1000), num_resamples=2000, test_set=name) for name in ("a", "b"))
    first, second = a.accuracies(right(600))[:, 0], b.accuracies(right(600))[:, 0]
    assert abs(np.corrcoef(first, second)[0, 1]) < 0.1


def test_the_minimum_detectable_difference_is_2_8_standard_errors() -> None:
    assert minimum_detectable(Interval(0.1 - 1.96 * 0.05, 0.1 + 1.96 * 0.05)) == pytest.approx(2.8 * 0.05)


@pytest.mark.parametrize("num_seeds", [3, 5])
def test_four_of_five_studies_find_a_detectable_difference(num_seeds: int) -> None:
    """Without test noise; on average the detectable difference is a little larger than needed."""
    random = np.random.default_rng(num_seeds)
    true = np.mean([minimum_detectable(without_test_noise(noise_S).interval)
                    for noise_S in random.standard_normal((300, num_seeds))])  # fmt: skip
    found = [p_value(without_test_noise(noise_S)) < 0.05 for noise_S in true + random.standard_normal((300, num_seeds))]
    assert 0.75 < np.mean(found) < 0.9


def test_arms_are_compared_on_the_same_resamples() -> None:
    resamples = Resamples(np.arange(1000), num_resamples=400)
    floor, first, second, ceiling = scored(resamples, right(600), right(700), right(660), right(800))
    better, worse = (recover(arm, floor, ceiling, min_gap=0.02) for arm in (first, second))
    compared = compare(better, worse)
    assert compared is not None and compared.value == pytest.approx(0.2)
    assert compared.interval.low > 0, "nested models: the better one is better on every resample"
    assert 0 < minimum_detectable(compared.interval) < 0.3
    same = compare(better, better)
    assert same is not None and minimum_detectable(same.interval) == pytest.approx(0)
    assert compare(better, recover(first, ceiling, floor, min_gap=0.02)) is None


def test_pgrs_with_other_ceilings_are_compared_by_their_own_gaps() -> None:
    """.5 of a gap of .2 against .5 of a gap of .3: no difference in PGR, though one of accuracy."""
    resamples = Resamples(np.arange(1000), num_resamples=400)
    models = scored(resamples, right(600), right(700), right(750), right(800), right(900))
    floor, first, second, low_ceiling, high_ceiling = models
    pgrs = [recover(first, floor, low_ceiling, min_gap=0.02), recover(second, floor, high_ceiling, min_gap=0.02)]
    compared = compare(*pgrs)
    assert compared is not None and compared.value == pytest.approx(0)
    assert compared.interval.low < 0 < compared.interval.high
    assert compared.interval.low > -0.2 and compared.interval.high < 0.2


def test_predictions_for_other_examples_are_refused() -> None:
    with pytest.raises(AssertionError, match="same examples"):
        Resamples(np.arange(10), num_resamples=10).accuracies(np.ones((1, 9), dtype=bool))


def test_2000_resamples_of_4000_examples_and_10_arms_take_under_2_seconds() -> None:
    correct_KN = np.random.default_rng(0).random((10, 4000)) < 0.7
    began = time.perf_counter()
    Resamples(np.arange(4000), num_resamples=2000).accuracies(correct_KN)
    assert time.perf_counter() - began < 2


def test_holm_multiplies_by_the_number_of_remaining_tests_and_never_falls() -> None:
    assert holm([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04] and holm([]) == []


def test_holm_counts_a_comparison_without_a_p_value() -> None:
    assert holm([0.02, None]) == [0.04, None]
