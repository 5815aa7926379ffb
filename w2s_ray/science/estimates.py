"""Estimates over seeds and test examples: their intervals, p-values, and ratios.

An accuracy, or a weighted sum of accuracies, varies for two reasons, and its variance has one part for each:

    seeds   s² / S, with s² the variance of its values by seed (S − 1 degrees of freedom). It includes what every seed
            draws for itself from the test set: which examples its own model happens to get right.
    tests   c, the mean covariance of two seeds' values over resamples of the test set: what all seeds share. A seed's
            own test noise is in s² already and would count twice in the variance of the mean.

A draw of the estimate is its value, plus the deviation on a resample of the test set shrunk to the variance c, plus
s / √S times a normal score. Normal tails are too light for few seeds, so a draw's distance from the value is stretched
by its rank: at level u by 1 + λ^1.25 · (t(u) / z(u) − 1), with t Student's quantile for S − 1 degrees of freedom, z the
normal one, and λ the seeds' share of the variance. Without a seed part that is the bootstrap, without a test part
Student's t. With λ in the place of λ^1.25 it is Cochran's approximation for two variances (Cochran and Cox 1957, 4.14),
which is too wide for three seeds. Intervals and p-values are percentiles of the same draws. A single seed has no seed
part: its interval tells nothing about other seeds.

A ratio of two estimates has the interval that Fieller (1954) gives: all r for which zero is in the interval of
numerator − r · denominator. It needs no linear approximation.

Shapes: B resamples, S seeds.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import cos, pi, sin, sqrt, tan

import numpy as np
from scipy.optimize import brentq
from scipy.stats import norm, t

from w2s_ray.science import FloatArray

CONFIDENCE = 0.95
FEWEST_SEEDS = 3
"""With fewer seeds there is no p-value: Student's quantile is 12.7 for two."""
FEW_SEEDS = 10
"""Up to so many seeds a result is marked: that its values by seed are normal is assumed, and cannot be seen."""
_SHARE_POWER = 1.25
"""Keeps coverage within .943 and .965 for 3 seeds or more, whatever the seeds' share of the variance (simulated)."""
_DIGITS = 12
"""Decimals of a draw: equal values are a tie, whatever the rounding of their sums."""
_SEED_STREAM = 1
_NEARLY_UPRIGHT, _ANGLE_TOLERANCE = pi / 2 - 1e-6, 1e-7


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


@dataclass(frozen=True)
class Sampled:
    """A weighted sum of accuracies, with its variation over seeds and over resamples of the test set."""

    value: float
    seeds: tuple[int, ...]
    deviations_S: FloatArray
    """By how much each seed's summand is above its mean over seeds; they sum to 0."""
    resampled_BS: FloatArray
    """Each seed's summand on each resample of the test set; the sum over seeds is the estimate on that resample."""
    num_seeds: int
    """S; over several tasks the seeds of the task with the fewest."""
    num_groups: int
    """Groups of related test examples that are resampled; over several tasks those of the task with the fewest."""

    @cached_property
    def draws_B(self) -> FloatArray:
        """The estimate as it could have come out with other seeds and other test examples."""
        return np.round(self.value + self._spread.stretched_B(), _DIGITS)

    @cached_property
    def interval(self) -> Interval:
        """Its 95 % interval."""
        return Interval(*(self.value + bound for bound in self._spread.bounds()))

    @property
    def seed_sd(self) -> float | None:
        """Standard deviation of its values by seed; None for a single seed."""
        return sqrt(self.num_seeds * self._spread.seed_variance) if self.num_seeds > 1 else None

    @cached_property
    def _spread(self) -> "_Spread":
        return _Spread(
            tests_B=self.resampled_BS.sum(axis=1) - self.value,
            own_variance=_own_covariance(self, self),
            seed_variance=_seed_covariance(self, self),
            num_seeds=self.num_seeds,
        )


@dataclass(frozen=True)
class Ratio:
    """The ratio of two estimates; the lower bound of the denominator is above 0."""

    numerator: Sampled
    denominator: Sampled

    @property
    def value(self) -> float:
        return self.numerator.value / self.denominator.value

    @property
    def num_seeds(self) -> int:
        return min(self.numerator.num_seeds, self.denominator.num_seeds)

    @cached_property
    def interval(self) -> Interval:
        """Its 95 % interval (Fieller 1954)."""
        bounds = _mixer(self._residual, self.denominator)

        def distance(side: int) -> float:
            """Return how far the bound on this side of the value is: the tangent of an angle."""

            def edge(angle: float) -> float:
                """Return on which side of zero the bound of numerator − (value ± tan angle) · denominator is."""
                low, high = bounds(cos(angle), -side * sin(angle))
                return -high if side > 0 else low

            if edge(0.0) >= 0:
                return 0.0
            if edge(_NEARLY_UPRIGHT) <= 0:
                return tan(_NEARLY_UPRIGHT)
            return tan(brentq(edge, 0.0, _NEARLY_UPRIGHT, xtol=_ANGLE_TOLERANCE))

        return Interval(self.value - distance(-1), self.value + distance(1))

    @property
    def seed_sd(self) -> float | None:
        """Standard deviation over seeds of (numerator − value · denominator) / mean denominator; None for one seed."""
        sd = self._residual.seed_sd
        return sd / abs(self.denominator.value) if sd is not None else None

    @cached_property
    def _residual(self) -> Sampled:
        return weighted([(1.0, self.numerator), (-self.value, self.denominator)])


def over_seeds(values: Mapping[int, float], resampled_B: Mapping[int, FloatArray], *, num_groups: int) -> Sampled:
    """Return a mean over seeds, given its value by seed, and its value on each resample by seed."""
    by_seed_S = np.array(list(values.values())) / len(values)
    return Sampled(
        value=float(by_seed_S.sum()),
        seeds=tuple(values),
        deviations_S=by_seed_S - by_seed_S.mean(),
        resampled_BS=np.stack([resampled_B[seed] for seed in values], axis=1) / len(values),
        num_seeds=len(values),
        num_groups=num_groups,
    )


def weighted(terms: Sequence[tuple[float, Sampled]]) -> Sampled:
    """Return Σ weight · estimate on the same resamples and seeds; a seed that an estimate misses adds nothing to it."""
    seeds = tuple(dict.fromkeys(seed for _, sampled in terms for seed in sampled.seeds))
    deviations_S = np.zeros(len(seeds))
    resampled_BS = np.zeros((len(terms[0][1].resampled_BS), len(seeds)))
    for weight, sampled in terms:
        columns = [seeds.index(seed) for seed in sampled.seeds]
        deviations_S[columns] += weight * sampled.deviations_S
        resampled_BS[:, columns] += weight * sampled.resampled_BS
    return Sampled(
        value=sum(weight * sampled.value for weight, sampled in terms),
        seeds=seeds,
        deviations_S=deviations_S,
        resampled_BS=resampled_BS,
        num_seeds=min(sampled.num_seeds for _, sampled in terms),
        num_groups=min(sampled.num_groups for _, sampled in terms),
    )


def mean_of(samples: Sequence[Sampled]) -> Sampled:
    """Return the mean of estimates with paired resamples, such as an arm's accuracies over several tasks."""
    return weighted([(1 / len(samples), sampled) for sampled in samples])


def difference(first: Sampled, second: Sampled) -> Sampled:
    """Return first − second on the same resamples and seeds."""
    return weighted([(1.0, first), (-1.0, second)])


def p_value(sampled: Sampled) -> float:
    """Return the two-sided p-value of an estimate against 0: twice the share of draws on the rarer side of zero.

    It is below .05 where the 95 % interval excludes zero, up to one draw. Both counts get one added, so that no finite
    number of draws gives certainty (Davison and Hinkley 1997, section 4.2). The smallest possible value is 2 / (B + 1).
    """
    draws_B = sampled.draws_B
    rarer = min(int((draws_B <= 0).sum()), int((draws_B >= 0).sum()))
    return min(1.0, 2 * (rarer + 1) / (len(draws_B) + 1))


