"""What a student repeats, mends and breaks, and how far errors travel, counted by hand."""

import numpy as np
import pytest

from w2s_ray.science.metrics import error_correlation, relate

TRUTH_N = np.array([1, 1, 1, 0, 0])
SUPERVISOR_N = np.array([1, 1, 0, 1, 0])  # right, right, wrong, wrong, right


def test_agreement_is_split_by_whether_the_supervisor_is_right() -> None:
    found = relate(np.array([1, 0, 0, 0, 0]), SUPERVISOR_N, TRUTH_N)  # same, other, same, other, same
    assert found.agreement == pytest.approx(3 / 5)
    assert found.agreement_supervisor_right == pytest.approx(2 / 3)
    assert found.agreement_supervisor_wrong == pytest.approx(1 / 2)


def test_of_two_classes_an_error_is_either_inherited_or_corrected() -> None:
    found = relate(np.array([1, 0, 0, 0, 0]), SUPERVISOR_N, TRUTH_N)
    assert found.inherited == found.corrected == pytest.approx(1 / 2)
    assert found.new_errors == pytest.approx(1 / 3), "of three that the supervisor gets right one is wrong now"


def test_of_several_answers_another_error_is_neither_inherited_nor_corrected() -> None:
    truth_N, supervisor_N = np.array([0, 1, 2, 3]), np.array([9, 9, 9, 3])
    found = relate(np.array([9, 1, 7, 3]), supervisor_N, truth_N)
    assert (found.inherited, found.corrected) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert found.new_errors == 0


def test_a_supervisor_without_errors_has_none_to_be_inherited() -> None:
    found = relate(np.array([1, 1]), np.array([1, 0]), np.array([1, 0]))
    assert found.inherited is None and found.corrected is None
    assert (found.agreement, found.new_errors) == (0.5, 0.5)


def test_errors_on_the_same_examples_are_wholly_correlated_and_on_others_less_than_not() -> None:
    truth_N = np.zeros(4, dtype=int)
    first_N = np.array([1, 1, 0, 0])
    assert error_correlation(first_N, first_N, truth_N) == pytest.approx(1)
    assert error_correlation(first_N, 1 - first_N, truth_N) == pytest.approx(-1)
    assert error_correlation(first_N, np.array([1, 0, 1, 0]), truth_N) == pytest.approx(0)


def test_the_error_correlation_is_phi_of_the_two_by_two_table() -> None:
    random = np.random.default_rng(0)
    truth_N = random.integers(0, 3, 400)
    first_N, second_N = (np.where(random.random(400) < 0.7, truth_N, random.integers(0, 3, 400)) for _ in range(2))
    first, second = first_N != truth_N, second_N != truth_N
    both, neither = (first & second).sum(), (~first & ~second).sum()
    only_first, only_second = (first & ~second).sum(), (~first & second).sum()
    margins = np.sqrt(float(first.sum()) * (~first).sum() * second.sum() * (~second).sum())
    assert error_correlation(first_N, second_N, truth_N) == pytest.approx(
        (both * neither - only_first * only_second) / margins
    )


def test_a_model_that_never_errs_has_no_error_correlation() -> None:
    truth_N = np.array([0, 1, 1])
    assert error_correlation(truth_N, np.array([1, 1, 1]), truth_N) is None
