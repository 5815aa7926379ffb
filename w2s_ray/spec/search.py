"""The search: which settings of a study are tried, by what they are judged, and what is done with the best.

A *point* is one choice of the searched keys. Without `choose_by` every point is a result: its chains are part of the
study like any others, on the study's own seeds and test sets. With `choose_by` a point is a candidate: it is judged on
validation examples alone, by one Tune trial on `search.seeds`, and only the best points are then run on the study's
own, fresh seeds and judged on the test set.

What a candidate may be judged by depends on what is searched. Agreement with weak validation labels ranks optimisation
keys of the last student, and nothing else: a constant supervisor is perfectly imitable, and the confidence loss is
meant to disagree. Everything else needs ground truth: that of other, declared tasks (`development_tasks`, as Burns et
al. 2023 did), or the `oracle`, which reads Vi's and is marked so everywhere.
"""

import itertools
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from w2s_ray.spec.base import Fraction, Name, Positive, Spec
from w2s_ray.spec.identity import canonical_json, identity

Chooser = Literal["agreement", "development_tasks", "oracle"]
Sampler = Literal["grid", "random", "tpe", "nsga2"]

POINT_CHARS = 10
"""Digits of a point's id: enough for ten thousand of them."""


class Range(Spec):
    """A range of numbers to draw from."""

    low: float
    high: float
    log: bool = False
    """Draw the logarithm evenly."""
    integer: bool = False

    def fit(self, value: float) -> float:
        """Return the number of this range that is nearest."""
        nearest = min(max(value, self.low), self.high)
        return round(nearest) if self.integer else nearest

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low < self.high:
            raise ValueError(f"low {self.low:g} must be below high {self.high:g}")
        if self.log and self.low <= 0:
            raise ValueError(f"low {self.low:g} must be above 0 to have a logarithm")
        if self.integer and (self.low != int(self.low) or self.high != int(self.high)):
            raise ValueError("integer: both ends must be whole numbers")
        return self


Choices = Annotated[tuple[Any, ...], Field(min_length=1)]
Domain = Choices | Range


class Asha(Spec):
    """Asynchronous successive halving (Li et al. 2020): weak trials stop while their last student trains."""

    kind: Literal["asha"] = "asha"
    reports: Annotated[int, Field(ge=2)] = 8
    """Reports of the last student, evenly over its training; ASHA compares trials at equal ones."""
    grace_reports: Positive = 1
    """Reports before a trial may be stopped."""
    reduction_factor: Annotated[float, Field(gt=1)] = 3.0
    """One in so many goes on at each rung."""


class Pbt(Spec):
    """Population-based training (Jaderberg et al. 2017): at each stage's end the weak copy and vary the strong."""

    kind: Literal["pbt"] = "pbt"
    quantile_fraction: Annotated[float, Field(gt=0, le=0.5)] = 0.25
    """The share that copies, and the share that is copied."""
    resample_probability: Fraction = 0.25
    """How often a value is drawn anew instead of being varied."""


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
        """The values for people, by the last part of their keys."""
        return ", ".join(f"{key.rpartition('.')[2]} {_shown(value)}" for key, value in self.values.items())


