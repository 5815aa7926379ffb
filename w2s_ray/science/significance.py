"""Whether a difference between two arms is more than chance, and what many questions at once cost.

A p-value says the same as the interval of the same draws: it is below .05 where the 95 % percentile interval leaves
zero out, but for one draw more or less. Over the comparisons that a study declared beforehand Holm's step-down keeps
the chance of any false finding at 5 %; all others are exploratory and get no p-value.
"""

from collections.abc import Sequence

import numpy as np


def p_value(difference_B: np.ndarray) -> float:
    """Return the two-sided p-value of a paired bootstrap: twice the share of draws on the rarer side of zero.

    One is added to both counts, so that no finite number of draws claims certainty (Davison and Hinkley 1997, section
    4.2); draws without a value are left out.
    """
    known_B = difference_B[~np.isnan(difference_B)]
    rarer = min(int((known_B <= 0).sum()), int((known_B >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(known_B) + 1))


def smallest_p_value(num_draws: int) -> float:
    """Return the smallest p-value that so many draws can show."""
    return 2 / (num_draws + 1)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p-values (Holm 1979): (m − i) · p of the i-th smallest, never falling, at most 1.

    A comparison without a p-value stays without, and counts as one of the m: what was declared was asked.
    """
    order = sorted(range(len(p_values)), key=lambda place: (p_values[place] is None, p_values[place] or 0.0))
    adjusted: list[float | None] = [None] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(order):
        p = p_values[place]
        if p is not None:
            highest = max(highest, min(1.0, (len(p_values) - rank) * p))
            adjusted[place] = highest
    return adjusted
