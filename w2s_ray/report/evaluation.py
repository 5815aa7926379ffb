"""The arms of one task: accuracies on one set of bootstrap resamples, and what follows from them.

Floors, arms, ceilings and baselines are compared on the same test examples, seed by seed on the same splits. An arm's
PGR is over the seeds for which its floor, the arm itself and the ceiling of its own setting are all finished.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import fmean

import numpy as np

from w2s_ray.report.arms import TEXT_ARMS, DistinctArm, is_oracle, setting_of, untrained_of
from w2s_ray.report.evidence import Evidence
from w2s_ray.report.findings import ArmSummary, Comparison, Estimate
from w2s_ray.report.metrics import case_of, mean_values, measure
from w2s_ray.science import BoolArray, FloatArray
from w2s_ray.science.bootstrap import FEWEST_GROUPS, Resamples
from w2s_ray.science.estimates import FEW_SEEDS, Ratio, Sampled, difference, over_seeds
from w2s_ray.science.recovery import Recovery, compare, gap, minimum_detectable, recover, too_few_groups
from w2s_ray.spec.study import Study

_MOST_COMPARED = 60
"""Students of a task above which their pairs are not compared."""


@dataclass(frozen=True)
class Standing:
    """A student with its floor and ceiling, over the same seeds and resamples."""

    student: Sampled
    floor: Sampled
    ceiling: Sampled


class Accuracies:
    """The accuracies of all models of one task; a model's name is its stage's identity or `<baseline>/<number>`.

    Shapes: B resamples, K models, S seeds, N test examples.
    """

    def __init__(self, evidence: Evidence, task: str, num_resamples: int) -> None:
        self._correct_N: dict[str, BoolArray] = {}
        self._resampled_B: dict[str, FloatArray] = {}
        if task not in evidence.tests:
            return
        self._test, self._num_resamples, self._task = evidence.tests[task], num_resamples, task
        for name, predictions in evidence.predictions.items():
            if predictions.task == task:
                self._correct_N[name] = predictions.predicted_N == self._test.truth_N
        for baseline, correct_SN in evidence.baselines.get(task, {}).items():
            self._correct_N |= {f"{baseline}/{number}": correct_N for number, correct_N in enumerate(correct_SN)}
        self._resamples = Resamples(self._test.groups_N, num_resamples=num_resamples, test_set=task)
        self._resampled_B = _resampled(self._resamples, self._correct_N)

    def __contains__(self, name: object) -> bool:
        return name in self._correct_N

    def mean(self, names: Mapping[int, str], seeds: Sequence[int]) -> Sampled:
        """Return the mean accuracy over seeds; `names` are by seed."""
        return _mean(self._resamples, self._resampled_B, self._correct_N, {seed: names[seed] for seed in seeds})

    def baselines(self) -> dict[str, Sampled]:
        """Return the mean accuracy of each baseline over the training sets that it was fitted on."""
        names: dict[str, dict[int, str]] = {}
        for name in self._correct_N:
            baseline, separator, number = name.partition("/")
            if separator:
                names.setdefault(baseline, {})[int(number)] = name
        return {
            baseline: _mean(self._resamples, self._resampled_B, self._correct_N, own) for baseline, own in names.items()
        }

    def strata(self) -> dict[str, int]:
        """Return the number of test examples of each stratum."""
        names, counts = np.unique(self._test.strata_N, return_counts=True) if self._correct_N else ((), ())
        return {str(name): int(count) for name, count in zip(names, counts, strict=True) if name}

    def by_stratum(self, arms: Sequence[Mapping[int, str]]) -> list[dict[str, Estimate]]:
        """Return the mean accuracy of each arm, given as names by seed, on each stratum with enough groups."""
        estimates: list[dict[str, Estimate]] = [{} for _ in arms]
        for stratum in self.strata():
            is_in_N = self._test.strata_N == stratum
            test_set = f"{self._task} {stratum}"
            resamples = Resamples(self._test.groups_N[is_in_N], num_resamples=self._num_resamples, test_set=test_set)
            if resamples.num_groups < FEWEST_GROUPS:
                continue
            correct_N = {name: correct_N[is_in_N] for name, correct_N in self._correct_N.items()}
            resampled_B = _resampled(resamples, correct_N)
            for strata, names in zip(estimates, arms, strict=True):
                strata[stratum] = estimate(_mean(resamples, resampled_B, correct_N, names))
        return estimates


class TaskEvaluation:
    """Summarises and compares the arms of one task."""

    def __init__(self, study: Study, evidence: Evidence, task: str, arms: Sequence[DistinctArm]) -> None:
        self._study, self._evidence = study, evidence
        self.task, self.distinct = task, [arm for arm in arms if arm.task == task]
        self.accuracies = Accuracies(evidence, task, study.report.bootstrap_samples)

    def seeds(self, arm: DistinctArm) -> tuple[int, ...]:
        """Return the seeds for which an arm has test predictions."""
        return tuple(seed for seed, identity in arm.identities.items() if identity in self.accuracies)

    def seeds_between(self, arm: DistinctArm, ceilings: Mapping[int, str]) -> tuple[int, ...]:
        """Return the seeds for which an arm, its floor and its ceiling have test predictions."""
        known = self.accuracies
        return tuple(s for s in self.seeds(arm) if arm.floors.get(s) in known and ceilings.get(s) in known)

    def pgr_seeds(self, arm: DistinctArm) -> tuple[int, ...]:
        """Return the seeds of an arm's PGR: none for an arm that learned from no supervisor."""
        return self.seeds_between(arm, arm.ceilings) if arm.is_student else ()

    def standing(self, arm: DistinctArm, ceilings: Mapping[int, str], seeds: Sequence[int]) -> Standing:
        """Return an arm with its floor and these ceilings."""
        mean = self.accuracies.mean
        return Standing(mean(arm.identities, seeds), mean(arm.floors, seeds), mean(ceilings, seeds))

    def recovery(self, standing: Standing) -> Recovery:
        """Return the PGR of a student; undefined under the study's `min_gap`."""
        return recover(standing.student, standing.floor, standing.ceiling, min_gap=self._study.report.min_gap)

    def is_oracle(self, arm: DistinctArm) -> bool:
        """Return whether an arm is an oracle for any of its seeds; see `arms.is_oracle`."""
        return any(is_oracle(self._study, self._evidence.stages, stage) for stage in arm.stages.values())

    def has_few_seeds(self, arm: DistinctArm) -> bool:
        """Return whether an arm's PGR, or its accuracy where it can have no PGR, is over few seeds."""
        return len(self.pgr_seeds(arm) or self.seeds(arm)) <= FEW_SEEDS

    def summaries(self) -> list[ArmSummary]:
        """Return every arm of the task except those that learn text alone."""
        arms = [arm for arm in self.distinct if arm.arm not in TEXT_ARMS]
        finished = {arm.id: {seed: arm.identities[seed] for seed in self.seeds(arm)} for arm in arms if self.seeds(arm)}
        strata = dict(zip(finished, self.accuracies.by_stratum(list(finished.values())), strict=True))
        return [self._summary(arm, strata.get(arm.id, {})) for arm in arms]

    def comparisons(self) -> list[Comparison]:
        """Return every pair of students of one level and floor with a PGR over the same seeds; none for many students.

        PGRs above different floors have different denominators and are not compared.
        """
        students = [arm for arm in self.distinct if arm.is_student]
        if len(students) > _MOST_COMPARED:
            return []
        pairs = ((a, b) for a, b in combinations(students, 2) if a.level == b.level and a.floors == b.floors)
        recoveries = {arm.id: self._own_recovery(arm) for arm in students}
        return [
            Comparison(
                task=first.task,
                level=first.level,
                first=first.label,
                second=second.label,
                difference=estimate(between),
                minimum_detectable=minimum_detectable(between.interval),
                oracle=self.is_oracle(first) or self.is_oracle(second),
            )
            for first, second in pairs
            if (between := _difference(recoveries[first.id], recoveries[second.id])) is not None
        ]

    def difference(self, first: DistinctArm, second: DistinctArm) -> Ratio | None:
        """Return the difference of two PGRs; None where one is undefined or their seeds differ."""
        return _difference(self._own_recovery(first), self._own_recovery(second))

    def _own_recovery(self, arm: DistinctArm) -> tuple[tuple[int, ...], Recovery] | None:
        """Return the seeds of an arm's PGR, and the PGR."""
        seeds = self.seeds_between(arm, arm.ceilings)
        return (seeds, self.recovery(self.standing(arm, arm.ceilings, seeds))) if seeds else None

    def _summary(self, arm: DistinctArm, strata: dict[str, Estimate]) -> ArmSummary:
        seeds = self.seeds(arm)
        spec = next(iter(arm.stages.values())).spec
        summary = ArmSummary(
            task=arm.task,
            level=arm.level,
            arm=arm.arm,
            also=tuple(arm.kinds[1:]),
            label=arm.label,
            methods=tuple(arm.methods),
            paths=tuple(arm.routes),
            loss=spec.loss.label,
            setting=setting_of(spec),
            oracle=self.is_oracle(arm),
            stages=arm.identities,
            seeds=seeds,
            pgr_seeds=self.pgr_seeds(arm),
            few_seeds=self.has_few_seeds(arm),
        )
        if not seeds:
            return summary
        evidence, identities = self._evidence, {seed: arm.identities[seed] for seed in seeds}
        cases = [case_of(evidence, arm.identities[s], arm.floors.get(s), arm.ceilings.get(s)) for s in seeds]
        labels = {seed: evidence.labels[own] for seed, own in identities.items() if own in evidence.labels}
        supervisors = [evidence.stages[supervisor] for supervisor in evidence.stages[identities[seeds[0]]].supervisors]
        return summary.model_copy(
            update={
                "accuracy": estimate(self.accuracies.mean(identities, seeds)),
                "supervisors": tuple(f"{stage.level} ({stage.arm})" for stage in supervisors),
                "trained_on": "+".join(part.split.name for part in spec.train) if supervisors else "",
                "num_labels": fmean(quality.num_examples for quality in labels.values()) if labels else None,
                "degenerate": {seed: quality.degenerate for seed, quality in labels.items() if quality.degenerate},
                "metrics": mean_values([measure(case) for case in cases]),
                "strata": strata,
                **(dict(self._recoveries(arm)) if arm.is_student else {}),
                **(dict(self._untrained(arm)) if arm.is_student else {}),
            }
        )

    def _recoveries(self, arm: DistinctArm) -> Iterator[tuple[str, Estimate | str | None]]:
        """Yield a student's floor, ceiling, gap and PGRs as fields of its summary."""
        seeds = self.pgr_seeds(arm)
        if not seeds:
            yield "pgr_undefined", _why_no_pgr(arm)
            with_floor = [seed for seed in self.seeds(arm) if arm.floors.get(seed) in self.accuracies]
            if with_floor:
                yield "floor", estimate(self.accuracies.mean(arm.floors, with_floor))
        else:
            standing = self.standing(arm, arm.ceilings, seeds)
            yield "floor", estimate(standing.floor)
            yield "ceiling", estimate(standing.ceiling)
            yield "gap", estimate(gap(standing.floor, standing.ceiling))
            yield from self._pgr("pgr", standing)
            supervisors = {seed: self._evidence.supervisor(arm.identities[seed]) for seed in seeds}
            in_chain = not {"chain", "truth_chain"}.isdisjoint(arm.kinds)
            if in_chain and all(supervisor in self.accuracies for supervisor in supervisors.values()):
                floor = self.accuracies.mean(supervisors, seeds)
                yield from self._pgr("pgr_link", Standing(standing.student, floor, standing.ceiling))
        full_seeds = self.seeds_between(arm, arm.full_ceilings)
        if full_seeds:
            standing = self.standing(arm, arm.full_ceilings, full_seeds)
            yield "full_ceiling", estimate(standing.ceiling)
            yield from self._pgr("pgr_full", standing)

    def _untrained(self, arm: DistinctArm) -> Iterator[tuple[str, Estimate]]:
        """Yield the accuracy of a student's untrained model, and the student's less that, as fields of its summary."""
        untrained = untrained_of(arm, self.distinct)
        seeds = [seed for seed in self.seeds(arm) if untrained is not None and seed in self.seeds(untrained)]
        if untrained is None or not seeds:
            return
        before = self.accuracies.mean(untrained.identities, seeds)
        yield "untrained", estimate(before)
        if too_few_groups(before.num_groups) is None:
            yield "above_untrained", estimate(difference(self.accuracies.mean(arm.identities, seeds), before))

    def _pgr(self, name: str, standing: Standing) -> Iterator[tuple[str, Estimate | str | None]]:
        recovery = self.recovery(standing)
        yield name, pgr_estimate(recovery)
        yield f"{name}_undefined", recovery.undefined


