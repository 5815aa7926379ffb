"""How a student's predictions relate to its supervisor's: what it repeats, what it mends, what it gets wrong anew.

A student that imitates its supervisor repeats its errors; one that generalises mends them. Predictions here are hard:
of each of N examples the class, or for written answers the number of the answer, so that every figure serves both.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import pearsonr


@dataclass(frozen=True)
class Relation:
    """A student beside its supervisor on the same examples; shares, None where there is no such example."""

    agreement: float
    """How often both say the same."""
    agreement_supervisor_right: float | None
    """The same, where the supervisor is right (Burns et al. 2023, section 5.1.3)."""
    agreement_supervisor_wrong: float | None
    """The same, where the supervisor is wrong: its errors, repeated word for word."""
    corrected: float | None
    """Of the supervisor's errors, those that the student gets right. With two classes, all that it does not repeat."""

    @property
    def inherited(self) -> float | None:
        """Of the supervisor's errors, those that the student repeats."""
        return self.agreement_supervisor_wrong

    @property
    def new_errors(self) -> float | None:
        """Of what the supervisor gets right, what the student gets wrong."""
        right = self.agreement_supervisor_right
        return None if right is None else 1 - right


def relate(student_N: np.ndarray, supervisor_N: np.ndarray, truth_N: np.ndarray) -> Relation:
    """Compare a student with its supervisor, also apart where the supervisor is right and where it is wrong."""
    assert len(student_N) == len(supervisor_N) == len(truth_N) > 0, (len(student_N), len(supervisor_N), len(truth_N))
    same_N, right_N = student_N == supervisor_N, supervisor_N == truth_N
    return Relation(
        agreement=float(same_N.mean()),
        agreement_supervisor_right=_share(same_N[right_N]),
        agreement_supervisor_wrong=_share(same_N[~right_N]),
        corrected=_share((student_N == truth_N)[~right_N]),
    )


def error_correlation(first_N: np.ndarray, second_N: np.ndarray, truth_N: np.ndarray) -> float | None:
    """Return phi: Pearson's correlation between "the first is wrong" and "the second is wrong".

    0 where two models err independently, 1 where they err on the same examples. None where one never errs or always
    does.
    """
    wrong = [(each_N != truth_N).astype(np.float64) for each_N in (first_N, second_N)]
    if any(wrong_N.min() == wrong_N.max() for wrong_N in wrong):
        return None
    return float(pearsonr(*wrong).statistic)


def _share(is_so_N: np.ndarray) -> float | None:
    return float(is_so_N.mean()) if len(is_so_N) else None
