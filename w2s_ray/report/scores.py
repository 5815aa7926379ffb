"""The accuracies of all models of one task, on one set of bootstrap draws.

Whatever is compared is compared here: floors, arms, ceilings and baselines on the same test examples, seed by seed on
the same splits.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

import numpy as np

from w2s_ray.report.arm_findings import Estimate
from w2s_ray.report.evidence import Evidence
from w2s_ray.science.bootstrap import FEWEST_GROUPS, Resamples
from w2s_ray.science.recovery import Recovery, Sampled


class Scores:
    """Accuracies by name: a stage's identity, or `<baseline>/<number of its seed>`."""

    def __init__(self, evidence: Evidence, task: str, num_resamples: int) -> None:
        self._correct: dict[str, np.ndarray] = {}
        self._draws_B: dict[str, np.ndarray] = {}
        if task not in evidence.tests:
            return
        self._test, self._num_draws, self._task = evidence.tests[task], num_resamples, task
        known = {name: said for name, said in evidence.predictions.items() if said.task == task}
        self._correct = {name: said.predicted_N == self._test.truth_N for name, said in known.items()}
        for baseline, correct_SN in evidence.baselines.get(task, {}).items():
            self._correct |= {f"{baseline}/{place}": correct_N for place, correct_N in enumerate(correct_SN)}
        self._draws = Resamples(self._test.groups_N, num_resamples=num_resamples, test_set=task)
        accuracies_BK = self._draws.accuracies(np.stack(list(self._correct.values())))
        self._draws_B = dict(zip(self._correct, accuracies_BK.T, strict=True))

    def __contains__(self, name: object) -> bool:
        """Whether a model of this name was judged."""
        return name in self._correct

    def mean(self, names: Mapping[int, str], seeds: Sequence[int]) -> Sampled:
        """Return the mean accuracy over seeds, with its draws; `names` are by seed."""
        return self._mean(self._draws, self._draws_B, self._correct, [names[seed] for seed in seeds])

    def baselines(self) -> dict[str, Sampled]:
        """Return the mean accuracy of each baseline over the seeds that it was fitted on."""
        by_name: dict[str, list[str]] = {}
        for name in self._correct:
            baseline, separator, _ = name.partition("/")
            if separator:
                by_name.setdefault(baseline, []).append(name)
        return {
            baseline: self._mean(self._draws, self._draws_B, self._correct, names)
            for baseline, names in by_name.items()
        }

    def strata(self) -> dict[str, int]:
        """Return how many test examples each stratum has."""
        names, counts = np.unique(self._test.strata_N, return_counts=True) if self._correct else ((), ())
        return {str(name): int(count) for name, count in zip(names, counts, strict=True) if name}

    def by_stratum(self, arms: Sequence[Mapping[int, str]]) -> list[dict[str, Estimate]]:
        """Return the mean accuracy on each stratum that has groups to draw, of each arm by the names of its seeds."""
        found: list[dict[str, Estimate]] = [{} for _ in arms]
        for stratum in self.strata():
            is_in_N = self._test.strata_N == stratum
            draws = Resamples(
                self._test.groups_N[is_in_N], num_resamples=self._num_draws, test_set=f"{self._task} {stratum}"
            )
            if draws.num_groups < FEWEST_GROUPS:
                continue
            correct = {name: correct_N[is_in_N] for name, correct_N in self._correct.items()}
            accuracies_BK = draws.accuracies(np.stack(list(correct.values())))
            resampled_B = dict(zip(correct, accuracies_BK.T, strict=True))
            for place, names in enumerate(arms):
                found[place][stratum] = estimate(self._mean(draws, resampled_B, correct, list(names.values())))
        return found

    def _mean(
        self,
        draws: Resamples,
        resampled_B: Mapping[str, np.ndarray],
        correct: Mapping[str, np.ndarray],
        names: Sequence[str],
    ) -> Sampled:
        accuracy_BS = np.stack([resampled_B[name] for name in names], axis=1)
        value = fmean(float(correct[name].mean()) for name in names)
        return Sampled(value, draws.over_seeds(accuracy_BS), draws.num_groups)


def estimate(sampled: Sampled) -> Estimate:
    """Return a figure with its 95 % interval."""
    found = sampled.interval
    return Estimate(value=sampled.value, low=found.low, high=found.high)


def pgr_estimate(found: Recovery) -> Estimate | None:
    """Return a PGR with its 95 % interval; None where it is undefined."""
    if found.pgr is None or found.interval is None:
        return None
    return Estimate(value=found.pgr, low=found.interval.low, high=found.interval.high)
