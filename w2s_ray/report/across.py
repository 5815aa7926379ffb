"""Results over several tasks: each student's median and pooled PGR, and the comparisons that the study declared.

A median of the defined PGRs leaves out the tasks with little to gain, so the number of undefined ones is shown with it,
and so is the pooled PGR, which includes every task with a floor and a ceiling.

A declared comparison is one test over all its tasks, on the same resamples of the same seeds; Holm's correction is over
all declared comparisons. Under a search each point counts as one more test, except where both contenders are the same
arms at several points.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from w2s_ray.report.arms import DistinctArm, NamedArm, Place, set_labels
from w2s_ray.report.evaluation import Standing, TaskEvaluation, estimate, pgr_estimate
from w2s_ray.report.findings import AcrossTasks, DeclaredComparison
from w2s_ray.science.estimates import Sampled, difference, mean_of, p_value
from w2s_ray.science.recovery import Recovery, compare, holm, too_few_groups, too_few_seeds
from w2s_ray.spec.reporting import ComparisonSpec, Contender
from w2s_ray.spec.search import Point
from w2s_ray.spec.study import Study

Evaluations = Mapping[str, TaskEvaluation]
"""By task."""


@dataclass
class _TaskSpanningArm(NamedArm):
    """A student of several tasks: one distinct arm of each."""

    by_task: dict[str, DistinctArm] = field(default_factory=dict)


def across_tasks(evaluations: Evaluations) -> tuple[AcrossTasks, ...]:
    """Return every student that is finished on two tasks or more."""
    if len(evaluations) < 2:
        return ()
    rows = [_across(arm, evaluations) for arm in _task_spanning_arms(evaluations)]
    return tuple(row for row in rows if row is not None)


def _task_spanning_arms(evaluations: Evaluations) -> list[_TaskSpanningArm]:
    """Return the students with the same places in the study on each task, each once."""
    places: dict[tuple[str, Place], dict[str, DistinctArm]] = {}
    for task, evaluation in evaluations.items():
        for arm in evaluation.distinct:
            for place in arm.places if arm.is_student else ():
                places.setdefault((arm.level, place), {})[task] = arm
    arms: dict[tuple[str, ...], _TaskSpanningArm] = {}
    for (level, place), by_task in places.items():
        key = tuple(arm.id for arm in by_task.values())
        if key not in arms:
            arms[key] = _TaskSpanningArm(level=level, places=[], by_task=by_task)
        arms[key].add(place)
    set_labels(list(arms.values()))
    return list(arms.values())


def _across(row: _TaskSpanningArm, evaluations: Evaluations) -> AcrossTasks | None:
    accuracies: dict[str, Sampled] = {}
    standings: dict[str, Standing] = {}
    for task, arm in row.by_task.items():
        evaluation = evaluations[task]
        if seeds := evaluation.seeds(arm):
            accuracies[task] = evaluation.accuracies.mean(arm.identities, seeds)
        if pgr_seeds := evaluation.pgr_seeds(arm):
            standings[task] = evaluation.standing(arm, arm.ceilings, pgr_seeds)
    if len(accuracies) < 2:
        return None
    own = {task: evaluations[task].recovery(standing).pgr for task, standing in standings.items()}
    pgrs = {task: pgr.value if (pgr := own.get(task)) is not None else None for task in accuracies}
    defined = [value for value in pgrs.values() if value is not None]
    pooled = next(iter(evaluations.values())).recovery(_pool(list(standings.values()))) if standings else None
    return AcrossTasks(
        level=row.level,
        arm=row.arm,
        label=row.label,
        oracle=any(evaluations[task].is_oracle(row.by_task[task]) for task in accuracies),
        few_seeds=any(evaluations[task].has_few_seeds(row.by_task[task]) for task in accuracies),
        accuracy=estimate(mean_of(list(accuracies.values()))),
        pgrs=pgrs,
        median=median(defined) if defined else None,
        num_undefined=len(pgrs) - len(defined),
        pooled=pgr_estimate(pooled) if pooled is not None else None,
        pooled_undefined=pooled.undefined if pooled is not None else "it has a floor and a ceiling on no task",
        num_pooled=len(standings),
    )


def _pool(standings: Sequence[Standing]) -> Standing:
    """Return the mean student, floor and ceiling of several tasks, whose PGR is the pooled one."""
    return Standing(
        mean_of([standing.student for standing in standings]),
        mean_of([standing.floor for standing in standings]),
        mean_of([standing.ceiling for standing in standings]),
    )


def points(evaluations: Evaluations) -> tuple[Point | None, ...]:
    """Return the points of a search that have arms; (None,) for a study without a search."""
    return tuple(
        dict.fromkeys(place.point for task in evaluations.values() for arm in task.distinct for place in arm.places)
    )


def find_arm(study: Study, evaluation: TaskEvaluation, contender: Contender, point: Point | None) -> DistinctArm | None:
    """Return a contender's arm on a task; None where its method is not for that task."""
    path, level = contender.path_among(study.paths), contender.level_among(study.paths)
    for arm in evaluation.distinct:
        if arm.level == level and any(
            (place.method, place.path, place.point, place.arm) == (contender.method, path, point, contender.arm)
            for place in arm.places
        ):
            return arm
    return None


