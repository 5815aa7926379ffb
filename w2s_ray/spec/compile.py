"""Compile a study: chains, each a list of planned stages in the order in which they can run.

The compiler is pure. What it needs from the outside, the fingerprints of data and models, comes in as a `Resolution`.
"""

from collections.abc import Iterator

from w2s_ray.spec.chain import Chain, Resolution
from w2s_ray.spec.climb import Climb, Made
from w2s_ray.spec.search import Point, SearchResult
from w2s_ray.spec.study import Study
from w2s_ray.spec.variants import Variants, candidates, final, optimisation_keys


def compile_study(study: Study, resolution: Resolution, found: SearchResult | None = None) -> tuple[Chain, ...]:
    """Return every chain that is judged on the test set, in the order points, tasks, seeds, paths, methods.

    Where the study's search chooses, those are the winners' chains: none before it has `found` any.

    Raises:
        StudyError: when values that the search combines do not go together.
    """
    search = study.search
    if search is None:
        return tuple(_Compiler(resolution).chains(study))
    if search.choose_by is None:
        variants, compiler = Variants(study), _Compiler(resolution)
        return tuple(chain for point in search.points() for chain in compiler.chains(variants.at(point), point))
    if found is None:
        return ()
    variants, compiler, keys = Variants(study), _Compiler(resolution), optimisation_keys(study)
    return tuple(
        chain
        for winner in found.winners
        for ceilings in (variants.at(found.ceiling_point(winner, keys)),)
        for chain in compiler.chains(final(variants.at(winner), search), winner, ceilings=ceilings)
    )


class CandidateCompiler:
    """Compiles points of a search that chooses into the chains on which they are judged, without the test set."""

    def __init__(self, study: Study, resolution: Resolution) -> None:
        """What several points share is compiled once."""
        assert study.search is not None
        self._search = study.search
        self._variants, self._compiler = Variants(study), _Compiler(resolution, judged=True)

    def chains(self, point: Point) -> tuple[Chain, ...]:
        """Return the point's chains.

        Raises:
            StudyError: when the point's values do not go together.
        """
        return tuple(self._compiler.chains(candidates(self._variants.at(point), self._search), point))


class _Compiler:
    """Compiles studies that are variants of one."""

    def __init__(self, resolution: Resolution, *, judged: bool = False) -> None:
        self.made = Made(resolution, judged=judged)
        self.kept: list[object] = []
        """Studies whose parts stand in the keys of `made` by their address: they must live as long."""

    def chains(self, study: Study, point: Point | None = None, *, ceilings: Study | None = None) -> Iterator[Chain]:
        self.kept += [study, ceilings]
        for task in study.tasks:
            for seed in study.seeds:
                for path in study.paths:
                    for method in (name for name, each in study.methods.items() if each.serves(task)):
                        stages = Climb(self.made, study, ceilings or study, task, path, method, seed).stages()
                        yield Chain(
                            study=study.name,
                            task=task,
                            path=path,
                            method=method,
                            seed=seed,
                            point=point,
                            stages=tuple(stages),
                        )
