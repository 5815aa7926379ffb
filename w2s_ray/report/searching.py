"""What a search and a ladder of chains came to, as plain values: candidates, and chains by their intermediates."""

from collections.abc import Sequence

from w2s_ray.report.arm_findings import ArmSummary, Estimate
from w2s_ray.report.findings import CandidateSummary, Comparison, SearchSummary, Step
from w2s_ray.spec.search import Candidate, Found
from w2s_ray.spec.study import Study


def search_summary(study: Study, found: Found | None) -> SearchSummary | None:
    """Return what the study's search came to; None where it does not choose or is not through."""
    search = study.search
    if search is None or search.choose_by is None or found is None:
        return None
    return SearchSummary(
        choose_by=search.choose_by,
        development_tasks=search.development_tasks,
        seeds=search.seeds,
        sampler=search.sampler,
        scheduler=search.scheduler.kind if search.scheduler is not None else None,
        minimise=search.minimise,
        candidates=tuple(
            CandidateSummary(
                settings=one.point.values,
                status=one.status,
                figure=one.figure,
                cost=one.cost,
                error=one.error,
                is_winner=one.point in found.winners,
            )
            for one in sorted(found.candidates, key=_rank)
        ),
    )


def steps(arms: Sequence[ArmSummary], comparisons: Sequence[Comparison]) -> tuple[Step, ...]:
    """Return the chain students of each level that is reached by chains of several lengths, the shortest first.

    They learn from the same examples and are judged on the same ones: what differs is who labelled those examples.
    """
    found: list[Step] = []
    students = [arm for arm in arms if "chain" in arm.kinds and arm.accuracy is not None]
    for place in dict.fromkeys((arm.task, arm.level, arm.loss, arm.setting) for arm in students):
        alike = [arm for arm in students if (arm.task, arm.level, arm.loss, arm.setting) == place]
        if len({len(arm.paths[0]) for arm in alike}) < 2:
            continue
        alike.sort(key=lambda arm: (len(arm.paths[0]), arm.label))
        found += [_step(arm, alike[0], comparisons) for arm in alike]
    return tuple(found)


def _step(arm: ArmSummary, shortest: ArmSummary, comparisons: Sequence[Comparison]) -> Step:
    assert arm.accuracy is not None
    return Step(
        task=arm.task,
        level=arm.level,
        label=arm.label,
        path=arm.paths[0],
        num_intermediates=len(arm.paths[0]) - 2,
        accuracy=arm.accuracy,
        pgr=arm.pgr,
        difference=_difference(arm, shortest, comparisons),
    )


def _difference(arm: ArmSummary, shortest: ArmSummary, comparisons: Sequence[Comparison]) -> Estimate | None:
    for pair in comparisons:
        if (pair.task, pair.level) != (arm.task, arm.level):
            continue
        if (pair.first, pair.second) == (arm.label, shortest.label):
            return pair.difference
        if (pair.first, pair.second) == (shortest.label, arm.label):
            value = pair.difference
            return Estimate(value=-value.value, low=-value.high, high=-value.low)
    return None


def _rank(candidate: Candidate) -> tuple[bool, bool, float]:
    return candidate.status != "done", candidate.figure is None, -(candidate.figure or 0.0)
