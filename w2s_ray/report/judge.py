"""Judges the arms of one task.

An arm's PGR uses the seeds for which its floor, it and the ceiling of its own setting are all there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from w2s_ray.report.arm_findings import ArmSummary
from w2s_ray.report.arms import TEXT_ARMS, DistinctArm
from w2s_ray.report.evidence import Evidence
from w2s_ray.report.findings import Comparison
from w2s_ray.report.means import measured
from w2s_ray.report.results import is_oracle
from w2s_ray.report.scores import Scores, estimate, pgr_estimate
from w2s_ray.report.settings import setting_of
from w2s_ray.science.recovery import FEW_SEEDS, Recovery, Sampled, compare, gap, minimum_detectable, recover
from w2s_ray.spec.study import Study


@dataclass(frozen=True)
class Standing:
    """A student between its floor and its ceiling, over the same seeds and draws."""

    student: Sampled
    floor: Sampled
    ceiling: Sampled


class Judge:
    """Scores the arms of one task on one set of draws."""

    def __init__(self, study: Study, evidence: Evidence, task: str, arms: Sequence[DistinctArm]) -> None:
        self._study, self._evidence = study, evidence
        self.task, self.distinct = task, [arm for arm in arms if arm.task == task]
        self.scores = Scores(evidence, task, study.report.bootstrap_samples)

    def seeds(self, arm: DistinctArm) -> tuple[int, ...]:
        """Return the seeds for which an arm was judged."""
        return tuple(seed for seed, identity in arm.identities.items() if identity in self.scores)

    def seeds_between(self, arm: DistinctArm, ceilings: Mapping[int, str]) -> tuple[int, ...]:
        """Return the seeds for which an arm, its floor and its ceiling were judged."""
        return tuple(
            seed
            for seed in self.seeds(arm)
            if arm.floors.get(seed) in self.scores and ceilings.get(seed) in self.scores
        )

    def pgr_seeds(self, arm: DistinctArm) -> tuple[int, ...]:
        """Return the seeds of an arm's PGR: none for what learned from no supervisor."""
        return self.seeds_between(arm, arm.ceilings) if arm.is_student else ()

    def standing(self, arm: DistinctArm, ceilings: Mapping[int, str], seeds: Sequence[int]) -> Standing:
        """Return an arm between its floor and these ceilings."""
        mean = self.scores.mean
        return Standing(mean(arm.identities, seeds), mean(arm.floors, seeds), mean(ceilings, seeds))

    def recovery(self, standing: Standing) -> Recovery:
        """Return the PGR of an arm, undefined where the study says so."""
        return recover(standing.student, standing.floor, standing.ceiling, min_gap=self._study.report.min_gap)

    def arms(self) -> list[ArmSummary]:
        """Every arm of the task but those that learn text alone."""
        arms = [arm for arm in self.distinct if arm.arm not in TEXT_ARMS]
        found = [self._arm(arm) for arm in arms]
        judged = [place for place, about in enumerate(found) if about.seeds]
        names = [{seed: arms[place].identities[seed] for seed in found[place].seeds} for place in judged]
        for place, strata in zip(judged, self.scores.by_stratum(names), strict=True):
            found[place] = found[place].model_copy(update={"strata": strata})
        return found

    def comparisons(self) -> list[Comparison]:
        """Every pair of students of one level and floor that have a PGR over the same seeds; none where too many.

        A PGR above another floor has another denominator: the two are not compared.
        """
        students = [arm for arm in self.distinct if arm.is_student]
        if len(students) > _MOST_COMPARED:
            return []
        own = {id(arm): self._own(arm) for arm in students}
        pairs = ((a, b) for a, b in combinations(students, 2) if a.level == b.level and a.floors == b.floors)
        found = (self._compare(a, b, own[id(a)], own[id(b)]) for a, b in pairs)
        return [pair for pair in found if pair is not None]

    def difference(self, first: DistinctArm, second: DistinctArm) -> Sampled | None:
        """Return the difference of two PGRs; None where one is undefined or they are not over the same seeds."""
        one, other = self._own(first), self._own(second)
        return compare(one[1], other[1]) if one and other and one[0] == other[0] else None

    def _own(self, arm: DistinctArm) -> tuple[tuple[int, ...], Recovery] | None:
        """An arm's headline PGR and its seeds."""
        seeds = self.seeds_between(arm, arm.ceilings)
        return (seeds, self.recovery(self.standing(arm, arm.ceilings, seeds))) if seeds else None

    def is_oracle(self, arm: DistinctArm) -> bool:
        """Whether ground truth beyond the first supervisor's has a part in an arm, for any of its seeds."""
        return any(is_oracle(self._study, self._evidence.stages, stage) for stage in arm.stages.values())

    def is_seed_conditional(self, arm: DistinctArm) -> bool:
        """Whether an arm's figures, its PGR's where it has one, rest on few seeds."""
        return len(self.pgr_seeds(arm) or self.seeds(arm)) < FEW_SEEDS

    def _arm(self, arm: DistinctArm) -> ArmSummary:
        seeds, between = self.seeds(arm), self.pgr_seeds(arm)
        spec = next(iter(arm.stages.values())).spec
        about = ArmSummary(
            task=arm.task,
            level=arm.level,
            arm=arm.arm,
            also=tuple(arm.kinds[1:]),
            label=arm.label,
            methods=tuple(arm.methods),
            paths=tuple(arm.via),
            loss=spec.loss.label,
            setting=setting_of(spec),
            oracle=self.is_oracle(arm),
            stages=arm.identities,
            seeds=seeds,
            pgr_seeds=between,
            seed_conditional=self.is_seed_conditional(arm),
        )
        if not seeds:
            return about
        found = about.model_dump() | {"accuracy": estimate(self.scores.mean(arm.identities, seeds))}
        found |= measured(self._evidence, arm, seeds)
        if arm.is_student:
            found |= self._recovered(arm, between)
        return ArmSummary.model_validate(found)

    def _recovered(self, arm: DistinctArm, seeds: Sequence[int]) -> dict[str, object]:
        """Floor, ceiling, gap and every PGR of a student, over the seeds for which all of these were judged."""
        if not seeds:
            return {"pgr_undefined": _why_not(arm), **self._of_full(arm)}
        standing = self.standing(arm, arm.ceilings, seeds)
        found = self.recovery(standing)
        return {
            "floor": estimate(standing.floor),
            "ceiling": estimate(standing.ceiling),
            "gap": estimate(gap(standing.floor, standing.ceiling)),
            "pgr": pgr_estimate(found),
            "pgr_undefined": found.undefined,
            **self._of_link(arm, standing, seeds),
            **self._of_full(arm),
        }

    def _of_link(self, arm: DistinctArm, standing: Standing, seeds: Sequence[int]) -> dict[str, object]:
        """The PGR with the immediate supervisor as the floor."""
        supervisors = {seed: self._evidence.supervisor(arm.identities[seed]) for seed in seeds}
        climbs = not {"chain", "truth_chain"}.isdisjoint(arm.kinds)
        if not climbs or not all(each in self.scores for each in supervisors.values()):
            return {}
        floor = self.scores.mean(supervisors, seeds)
        found = self.recovery(Standing(standing.student, floor, standing.ceiling))
        return {"pgr_link": pgr_estimate(found), "pgr_link_undefined": found.undefined}

    def _of_full(self, arm: DistinctArm) -> dict[str, object]:
        """The PGR against the ceiling that trains all weights, for a student that does not."""
        seeds = self.seeds_between(arm, arm.full_ceilings)
        if not seeds:
            return {}
        standing = self.standing(arm, arm.full_ceilings, seeds)
        found = self.recovery(standing)
        return {
            "full_ceiling": estimate(standing.ceiling),
            "pgr_full": pgr_estimate(found),
            "pgr_full_undefined": found.undefined,
        }

    def _compare(
        self,
        first: DistinctArm,
        second: DistinctArm,
        one: tuple[tuple[int, ...], Recovery] | None,
        other: tuple[tuple[int, ...], Recovery] | None,
    ) -> Comparison | None:
        if one is None or other is None or one[0] != other[0]:
            return None
        difference = compare(one[1], other[1])
        if difference is None:
            return None
        return Comparison(
            task=first.task,
            level=first.level,
            first=first.label,
            second=second.label,
            difference=estimate(difference),
            minimum_detectable=minimum_detectable(difference.resampled_B),
            oracle=self.is_oracle(first) or self.is_oracle(second),
        )


_MOST_COMPARED = 60
"""Students of a task whose pairs are still worth a line each."""


def _why_not(arm: DistinctArm) -> str:
    if arm.arm == "self":
        return "a self student has no ceiling: its model is the floor's"
    if not arm.ceilings:
        return "the study asks for no ceiling of its setting"
    return "floor and ceiling are not both finished for any seed of this student"
