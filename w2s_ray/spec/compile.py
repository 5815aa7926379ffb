"""Compile a study: chains, each a list of planned stages in an order in which they can run.

The compiler is pure. What it needs from outside, the fingerprints of data and models, comes in as a `Resolution`. This
file combines tasks, seeds, paths, methods and the points of a search; `chain_compiler.py` compiles one chain.
"""

from collections.abc import Iterator

from w2s_ray.spec.chain import Chain, Resolution
from w2s_ray.spec.chain_compiler import ChainCompiler, StageCache
from w2s_ray.spec.points import Variants, candidates, final, optimisation_keys
from w2s_ray.spec.search import Point, SearchResult
from w2s_ray.spec.study import Study


def compile_study(study: Study, resolution: Resolution, result: SearchResult | None = None) -> tuple[Chain, ...]:
    """Return every chain that is evaluated on the test set, in the order points, tasks, seeds, paths, methods.

    If the study's search chooses, these are the winners' chains: none before the search has a `result`.

    Raises:
        StudyError: when values that the search combines do not go together.
    """
    search, cache = study.search, StageCache(resolution)
    if search is None:
        return tuple(_chains(cache, study))
    variants, chains = Variants(study), list[Chain]()
    if search.choose_by is None:
        for point in search.points():
            chains += _chains(cache, variants.at(point), point)
    elif result is not None:
        keys = optimisation_keys(study)
        for winner in result.winners:
            ceilings = variants.at(result.ceiling_point(winner, keys))
            chains += _chains(cache, final(variants.at(winner), search), winner, ceilings=ceilings)
    return tuple(chains)


class CandidateCompiler:
    """Compiles points of a search that chooses into the chains that score them, without the test set."""

    def __init__(self, study: Study, resolution: Resolution) -> None:
        assert study.search is not None
        self._search = study.search
        self._variants, self._cache = Variants(study), StageCache(resolution, predict_test=False)

    def chains(self, point: Point) -> tuple[Chain, ...]:
        """Return the point's chains.

        Raises:
            StudyError: when the point's values do not go together.
        """
        return tuple(_chains(self._cache, candidates(self._variants.at(point), self._search), point))


def _chains(
    cache: StageCache, study: Study, point: Point | None = None, *, ceilings: Study | None = None
) -> Iterator[Chain]:
    """Yield the chains of a study, or of its variant at a point; `ceilings` has the ceilings' optimisation."""
    for task in study.tasks:
        methods = [name for name, method in study.methods.items() if method.serves(task)]
        for seed in study.seeds:
            for path in study.paths:
                for method in methods:
                    compiler = ChainCompiler(cache, study, ceilings or study, task, path, method, seed)
                    yield Chain(
                        study=study.name,
                        task=task,
                        path=path,
                        method=method,
                        seed=seed,
                        point=point,
                        stages=tuple(compiler.stages()),
                    )
