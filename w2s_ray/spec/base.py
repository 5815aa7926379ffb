"""The base of every specification: frozen, strict about its keys, nothing coerced silently."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share in [0, 1]."""
Positive = Annotated[int, Field(gt=0, strict=True)]
"""A count of at least one; `true` is no count."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
"""A name that can stand in a path, a tag and a run id."""

Kind = Literal["classes", "pairs", "answers", "text"]
"""What an example of a task is and what is learned of it.

    classes   a text and its class
    pairs     two texts; class 0 where the first, class 1 where the second (`other`) is the better one
    answers   a text and the answer (`other`) that is to be written after it
    text      a text alone, for pretraining
"""


class Spec(BaseModel):
    """A value object: immutable, hashable, equal by content; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy without what was computed from the old values, such as a cached identity."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied
