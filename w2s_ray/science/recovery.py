"""PGR: how much of the gap between floor and ceiling a student recovers, its interval, and tests of differences.

    PGR = (student − floor) / (ceiling − floor)

Over several seeds it is the ratio of the means, not the mean of the ratios, so that one seed with a small gap does not
decide. If the gap may be zero, the ratio is noise: PGR is undefined unless the lower 95 % bound of ceiling − floor is
above a given minimum. Over several tasks the pooled PGR is Σ(student − floor) / Σ(ceiling − floor): the PGR of the mean
student, floor and ceiling, in which no task is left out, however small its gap.

A p-value agrees with the interval of the same resamples: it is below .05 where the 95 % percentile interval excludes
zero, up to one resample. Over the comparisons that a study declared beforehand Holm's step-down keeps the chance of any
false finding at 5 %; all others are exploratory and get no p-value.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from w2s_ray.science import FloatArray
from w2s_ray.science.bootstrap import FEWEST_GROUPS, Interval, interval

FEW_SEEDS = 5
"""With fewer seeds an interval is marked seed-conditional: it tells little about other seeds."""
_POWER = 1.96 + 0.84
"""Standard errors between zero and a difference that a two-sided 5 % test finds in 80 % of studies."""
_DIGITS = 12
"""Decimals of a difference on a resample: equal values are a tie, whatever the rounding of their sums."""
_WIDTH = 2 * 1.96
"""Standard errors between the ends of a 95 % interval."""


@dataclass(frozen=True)
class Sampled:
    """An estimate, and its value on each bootstrap resample."""

    value: float
    resampled_B: FloatArray
    num_groups: int
    """Groups of related test examples that are resampled; over several tasks those of the task with the fewest."""

    @property
    def interval(self) -> Interval:
        """Its 95 % interval."""
        return interval(self.resampled_B)


@dataclass(frozen=True)
class Recovery:
    """A student's PGR, or why it has none."""

    pgr: float | None
    interval: Interval | None
    resampled_B: FloatArray | None
    undefined: str | None
    """Why there is no PGR; None if there is one."""
    num_groups: int


def pgr(student: float, floor: float, ceiling: float) -> float:
    """Return (student − floor) / (ceiling − floor); the caller has checked the gap."""
    assert ceiling != floor, "there is no gap to recover"
    return (student - floor) / (ceiling - floor)


def mean_of(samples: Sequence[Sampled]) -> Sampled:
    """Return the mean of estimates with paired resamples, such as an arm's accuracies over several tasks."""
    value = float(np.mean([sampled.value for sampled in samples]))
    resampled_B = np.mean([sampled.resampled_B for sampled in samples], axis=0)
    return Sampled(value, resampled_B, min(sampled.num_groups for sampled in samples))


def difference(first: Sampled, second: Sampled) -> Sampled:
    """Return first − second on the same resamples."""
    num_groups = min(first.num_groups, second.num_groups)
    resampled_B = np.round(first.resampled_B - second.resampled_B, _DIGITS)
    return Sampled(first.value - second.value, resampled_B, num_groups)


def gap(floor: Sampled, ceiling: Sampled) -> Sampled:
    """Return ceiling − floor."""
    return difference(ceiling, floor)


def recover(student: Sampled, floor: Sampled, ceiling: Sampled, *, min_gap: float) -> Recovery:
    """Return the PGR of a student with its interval.

    It is undefined if the gap's lower bound is not above `min_gap`, or with too few groups of test examples. All three
    estimates must be from the same resamples of the same seeds.
    """
    assert student.resampled_B.shape == floor.resampled_B.shape == ceiling.resampled_B.shape, "resamples are shared"
    between = gap(floor, ceiling)
    too_few = too_few_groups(between.num_groups)
    if too_few is not None:
        return Recovery(None, None, None, too_few, between.num_groups)
    low = between.interval.low
    if not low > min_gap:
        reason = f"ceiling − floor = {between.value:.3f}, its lower 95 % bound {low:.3f} is not above {min_gap:g}"
        return Recovery(None, None, None, reason, between.num_groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        resampled_B = difference(student, floor).resampled_B / between.resampled_B
    resampled_B = np.where(between.resampled_B == 0, np.nan, resampled_B)
    value = pgr(student.value, floor.value, ceiling.value)
    return Recovery(value, interval(resampled_B), resampled_B, None, between.num_groups)


def too_few_groups(num_groups: int) -> str | None:
    """Return why there can be no interval and no p-value with so few groups of test examples; None if there can."""
    if num_groups >= FEWEST_GROUPS:
        return None
    return f"the test examples form {num_groups} group of related ones, and an interval needs at least {FEWEST_GROUPS}"


def compare(first: Recovery, second: Recovery) -> Sampled | None:
    """Return PGR(first) − PGR(second) on the same resamples; None if either is undefined."""
    if first.resampled_B is None or second.resampled_B is None or first.pgr is None or second.pgr is None:
        return None
    minuend = Sampled(first.pgr, first.resampled_B, first.num_groups)
    return difference(minuend, Sampled(second.pgr, second.resampled_B, second.num_groups))


def minimum_detectable(difference_B: FloatArray) -> float:
    """Return the smallest true difference in PGR that this study would find with a power of 80 %.

    (1.96 + 0.84) × SE: 1.96 standard errors for a two-sided test at 5 %, 0.84 more for a power of 80 %. SE is the width
    of the paired PGR difference's 95 % interval over 3.92. The standard deviation of the resamples would be dominated
    by the few whose gap is near 0, because the PGR is a ratio.
    """
    bounds = interval(difference_B)
    return _POWER * (bounds.high - bounds.low) / _WIDTH


def p_value(difference_B: FloatArray) -> float:
    """Return the two-sided p-value of a paired bootstrap: twice the share of resamples on the rarer side of zero.

    Both counts get one added, so that no finite number of resamples gives certainty (Davison and Hinkley 1997, section
    4.2); resamples without a value (NaN) are left out. The smallest possible value is 2 / (B + 1).
    """
    known_B = difference_B[~np.isnan(difference_B)]
    rarer = min(int((known_B <= 0).sum()), int((known_B >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(known_B) + 1))


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p-values (Holm 1979): (m − i) · p of the i-th smallest, never falling, at most 1.

    A comparison without a p-value stays without, and counts as one of the m, because it was declared.
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