@dataclass(frozen=True)
class _Spread:
    """How an estimate varies around its value."""

    tests_B: FloatArray
    """On each resample of the test set."""
    own_variance: float
    """Variance over resamples of each seed's summand by itself, summed over seeds."""
    seed_variance: float
    """Variance of the mean over seeds: s² / S."""
    num_seeds: int

    def bounds(self) -> tuple[float, float]:
        """Return the 95 % interval around 0."""
        normal_B, share = self._normal()
        tail = (1 - CONFIDENCE) / 2
        low, high = np.quantile(normal_B, [tail, 1 - tail])
        stretch = 1 + share**_SHARE_POWER * _excess(len(normal_B), self.num_seeds)[1] if share else 1.0
        return float(low * stretch), float(high * stretch)

    def stretched_B(self) -> FloatArray:
        """Return the draws around 0."""
        normal_B, share = self._normal()
        if not share:
            return normal_B
        stretched_B, order_B = np.empty_like(normal_B), np.argsort(normal_B, kind="stable")
        excess_B, _ = _excess(len(normal_B), self.num_seeds)
        stretched_B[order_B] = normal_B[order_B] * (1 + share**_SHARE_POWER * excess_B)
        return stretched_B

    def _normal(self) -> tuple[FloatArray, float]:
        """Return the draws before they are stretched, and the seeds' share of their variance."""
        if self.num_seeds < 2:
            return self.tests_B, 0.0
        mean_variance = float(self.tests_B.var())
        shared = max(0.0, mean_variance - self.own_variance) * self.num_seeds / (self.num_seeds - 1)
        shrunk_B = self.tests_B * sqrt(shared / mean_variance) if mean_variance else self.tests_B
        variance = shared + self.seed_variance
        share = self.seed_variance / variance if variance else 0.0
        return shrunk_B + sqrt(self.seed_variance) * _scores(len(self.tests_B)), share


def _own_covariance(first: Sampled, second: Sampled) -> float:
    """Return the covariance over resamples of both summands of a seed, summed over seeds."""
    first_BS, second_BS = (sampled.resampled_BS - sampled.resampled_BS.mean(axis=0) for sampled in (first, second))
    return float((first_BS * second_BS).sum() / len(first_BS))


def _seed_covariance(first: Sampled, second: Sampled) -> float:
    """Return the covariance of two means over seeds, from the deviations by seed."""
    num_seeds = min(first.num_seeds, second.num_seeds)
    return float(first.deviations_S @ second.deviations_S) * num_seeds / (num_seeds - 1) if num_seeds > 1 else 0.0


def _mixer(first: Sampled, second: Sampled) -> Callable[[float, float], tuple[float, float]]:
    """Return a function from weights a and b to the 95 % interval of a · first + b · second.

    A call costs sums of vectors of length B, because variances of a sum follow from those of its terms.
    """
    first, second = (weighted([(a, first), (b, second)]) for a, b in ((1.0, 0.0), (0.0, 1.0)))  # the same seeds
    tests_B = [sampled.resampled_BS.sum(axis=1) - sampled.value for sampled in (first, second)]
    pairs = ((first, first), (first, second), (second, second))
    own = [_own_covariance(*pair) for pair in pairs]
    by_seed = [_seed_covariance(*pair) for pair in pairs]

    def bounds(a: float, b: float) -> tuple[float, float]:
        squares = np.array([a * a, 2 * a * b, b * b])
        spread = _Spread(
            tests_B=a * tests_B[0] + b * tests_B[1],
            own_variance=max(0.0, float(squares @ own)),
            seed_variance=max(0.0, float(squares @ by_seed)),
            num_seeds=first.num_seeds,
        )
        low, high = spread.bounds()
        value = a * first.value + b * second.value
        return value + low, value + high

    return bounds


@lru_cache(maxsize=64)
def _levels(num_draws: int) -> FloatArray:
    """Return the level of each rank; the middle one of an odd number is moved a little, where t and z are both 0."""
    levels_B = (np.arange(num_draws) + 0.5) / num_draws
    return np.where(levels_B == 0.5, 0.5 + 1e-6, levels_B)


@lru_cache(maxsize=64)
def _scores(num_draws: int) -> FloatArray:
    """Return normal scores, one per level, in an order that does not depend on the resamples."""
    return np.random.default_rng([_SEED_STREAM, num_draws]).permutation(norm.ppf(_levels(num_draws)))


@lru_cache(maxsize=256)
def _excess(num_draws: int, num_seeds: int) -> tuple[FloatArray, float]:
    """Return t(u) / z(u) − 1 for S − 1 degrees of freedom: at every level, and at the ends of an interval."""
    levels = np.append(_levels(num_draws), (1 + CONFIDENCE) / 2)
    excess = t.ppf(levels, num_seeds - 1) / norm.ppf(levels) - 1
    return excess[:-1], float(excess[-1])