def declared_comparisons(study: Study, evaluations: Evaluations) -> tuple[DeclaredComparison, ...]:
    """Return every declared comparison, decided or not."""
    comparisons = [comparison for spec in study.report.compare for comparison in _at_points(study, evaluations, spec)]
    adjusted = holm([comparison.p_value for comparison in comparisons])
    return tuple(
        comparison.model_copy(update={"p_holm": p}) for comparison, p in zip(comparisons, adjusted, strict=True)
    )


@dataclass(frozen=True)
class _Pair:
    """Both contenders on one task."""

    evaluation: TaskEvaluation
    first: DistinctArm
    second: DistinctArm

    def seeds(self) -> tuple[int, ...]:
        """Return the seeds for which both are finished."""
        second = self.evaluation.seeds(self.second)
        return tuple(seed for seed in self.evaluation.seeds(self.first) if seed in second)

    def pgr_seeds(self) -> tuple[int, ...]:
        """Return the seeds for which both, their floors and their ceilings are finished."""
        second = self.evaluation.seeds_between(self.second, self.second.ceilings)
        return tuple(s for s in self.evaluation.seeds_between(self.first, self.first.ceilings) if s in second)

    def accuracies(self) -> tuple[Sampled, Sampled] | None:
        seeds, mean = self.seeds(), self.evaluation.accuracies.mean
        return (mean(self.first.identities, seeds), mean(self.second.identities, seeds)) if seeds else None

    def standings(self) -> tuple[Standing, Standing] | None:
        first, second, seeds = self.first, self.second, self.pgr_seeds()
        standing = self.evaluation.standing
        return (standing(first, first.ceilings, seeds), standing(second, second.ceilings, seeds)) if seeds else None


def _at_points(study: Study, evaluations: Evaluations, spec: ComparisonSpec) -> list[DeclaredComparison]:
    """Test a declared comparison at every point, once for all points at which both contenders are the same arms."""
    every = points(evaluations)
    distinct: dict[object, tuple[dict[str, _Pair], list[str]]] = {}
    for point in every:
        pairs: dict[str, _Pair] = {}
        for task in spec.tasks or tuple(evaluations):
            first, second = (find_arm(study, evaluations[task], side, point) for side in (spec.first, spec.second))
            if first is not None and second is not None:
                pairs[task] = _Pair(evaluations[task], first, second)
        key = tuple((pair.first.id, pair.second.id) for pair in pairs.values())
        _, labels = distinct.setdefault(key, (pairs, []))
        labels += [point.label] if point is not None else []
    return [
        _test(study, spec, pairs, " / ".join(labels) if 0 < len(labels) < len(every) else None)
        for pairs, labels in distinct.values()
    ]


def _test(study: Study, spec: ComparisonSpec, pairs: Mapping[str, _Pair], point: str | None) -> DeclaredComparison:
    accuracies = {task: both for task, pair in pairs.items() if (both := pair.accuracies()) is not None}
    by_accuracy = spec.by == "accuracy"
    comparison = DeclaredComparison(
        first=spec.first.among(study.paths).name,
        second=spec.second.among(study.paths).name,
        by=spec.by,
        point=point,
        asked=spec.tasks or (),
        num_tasks=len(spec.tasks or pairs),
        oracle=any(pair.evaluation.is_oracle(arm) for pair in pairs.values() for arm in (pair.first, pair.second)),
        tasks=tuple(accuracies),
        seeds={task: pairs[task].seeds() if by_accuracy else pairs[task].pgr_seeds() for task in accuracies},
    )
    if not accuracies:
        return comparison.model_copy(update={"undecided": "both are not finished for any seed of any task"})
    in_accuracy = difference(*(mean_of(side) for side in zip(*accuracies.values(), strict=True)))
    recoveries = _pooled_recoveries([pairs[task] for task in accuracies])
    in_pgr = compare(*recoveries) if recoveries is not None else None
    tested = in_accuracy if by_accuracy else in_pgr.numerator if in_pgr is not None else None
    undecided = too_few_seeds(tested.num_seeds) if tested is not None else None
    if tested is None and recoveries is None:
        undecided = "floor and ceiling of both are not finished for any one seed on every task"
    elif tested is None and recoveries is not None:
        undecided = next(recovery.undefined for recovery in recoveries if recovery.undefined is not None)
    if len(comparison.tasks) < comparison.num_tasks:
        undecided = f"both are finished on {len(comparison.tasks)} of {comparison.num_tasks} tasks"
    undecided = too_few_groups(in_accuracy.num_groups) or undecided
    return comparison.model_copy(
        update={
            "accuracy": estimate(in_accuracy),
            "pgr": estimate(in_pgr) if in_pgr is not None else None,
            "p_value": p_value(tested) if tested is not None and undecided is None else None,
            "undecided": undecided,
        }
    )


def _pooled_recoveries(pairs: Sequence[_Pair]) -> tuple[Recovery, Recovery] | None:
    """Return both pooled PGRs; None where a floor or ceiling is missing on one of the tasks."""
    standings = [both for pair in pairs if (both := pair.standings()) is not None]
    if len(standings) < len(pairs):
        return None
    first, second = (pairs[0].evaluation.recovery(_pool(side)) for side in zip(*standings, strict=True))
    return first, second
