"""The comparisons that the study declared, each one test, with Holm's correction over all of them.

Both contenders are pooled over the comparison's tasks, on the same draws of the same seeds. Under a search each point
that is reported is compared by itself, and is one more test; points between which no stage of either contender
differs are one.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from w2s_ray.report.across import pool
from w2s_ray.report.arms import DistinctArm
from w2s_ray.report.findings import DeclaredComparison
from w2s_ray.report.judge import Judge, Standing
from w2s_ray.report.scores import estimate
from w2s_ray.science.recovery import Recovery, Sampled, compare, difference, holm, mean_of, p_value, too_few_groups
from w2s_ray.spec.reporting import ComparisonSpec, Contender
from w2s_ray.spec.search import Point
from w2s_ray.spec.study import Study


def declared_comparisons(study: Study, judges: Mapping[str, Judge]) -> tuple[DeclaredComparison, ...]:
    """Return every declared comparison as far as the study has come; judges are by task."""
    found = [
        _test(study, asked, pairs, point)
        for asked in study.report.compare
        for point, pairs in _distinct(study, judges, asked)
    ]
    adjusted = holm([each.p_value for each in found])
    return tuple(each.model_copy(update={"p_holm": p}) for each, p in zip(found, adjusted, strict=True))


def points(judges: Mapping[str, Judge]) -> tuple[Point | None, ...]:
    """Return the points of a search at which there are arms; None stands for a study without a search."""
    return tuple(
        dict.fromkeys(place.point for judge in judges.values() for arm in judge.distinct for place in arm.places)
    )


def find(study: Study, judge: Judge, one: Contender, point: Point | None) -> DistinctArm | None:
    """Return the arm that a contender is on a judge's task; None where its method does not serve the task."""
    path, level = one.path_among(study.paths), one.level_among(study.paths)
    for arm in judge.distinct:
        if arm.level == level and any(
            (place.method, place.path, place.point, place.arm) == (one.method, path, point, one.arm)
            for place in arm.places
        ):
            return arm
    return None


@dataclass(frozen=True)
class _Pair:
    """Both contenders on one task."""

    judge: Judge
    arms: tuple[DistinctArm, DistinctArm]

    def seeds(self) -> tuple[int, ...]:
        """The seeds for which both were judged."""
        first, second = (self.judge.seeds(arm) for arm in self.arms)
        return tuple(seed for seed in first if seed in second)

    def seeds_between(self) -> tuple[int, ...]:
        """The seeds for which both, their floors and their ceilings were judged."""
        first, second = (self.judge.seeds_between(arm, arm.ceilings) for arm in self.arms)
        return tuple(seed for seed in first if seed in second)

    def accuracies(self) -> tuple[Sampled, Sampled] | None:
        """Both accuracies over the seeds that both have."""
        first, second = self.arms
        seeds = self.seeds()
        mean = self.judge.scores.mean
        return (mean(first.identities, seeds), mean(second.identities, seeds)) if seeds else None

    def standings(self) -> tuple[Standing, Standing] | None:
        """Both between their floors and ceilings, over the seeds that all of these have."""
        first, second = self.arms
        seeds = self.seeds_between()
        standing = self.judge.standing
        return (standing(first, first.ceilings, seeds), standing(second, second.ceilings, seeds)) if seeds else None


def _pairs(
    study: Study, judges: Mapping[str, Judge], asked: ComparisonSpec, point: Point | None
) -> Iterator[tuple[str, _Pair]]:
    for task in asked.tasks or tuple(judges):
        judge = judges[task]
        first, second = (find(study, judge, one, point) for one in (asked.first, asked.second))
        if first is not None and second is not None:
            yield task, _Pair(judge, (first, second))


def _distinct(
    study: Study, judges: Mapping[str, Judge], asked: ComparisonSpec
) -> Iterator[tuple[str | None, dict[str, _Pair]]]:
    """Both contenders by task, once for all points at which they are the same arms, and which points these are."""
    every = points(judges)
    found: dict[object, tuple[dict[str, _Pair], list[str]]] = {}
    for point in every:
        pairs = dict(_pairs(study, judges, asked, point))
        key = tuple((task, *map(id, pair.arms)) for task, pair in pairs.items())
        _, labels = found.setdefault(key, (pairs, []))
        labels += [point.label] if point is not None else []
    for pairs, labels in found.values():
        yield " / ".join(labels) if 0 < len(labels) < len(every) else None, pairs


def _test(study: Study, asked: ComparisonSpec, pairs: Mapping[str, _Pair], point: str | None) -> DeclaredComparison:
    accuracies = {task: found for task, pair in pairs.items() if (found := pair.accuracies()) is not None}
    about = DeclaredComparison(
        first=asked.first.among(study.paths).name,
        second=asked.second.among(study.paths).name,
        by=asked.by,
        point=point,
        asked=asked.tasks or (),
        num_tasks=len(asked.tasks or pairs),
        oracle=any(pair.judge.is_oracle(arm) for pair in pairs.values() for arm in pair.arms),
        tasks=tuple(accuracies),
        seeds={
            task: pairs[task].seeds() if asked.by == "accuracy" else pairs[task].seeds_between() for task in accuracies
        },
    )
    if not accuracies:
        return about.model_copy(update={"undecided": "both are not finished for any seed of any task"})
    apart = difference(*(mean_of(each) for each in zip(*accuracies.values(), strict=True)))
    recoveries = _recoveries([pairs[task] for task in accuracies])
    gained = compare(*recoveries) if recoveries is not None else None
    tested = apart if asked.by == "accuracy" else gained
    undecided = _undecided(recoveries) if tested is None else None
    if len(about.tasks) < about.num_tasks:
        tested, undecided = None, f"both are finished on {len(about.tasks)} of {about.num_tasks} tasks"
    few = too_few_groups(apart.num_groups)
    if few is not None:
        tested, undecided = None, few
    return about.model_copy(
        update={
            "accuracy": estimate(apart),
            "pgr": estimate(gained) if gained is not None else None,
            "p_value": p_value(tested.resampled_B) if tested is not None else None,
            "undecided": undecided,
        }
    )


def _recoveries(pairs: list[_Pair]) -> tuple[Recovery, Recovery] | None:
    """Both pooled PGRs; None where a floor or ceiling lacks on one of the tasks."""
    known = [standings for pair in pairs if (standings := pair.standings()) is not None]
    if len(known) < len(pairs):
        return None
    first, second = (pairs[0].judge.recovery(pool(each)) for each in zip(*known, strict=True))
    return first, second


def _undecided(recoveries: tuple[Recovery, Recovery] | None) -> str:
    if recoveries is None:
        return "floor and ceiling of both are not finished for any one seed on every task"
    return next(found.undefined for found in recoveries if found.undefined is not None)
