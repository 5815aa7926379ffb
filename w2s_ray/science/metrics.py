"""Metrics of predictions: against ground truth, against a supervisor's, against simple baselines, and how they spread.

Accuracies and agreements are fractions. Hard predictions are class numbers, or numbers of distinct answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import entropy, pearsonr

from w2s_ray.science import BoolArray, FloatArray, IntArray

DEGENERATE_SHARE = 0.9
"""Hard weak labels are degenerate if a larger share of them is one class."""
DEGENERATE_ANSWER_SHARE = 0.5
"""The same for written answers, of which there are many."""


def hard(probs_NC: FloatArray) -> IntArray:
    """Return the most probable class of each example (N); of equal ones the first."""
    return np.asarray(probs_NC.argmax(axis=1))


def correct(probs_NC: FloatArray, labels_N: IntArray) -> BoolArray:
    """Return for each example whether the most probable class is the true one (N)."""
    assert len(probs_NC) == len(labels_N) > 0, (probs_NC.shape, labels_N.shape)
    return np.asarray(hard(probs_NC) == labels_N)


def accuracy(probs_NC: FloatArray, labels_N: IntArray) -> float:
    """Return the share of examples whose most probable class is the true one."""
    return float(correct(probs_NC, labels_N).mean())


def share_equal(answers: Sequence[str], targets: Sequence[str]) -> float:
    """Return the share of answers that equal their target, apart from white space around them."""
    pairs = zip(answers, targets, strict=True)
    return float(np.mean([answer.strip() == target.strip() for answer, target in pairs]))


def auroc(probs_NC: FloatArray, labels_N: IntArray) -> float | None:
    """Return the area under the ROC curve: the chance that a true example outranks a false one, ties counted half.

    For more than two classes it is the mean over classes, each against the rest. None if an example of a class, or one
    of the others, is missing.
    """
    from sklearn.metrics import roc_auc_score  # imported here because it takes a second

    classes = (1,) if probs_NC.shape[1] == 2 else range(probs_NC.shape[1])
    if any(len(np.unique(labels_N == class_)) < 2 for class_ in classes):
        return None
    return float(np.mean([roc_auc_score(labels_N == class_, probs_NC[:, class_]) for class_ in classes]))


def calibration_error(probs_NC: FloatArray, labels_N: IntArray, num_bins: int = 15) -> float:
    """Return the expected calibration error: |confidence − accuracy| over bins of equal width, weighted by their size.

    Confidence is the probability of the predicted class (Guo et al. 2017).
    """
    confidence_N = probs_NC.max(axis=1).astype(np.float64)
    bins_N = np.clip(np.ceil(confidence_N * num_bins).astype(np.int64) - 1, 0, num_bins - 1)
    gap_N = correct(probs_NC, labels_N) - confidence_N
    return float(np.abs(np.bincount(bins_N, weights=gap_N, minlength=num_bins)).sum() / len(labels_N))


def brier(probs_NC: FloatArray, labels_N: IntArray) -> float:
    """Return the mean squared error of the probabilities, summed over classes; for two classes, that of one of them."""
    truth_NC = np.eye(probs_NC.shape[1])[labels_N]
    per_example_N = ((probs_NC.astype(np.float64) - truth_NC) ** 2).sum(axis=1)
    return float(per_example_N.mean() / (2 if probs_NC.shape[1] == 2 else 1))


@dataclass(frozen=True)
class Relation:
    """A student compared with its supervisor on the same examples: shares, None if there is no such example."""

    agreement: float
    """Share of examples on which both predict the same."""
    agreement_supervisor_right: float | None
    """The same where the supervisor is right (Burns et al. 2023, section 5.1.3)."""
    agreement_supervisor_wrong: float | None
    """The same where the supervisor is wrong."""
    corrected: float | None
    """Share of the supervisor's errors that the student gets right; with two classes, all that it does not repeat."""

    @property
    def inherited(self) -> float | None:
        """Share of the supervisor's errors that the student repeats."""
        return self.agreement_supervisor_wrong

    @property
    def new_errors(self) -> float | None:
        """Share of the supervisor's correct predictions that the student gets wrong."""
        right = self.agreement_supervisor_right
        return None if right is None else 1 - right


