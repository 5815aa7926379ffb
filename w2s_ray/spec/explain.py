"""What pydantic finds wrong with a study, in our words: value, rule, remedy, and the nearest right key."""

from collections.abc import Mapping, Sequence
from types import UnionType
from typing import Annotated, Any, Union, get_args, get_origin

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
    values = "; ".join(dict.fromkeys(problem[0] for problem in problems))
    rules = "; ".join(dict.fromkeys(problem[1] for problem in problems))
    remedies = "; ".join(dict.fromkeys(problem[2] for problem in problems))
    return StudyError(f"{source}: {values}", rules, remedies)


def _explain(item: Any, root: Sequence[str]) -> tuple[str, str, str]:
    """Return value, rule and remedy of one finding."""
    location, kind = _walk([*root, *item["loc"]])
    where = ".".join(location) or "study"
    match item["type"]:
        case "extra_forbidden":
            known = [*_known_keys(_walk([*root, *item["loc"][:-1]])[1]), *(SPREAD_KEYS if len(location) == 1 else ())]
            return f"unknown key {where}", "only known keys are allowed", nearest(location[-1], known)
        case "missing":
            return f"{where} is missing", "this key is required", f"add `{location[-1]}:`"
        case "union_tag_invalid":
            tag, tags = item["ctx"]["tag"], [_tag(member) for member in _members(kind)]
            return f"{where}.kind = {tag!r}", f"the kinds are {', '.join(tags)}", nearest(tag, tags, "kinds")
        case "union_tag_not_found":
            tags = [_tag(member) for member in _members(kind)]
            return f"{where}.kind is missing", "this key is required", f"add `kind:`, one of {', '.join(tags)}"
    if item["type"] in _PLAIN:
        wanted, remedy = _PLAIN[item["type"]]
        return f"{where} = {_shown(item['input'])}", f"here stands {wanted}", remedy.format(where=where)
    if item["type"] in _BOUNDS:
        bound = f"{_BOUNDS[item['type']]} {next(iter(item['ctx'].values())):g}"
        return f"{where} = {_shown(item['input'])}", f"it is {bound}", f"set {where} to {bound}"
    if item["type"] == "literal_error":
        values = [str(value) for member in _members(kind) for value in get_args(member)]
        values = values or [str(item["ctx"]["expected"])]
        return (
            f"{where} = {_shown(item['input'])}",
            f"the values are {', '.join(values)}",
            nearest(str(item["input"]), values, "values"),
        )
    message = str(item["msg"]).removeprefix("Value error, ")
    if not location:  # two keys that do not go together: the message names them, and the whole study tells nothing
        return message, "the parts of a study must go together", "change one of the keys that are named"
    return f"{where} = {_shown(item['input'])}", message, f"change {where}"


_PLAIN = {
    "string_type": ("text", "write {where} in quotation marks"),
    "tuple_type": ("a list", "write {where} as [a, b], also where there is one"),
    "dict_type": ("a mapping", "write {where} as {{key: value}}"),
    "model_type": ("a mapping of its keys", "write {where} as {{key: value}}"),
    "model_attributes_type": ("a mapping of its keys", "write {where} as {{key: value}}"),
    "bool_type": ("true or false", "write {where} as true or false"),
    "bool_parsing": ("true or false", "write {where} as true or false"),
    "too_short": ("one entry or more", "name one under {where}, or leave the key out"),
}
"""What pydantic calls a value of another type, in the words of YAML."""


_BOUNDS = {
    "less_than_equal": "at most",
    "less_than": "less than",
    "greater_than_equal": "at least",
    "greater_than": "more than",
}


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _walk(location: Sequence[object]) -> tuple[list[str], Any]:
    """Return the keys of a place in a study, without pydantic's names for members of unions, and the type there."""
    keys: list[str] = []
    kind: Any = Study
    for part in location:
        members = _members(kind)
        if len(members) > 1:
            kind = next((member for member in members if _is_model(member) and _is_named(member, str(part))), Any)
        else:
            keys.append(str(part))
            kind = _under(members[0], str(part))
    return keys, kind


def _under(kind: Any, key: str) -> Any:
    """Return the type of what stands under a key; Any where that cannot be told."""
    if _is_model(kind):
        return kind.model_fields[key].annotation if key in kind.model_fields else Any
    if get_origin(kind) in (dict, Mapping):
        return get_args(kind)[1]
    return get_args(kind)[0] if get_origin(kind) is tuple else Any


def _members(kind: Any) -> list[Any]:
    """Return the types that a union is made of, None left out; a type that is no union is its only one."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [member for each in get_args(kind) if each is not type(None) for member in _members(each)]
    return [kind]


def _tag(model: type[BaseModel]) -> str:
    """Return what tells a model from the others of its union: its `kind`, or its name."""
    return str(model.model_fields["kind"].default) if "kind" in model.model_fields else model.__name__


def _is_named(model: type[BaseModel], part: str) -> bool:
    """Say whether `part` is pydantic's name for a model in a union; with a check of its own it is `after[…, Model]`."""
    return part.removesuffix("]").endswith(_tag(model))


def _known_keys(kind: Any) -> list[str]:
    """Return the field names of the models of a type."""
    return sorted({name for member in _members(kind) if _is_model(member) for name in member.model_fields})


def _is_model(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)
