"""Students over all tasks: the median PGR, how many have none, and the PGR of all tasks pooled.

A median of the PGRs that are defined leaves out the tasks where little is to be gained, so it never stands alone: how
many are undefined stands beside it, and the pooled PGR, which leaves no task out that has a floor and a ceiling.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from w2s_ray.report.arms import DistinctArm, NamedArm, Place, label
from w2s_ray.report.findings import AcrossTasks
from w2s_ray.report.judge import Judge, Standing
from w2s_ray.report.scores import estimate, pgr_estimate
from w2s_ray.science.recovery import Sampled, mean_of


def across_tasks(judges: Mapping[str, Judge]) -> tuple[AcrossTasks, ...]:
    """Return every student of two tasks or more that is judged on them; judges are by task."""
    if len(judges) < 2:
        return ()
    found = [_summary(row, judges) for row in _rows(judges)]
    return tuple(each for each in found if each is not None)


def pool(standings: Sequence[Standing]) -> Standing:
    """Return the mean student, floor and ceiling of several tasks: their PGR is the pooled one."""
    return Standing(
        mean_of([each.student for each in standings]),
        mean_of([each.floor for each in standings]),
        mean_of([each.ceiling for each in standings]),
    )


@dataclass
class _Row(NamedArm):
    """A student by task: one distinct arm of each."""

    by_task: dict[str, DistinctArm] = field(default_factory=dict)


def _rows(judges: Mapping[str, Judge]) -> list[_Row]:
    """The students that stand at the same places of the study in each task, each once."""
    places: dict[tuple[str, Place], dict[str, DistinctArm]] = {}
    for task, judge in judges.items():
        for arm in judge.distinct:
            for place in arm.places if arm.is_student else ():
                places.setdefault((arm.level, place), {})[task] = arm
    rows: dict[tuple[int, ...], _Row] = {}
    for (level, place), by_task in places.items():
        key = tuple(id(arm) for arm in by_task.values())
        if key not in rows:
            rows[key] = _Row(level=level, places=[], by_task=by_task)
        rows[key].add(place)
    found = list(rows.values())
    label(found)
    return found


def _summary(row: _Row, judges: Mapping[str, Judge]) -> AcrossTasks | None:
    accuracies: dict[str, Sampled] = {}
    standings: dict[str, Standing] = {}
    for task, arm in row.by_task.items():
        judge = judges[task]
        if seeds := judge.seeds(arm):
            accuracies[task] = judge.scores.mean(arm.identities, seeds)
        if between := judge.pgr_seeds(arm):
            standings[task] = judge.standing(arm, arm.ceilings, between)
    if len(accuracies) < 2:
        return None
    pgrs = {task: judges[task].recovery(standings[task]).pgr if task in standings else None for task in accuracies}
    known = [pgr for pgr in pgrs.values() if pgr is not None]
    pooled = next(iter(judges.values())).recovery(pool(list(standings.values()))) if standings else None
    return AcrossTasks(
        level=row.level,
        arm=row.arm,
        label=row.label,
        oracle=any(judges[task].is_oracle(row.by_task[task]) for task in accuracies),
        seed_conditional=any(judges[task].is_seed_conditional(row.by_task[task]) for task in accuracies),
        accuracy=estimate(mean_of(list(accuracies.values()))),
        pgrs=pgrs,
        median=median(known) if known else None,
        num_undefined=len(pgrs) - len(known),
        pooled=pgr_estimate(pooled) if pooled is not None else None,
        pooled_undefined=pooled.undefined if pooled is not None else "no task has a floor and a ceiling of it",
        num_pooled=len(standings),
    )