def relate(student_N: IntArray, supervisor_N: IntArray, truth_N: IntArray) -> Relation:
    """Compare a student's hard predictions with its supervisor's: all, where it is right, and where it is wrong."""
    assert len(student_N) == len(supervisor_N) == len(truth_N) > 0, (len(student_N), len(supervisor_N), len(truth_N))
    same_N, right_N = student_N == supervisor_N, supervisor_N == truth_N
    return Relation(
        agreement=float(same_N.mean()),
        agreement_supervisor_right=_share(same_N[right_N]),
        agreement_supervisor_wrong=_share(same_N[~right_N]),
        corrected=_share((student_N == truth_N)[~right_N]),
    )


def error_correlation(first_N: IntArray, second_N: IntArray, truth_N: IntArray) -> float | None:
    """Return phi: Pearson's correlation between "the first is wrong" and "the second is wrong".

    0 if two models err independently, 1 if they err on the same examples. None if one never errs or always does.
    """
    wrong = [(predicted_N != truth_N).astype(np.float64) for predicted_N in (first_N, second_N)]
    if any(wrong_N.min() == wrong_N.max() for wrong_N in wrong):
        return None
    return float(pearsonr(*wrong).statistic)


def _share(is_so_N: BoolArray) -> float | None:
    return float(is_so_N.mean()) if len(is_so_N) else None


@dataclass(frozen=True)
class Spread:
    """How hard labels are distributed.

    A supervisor whose labels are nearly all one teaches its students little else. Accuracy hides that where the classes
    are unequal, and so does the loss: a constant is easy to learn.
    """

    majority_share: float
    """Share of the most frequent label."""
    entropy_bits: float
    """Shannon entropy of the labels' shares: 0 if all are one, 1 for two equally frequent classes."""
    distinct_share: float
    """Distinct labels per example; informative for answers alone."""


def spread(labels_N: IntArray) -> Spread:
    """Return how hard labels are distributed."""
    _, counts = np.unique(labels_N, return_counts=True)
    return Spread(
        majority_share=float(counts.max() / len(labels_N)),
        entropy_bits=float(entropy(counts, base=2)),
        distinct_share=len(counts) / len(labels_N),
    )


def degeneracy(labels: Spread, *, are_answers: bool) -> str | None:
    """Return a warning about labels that are nearly all one; None for other labels."""
    limit = DEGENERATE_ANSWER_SHARE if are_answers else DEGENERATE_SHARE
    if labels.majority_share <= limit:
        return None
    what = "one answer" if are_answers else "one class"
    return f"{labels.majority_share:.0%} are {what} (entropy {labels.entropy_bits:.2f} bits)"


def majority(train_N: IntArray) -> int:
    """Return the most frequent label, a baseline; of equally frequent ones the lowest."""
    labels, counts = np.unique(train_N, return_counts=True)
    return int(labels[counts.argmax()])


def by_length(train_lengths_N: FloatArray, train_labels_N: IntArray, lengths_M: FloatArray) -> IntArray:
    """Return the classes (M) that logistic regression on a length alone predicts, fitted on ground truth: a baseline.

    Lengths leak the class where one class's texts are longer, as preferred answers often are.

    Args:
        train_lengths_N: a number for each training example: the characters of its text; for a pair, those of the first
            text minus those of the second.
        train_labels_N: its class.
        lengths_M: the same number for each example to predict.
    """
    from sklearn.linear_model import LogisticRegression  # imported here because it takes a second
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if len(np.unique(train_labels_N)) < 2:
        return np.full(len(lengths_M), train_labels_N[0])
    model = make_pipeline(StandardScaler(), LogisticRegression())
    model.fit(train_lengths_N[:, None], train_labels_N)
    return np.asarray(model.predict(lengths_M[:, None]))
