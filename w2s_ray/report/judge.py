"""Scores the arms of one task on one set of bootstrap draws.

Floors, arms and ceilings are compared on the same test examples and, seed by seed, on the same splits. An arm's PGR
uses the seeds for which its floor, it and its ceiling are all there.
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from statistics import fmean

import numpy as np

from w2s_ray.report.arms import DistinctArm
from w2s_ray.report.evidence import Evidence
from w2s_ray.report.findings import ArmSummary, Comparison, Estimate
from w2s_ray.report.results import figures_of, is_oracle
from w2s_ray.science.bootstrap import Draws, Interval
from w2s_ray.science.metrics import correct
from w2s_ray.science.recovery import FEW_SEEDS, Recovery, Sampled, compare, gap, minimum_detectable, recover
from w2s_ray.spec.study import Study


class Judge:
    """Scores the arms of one task on one set of draws."""

    def __init__(self, study: Study, evidence: Evidence, task: str, arms: Sequence[DistinctArm]) -> None:
        self._study, self._evidence, self._arms = study, evidence, arms
        self._min_gap = study.report.min_gap
        self._value: dict[str, float] = {}
        self._draws_B: dict[str, np.ndarray] = {}
        self._recoveries: dict[tuple[str, str], tuple[tuple[int, ...], Recovery]] = {}
        known = [identity for identity in evidence.probs if evidence.stages[identity].task == task]
        if not known:
            return
        test = evidence.tests[task]
        correct_KN = np.stack([correct(evidence.probs[identity], test.labels_N) for identity in known])
        self._draws = Draws(test.groups_N, num_draws=study.report.bootstrap_samples, test_set=task)
        accuracies_BK = self._draws.accuracies(correct_KN)
        self._value = dict(zip(known, correct_KN.mean(axis=1).tolist(), strict=True))
        self._draws_B = dict(zip(known, accuracies_BK.T, strict=True))

    def arms(self) -> list[ArmSummary]:
        """Every arm of the task but those of pretraining."""
        return [self._arm(arm) for arm in self._arms if arm.arm != "pretraining"]

    def comparisons(self) -> list[Comparison]:
        """Every pair of students of one level that have a PGR over the same seeds; none where they are too many."""
        students = [arm for arm in self._arms if arm.is_student]
        if len(students) > _MOST_COMPARED:
            return []
        pairs = ((a, b) for a, b in combinations(students, 2) if a.level == b.level)
        return [found for a, b in pairs if (found := self._compare(a, b)) is not None]

    def _arm(self, arm: DistinctArm) -> ArmSummary:
        identities = {seed: stage.identity for seed, stage in arm.stages.items()}
        seeds = tuple(seed for seed, identity in identities.items() if identity in self._value)
        about = ArmSummary(
            task=arm.task,
            level=arm.level,
            arm=arm.arm,
            also=tuple(arm.kinds[1:]),
            label=arm.label,
            methods=tuple(arm.methods),
            paths=tuple(arm.paths),
            loss=next(iter(arm.stages.values())).spec.loss.label,
            oracle=any(is_oracle(self._study, stage) for stage in arm.stages.values()),
            stages=identities,
            seeds=seeds,
            seed_conditional=len(seeds) < FEW_SEEDS,
        )
        if not seeds:
            return about
        measured = [figures_of(self._evidence, identities[seed]) for seed in seeds]
        means = {name: _mean(figures.get(name) for figures in measured) for name in _MEANS}
        found = about.model_dump() | means | {"accuracy": _estimate(self._sampled(identities, seeds))}
        if arm.is_student:
            found |= self._recovery(arm, identities, seeds)
        return ArmSummary.model_validate(found)

    def _recovery(self, arm: DistinctArm, identities: Mapping[int, str], seeds: Sequence[int]) -> dict[str, object]:
        """Floor, ceiling, gap and both PGRs of a student."""
        ceilings = {} if arm.arm == "self" else arm.ceilings
        both = tuple(seed for seed in seeds if arm.floors[seed] in self._value and ceilings.get(seed) in self._value)
        if not both:
            return {"pgr_undefined": self._why_not(arm, ceilings)}
        student, floor, ceiling = (self._sampled(each, both) for each in (identities, arm.floors, ceilings))
        found = recover(student, floor, ceiling, min_gap=self._min_gap)
        self._recoveries[arm.level, arm.label] = both, found
        return {
            "floor": _estimate(floor),
            "ceiling": _estimate(ceiling),
            "gap": _estimate(gap(floor, ceiling)),
            "pgr": _pgr(found),
            "pgr_undefined": found.undefined,
            **self._link(arm, student, ceiling, both),
        }

    def _link(self, arm: DistinctArm, student: Sampled, ceiling: Sampled, seeds: Sequence[int]) -> dict[str, object]:
        """The PGR with the chain's previous student as the floor."""
        supervisors = {seed: arm.stages[seed].supervisors[0] for seed in seeds if arm.stages[seed].supervisors}
        if arm.arm != "chain" or not all(each in self._value for each in supervisors.values()):
            return {}
        found = recover(student, self._sampled(supervisors, seeds), ceiling, min_gap=self._min_gap)
        return {"pgr_link": _pgr(found), "pgr_link_undefined": found.undefined}

    def _why_not(self, arm: DistinctArm, ceilings: Mapping[int, str]) -> str:
        if arm.arm == "self":
            return "a self student has no ceiling: its model is the floor's"
        if not ceilings:
            return "the study asks for no ceiling"
        return "floor and ceiling are not both finished for any seed of this student"

    def _compare(self, first: DistinctArm, second: DistinctArm) -> Comparison | None:
        found = [self._recoveries.get((arm.level, arm.label)) for arm in (first, second)]
        if found[0] is None or found[1] is None or found[0][0] != found[1][0]:
            return None
        difference = compare(found[0][1], found[1][1])
        if difference is None:
            return None
        return Comparison(
            task=first.task,
            level=first.level,
            first=first.label,
            second=second.label,
            difference=_estimate(difference),
            minimum_detectable=minimum_detectable(difference.draws_B),
        )

    def _sampled(self, identities: Mapping[int, str], seeds: Sequence[int]) -> Sampled:
        """Mean accuracy over the seeds, with its draws."""
        chosen = [identities[seed] for seed in seeds]
        accuracy_BS = np.stack([self._draws_B[identity] for identity in chosen], axis=1)
        return Sampled(fmean(self._value[identity] for identity in chosen), self._draws.over_seeds(accuracy_BS))


_MOST_COMPARED = 60
"""Students of a task whose pairs are still worth a line each."""
_MEANS = (
    "agreement agreement_supervisor_right agreement_supervisor_wrong label_accuracy ece brier auroc "
    "seconds tokens_per_second"
).split()
"""Figures of which an arm shows the mean over its seeds."""


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _estimate(sampled: Sampled) -> Estimate:
    return _with(sampled.value, sampled.interval)


def _with(value: float, interval: Interval) -> Estimate:
    return Estimate(value=value, low=interval.low, high=interval.high)


def _pgr(found: Recovery) -> Estimate | None:
    return _with(found.pgr, found.interval) if found.pgr is not None and found.interval is not None else None
