"""Figures of one model, against values that can be worked out by hand or by scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import brier_score_loss, roc_auc_score

from w2s_ray.science.metrics import accuracy, auroc, brier, calibration_error, correct, hard


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


def test_trap_17_tied_scores_count_half_in_the_auroc_whatever_their_order() -> None:
    labels_N = np.array([1, 0, 1, 0])
    tied_NC = binary(0.5, 0.5, 0.5, 0.5)
    assert auroc(tied_NC, labels_N) == 0.5
    assert auroc(tied_NC, labels_N[::-1]) == 0.5
    # By hand, of four pairs: .7 > .5 and .7 > .2 win, .5 = .5 counts half, .5 > .2 wins.
    assert auroc(binary(0.7, 0.5, 0.5, 0.2), labels_N) == pytest.approx(3.5 / 4)


def test_trap_17_an_area_that_takes_equal_scores_as_they_come_depends_on_their_order() -> None:
    """What EleutherAI/w2s does: one step of the curve per example, equal scores one after another."""

    def stepwise(scores_N: np.ndarray, labels_N: np.ndarray) -> float:
        order = np.argsort(-scores_N, kind="stable")
        hits, misses = np.cumsum(labels_N[order]), np.cumsum(1 - labels_N[order])
        return float((hits[:-1] * np.diff(misses)).sum() / (hits[-1] * misses[-1]))

    scores_N, labels_N = np.full(4, 0.5), np.array([0, 1, 1, 0])
    assert stepwise(scores_N, labels_N) != stepwise(scores_N, labels_N[[1, 2, 0, 3]])
    assert auroc(binary(*scores_N), labels_N) == auroc(binary(*scores_N), labels_N[[1, 2, 0, 3]]) == 0.5


def test_trap_17_the_auroc_with_many_ties_is_the_share_of_pairs_ranked_right() -> None:
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


def test_one_class_alone_has_no_auroc() -> None:
    assert auroc(binary(0.2, 0.8), np.array([1, 1])) is None


def test_a_model_that_is_as_sure_as_it_is_right_is_calibrated() -> None:
    labels_N = np.array([1] * 8 + [0] * 2)
    assert calibration_error(binary(*[0.8] * 10), labels_N) == pytest.approx(0, abs=1e-6)
    assert calibration_error(binary(*[1.0] * 10), labels_N) == pytest.approx(0.2)
    # Half the examples are sure and wrong by .3, half unsure and right: errors of different bins do not cancel.
    mixed_NC = np.concatenate([binary(*[1.0] * 10), binary(*[0.55] * 10)])
    truth_N = np.array([1] * 7 + [0] * 3 + [1] * 10)
    assert calibration_error(mixed_NC, truth_N) == pytest.approx((0.3 + 0.45) / 2, abs=1e-6)


def test_the_brier_score_of_two_classes_is_scikit_learns_and_of_three_the_sum() -> None:
    labels_N = np.array([1, 0, 1])
    assert brier(binary(0.9, 0.4, 0.3), labels_N) == pytest.approx(
        brier_score_loss(labels_N, [0.9, 0.4, 0.3]), abs=1e-6
    )
    thirds_NC = np.full((3, 3), 1 / 3)
    assert brier(thirds_NC, np.array([0, 1, 2])) == pytest.approx(4 / 9 + 1 / 9 + 1 / 9)
