"""The stages that a search will add to a study while it runs, estimated from a few of its points."""

import math
from collections.abc import Callable, Collection, Iterable, Sequence

from w2s_ray.errors import StudyError
from w2s_ray.planning.estimate import start_seconds
from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution, distinct_stages
from w2s_ray.spec.compile import CandidateCompiler, compile_study
from w2s_ray.spec.search import Point, SearchResult, SearchSpec
from w2s_ray.spec.study import Study

_POINTS_TRIED = 8

SecondsOf = Callable[[PlannedStage], float | None]


class ToCome(Spec):
    """Estimate of the stages that a search adds while it runs, and that no plan can name yet."""

    num_candidates: int
    """Candidates that a sampler will draw; 0 if the search lists them, because they are planned stages then."""
    num_winners: int
    """Points that are run on the study's own seeds."""
    num_stages: int
    seconds: float | None
    """One after another, if all points cost what the first few do."""


def estimate_to_come(
    study: Study, resolution: Resolution, planned: Collection[str], seconds_of: SecondsOf
) -> ToCome | None:
    """Estimate the stages of candidates and winners that are not among the identities `planned`.

    Stages that all candidates share are counted once: the cost of n points is a line through those of one point and of
    the first few. None if `study` has no search.
    """
    search = study.search
    if search is None:
        return None
    points = _first_points(search)
    winners = SearchResult(candidates=(), winners=points[: search.num_winners])
    chains_of_winners = compile_study(study, resolution, winners)
    num_stages, seconds = _cost(chains_of_winners, planned, seconds_of)
    if not planned:  # the plan has counted no start-up
        seconds += start_seconds(distinct_stages(chains_of_winners).values())
    num_drawn = 0 if search.is_listed else search.num_points
    if num_drawn:
        compiler = CandidateCompiler(study, resolution)
        chains = [_chains_of(compiler, point) for point in points]
        one = _cost(chains[0], planned, seconds_of)
        few = _cost([chain for own in chains for chain in own], planned, seconds_of)
        share = (num_drawn - 1) / max(len(points) - 1, 1)
        num_stages += one[0] + (few[0] - one[0]) * share
        seconds += one[1] + (few[1] - one[1]) * share
    return ToCome(
        num_candidates=num_drawn,
        num_winners=search.num_winners,
        num_stages=round(num_stages),
        seconds=None if math.isnan(seconds) else seconds,
    )


def _first_points(search: SearchSpec) -> tuple[Point, ...]:
    """Return a few points of the search; of a sampler that learns, random ones."""
    if search.is_listed:
        return search.points()[:_POINTS_TRIED]
    num = min(search.num_points, _POINTS_TRIED)
    return search.model_copy(update={"sampler": "random", "num_samples": num}).points()


def _chains_of(compiler: CandidateCompiler, point: Point) -> Sequence[Chain]:
    try:
        return compiler.chains(point)
    except StudyError:  # its values do not go together, and the candidate will fail
        return ()


def _cost(chains: Iterable[Chain], planned: Collection[str], seconds_of: SecondsOf) -> tuple[float, float]:
    """Return the number and the seconds (nan if unknown) of the distinct stages of `chains` that are not planned."""
    stages = [stage for identity, stage in distinct_stages(chains).items() if identity not in planned]
    seconds = [seconds_of(stage) for stage in stages]
    return len(stages), sum(math.nan if value is None else value for value in seconds)
