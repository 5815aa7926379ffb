"""PGR: how much of the gap between floor and ceiling a student recovers, and how sure that is.

    PGR = (student − floor) / (ceiling − floor)

Over several seeds it is the ratio of the means, not the mean of the ratios, so that one seed with a small gap does not
decide. Where the gap may be nothing, the ratio is noise: PGR is undefined unless the lower 95 % bound of
ceiling − floor is above a stated minimum. Over several tasks the pooled PGR is Σ(student − floor) / Σ(ceiling − floor):
the PGR of the mean student, floor and ceiling. No task is left out of it, however small its gap.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from w2s_ray.science.bootstrap import FEWEST_GROUPS, Interval, interval

FEW_SEEDS = 5
"""With fewer seeds an interval is marked seed-conditional: it says little about other seeds."""
_POWER = 1.96 + 0.84
"""Standard errors between nothing and a difference that a two-sided 5 % test finds four times in five."""
_DIGITS = 12
"""Of a difference on a draw: where both are equal it is a tie, whatever the last digits of their sums say."""
_WIDTH = 2 * 1.96
"""Standard errors between the ends of a 95 % interval."""


@dataclass(frozen=True)
class Sampled:
    """A figure: its estimate, and its value on each bootstrap draw."""

    value: float
    draws_B: np.ndarray
    num_groups: int
    """Of related test examples, from which the draws are; over several tasks those of the task with the fewest."""

    @property
    def interval(self) -> Interval:
        """Its 95 % interval."""
        return interval(self.draws_B)


@dataclass(frozen=True)
class Recovery:
    """A student's PGR, or why it has none."""

    pgr: float | None
    interval: Interval | None
    draws_B: np.ndarray | None
    undefined: str | None
    """Why there is no PGR; None where there is one."""
    num_groups: int


def pgr(student: float, floor: float, ceiling: float) -> float:
    """Return (student − floor) / (ceiling − floor); the caller has made sure of the gap."""
    assert ceiling != floor, "there is no gap to recover"
    return (student - floor) / (ceiling - floor)


def mean_of(samples: Sequence[Sampled]) -> Sampled:
    """Return the mean of accuracies that share their draws, such as those of one arm over several tasks."""
    value = float(np.mean([each.value for each in samples]))
    draws_B = np.mean([each.draws_B for each in samples], axis=0)
    return Sampled(value, draws_B, min(each.num_groups for each in samples))


def difference(first: Sampled, second: Sampled) -> Sampled:
    """Return first − second on the same draws."""
    num_groups = min(first.num_groups, second.num_groups)
    return Sampled(first.value - second.value, np.round(first.draws_B - second.draws_B, _DIGITS), num_groups)


def gap(floor: Sampled, ceiling: Sampled) -> Sampled:
    """Return ceiling − floor."""
    return difference(ceiling, floor)


def recover(student: Sampled, floor: Sampled, ceiling: Sampled, *, min_gap: float) -> Recovery:
    """Return the PGR of a student with its interval, undefined where the gap is not surely above `min_gap`.

    With too few groups of test examples nothing is sure. All three come from the same draws of the same seeds.
    """
    assert student.draws_B.shape == floor.draws_B.shape == ceiling.draws_B.shape, "one draw serves all three"
    between = gap(floor, ceiling)
    few = too_few_groups(between.num_groups)
    if few is not None:
        return Recovery(None, None, None, few, between.num_groups)
    low = between.interval.low
    if not low > min_gap:
        reason = f"ceiling − floor = {between.value:.3f}, its lower 95 % bound {low:.3f} is not above {min_gap:g}"
        return Recovery(None, None, None, reason, between.num_groups)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws_B = difference(student, floor).draws_B / between.draws_B
    draws_B = np.where(between.draws_B == 0, np.nan, draws_B)
    value = pgr(student.value, floor.value, ceiling.value)
    return Recovery(value, interval(draws_B), draws_B, None, between.num_groups)


def too_few_groups(num_groups: int) -> str | None:
    """Return why so few groups of test examples have no interval and no p-value; None where they have."""
    if num_groups >= FEWEST_GROUPS:
        return None
    return f"all test examples are {num_groups} group of related ones, and an interval takes at least {FEWEST_GROUPS}"


def compare(first: Recovery, second: Recovery) -> Sampled | None:
    """Return PGR(first) − PGR(second) on the same draws; None where either is undefined."""
    if first.draws_B is None or second.draws_B is None or first.pgr is None or second.pgr is None:
        return None
    one = Sampled(first.pgr, first.draws_B, first.num_groups)
    return difference(one, Sampled(second.pgr, second.draws_B, second.num_groups))


def minimum_detectable(difference_B: np.ndarray) -> float:
    """Return the smallest true difference in PGR that this study would find with a power of 80 %.

    (1.96 + 0.84) × SE: 1.96 standard errors for a two-sided test at 5 %, 0.84 more for finding it four times in five.
    SE is the width of the paired PGR difference's 95 % interval over 3.92. A standard deviation of the draws would not
    do: the PGR is a ratio, and one draw whose gap is near 0 may decide over it.
    """
    found = interval(difference_B)
    return _POWER * (found.high - found.low) / _WIDTH
