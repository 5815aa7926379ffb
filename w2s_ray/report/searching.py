"""What a search and a ladder of chains came to, as plain values: candidates, and chains by their intermediates."""

from collections.abc import Iterable, Mapping, Sequence

from w2s_ray.report.arm_findings import ArmSummary
from w2s_ray.report.arms import DistinctArm
from w2s_ray.report.findings import CandidateSummary, SearchSummary, Step
from w2s_ray.report.judge import Judge
from w2s_ray.report.scores import estimate
from w2s_ray.science.recovery import Sampled
from w2s_ray.spec.search import Candidate, Point, SearchResult
from w2s_ray.spec.study import Study


def search_summary(study: Study, found: SearchResult | None) -> SearchSummary | None:
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
                score=one.score,
                cost=one.cost,
                error=one.error,
                is_winner=one.point in found.winners,
            )
            for one in sorted(found.candidates, key=_rank)
        ),
    )


def steps(judges: Mapping[str, Judge], arms: Sequence[ArmSummary]) -> tuple[Step, ...]:
    """Return the chain students of each level that is reached by chains of several lengths, the shortest first.

    Those of one method at one point of a search stand together; methods and points that share all of them are one.
    They learn from the same examples and are judged on the same ones: what differs is who labelled those examples.
    """
    by_name = {(arm.task, arm.level, arm.label): arm for arm in arms}
    return tuple(
        _step(by_name[arm.task, arm.level, arm.label], path, judge.difference(arm, alike[0][1]) if place else None)
        for judge in judges.values()
        for alike in _alike(judge)
        for place, (path, arm) in enumerate(alike)
    )


def _alike(judge: Judge) -> Iterable[list[tuple[tuple[str, ...], DistinctArm]]]:
    """The students that were judged, with the levels up to their own: those of one level, floor, method and point."""
    groups: dict[tuple[str, str, str, Point | None], dict[tuple[str, ...], DistinctArm]] = {}
    for arm in judge.distinct:
        for place in arm.places if judge.seeds(arm) else ():
            if place.arm == "chain":
                path = place.path[: place.path.index(arm.level) + 1]
                groups.setdefault((arm.level, path[0], place.method, place.point), {})[path] = arm
    ordered = [
        sorted(alike.items(), key=lambda each: (len(each[0]), each[0]))
        for alike in groups.values()
        if len({len(path) for path in alike}) > 1
    ]
    return {tuple(id(arm) for _, arm in alike): alike for alike in ordered}.values()


def _step(about: ArmSummary, path: tuple[str, ...], difference: Sampled | None) -> Step:
    assert about.accuracy is not None
    return Step(
        task=about.task,
        level=about.level,
        label=about.label,
        path=path,
        num_intermediates=len(path) - 2,
        oracle=about.oracle,
        seed_conditional=about.seed_conditional,
        accuracy=about.accuracy,
        pgr=about.pgr,
        difference=estimate(difference) if difference is not None else None,
    )


def _rank(candidate: Candidate) -> tuple[bool, bool, float]:
    return candidate.status != "done", candidate.score is None, -(candidate.score or 0.0)
