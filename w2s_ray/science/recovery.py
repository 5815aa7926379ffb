"""PGR: how much of the gap between floor and ceiling a student recovers, its interval, and tests of differences.

    PGR = (student − floor) / (ceiling − floor)

Over several seeds it is the ratio of the means, not the mean of the ratios, so that one seed with a small gap does not
decide. If the gap may be zero, the ratio is noise: PGR is undefined unless the lower 95 % bound of ceiling − floor is
above a given minimum. Over several tasks the pooled PGR is Σ(student − floor) / Σ(ceiling − floor): the PGR of the mean
student, floor and ceiling, in which no task is left out, however small its gap.

Over the comparisons that a study declared beforehand Holm's step-down keeps the chance of any false finding at 5 %; all
others are exploratory and get no p-value.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from w2s_ray.science.bootstrap import FEWEST_GROUPS
from w2s_ray.science.estimates import FEWEST_SEEDS, Interval, Ratio, Sampled, difference, weighted

_POWER = 1.96 + 0.84
"""Standard errors between zero and a difference that a two-sided 5 % test finds in 80 % of studies."""
_WIDTH = 2 * 1.96
"""Standard errors between the ends of a 95 % interval."""


@dataclass(frozen=True)
class Recovery:
    """A student's PGR, or why it has none."""

    pgr: Ratio | None
    undefined: str | None
    """Why there is no PGR; None if there is one."""


def gap(floor: Sampled, ceiling: Sampled) -> Sampled:
    """Return ceiling − floor."""
    return difference(ceiling, floor)


def recover(student: Sampled, floor: Sampled, ceiling: Sampled, *, min_gap: float) -> Recovery:
    """Return the PGR of a student.

    It is undefined if the gap's lower bound is not above `min_gap`, or with too few groups of test examples. All three
    estimates must be from the same resamples of the same seeds.
    """
    between = gap(floor, ceiling)
    too_few = too_few_groups(between.num_groups)
    if too_few is not None:
        return Recovery(None, too_few)
    low = between.interval.low
    if not low > min_gap:
        reason = f"ceiling − floor = {between.value:.3f}, its lower 95 % bound {low:.3f} is not above {min_gap:g}"
        return Recovery(None, reason)
    return Recovery(Ratio(difference(student, floor), between), None)


def too_few_groups(num_groups: int) -> str | None:
    """Return why there can be no interval and no p-value with so few groups of test examples; None if there can."""
    if num_groups >= FEWEST_GROUPS:
        return None
    return f"the test examples form {num_groups} group of related ones, and an interval needs at least {FEWEST_GROUPS}"


def too_few_seeds(num_seeds: int) -> str | None:
    """Return why there can be no p-value with so few seeds; None if there can."""
    if num_seeds >= FEWEST_SEEDS:
        return None
    return f"both are finished for {num_seeds} seed{'' if num_seeds == 1 else 's'}, and a p-value needs {FEWEST_SEEDS}"


def compare(first: Recovery, second: Recovery) -> Ratio | None:
    """Return PGR(first) − PGR(second) on the same resamples; None if either is undefined.

    With m the mean of both PGRs, and gains and gaps in units of their own mean gap, it is the ratio

        [(gain₁ − m · gap₁) − (gain₂ − m · gap₂)] / [½ (gap₁ + gap₂)]

    which for students with one floor and ceiling is (student₁ − student₂) / gap.
    """
    if first.pgr is None or second.pgr is None:
        return None
    mean = (first.pgr.value + second.pgr.value) / 2
    first_unit, second_unit = 1 / first.pgr.denominator.value, 1 / second.pgr.denominator.value
    numerator = weighted(
        [
            (first_unit, first.pgr.numerator),
            (-mean * first_unit, first.pgr.denominator),
            (-second_unit, second.pgr.numerator),
            (mean * second_unit, second.pgr.denominator),
        ]
    )
    halves = [(first_unit / 2, first.pgr.denominator), (second_unit / 2, second.pgr.denominator)]
    return Ratio(numerator, weighted(halves))


def minimum_detectable(bounds: Interval) -> float:
    """Return the smallest true difference that this study would find with a power of 80 %, given its 95 % interval.

    (1.96 + 0.84) × SE: 1.96 standard errors for a two-sided test at 5 %, 0.84 more for a power of 80 %. SE is the width
    of the interval over 3.92, so it has the interval's variation over seeds and its quantile for few seeds.
    """
    return _POWER * (bounds.high - bounds.low) / _WIDTH


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