class SearchSpec(Spec):
    """`search:` in a study."""

    space: dict[str, Domain] = Field(min_length=1)
    """Dotted keys of the study, each with a list of values or with `low` and `high`."""
    sampler: Sampler = "grid"
    """`grid` takes every combination of listed values; `tpe` and `nsga2` (Optuna's) learn from the trials before."""
    num_samples: Positive | None = None
    """Points to draw; a grid has as many as it has."""
    seed: int = 0
    """Of the sampler."""
    choose_by: Chooser | None = None
    development_tasks: tuple[Name, ...] = ()
    """Tasks of the study on which candidates are judged by ground truth; the best are then run on the others."""
    seeds: tuple[int, ...] = Field(default=(1000,), min_length=1)
    """On which candidates are judged; none of the study's own."""
    num_winners: Positive = 1
    """Points that are run on the study's own seeds."""
    minimise: Literal["train_tokens", "train_seconds"] | None = None
    """A second objective, summed over a chain's stages; the winners are then the Pareto front's best by the first."""
    scheduler: Scheduler | None = None
    time_budget_seconds: Annotated[float, Field(gt=0)] | None = None
    """After which no new trial begins, and those under way are stopped."""

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

    def reported(self, tasks: Iterable[str]) -> list[str]:
        """Return the tasks that judge no candidate."""
        return [task for task in tasks if task not in self.development_tasks]

    def points(self) -> tuple[Point, ...]:
        """Return all points of a grid, or of a random sampler, which depend on its seed alone."""
        assert self.is_listed
        return tuple(dict.fromkeys(Point.of(values) for values in self._drawn()))

    def _drawn(self) -> Iterator[dict[str, Any]]:
        if self.sampler == "grid":
            keys = list(self.space)
            lists = [domain for domain in self.space.values() if not isinstance(domain, Range)]
            yield from (dict(zip(keys, values, strict=True)) for values in itertools.product(*lists))
            return
        import optuna

        sampler = optuna.samplers.RandomSampler(seed=self.seed)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        drawing = optuna.create_study(sampler=sampler)
        for _ in range(self.num_samples or 0):
            trial = drawing.ask(distributions(self.space))
            yield chosen(self.space, trial.params)

    @field_validator("space", mode="before")
    @classmethod
    def _plain(cls, raw: Any) -> Any:
        for key, values in raw.items() if isinstance(raw, dict) else ():
            for value in values if isinstance(values, list | tuple) else ():
                try:
                    canonical_json(value)
                except (TypeError, ValueError):
                    raise ValueError(f"{key} lists {value}, which is no finite number, text or list of such") from None
        return raw

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.sampler == "grid":
            ranges = [key for key, domain in self.space.items() if isinstance(domain, Range)]
            if ranges:
                raise ValueError(f"a grid needs a list of values for {ranges[0]}; or set `sampler: random`")
            if self.num_samples is not None:
                raise ValueError("a grid takes every combination; leave num_samples out, or set `sampler: random`")
        elif self.num_samples is None:
            raise ValueError(f"sampler {self.sampler} needs num_samples, the number of points to draw")
        for key in ("seeds", "development_tasks"):
            if len(set(getattr(self, key))) < len(getattr(self, key)):
                raise ValueError(f"search.{key} holds one twice; drop one of the two")
        if self.choose_by is None:
            self._choose_nothing()
        if (self.choose_by == "development_tasks") != bool(self.development_tasks):
            raise ValueError("choose_by: development_tasks goes with development_tasks, the tasks that judge")
        if (self.sampler == "nsga2") != (self.minimise is not None and self.sampler != "tpe"):
            raise ValueError("nsga2 needs a second objective, and a second objective nsga2 or tpe: set `minimise`")
        if self.minimise is not None and self.scheduler is not None:
            raise ValueError(f"{self.scheduler.kind} compares trials by one score; leave `minimise` or it out")
        if isinstance(self.scheduler, Pbt):
            if self.choose_by == "agreement":
                raise ValueError(
                    "pbt changes supervisors, and agreement only ranks students of one supervisor; choose by "
                    "development_tasks or oracle"
                )
            if self.sampler != "random":
                raise ValueError("pbt draws its first population at random and then varies it: set `sampler: random`")
        if isinstance(self.scheduler, Asha) and self.scheduler.grace_reports >= self.scheduler.reports:
            raise ValueError("asha: grace_reports must be below reports, or no trial can be stopped")
        return self

    def _choose_nothing(self) -> None:
        """Refuse what is about candidates where there are none."""
        about_candidates = {
            "scheduler": self.scheduler is not None,
            "minimise": self.minimise is not None,
            "development_tasks": bool(self.development_tasks),
            f"sampler {self.sampler}": self.sampler in ("tpe", "nsga2"),
            "seeds": self.seeds != (1000,),
            "num_winners": self.num_winners != 1,
            "time_budget_seconds": self.time_budget_seconds is not None,
        }
        for name, given in about_candidates.items():
            if given:
                raise ValueError(
                    f"search.{name} is about candidates, which are judged; without `choose_by` every point is a result "
                    "of its own, with nothing to judge it by; set `choose_by` to agreement, development_tasks or oracle"
                )


