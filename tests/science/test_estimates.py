"""Intervals and p-values over seeds and test examples: known widths, pairing, and coverage by simulation."""

from collections.abc import Sequence
from math import sqrt

import numpy as np
import pytest
from scipy.stats import norm, t

from tests.science.scoring import scored, without_test_noise
from w2s_ray.science import BoolArray
from w2s_ray.science.bootstrap import Resamples
from w2s_ray.science.estimates import Ratio, difference, mean_of, over_seeds, p_value, weighted
from w2s_ray.science.recovery import compare, recover


def test_without_test_noise_the_interval_is_students() -> None:
    values = [0.70, 0.72, 0.77]
    sampled = without_test_noise(values)
    half = t.ppf(0.975, 2) * np.std(values, ddof=1) / sqrt(3)
    assert sampled.interval.low == pytest.approx(np.mean(values) - half, rel=0.01)
    assert sampled.interval.high == pytest.approx(np.mean(values) + half, rel=0.01)
    assert sampled.seed_sd == pytest.approx(np.std(values, ddof=1))


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
@pytest.mark.parametrize("wanted", [0.2, 0.05, 0.01])
def test_without_test_noise_the_p_value_is_students_into_the_tails(num_seeds: int, wanted: float) -> None:
    noise_S = np.random.default_rng(0).standard_normal(num_seeds)
    noise_S = (noise_S - noise_S.mean()) / noise_S.std(ddof=1)
    values = noise_S + t.ppf(1 - wanted / 2, num_seeds - 1) / sqrt(num_seeds)
    assert p_value(without_test_noise(list(values), 4000)) == pytest.approx(wanted, rel=0.1)


def test_a_single_seed_has_test_noise_alone_and_no_standard_deviation() -> None:
    (model,) = scored(Resamples(np.arange(1000), num_resamples=4000), np.arange(1000)[None] < 700)
    wanted = 1.96 * sqrt(0.7 * 0.3 / 1000)
    assert model.interval.low == pytest.approx(0.7 - wanted, abs=0.004) and model.seed_sd is None
    assert np.allclose(model.draws_B, model.resampled_BS[:, 0])


def test_seeds_that_agree_on_every_example_have_test_noise_alone() -> None:
    right_SN = np.tile(np.arange(1000) < 700, (3, 1))
    alone, tripled = scored(Resamples(np.arange(1000), num_resamples=1000), right_SN[:1], right_SN)
    assert tripled.interval.low == pytest.approx(alone.interval.low) and tripled.seed_sd == 0


def test_the_test_noise_of_each_seed_is_counted_once() -> None:
    """Seeds that err on unrelated examples share no test noise: s² / S is the whole variance of their mean."""
    right_SN = np.random.default_rng(0).random((200, 500)) < 0.7
    (model,) = scored(Resamples(np.arange(500), num_resamples=500), right_SN)
    assert model.draws_B.std() == pytest.approx(sqrt(0.7 * 0.3 / 500 / 200), rel=0.15)


def test_a_p_value_below_5_percent_agrees_with_an_interval_without_zero() -> None:
    random = np.random.default_rng(0)
    resamples = Resamples(np.arange(200), num_resamples=1000)
    base_N = random.random((1, 200))
    pairs = [scored(resamples, *((base_N + random.normal(0, 0.1, (3, 200)) < 0.7) for _ in "ab")) for _ in range(40)]
    shifted = [weighted([(1.0, difference(*pair)), (0.01 * k, pair[0])]) for k, pair in enumerate(pairs)]
    agree = [(p_value(d) < 0.05) == (d.interval.low > 0 or d.interval.high < 0) for d in shifted]
    assert all(agree) and 0 < sum(p_value(d) < 0.05 for d in shifted) < 40


def test_a_value_that_never_varies_is_certain() -> None:
    sampled = without_test_noise([0.1, 0.1, 0.1], 1999)
    assert sampled.interval.low == sampled.interval.high == pytest.approx(0.1)
    assert p_value(sampled) == p_value(weighted([(-1.0, sampled)])) == 0.001
    assert p_value(difference(sampled, sampled)) == 1.0


def test_one_seed_has_the_p_value_of_its_resamples() -> None:
    values_B = np.concatenate([np.full(30, -0.01), np.full(969, 0.1)])
    assert p_value(over_seeds({0: 0.09}, {0: values_B}, num_groups=100)) == pytest.approx(2 * 31 / 1000)


def test_seeds_are_paired_between_tasks_and_a_seed_that_one_task_misses_counts_there_alone() -> None:
    first = without_test_noise([0.6, 0.7, 0.8, 0.7])
    opposite = without_test_noise([0.8, 0.7, 0.6, 0.7])
    assert mean_of([first, opposite]).seed_sd == pytest.approx(0, abs=1e-12), "what one gains the other loses"
    shorter = without_test_noise([0.8, 0.7, 0.6])
    both = mean_of([first, shorter])
    assert both.value == pytest.approx(0.7) and both.num_seeds == 3 and both.seeds == (0, 1, 2, 3)


