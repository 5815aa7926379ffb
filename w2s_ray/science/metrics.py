"""What one model's predictions are worth, and how they relate to another's.

Accuracies are fractions. Arrays carry their shape: N examples, C classes.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import rankdata

DEGENERATE_SHARE = 0.9
"""Hard weak labels of which a larger share is one class teach little else."""


def hard(probs_NC: np.ndarray) -> np.ndarray:
    """Return the most probable class of each example; of equal ones the first."""
    return np.asarray(probs_NC.argmax(axis=1))


def correct(probs_NC: np.ndarray, labels_N: np.ndarray) -> np.ndarray:
    """Say for each example whether the most probable class is the true one."""
    assert len(probs_NC) == len(labels_N) > 0, (probs_NC.shape, labels_N.shape)
    return np.asarray(hard(probs_NC) == labels_N)


def accuracy(probs_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the share of examples whose most probable class is the true one."""
    return float(correct(probs_NC, labels_N).mean())


@dataclass(frozen=True)
class Agreement:
    """How often a student says what its supervisor says; None where there is no such example."""

    overall: float
    supervisor_right: float | None
    """Where the supervisor is right."""
    supervisor_wrong: float | None
    """Where the supervisor is wrong: its errors, repeated."""


def agreement(student_NC: np.ndarray, supervisor_NC: np.ndarray, labels_N: np.ndarray) -> Agreement:
    """Compare hard predictions of student and supervisor, also split by whether the supervisor is right."""
    assert student_NC.shape == supervisor_NC.shape, (student_NC.shape, supervisor_NC.shape)
    same_N = hard(student_NC) == hard(supervisor_NC)
    right_N = correct(supervisor_NC, labels_N)
    return Agreement(float(same_N.mean()), _mean_or_none(same_N[right_N]), _mean_or_none(same_N[~right_N]))


def auroc(probs_NC: np.ndarray, labels_N: np.ndarray) -> float | None:
    """Return the area under the ROC curve: the chance that a true example outranks a false one, ties counted half.

    Of more than two classes the mean over classes, each against the rest. None where a class has no example or no
    other.
    """
    classes = (1,) if probs_NC.shape[1] == 2 else range(probs_NC.shape[1])
    areas = [_area(probs_NC[:, each], labels_N == each) for each in classes]
    known = [area for area in areas if area is not None]
    return float(np.mean(known)) if len(known) == len(areas) else None


def calibration_error(probs_NC: np.ndarray, labels_N: np.ndarray, num_bins: int = 15) -> float:
    """Return the expected calibration error: |confidence − accuracy| over bins of equal width, weighted by their size.

    Confidence is the probability of the class that is predicted (Guo et al. 2017).
    """
    confidence_N = probs_NC.max(axis=1).astype(np.float64)
    bins_N = np.clip(np.ceil(confidence_N * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    gap_N = correct(probs_NC, labels_N) - confidence_N
    return float(np.abs(np.bincount(bins_N, weights=gap_N, minlength=num_bins)).sum() / len(labels_N))


def brier(probs_NC: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the mean squared error of the probabilities, summed over classes; of two classes, of one of them."""
    truth_NC = np.eye(probs_NC.shape[1])[labels_N]
    per_example_N = ((probs_NC.astype(np.float64) - truth_NC) ** 2).sum(axis=1)
    return float(per_example_N.mean() / (2 if probs_NC.shape[1] == 2 else 1))


def majority_share(probs_NC: np.ndarray) -> float:
    """Return the share of the most frequent class among the hard labels."""
    return float(np.bincount(hard(probs_NC)).max() / len(probs_NC))


def degeneracy_warning(probs_NC: np.ndarray, supervisor: str, split: str) -> str | None:
    """Return a warning where a supervisor's hard labels for a split are nearly all of one class."""
    share = majority_share(probs_NC)
    if share <= DEGENERATE_SHARE:
        return None
    most = int(np.bincount(hard(probs_NC)).argmax())
    return (
        f"{supervisor} gave {share:.0%} of {split} the label {most}: such labels teach little else, "
        "and every student after it learns from them"
    )


def _mean_or_none(values_N: np.ndarray) -> float | None:
    return float(values_N.mean()) if len(values_N) else None


def _area(scores_N: np.ndarray, is_true_N: np.ndarray) -> float | None:
    """The Mann-Whitney statistic with average ranks, as a share of all pairs."""
    num_true = int(is_true_N.sum())
    num_false = len(is_true_N) - num_true
    if not num_true or not num_false:
        return None
    ranks_N = rankdata(scores_N, method="average")
    return float((ranks_N[is_true_N].sum() - num_true * (num_true + 1) / 2) / (num_true * num_false))
