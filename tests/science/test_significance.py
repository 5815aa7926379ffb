"""P-values of the bootstrap, and Holm's correction by hand."""

import numpy as np
import pytest

from w2s_ray.science.bootstrap import interval
from w2s_ray.science.recovery import holm, p_value


def test_a_difference_that_no_draw_puts_on_the_other_side_has_the_smallest_p_value() -> None:
    assert p_value(np.full(1999, 0.1)) == p_value(np.full(1999, -0.1)) == 0.001


def test_draws_on_both_sides_alike_show_nothing() -> None:
    assert p_value(np.array([-1.0, 1.0] * 50)) == 1.0
    assert p_value(np.zeros(100)) == 1.0


def test_the_p_value_is_twice_the_share_on_the_rarer_side_of_zero() -> None:
    difference_B = np.concatenate([np.full(30, -0.01), np.full(969, 0.1)])
    assert p_value(difference_B) == pytest.approx(2 * 31 / 1000)
    assert p_value(np.concatenate([difference_B, [np.nan]])) == pytest.approx(2 * 31 / 1000)


@pytest.mark.parametrize(("mean", "is_clear"), [(0.03, True), (0.01, False)])
def test_a_p_value_below_five_percent_is_an_interval_that_leaves_zero_out(mean: float, is_clear: bool) -> None:
    difference_B = np.random.default_rng(0).normal(mean, 0.01, 2000)
    assert (p_value(difference_B) < 0.05) == is_clear == (interval(difference_B).low > 0)


def test_under_no_difference_five_in_a_hundred_p_values_are_below_five_percent() -> None:
    random = np.random.default_rng(1)
    errors = random.normal(0, 1, 400)
    found = [p_value(random.normal(error, 1, 400)) for error in errors]
    assert 0.02 < np.mean(np.array(found) < 0.05) < 0.085


def test_holm_multiplies_the_smallest_by_all_and_the_next_by_one_less_and_never_falls() -> None:
    assert holm([0.03, 0.01, 0.04]) == pytest.approx([0.06, 0.03, 0.06])
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.04]) == [0.04] and holm([]) == []


def test_a_declared_comparison_without_a_p_value_still_counts_as_one_of_the_family() -> None:
    assert holm([0.02, None]) == [0.04, None]