def test_a_ratio_has_fiellers_interval() -> None:
    """Without test noise: the r for which t of numerator − r · denominator, over seeds, is the 97.5 % quantile."""
    gains, gaps = np.array([0.03, 0.05, 0.06, 0.05, 0.02]), np.array([0.10, 0.13, 0.09, 0.12, 0.10])
    ratio = Ratio(without_test_noise(list(gains), 4000), without_test_noise(list(gaps), 4000))
    assert ratio.value == pytest.approx(gains.mean() / gaps.mean())
    for bound, sign in ((ratio.interval.low, 1), (ratio.interval.high, -1)):
        rest_S = gains - bound * gaps
        assert rest_S.mean() / (rest_S.std(ddof=1) / sqrt(5)) == pytest.approx(sign * t.ppf(0.975, 4), rel=0.02)


def simulated(
    random: np.random.Generator, num_seeds: int, accuracies: Sequence[float], *, seeds: float, shared: float
) -> list[BoolArray]:
    """Whether models are right (S × 200): an example is easy for all by `shared`, and seeds differ by `seeds`."""
    easy_N = random.standard_normal(200)
    models = []
    for accuracy in accuracies:
        mean_S1 = np.clip(random.normal(accuracy, seeds, (num_seeds, 1)), 0.01, 0.99)
        noise_SN = shared * easy_N + sqrt(1 - shared**2) * random.standard_normal((num_seeds, 200))
        models.append(noise_SN < norm.ppf(mean_S1))
    return models


@pytest.mark.parametrize("num_seeds", [3, 5, 10])
def test_trap_23_without_test_noise_intervals_over_seeds_cover_95_percent(num_seeds: int) -> None:
    """Resampling the seeds covers .75, .85 and .89, and finds a difference in 25, 16 and 11 % of null studies."""
    random = np.random.default_rng(num_seeds)
    nulls = [without_test_noise(list(random.standard_normal(num_seeds)), 400) for _ in range(1000)]
    assert 0.93 < np.mean([null.interval.low < 0 < null.interval.high for null in nulls]) < 0.97
    assert 0.03 < np.mean([p_value(null) < 0.05 for null in nulls]) < 0.07


@pytest.mark.parametrize(("num_seeds", "seeds", "shared"), [(3, 0.03, 0.8), (5, 0.01, 0.9), (10, 0.02, 0.8)])
def test_trap_23_with_test_noise_intervals_cover_95_percent(num_seeds: int, seeds: float, shared: float) -> None:
    """An accuracy, a difference of two, and a PGR of .5; and p-values of a difference of 0.

    Fieller's interval covers .5 where the interval of gain − .5 · gap covers 0; the difference of two PGRs with one
    floor and ceiling covers 0 where that of the accuracies does.
    """
    random = np.random.default_rng([num_seeds, 1])
    resamples = Resamples(np.arange(200), num_resamples=200)
    inside, found = [], []
    for _ in range(400):
        models = simulated(random, num_seeds, (0.55, 0.7, 0.7, 0.85), seeds=seeds, shared=shared)
        floor, first, second, ceiling = scored(resamples, *models)
        apart = difference(first, second)
        rest = weighted([(1.0, first), (-0.5, floor), (-0.5, ceiling)])
        found.append(p_value(apart) < 0.05)
        truths = ((first, 0.7), (apart, 0.0), (rest, 0.0))
        inside.append([own.interval.low <= truth <= own.interval.high for own, truth in truths])
    assert all(0.93 <= share <= 0.97 for share in np.mean(inside, axis=0)), np.mean(inside, axis=0)
    assert 0.03 <= np.mean(found) <= 0.07, np.mean(found)


def test_the_interval_of_a_difference_of_pgrs_excludes_0_where_that_of_the_accuracies_does() -> None:
    random = np.random.default_rng(2)
    resamples = Resamples(np.arange(200), num_resamples=200)
    excluded = []
    for step in range(30):
        models = simulated(random, 3, (0.55, 0.65 + step / 200, 0.7, 0.85), seeds=0.01, shared=0.9)
        floor, first, second, ceiling = scored(resamples, *models)
        in_pgr = compare(*(recover(arm, floor, ceiling, min_gap=0.0) for arm in (first, second)))
        apart = difference(first, second)
        assert in_pgr is not None
        assert in_pgr.value == pytest.approx(apart.value / difference(ceiling, floor).value)
        excluded.append([not d.interval.low <= 0 <= d.interval.high for d in (in_pgr, apart)])
    assert all(one == other for one, other in excluded) and 0 < sum(one for one, _ in excluded) < 30