def estimate(sampled: Sampled | Ratio) -> Estimate:
    """Return a value with its 95 % interval and its standard deviation over seeds."""
    interval = sampled.interval
    return Estimate(value=sampled.value, low=interval.low, high=interval.high, sd=sampled.seed_sd)


def pgr_estimate(recovery: Recovery) -> Estimate | None:
    """Return a PGR; None where it is undefined."""
    return estimate(recovery.pgr) if recovery.pgr is not None else None


def _resampled(resamples: Resamples, correct_N: Mapping[str, BoolArray]) -> dict[str, FloatArray]:
    """Return each model's accuracy on every resample (B)."""
    accuracies_BK = resamples.accuracies(np.stack(list(correct_N.values())))
    return dict(zip(correct_N, accuracies_BK.T, strict=True))


def _mean(
    resamples: Resamples,
    resampled_B: Mapping[str, FloatArray],
    correct_N: Mapping[str, BoolArray],
    names: Mapping[int, str],
) -> Sampled:
    """Return the mean accuracy over seeds; `names` are by seed."""
    return over_seeds(
        {seed: float(correct_N[name].mean()) for seed, name in names.items()},
        {seed: resampled_B[name] for seed, name in names.items()},
        num_groups=resamples.num_groups,
    )


def _difference(
    first: tuple[tuple[int, ...], Recovery] | None, second: tuple[tuple[int, ...], Recovery] | None
) -> Ratio | None:
    return compare(first[1], second[1]) if first and second and first[0] == second[0] else None


def _why_no_pgr(arm: DistinctArm) -> str:
    if arm.arm == "self":
        return "a self student has no ceiling: its model is the floor's"
    if not arm.ceilings:
        return "the study asks for no ceiling of its setting"
    return "floor and ceiling are not both finished for any seed of this student"
