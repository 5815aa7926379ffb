"""Metrics, against values computed by hand or by scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from w2s_ray.science.metrics import (
    accuracy,
    auroc,
    brier,
    by_length,
    calibration_error,
    correct,
    degeneracy,
    error_correlation,
    hard,
    majority,
    relate,
    spread,
)


def binary(*probabilities: float) -> np.ndarray:
    """Predictions of two classes, by the probability of class 1."""
    p_N = np.array(probabilities, dtype=np.float32)
    return np.stack([1 - p_N, p_N], axis=1)


def test_accuracy_counts_the_most_probable_class() -> None:
    probs_NC = binary(0.9, 0.2, 0.6, 0.4)
    labels_N = np.array([1, 0, 0, 1])
    assert hard(probs_NC).tolist() == [1, 0, 1, 0]
    assert correct(probs_NC, labels_N).tolist() == [True, True, False, False]
    assert accuracy(probs_NC, labels_N) == 0.5


def test_trap_17_tied_scores_count_half_in_the_auroc_in_any_order() -> None:
    labels_N = np.array([1, 0, 1, 0])
    tied_NC = binary(0.5, 0.5, 0.5, 0.5)
    assert auroc(tied_NC, labels_N) == 0.5
    assert auroc(tied_NC, labels_N[::-1]) == 0.5
    # By hand, of four pairs: .7 > .5 and .7 > .2 win, .5 = .5 counts half, .5 > .2 wins.
    assert auroc(binary(0.7, 0.5, 0.5, 0.2), labels_N) == pytest.approx(3.5 / 4)


def test_trap_17_an_auroc_without_tie_handling_depends_on_the_order() -> None:
    """What EleutherAI/w2s does: one step of the curve per example, equal scores one after another."""

    def stepwise(scores_N: np.ndarray, labels_N: np.ndarray) -> float:
        order = np.argsort(-scores_N, kind="stable")
        hits, misses = np.cumsum(labels_N[order]), np.cumsum(1 - labels_N[order])
        return float((hits[:-1] * np.diff(misses)).sum() / (hits[-1] * misses[-1]))

    scores_N, labels_N = np.full(4, 0.5), np.array([0, 1, 1, 0])
    assert stepwise(scores_N, labels_N) != stepwise(scores_N, labels_N[[1, 2, 0, 3]])
    assert auroc(binary(*scores_N), labels_N) == auroc(binary(*scores_N), labels_N[[1, 2, 0, 3]]) == 0.5


def test_trap_17_the_auroc_is_the_share_of_correctly_ranked_pairs() -> None:
    random = np.random.default_rng(0)
    p_N = random.integers(0, 6, 500) / 5
    labels_N = (random.random(500) < 0.3 + 0.4 * p_N).astype(int)
    above = p_N[labels_N == 1][:, None] - p_N[labels_N == 0][None, :]
    assert auroc(binary(*p_N), labels_N) == pytest.approx(((above > 0) + 0.5 * (above == 0)).mean())


def test_the_auroc_of_three_classes_is_the_mean_over_classes() -> None:
    random = np.random.default_rng(1)
    probs_NC = random.dirichlet([1, 1, 1], 300)
    labels_N = random.integers(0, 3, 300)
    wanted = roc_auc_score(labels_N, probs_NC, multi_class="ovr", average="macro")
    assert auroc(probs_NC, labels_N) == pytest.approx(wanted)


def test_the_auroc_of_a_single_class_is_none() -> None:
    assert auroc(binary(0.2, 0.8), np.array([1, 1])) is None


def test_a_model_whose_confidence_equals_its_accuracy_is_calibrated() -> None:
    labels_N = np.array([1] * 8 + [0] * 2)
    assert calibration_error(binary(*[0.8] * 10), labels_N) == pytest.approx(0, abs=1e-6)
    assert calibration_error(binary(*[1.0] * 10), labels_N) == pytest.approx(0.2)
    # Half the examples are sure and wrong by .3, half unsure and right: errors of different bins do not cancel.
    mixed_NC = np.concatenate([binary(*[1.0] * 10), binary(*[0.55] * 10)])
    truth_N = np.array([1] * 7 + [0] * 3 + [1] * 10)
    assert calibration_error(mixed_NC, truth_N) == pytest.approx((0.3 + 0.45) / 2, abs=1e-6)


def test_the_brier_score_matches_scikit_learn_and_sums_over_three_classes() -> None:
    labels_N = np.array([1, 0, 1])
    assert brier(binary(0.9, 0.4, 0.3), labels_N) == pytest.approx(
        brier_score_loss(labels_N, [0.9, 0.4, 0.3]), abs=1e-6
    )
    thirds_NC = np.full((3, 3), 1 / 3)
    assert brier(thirds_NC, np.array([0, 1, 2])) == pytest.approx(4 / 9 + 1 / 9 + 1 / 9)


TRUTH_N = np.array([1, 1, 1, 0, 0])
SUPERVISOR_N = np.array([1, 1, 0, 1, 0])  # right, right, wrong, wrong, right


def test_agreement_is_split_by_whether_the_supervisor_is_right() -> None:
    relation = relate(np.array([1, 0, 0, 0, 0]), SUPERVISOR_N, TRUTH_N)  # same, other, same, other, same
    assert relation.agreement == pytest.approx(3 / 5)
    assert relation.agreement_supervisor_right == pytest.approx(2 / 3)
    assert relation.agreement_supervisor_wrong == pytest.approx(1 / 2)


def test_with_two_classes_an_error_is_inherited_or_corrected() -> None:
    relation = relate(np.array([1, 0, 0, 0, 0]), SUPERVISOR_N, TRUTH_N)
    assert relation.inherited == relation.corrected == pytest.approx(1 / 2)
    assert relation.new_errors == pytest.approx(1 / 3), "of three that the supervisor gets right one is wrong now"


def test_with_several_answers_a_different_error_is_neither_inherited_nor_corrected() -> None:
    truth_N, supervisor_N = np.array([0, 1, 2, 3]), np.array([9, 9, 9, 3])
    relation = relate(np.array([9, 1, 7, 3]), supervisor_N, truth_N)
    assert (relation.inherited, relation.corrected) == (pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert relation.new_errors == 0


def test_a_supervisor_without_errors_has_no_share_of_inherited_errors() -> None:
    relation = relate(np.array([1, 1]), np.array([1, 0]), np.array([1, 0]))
    assert relation.inherited is None and relation.corrected is None
    assert (relation.agreement, relation.new_errors) == (0.5, 0.5)


def test_errors_on_the_same_examples_correlate_and_on_disjoint_ones_anticorrelate() -> None:
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


def test_trap_20_labels_that_are_nearly_all_one_class_are_reported() -> None:
    labels = spread(np.array([1] * 91 + [0] * 9))
    assert labels.majority_share == pytest.approx(0.91)
    warning = degeneracy(labels, are_answers=False)
    assert warning is not None and "91%" in warning and "one class" in warning
    assert degeneracy(spread(np.array([1] * 90 + [0] * 10)), are_answers=False) is None


def test_trap_20_answers_that_are_mostly_the_same_are_reported() -> None:
    constant = spread(np.array([7] * 60 + list(range(100, 140))))
    assert constant.distinct_share == pytest.approx(0.41)
    warning = degeneracy(constant, are_answers=True)
    assert warning is not None and "60% are one answer" in warning
    assert degeneracy(spread(np.arange(100)), are_answers=True) is None


def test_the_entropy_is_one_bit_for_two_equal_classes_and_zero_for_one() -> None:
    assert spread(np.array([0, 1, 0, 1])).entropy_bits == pytest.approx(1)
    assert spread(np.array([2, 2, 2])).entropy_bits == 0
    quarter = -(0.25 * np.log2(0.25) + 0.75 * np.log2(0.75))
    assert spread(np.array([0, 1, 1, 1])).entropy_bits == pytest.approx(quarter)


def test_the_majority_is_the_most_frequent_label_and_the_lowest_of_equal_ones() -> None:
    assert majority(np.array([2, 0, 2, 1])) == 2
    assert majority(np.array([1, 0, 0, 1])) == 0


def test_a_class_of_longer_texts_is_predicted_from_length_alone() -> None:
    random = np.random.default_rng(0)
    labels_N = random.integers(0, 2, 400)
    lengths_N = 100 + 400 * labels_N + random.integers(0, 50, 400)
    assert by_length(lengths_N, labels_N, np.array([90, 120, 300 + 250, 9000])).tolist() == [0, 0, 1, 1]
    assert by_length(lengths_N, 1 - labels_N, np.array([90, 9000])).tolist() == [1, 0]


def test_an_uninformative_length_predicts_about_half() -> None:
    random = np.random.default_rng(1)
    train_N, test_N = random.integers(10, 900, 1000), random.integers(10, 900, 1000)
    predicted_N = by_length(train_N, np.arange(1000) % 2, test_N)
    assert 0.42 < (predicted_N == np.arange(1000) % 2).mean() < 0.58


def test_the_length_baseline_of_a_single_class_predicts_that_class() -> None:
    assert by_length(np.array([1, 2]), np.array([1, 1]), np.array([5, 6, 7])).tolist() == [1, 1, 1]
