"""What pydantic finds wrong with a study, in our words: value, rule, remedy, and the nearest right key."""

from collections.abc import Iterable, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from w2s_ray.errors import StudyError
from w2s_ray.spec.nearest import nearest
from w2s_ray.spec.study import SPREAD_KEYS, Study


def explained(error: ValidationError, source: str, root: Sequence[str] = ()) -> StudyError:
    """Return the error that names every key which breaks a rule.

    Args:
        error: what pydantic found.
        source: what was read.
        root: the keys, from the study's top, under which it stands.
    """
    problems = [_explain(item, root) for item in error.errors()]
    values = "; ".join(problem[0] for problem in problems)
    rules = "; ".join(dict.fromkeys(problem[1] for problem in problems))
    remedies = "; ".join(dict.fromkeys(problem[2] for problem in problems))
    return StudyError(f"{source}: {values}", rules, remedies)


def _explain(item: Any, root: Sequence[str]) -> tuple[str, str, str]:
    """Return value, rule and remedy of one finding."""
    location = [*root, *item["loc"]]
    where = ".".join(str(part) for part in location) or "study"
    if item["type"] == "extra_forbidden":
        known = [*_known_keys(location[:-1]), *(SPREAD_KEYS if len(location) == 1 else ())]
        return f"unknown key {where}", "only known keys are allowed", nearest(str(location[-1]), known)
    if item["type"] == "missing":
        return f"{where} is missing", "this key is required", f"add `{location[-1]}:`"
    message = str(item["msg"]).removeprefix("Value error, ")
    if not location:  # two keys that do not go together: the message names them, and the whole study tells nothing
        return message, "the parts of a study must go together", "change one of the keys that are named"
    shown = repr(item["input"])
    shown = shown if len(shown) <= 80 else shown[:77] + "..."
    return f"{where} = {shown}", message, f"change {where}"


def _known_keys(location: Iterable[object]) -> list[str]:
    """Return the field names of the model that stands at `location` in a study."""
    models: list[type[BaseModel]] = [Study]
    for part in location:
        models = [found for model in models for found in _children(model, str(part))] or models
    return sorted({name for model in models for name in model.model_fields})


def _children(model: type[BaseModel], key: str) -> list[type[BaseModel]]:
    field = model.model_fields.get(key)
    return _models_in(field.annotation) if field is not None else []


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """Every model that an annotation mentions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for argument in getattr(annotation, "__args__", ()) for found in _models_in(argument)]
