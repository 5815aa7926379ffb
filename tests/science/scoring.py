"""Estimates from whether models are right on each test example."""

from collections.abc import Iterable

import numpy as np

from w2s_ray.science import BoolArray
from w2s_ray.science.bootstrap import Resamples
from w2s_ray.science.estimates import Sampled, over_seeds


def scored(resamples: Resamples, *correct_SN: BoolArray) -> list[Sampled]:
    """Each model's mean accuracy over its seeds, all on the same resamples."""
    accuracy_BK = resamples.accuracies(np.concatenate(correct_SN))
    accuracies, columns = [], iter(accuracy_BK.T)
    for model_SN in correct_SN:
        resampled_B = {seed: next(columns) for seed in range(len(model_SN))}
        values = {seed: float(right_N.mean()) for seed, right_N in enumerate(model_SN)}
        accuracies.append(over_seeds(values, resampled_B, num_groups=resamples.num_groups))
    return accuracies


def without_test_noise(values: Iterable[float], num_draws: int = 1000) -> Sampled:
    """An estimate whose value by seed is known exactly."""
    by_seed = dict(enumerate(values))
    constant_B = {seed: np.full(num_draws, value) for seed, value in by_seed.items()}
    return over_seeds(by_seed, constant_B, num_groups=100)
