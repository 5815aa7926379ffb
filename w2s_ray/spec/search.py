"""`search:` in a study: which settings are tried, how they are scored, and how the best are chosen.

A *point* is one choice of the searched keys. Without `choose_by` every point is a result: its chains are part of the
study like any others, on the study's own seeds and test sets. With `choose_by` a point is a candidate: one Tune trial
scores it on validation examples alone, on `search.seeds`, and only the best points are then run on the study's own
seeds and evaluated on the test set.

The valid scores depend on what is searched. Agreement with weak validation labels ranks optimisation keys of the last
student, and nothing else: a constant supervisor is easily imitated, and the confidence loss is meant to disagree.
Everything else needs ground truth: that of other, declared tasks (`development_tasks`, as in Burns et al. 2023), or
the `oracle`, which reads that of Vi and is marked so in every table.
"""

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from w2s_ray.spec.base import Fraction, Name, Positive, Spec
from w2s_ray.spec.identity import canonical_json, identity

Chooser = Literal["agreement", "development_tasks", "oracle"]
Sampler = Literal["grid", "random", "tpe", "nsga2"]

POINT_CHARS = 10
"""Digits of a point's id: enough for ten thousand points."""
_DEFAULT_SEEDS = (1000,)


class Range(Spec):
    """A range of numbers to sample from."""

    low: float
    high: float
    log: bool = False
    """Sample the logarithm evenly."""
    integer: bool = False

    def fit(self, value: float) -> float:
        """Return the nearest number of this range."""
        nearest = min(max(value, self.low), self.high)
        return round(nearest) if self.integer else nearest

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low = {self.low:g} must be below high = {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low = {self.low:g} must be above 0 with log: true")
        if self.integer and (self.low != int(self.low) or self.high != int(self.high)):
            raise ValueError(f"low = {self.low:g} and high = {self.high:g} must be whole numbers with integer: true")
        return self


Choices = Annotated[tuple[Any, ...], Field(min_length=1)]
Domain = Choices | Range


class Asha(Spec):
    """Asynchronous successive halving (Li et al. 2020): stops bad trials while their last student trains."""

    kind: Literal["asha"] = "asha"
    reports: Annotated[int, Field(ge=2)] = 8
    """Reports of the last student, evenly over its training; ASHA compares trials after equally many."""
    grace_reports: Positive = 1
    """Reports before a trial may be stopped."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    """One in this many trials continues at each rung."""


class Pbt(Spec):
    """Population-based training (Jaderberg et al. 2017): after each stage bad trials copy and vary good ones."""

    kind: Literal["pbt"] = "pbt"
    quantile_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """The share of trials that copy, and the share that is copied."""
    resample_probability: Fraction = 0.25
    """How often a value is sampled again instead of varied."""


Scheduler = Annotated[Asha | Pbt, Field(discriminator="kind")]


class Point(Spec):
    """One choice of the searched keys."""

    settings: tuple[tuple[str, str], ...]
    """Pairs of key and value, the value as canonical JSON."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Point":
        """Return the point with these values, by key."""
        return cls(settings=tuple((key, canonical_json(value)) for key, value in values.items()))

    @property
    def values(self) -> dict[str, Any]:
        """The values by key."""
        return {key: json.loads(text) for key, text in self.settings}

    @property
    def id(self) -> str:
        """A short name, the same for equal points."""
        return f"p{identity('point', sorted(self.settings))[:POINT_CHARS]}"

    @property
    def label(self) -> str:
        """The values for display, by the last part of their keys."""
        return ", ".join(f"{key.rpartition('.')[2]} {_shown(value)}" for key, value in self.values.items())

    @classmethod
    def common_label(cls, points: Sequence["Point"], among: Sequence["Point"]) -> str:
        """Return, for display, the values that all of `points` have and some of `among` do not."""
        shared = set.intersection(*(set(point.settings) for point in points)) if points else set()
        everywhere = set.intersection(*(set(point.settings) for point in among)) if among else set()
        kept = tuple(pair for pair in points[0].settings if pair in shared - everywhere) if points else ()
        return cls(settings=kept).label


class SearchSpec(Spec):
    """`search:` in a study."""

    space: dict[str, Domain] = Field(min_length=1)
    """Dotted keys of the study, each with a list of values or with `low` and `high`."""
    sampler: Sampler = "grid"
    """`grid` takes every combination of listed values; `tpe` and `nsga2` (Optuna's) learn from the trials before."""
    num_samples: Positive | None = None
    """Points to sample; a grid takes all."""
    seed: int = 0
    """Seed of the sampler."""
    choose_by: Chooser | None = None
    """The score of a candidate; without it every point is run and reported."""
    development_tasks: tuple[Name, ...] = ()
    """Tasks of the study on which candidates are scored by ground truth; the best are then run on the others."""
    seeds: tuple[int, ...] = Field(default=_DEFAULT_SEEDS, min_length=1)
    """Seeds of the candidates; none of the study's own."""
    num_winners: Positive = 1
    """How many of the best points are run on the study's own seeds."""
    minimise: Literal["train_tokens", "train_seconds"] | None = None
    """A second objective, summed over a chain's stages; winners are then the best of the Pareto front by the first."""
    scheduler: Scheduler | None = None
    time_budget_seconds: Annotated[float, Field(gt=0)] | None = None
    """After this time no trial starts, and running ones are stopped."""

    @property
    def is_listed(self) -> bool:
        """Whether all points are known before anything runs; population-based training varies them later."""
        return self.sampler in ("grid", "random")

    @property
    def num_points(self) -> int:
        """How many points there will be."""
        if self.sampler != "grid":
            return self.num_samples or 0
        sizes = [len(domain) for domain in self.space.values() if not isinstance(domain, Range)]
        return math.prod(sizes)

    @property
    def num_reported_points(self) -> int:
        """How many points the report shows: all, or the winners."""
        return self.num_points if self.choose_by is None else self.num_winners

    def reported(self, tasks: Iterable[str]) -> list[str]:
        """Return the tasks that are not development tasks."""
        return [task for task in tasks if task not in self.development_tasks]

    def points(self) -> tuple[Point, ...]:
        """Return all points of a grid, or of a random sampler, which depend on its seed alone."""
        assert self.is_listed
        return tuple(dict.fromkeys(Point.of(values) for values in self._samples()))

    def _samples(self) -> Iterator[dict[str, Any]]:
        if self.sampler == "grid":
            keys = list(self.space)
            lists = [domain for domain in self.space.values() if not isinstance(domain, Range)]
            yield from (dict(zip(keys, values, strict=True)) for values in itertools.product(*lists))
            return
        import optuna

        sampler = optuna.samplers.RandomSampler(seed=self.seed)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampled = optuna.create_study(sampler=sampler)
        for _ in range(self.num_samples or 0):
            trial = sampled.ask(distributions(self.space))
            yield chosen(self.space, trial.params)

    @field_validator("space", mode="before")
    @classmethod
    def _plain(cls, raw: Any) -> Any:
        for key, values in raw.items() if isinstance(raw, dict) else ():
            for value in values if isinstance(values, list | tuple) else ():
                try:
                    canonical_json(value)
                except (TypeError, ValueError):
                    raise ValueError(f"{key} lists {value!r}, which is not a finite number, text or list") from None
        return raw

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.sampler == "grid":
            for key, domain in self.space.items():
                if isinstance(domain, Range):
                    raise ValueError(f"space.{key} must be a list for a grid; or use `sampler: random`")
            if self.num_samples is not None:
                raise ValueError("num_samples has no effect on a grid; remove it, or use `sampler: random`")
        elif self.num_samples is None:
            raise ValueError(f"sampler = {self.sampler} needs num_samples, the number of points to sample")
        for key in ("seeds", "development_tasks"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise ValueError(f"duplicate {key}: {list(getattr(self, key))}")
        if self.choose_by is None:
            self._check_no_candidates()
        if (self.choose_by == "development_tasks") != bool(self.development_tasks):
            raise ValueError("choose_by: development_tasks and the list development_tasks need each other")
        if self.sampler == "nsga2" and self.minimise is None:
            raise ValueError("sampler = nsga2 needs a second objective, minimise")
        if self.minimise is not None and self.sampler not in ("nsga2", "tpe"):
            raise ValueError(f"minimise, a second objective, needs the sampler nsga2 or tpe, not {self.sampler}")
        if self.minimise is not None and self.scheduler is not None:
            raise ValueError(f"minimise and scheduler exclude each other: {self.scheduler.kind} compares one score")
        if isinstance(self.scheduler, Pbt):
            if self.choose_by == "agreement":
                raise ValueError("choose_by = agreement cannot compare the supervisors that pbt changes")
            if self.sampler != "random":
                raise ValueError(f"sampler = {self.sampler} must be random for pbt, which varies a random population")
        if isinstance(self.scheduler, Asha) and self.scheduler.grace_reports >= self.scheduler.reports:
            raise ValueError(
                f"scheduler.grace_reports = {self.scheduler.grace_reports} must be below "
                f"scheduler.reports = {self.scheduler.reports}, or no trial could be stopped"
            )
        return self

    def _check_no_candidates(self) -> None:
        """Without `choose_by` there are no candidates, so nothing about candidates may be set."""
        about_candidates = {
            "scheduler": self.scheduler is not None,
            "minimise": self.minimise is not None,
            "development_tasks": bool(self.development_tasks),
            f"sampler = {self.sampler}": self.sampler in ("tpe", "nsga2"),
            "seeds": self.seeds != _DEFAULT_SEEDS,
            "num_winners": self.num_winners != 1,
            "time_budget_seconds": self.time_budget_seconds is not None,
        }
        for key, is_set in about_candidates.items():
            if is_set:
                raise ValueError(f"{key} needs choose_by, without which every point is run and none is chosen")


class Candidate(Spec):
    """The outcome of one point that was tried."""

    point: Point
    status: Literal["done", "stopped", "failed"]
    """`stopped`: by the scheduler or the time budget, before its last student was trained."""
    score: float | None = None
    """The last students' mean agreement with the labels of their validation examples, or their mean accuracy there."""
    ceilings: dict[str, float] = Field(default_factory=dict)
    """The ceilings' own mean accuracy on their validation examples, by level, and by `method/level` for a method whose
    optimisation of that level is searched."""
    cost: float | None = None
    """Value of the second objective."""
    error: str | None = None


class SearchResult(Spec):
    """The outcome of a search."""

    candidates: tuple[Candidate, ...]
    winners: tuple[Point, ...]
    """The best first."""

    @property
    def why_nothing_is_chosen(self) -> str | None:
        """Why no candidate could be chosen, and what to do; None if one was."""
        if self.winners:
            return None
        failed = [candidate for candidate in self.candidates if candidate.status == "failed"]
        num, num_stopped = len(self.candidates), len(self.candidates) - len(failed)
        remedies = ["raise search.time_budget_seconds"] if num_stopped or not num else []
        remedies += ["run the failed ones again with --retry-failed"] if failed else []
        first = f"\nthe first failure: {failed[0].error}" if failed else ""
        return (
            f"the search has no finished candidate: of {num}, {len(failed)} failed and {num_stopped} were stopped; "
            f"{', or '.join(remedies)}{first}"
        )

    def ceiling_point(self, winner: Point, keys: Mapping[str, tuple[str, str]]) -> Point:
        """Return the winner with the optimisation keys of each level taken from the best ceiling of that level.

        Ceilings get the same search budget as students, and are chosen by their own labels, the ground truth.

        Args:
            winner: a point that was chosen for its student.
            keys: each key of one level's optimisation, with the searched key that sets it (which may set it for every
                level) and the ceilings that judge it, by their key in `Candidate.ceilings`.
        """
        replaced = {searched for searched, _ in keys.values()}
        values = {key: value for key, value in winner.values.items() if key not in replaced}
        for key, (searched, judge) in keys.items():
            scored = [candidate for candidate in self.candidates if judge in candidate.ceilings]
            best = max(scored, key=lambda candidate: candidate.ceilings[judge]).point if scored else winner
            values[key] = best.values[searched]
        return Point.of(values)


def best(candidates: tuple[Candidate, ...], search: SearchSpec) -> tuple[Point, ...]:
    """Return the points with the highest scores; those of the Pareto front if there is a second objective."""
    done = [candidate for candidate in candidates if candidate.status == "done" and candidate.score is not None]
    if search.minimise is not None:
        done = [candidate for candidate in done if not any(_dominates(other, candidate) for other in done)]
    ranked = sorted(done, key=lambda candidate: (-(candidate.score or 0.0), candidate.cost or 0.0))
    return tuple(dict.fromkeys(candidate.point for candidate in ranked))[: search.num_winners]


def distributions(space: Mapping[str, Domain]) -> dict[str, Any]:
    """Return the space as Optuna's distributions; listed values become categories, as JSON."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    space_of: dict[str, Any] = {}
    for key, domain in space.items():
        if not isinstance(domain, Range):
            space_of[key] = CategoricalDistribution([canonical_json(value) for value in domain])
        elif domain.integer:
            space_of[key] = IntDistribution(int(domain.low), int(domain.high), log=domain.log)
        else:
            space_of[key] = FloatDistribution(domain.low, domain.high, log=domain.log)
    return space_of


def chosen(space: Mapping[str, Domain], sampled: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of a sample from `distributions(space)`, with numbers outside of their range moved into it."""
    return {
        key: domain.fit(sampled[key]) if isinstance(domain, Range) else json.loads(sampled[key])
        for key, domain in space.items()
    }


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else canonical_json(value)


def _dominates(first: Candidate, second: Candidate) -> bool:
    gain = (first.score or 0.0) - (second.score or 0.0)
    saving = (second.cost or 0.0) - (first.cost or 0.0)
    return gain >= 0 and saving >= 0 and (gain > 0 or saving > 0)
