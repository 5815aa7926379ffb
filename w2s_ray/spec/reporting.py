"""How a study's results are judged: when a PGR is defined, what was declared beforehand, what others found.

A comparison is declared before anything runs and is one test, over all its tasks together; Holm's correction is made
over the declared ones, and every other difference in the report is exploratory. References are results of the
literature that stand beside the study's own.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from w2s_ray.spec.base import Fraction, Name, Positive, Spec
from w2s_ray.spec.nearest import nearest

Figure = Literal["pgr", "accuracy"]
_WITHOUT_PGR = ("self", "zero_shot", "ceiling")
_STUDENTS = {"zero_shot": slice(None), "self": slice(1), "truth_chain": slice(2, None)}
"""The levels of a chain on which an arm has students; all but the first where an arm is not named."""
_DRAWS_PER_COMPARISON = 40
"""The smallest p-value of B draws is 2 / (B + 1); times as many comparisons as there are it must be .05 or less."""


class Contender(Spec):
    """One arm of one method, by these keys or as a text.

    The text is `method`, `method/arm` or `method/arm/level`, and its chain may stand behind it: `naive (small>large)`.
    """

    method: Name
    arm: Name = "chain"
    level: Name | None = None
    """Of the student; the last one of its chain where not given (for `self` the first)."""
    path: tuple[Name, ...] | None = None
    """The chain's levels; the study's longest chain where not given. Of several longest it must be given."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, raw: Any) -> Any:
        if not isinstance(raw, str):
            return raw
        names, opened, path = raw.partition(" (")
        parts = names.split("/")
        if len(parts) > 3 or (opened and not path.endswith(")")):
            raise ValueError("reads method, method/arm or method/arm/level, and a chain behind it as (small>large)")
        given: dict[str, Any] = dict(zip(("method", "arm", "level"), parts, strict=False))
        return given | {"path": re.split(r"\s*[>→]\s*", path[:-1].strip())} if opened else given

    @property
    def name(self) -> str:
        """The text that says it, with its arm."""
        parts = [self.method, self.arm, *([self.level] if self.level is not None else [])]
        through = f" ({'→'.join(self.path)})" if self.path is not None else ""
        return "/".join(parts) + through

    def among(self, paths: Sequence[tuple[str, ...]]) -> Self:
        """Return it with its chain named, among a study's chains."""
        return self.model_copy(update={"path": self.path_among(paths)})

    def path_among(self, paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        """Return its chain's levels among a study's chains."""
        return self.path if self.path is not None else max(paths, key=len)

    def level_among(self, paths: Sequence[tuple[str, ...]]) -> str:
        """Return its student's level."""
        path = self.path_among(paths)
        return self.level or path[0 if self.arm == "self" else -1]


class ComparisonSpec(Spec):
    """Two contenders whose difference is tested; short: a list of the two."""

    first: Contender
    second: Contender
    by: Figure = "pgr"
    """What is compared. An undefined PGR leaves the comparison without a p-value, and it still counts as one."""
    tasks: tuple[Name, ...] | None = Field(default=None, min_length=1)
    """The tasks that are pooled; all where not given."""

    @model_validator(mode="before")
    @classmethod
    def _from_pair(cls, raw: Any) -> Any:
        return dict(zip(("first", "second"), raw, strict=True)) if isinstance(raw, list) and len(raw) == 2 else raw

    @model_validator(mode="after")
    def _two_with_a_figure(self) -> Self:
        if self.first == self.second:
            raise ValueError("compares an arm with itself")
        for one in (self.first, self.second):
            if self.by == "pgr" and one.arm in _WITHOUT_PGR:
                raise ValueError(f"{one.name} has no PGR of its own; compare `by: accuracy`")
        return self


class ReferenceSpec(Spec):
    """What others found in a like setting."""

    source: str
    """Where it was published."""
    setting: str
    """Models and data, for people."""
    figure: Figure = "pgr"
    values: dict[str, float | str] = Field(min_length=1)
    """By contender, as text, its chain behind it where needed; "0.2–0.7" or the like where there is no one number."""
    tasks: tuple[Name, ...] | None = Field(default=None, min_length=1)
    """The study's tasks beside which it stands (of several the median PGR, the mean accuracy); all where not given."""

    @property
    def contenders(self) -> dict[str, Contender]:
        """Whom the values are of, by their text."""
        return {text: Contender.model_validate(text) for text in self.values}


class ReportSpec(Spec):
    """How results are judged."""

    min_gap: Fraction = 0.02
    """PGR is undefined where the lower 95 % bound of ceiling − floor is not above this."""
    bootstrap_samples: Positive = 2000
    compare: tuple[ComparisonSpec, ...] = ()
    """Differences that the study is about, declared beforehand."""
    references: tuple[ReferenceSpec, ...] = ()
    """Results of the literature, shown beside the study's own."""

    def check_names(
        self,
        *,
        arms: Mapping[str, Iterable[str]],
        paths: Sequence[tuple[str, ...]],
        tasks: Mapping[str, Sequence[str]],
        num_points: int,
    ) -> None:
        """Refuse what the study does not have, and comparisons that its draws cannot tell.

        Args:
            arms: the arms of each method.
            paths: the study's chains.
            tasks: its tasks, each with the methods that are for it.
            num_points: how many points of a search are reported, each with all comparisons; 1 without a search.

        Raises:
            ValueError: naming the key.
        """
        for place, pair in enumerate(self.compare):
            key = f"report.compare.{place}"
            _check_tasks(key, pair.tasks, tasks)
            for one in (pair.first, pair.second):
                _check_contender(key, one, arms, paths)
            _check_served(key, pair, tasks)
            _check_floors(key, pair, paths)
        for place, reference in enumerate(self.references):
            key = f"report.references.{place}"
            _check_tasks(key, reference.tasks, tasks)
            for one in reference.contenders.values():
                _check_contender(f"{key}.values", one, arms, paths)
        if len(set(self.compare)) < len(self.compare):
            raise ValueError("report.compare holds one comparison twice")
        needed = _DRAWS_PER_COMPARISON * len(self.compare) * num_points - 1
        if self.bootstrap_samples < needed:
            raise ValueError(
                f"report.bootstrap_samples = {self.bootstrap_samples} cannot show a difference among "
                f"{len(self.compare) * num_points} declared comparisons; they need at least {needed}"
            )


def _check_contender(
    key: str, one: Contender, arms: Mapping[str, Iterable[str]], paths: Sequence[tuple[str, ...]]
) -> None:
    if one.method not in arms:
        raise ValueError(f"{key} names the method {one.method!r}; {nearest(one.method, arms)}")
    if one.arm not in arms[one.method]:
        raise ValueError(f"{key} names the arm {one.arm!r} of {one.method}; {nearest(one.arm, arms[one.method])}")
    if one.path is not None and one.path not in paths:
        known = ["-".join(path) for path in paths]
        raise ValueError(f"{key} names the chain {list(one.path)}; {nearest('-'.join(one.path), known)}")
    path = one.path_among(paths)
    longest = [each for each in paths if len(each) == len(path)]
    if one.path is None and len(longest) > 1:
        told = ", ".join(f"({'>'.join(each)})" for each in longest)
        raise ValueError(f"{key} does not say of which chain {one.name} is; write one of the longest behind it: {told}")
    if one.level is not None and one.level not in path:
        raise ValueError(f"{key} names the level {one.level!r}; {nearest(one.level, path)}")
    having = path[_STUDENTS.get(one.arm, slice(1, None))]
    if one.level_among(paths) not in having:
        there = f"has students on {', '.join(having)} alone" if having else "has no student"
        raise ValueError(f"{key} names {one.name}, and {one.arm} {there} in the chain {'-'.join(path)}")


def _check_floors(key: str, pair: ComparisonSpec, paths: Sequence[tuple[str, ...]]) -> None:
    """Refuse PGRs above different floors: their denominators differ."""
    first, second = (one.path_among(paths)[0] for one in (pair.first, pair.second))
    if pair.by == "pgr" and first != second:
        raise ValueError(
            f"{key} compares a PGR above the floor {first} with one above the floor {second}; compare `by: accuracy`"
        )


def _check_served(key: str, pair: ComparisonSpec, tasks: Mapping[str, Sequence[str]]) -> None:
    """Refuse a comparison that could never be decided: its methods are not for its tasks."""
    both = [task for task, methods in tasks.items() if {pair.first.method, pair.second.method} <= set(methods)]
    for name in pair.tasks or ():
        if name not in both:
            raise ValueError(f"{key}.tasks names {name!r}, and not both methods are for it; both are for {both}")
    if not both:
        raise ValueError(f"{key}: no task has both {pair.first.method} and {pair.second.method}; compare others")


def _check_tasks(key: str, named: tuple[str, ...] | None, tasks: Iterable[str]) -> None:
    for name in named or ():
        if name not in tasks:
            raise ValueError(f"{key}.tasks names {name!r}; {nearest(name, tasks)}")
