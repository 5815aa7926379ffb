"""The guard against degenerate labels: a supervisor that says nearly one thing poisons every student after it.

Accuracy hides it where the classes are unequal, and the loss does not show it: a constant is easily learned. So each
link is asked how its hard labels spread. Labels are class numbers, or numbers of distinct answers.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import entropy

DEGENERATE_SHARE = 0.9
"""Hard weak labels of which a larger share is one class teach little else."""
DEGENERATE_ANSWER_SHARE = 0.5
"""The same for written answers, of which there are many."""


@dataclass(frozen=True)
class Spread:
    """How labels fall on what can be said."""

    majority_share: float
    """Of the most frequent label."""
    entropy_bits: float
    """Shannon entropy of the labels' shares: 0 where all are one, 1 where two classes are equally many."""
    distinct_share: float
    """Distinct labels per example; telling for answers alone."""


def spread(labels_N: np.ndarray) -> Spread:
    """Return how hard labels spread."""
    _, counts = np.unique(labels_N, return_counts=True)
    return Spread(
        majority_share=float(counts.max() / len(labels_N)),
        entropy_bits=float(entropy(counts, base=2)),
        distinct_share=len(counts) / len(labels_N),
    )


def degeneracy(found: Spread, *, are_answers: bool) -> str | None:
    """Return what is wrong with labels that are nearly all one; None where they are not."""
    limit = DEGENERATE_ANSWER_SHARE if are_answers else DEGENERATE_SHARE
    if found.majority_share <= limit:
        return None
    one = "one answer" if are_answers else "one class"
    return f"{found.majority_share:.0%} are {one} (entropy {found.entropy_bits:.2f} bits)"