class Candidate(Spec):
    """What became of one point that was judged."""

    point: Point
    status: Literal["done", "stopped", "failed"]
    """`stopped` by the scheduler or the time budget, before its last student was trained."""
    score: float | None = None
    """What it is chosen by: the last students' mean agreement with, or accuracy on, their validation examples."""
    ceilings: dict[str, float] = Field(default_factory=dict)
    """The ceilings' own mean accuracy on their validation examples, by level."""
    cost: float | None = None
    """The second objective."""
    error: str | None = None


class SearchResult(Spec):
    """What a search has come to."""

    candidates: tuple[Candidate, ...]
    winners: tuple[Point, ...]
    """The best first."""

    @property
    def why_nothing_is_chosen(self) -> str | None:
        """Say what became of the candidates where none was judged to its end."""
        if self.winners:
            return None
        failed = [candidate for candidate in self.candidates if candidate.status == "failed"]
        num, num_stopped = len(self.candidates), len(self.candidates) - len(failed)
        told = f"of {num} candidates {len(failed)} failed and {num_stopped} were stopped"
        remedies = ["raise search.time_budget_seconds"] if num_stopped or not num else []
        remedies += ["--retry-failed judges those that failed again"] if failed else []
        first = f"\nthe first that failed: {failed[0].error}" if failed else ""
        return f"the search has nothing to choose from: {told}; {', '.join(remedies)}{first}"

    def ceiling_point(self, winner: Point, keys: Mapping[str, tuple[str, str]]) -> Point:
        """Return the winner with the optimisation keys of each level taken from the best ceiling of that level.

        Ceilings get the same search budget as students, and are chosen by their own labels, which are true.

        Args:
            winner: a point that was chosen for its student.
            keys: each key of one level's optimisation, with the searched key that says it (a key for every level says
                it for each) and the level.
        """
        said = {searched for searched, _ in keys.values()}
        values = {key: value for key, value in winner.values.items() if key not in said}
        for key, (searched, level) in keys.items():
            judged = [candidate for candidate in self.candidates if level in candidate.ceilings]
            best = max(judged, key=lambda candidate: candidate.ceilings[level]).point if judged else winner
            values[key] = best.values[searched]
        return Point.of(values)


def best(candidates: tuple[Candidate, ...], search: SearchSpec) -> tuple[Point, ...]:
    """Return the points with the highest scores; of the Pareto front, where there is a second objective."""
    done = [one for one in candidates if one.status == "done" and one.score is not None]
    if search.minimise is not None:
        done = [one for one in done if not any(_dominates(other, one) for other in done)]
    ranked = sorted(done, key=lambda one: (-(one.score or 0.0), one.cost or 0.0))
    return tuple(dict.fromkeys(one.point for one in ranked))[: search.num_winners]


def distributions(space: Mapping[str, Domain]) -> dict[str, Any]:
    """Return the space as Optuna's distributions; listed values stand for themselves as JSON."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    found: dict[str, Any] = {}
    for key, domain in space.items():
        if not isinstance(domain, Range):
            found[key] = CategoricalDistribution([canonical_json(value) for value in domain])
        elif domain.integer:
            found[key] = IntDistribution(int(domain.low), int(domain.high), log=domain.log)
        else:
            found[key] = FloatDistribution(domain.low, domain.high, log=domain.log)
    return found


def chosen(space: Mapping[str, Domain], drawn: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that `drawn`, from `distributions(space)`, stands for; numbers that were varied are fitted."""
    return {
        key: domain.fit(drawn[key]) if isinstance(domain, Range) else json.loads(drawn[key])
        for key, domain in space.items()
    }


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else value if isinstance(value, str) else canonical_json(value)


def _dominates(one: Candidate, other: Candidate) -> bool:
    scores, cost = (one.score or 0.0, other.score or 0.0), (one.cost or 0.0, other.cost or 0.0)
    return scores[0] >= scores[1] and cost[0] <= cost[1] and (scores[0] > scores[1] or cost[0] < cost[1])
