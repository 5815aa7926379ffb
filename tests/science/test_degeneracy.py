"""The guard against labels that are nearly all one."""

import numpy as np
import pytest

from w2s_ray.science.metrics import degeneracy, spread


def test_trap_20_labels_that_are_nearly_all_of_one_class_are_told() -> None:
    found = spread(np.array([1] * 91 + [0] * 9))
    assert found.majority_share == pytest.approx(0.91)
    said = degeneracy(found, are_answers=False)
    assert said is not None and "91%" in said and "one class" in said
    assert degeneracy(spread(np.array([1] * 90 + [0] * 10)), are_answers=False) is None


def test_trap_20_answers_that_are_mostly_one_and_the_same_are_told() -> None:
    constant = spread(np.array([7] * 60 + list(range(100, 140))))
    assert constant.distinct_share == pytest.approx(0.41)
    said = degeneracy(constant, are_answers=True)
    assert said is not None and "60% are one answer" in said
    assert degeneracy(spread(np.arange(100)), are_answers=True) is None


def test_the_entropy_is_a_bit_for_two_equal_classes_and_nothing_for_one() -> None:
    assert spread(np.array([0, 1, 0, 1])).entropy_bits == pytest.approx(1)
    assert spread(np.array([2, 2, 2])).entropy_bits == 0
    quarter = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))
    assert spread(np.array([0, 1, 1, 1])).entropy_bits == pytest.approx(quarter)
