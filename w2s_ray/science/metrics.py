"""What one model's predictions are worth against ground truth.

Accuracies are fractions. Arrays carry their shape: N examples, C classes.
"""

from collections.abc import Sequence

import numpy as np


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


def share_equal(written: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the share of answers that are the wanted ones, letter for letter but for white space around them."""
    return float(np.mean([one.strip() == other.strip() for one, other in zip(written, wanted, strict=True)]))


def auroc(probs_NC: np.ndarray, labels_N: np.ndarray) -> float | None:
    """Return the area under the ROC curve: the chance that a true example outranks a false one, ties counted half.

    Of more than two classes the mean over classes, each against the rest. None where a class has no example or no
    other.
    """
    from sklearn.metrics import roc_auc_score  # loaded only where it is used: it takes a second

    classes = (1,) if probs_NC.shape[1] == 2 else range(probs_NC.shape[1])
    if any(len(np.unique(labels_N == each)) < 2 for each in classes):
        return None
    return float(np.mean([roc_auc_score(labels_N == each, probs_NC[:, each]) for each in classes]))


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
