"""`report:` in a study: when a PGR is defined, which comparisons are declared beforehand, and what others found.

A comparison is declared before anything runs and is one test, over all its tasks together; Holm's correction is over
the declared ones, and every other difference in the report is exploratory. References are results of the literature,
shown beside the study's own.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal, Self

from pydantic import Field, ValidationError, field_validator, model_validator

from w2s_ray.spec.base import Fraction, Name, Positive, Spec

Outcome = Literal["pgr", "accuracy"]
"""The metric that is compared."""
_WITHOUT_PGR = ("self", "zero_shot", "ceiling")


class Contender(Spec):
    """One arm of one method, by these keys or as a text.

    The text is `method`, `method/arm` or `method/arm/level`, and its chain may follow: `naive (small>large)`.
    """

    method: Name
    arm: Name = "chain"
    level: Name | None = None
    """The student's level; the last one of its chain if not given (for `self` the first)."""
    path: tuple[Name, ...] | None = None
    """The chain's levels; the study's longest chain if not given. It must be given if several are longest."""

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, raw: Any) -> Any:
        if not isinstance(raw, str):
            return raw
        names, opened, path = raw.partition(" (")
        parts = names.split("/")
        if len(parts) > 3 or (opened and not path.endswith(")")):
            raise ValueError(
                f"{raw!r} must be method, method/arm or method/arm/level, then a chain such as (small>large)"
            )
        given: dict[str, Any] = dict(zip(("method", "arm", "level"), parts, strict=False))
        return given | {"path": re.split(r"\s*[>→]\s*", path[:-1].strip())} if opened else given

    @property
    def name(self) -> str:
        """Its text, with its arm."""
        parts = [self.method, self.arm, *([self.level] if self.level is not None else [])]
        chain = f" ({'→'.join(self.path)})" if self.path is not None else ""
        return "/".join(parts) + chain

    def among(self, paths: Sequence[tuple[str, ...]]) -> Self:
        """Return it with its chain given, out of a study's chains."""
        return self.model_copy(update={"path": self.path_among(paths)})

    def path_among(self, paths: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        """Return its chain's levels, out of a study's chains."""
        return self.path if self.path is not None else max(paths, key=len)

    def level_among(self, paths: Sequence[tuple[str, ...]]) -> str:
        """Return its student's level."""
        path = self.path_among(paths)
        return self.level or path[0 if self.arm == "self" else -1]


class ComparisonSpec(Spec):
    """Two contenders whose difference is tested; short: a list of the two."""

    first: Contender
    second: Contender
    by: Outcome = "pgr"
    """The number to compare. An undefined PGR leaves the comparison without a p-value, and it still counts as one."""
    tasks: tuple[Name, ...] | None = Field(default=None, min_length=1)
    """The tasks that are pooled; all if not given."""

    @model_validator(mode="before")
    @classmethod
    def _from_pair(cls, raw: Any) -> Any:
        return dict(zip(("first", "second"), raw, strict=True)) if isinstance(raw, list) and len(raw) == 2 else raw

    @model_validator(mode="after")
    def _two_with_a_pgr(self) -> Self:
        if self.first == self.second:
            raise ValueError(f"{self.first.name} is compared with itself")
        for contender in (self.first, self.second):
            if self.by == "pgr" and contender.arm in _WITHOUT_PGR:
                raise ValueError(f"{contender.name} has no PGR of its own; compare `by: accuracy`")
        return self


class ReferenceSpec(Spec):
    """A published result in a similar setting."""

    source: str
    """Where it was published."""
    setting: str
    """Models and data, for display."""
    figure: Outcome = "pgr"
    values: dict[str, float | str] = Field(min_length=1)
    """By contender, as text, followed by its chain if needed; a text such as "0.2–0.7" if it is not one number."""
    tasks: tuple[Name, ...] | None = Field(default=None, min_length=1)
    """The study's tasks to show it beside (for several, their median PGR or mean accuracy); all if not given."""

    @field_validator("values")
    @classmethod
    def _of_contenders(cls, values: dict[str, float | str]) -> dict[str, float | str]:
        for text in values:
            try:
                Contender.model_validate(text)
            except ValidationError as error:
                raise ValueError(error.errors()[0]["msg"].removeprefix("Value error, ")) from None
        return values

    @property
    def contenders(self) -> dict[str, Contender]:
        """The contenders of the values, by their text."""
        return {text: Contender.model_validate(text) for text in self.values}


class ReportSpec(Spec):
    """How results are judged and what they are compared with."""

    min_gap: Fraction = 0.02
    """PGR is undefined unless the lower 95 % bound of ceiling − floor is above this."""
    bootstrap_samples: Positive = 2000
    """Draws of an interval, and resamples of a test set."""
    compare: tuple[ComparisonSpec, ...] = ()
    """The differences that the study is about, declared beforehand."""
    references: tuple[ReferenceSpec, ...] = ()
    """Results of the literature, shown beside the study's own."""
