"""The base of every specification: a frozen value with strict keys; and the sentence for a key that breaks a rule."""

import difflib
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from w2s_ray.errors import StudyError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
"""A share in [0, 1]."""
Positive = Annotated[int, Field(gt=0, strict=True)]
"""A count of at least 1; `true` is not a count."""
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", max_length=64)]
"""A name that is safe in a path, a tag and a run id."""

Kind = Literal["classes", "pairs", "answers", "text"]
"""The form of a task's examples, and what a model learns from one.

    classes   a text and its class
    pairs     two texts; class 0 where the first is better, class 1 where the second (`other`) is
    answers   a text and the answer (`other`) to write after it
    text      a text alone, for pretraining
"""


class KeyFault(ValueError):
    """A key of a study that breaks a rule, raised inside of pydantic's validation, with a remedy."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


class Spec(BaseModel):
    """A value object: immutable, hashable, equal by content; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    later_fields: ClassVar[frozenset[str]] = frozenset()
    """Fields that came after artifacts had been published: at their default they are no part of an identity."""
    computed_as: ClassVar[int] = 1
    """Raised where the same fields give another result than before: above 1 it is part of an identity."""

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Copy without cached properties, such as an identity: they were computed from the old values."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

    @classmethod
    def known_keys(cls) -> tuple[str, ...]:
        """Return the keys that a file may give."""
        return tuple(cls.model_fields)


class Variant(Spec):
    """One of several specs that a file tells apart by `kind`, such as the losses or the transforms of labels."""

    label_format: ClassVar[str]
    """The label, with fields in braces: those that always matter; others only off their default, in `label_changes`."""
    label_changes: ClassVar[Mapping[str, str]] = {}
    """Format of a further part for each field whose value is not the default."""

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        parts = [self.label_format.format_map(self.__dict__)]
        for name, text in self.label_changes.items():
            value = getattr(self, name)
            if value != type(self).model_fields[name].default:
                parts.append(text.format(value))
        return "-".join(parts)


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return both mappings in one, and so the mappings inside them; values of `above` win."""
    inside = {
        key: merged(value, above[key])
        for key, value in below.items()
        if isinstance(value, dict) and isinstance(above.get(key), dict)
    }
    return {**below, **above, **inside}


def rounded_up(product: float) -> int:
    """Return ⌈product⌉ of a share and a number, up to the error of binary fractions: 28 % of 25 is 7, and not 8."""
    return math.ceil(round(product, 9))


def split_key(key: str, names: Collection[str]) -> list[str]:
    """Split a dotted key into its parts; a name that contains dots, such as `pythia-1.4b`, is one part.

    Args:
        key: for example `ladder.pythia-1.4b.optimisation.epochs`.
        names: the study's names of tasks, levels and methods.
    """
    parts: list[str] = []
    rest = key.split(".")
    while rest:
        lengths = range(len(rest), 0, -1)
        longest = next((length for length in lengths if parts and ".".join(rest[:length]) in names), 1)
        parts.append(".".join(rest[:longest]))
        rest = rest[longest:]
    return parts


def suggestion(word: str, known: Iterable[str], what: str = "keys") -> str:
    """Return a hint for a word that does not exist: the nearest one that does, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known {what} here: {', '.join(known)}"


def check_known(name: str, known: Iterable[str], key: str, what: str) -> None:
    """Refuse a name that is not among those known, with the nearest one."""
    if name not in known:
        raise StudyError(f"{key} names an unknown {what}: {name}", suggestion(name, known, f"{what}s"))


def study_error(
    error: ValidationError, source: str, kind: Any, within: Sequence[str] = (), written: "Written | None" = None
) -> StudyError:
    """Return pydantic's error as one with a sentence for each key that breaks a rule.

    Args:
        error: the error that pydantic raised.
        source: what was read, such as the file's name.
        kind: the type that was validated, usually a Spec.
        within: the keys of the study under which the validated part is.
        written: where keys are and belong in a whole study.
    """
    problems = [_problem(item, kind, within, written or Written()) for item in error.errors()]
    relevant = [problem for problem in problems if not any(other.explains(problem) for other in problems)]
    sentences = list(dict.fromkeys(problem.sentence for problem in relevant))
    hints = list(dict.fromkeys(problem.hint for problem in relevant if problem.hint))[:_MAX_PROBLEMS]
    more = len(sentences) - _MAX_PROBLEMS
    told = sentences[:_MAX_PROBLEMS] + ([f"and {more} more faults"] if more > 0 else [])
    return StudyError(f"{source}: {'; '.join(told)}", "; ".join(hints))


class Written(NamedTuple):
    """Where keys are in the file of a study, and where they belong."""

    at: Callable[[tuple[str, ...]], tuple[str, ...]] = lambda keys: keys
    """Returns the keys as the file has them, by their place in the study."""
    places: Mapping[str, str] = MappingProxyType({})
    """Where a key belongs, by its name: `at the top`."""


class _Problem(NamedTuple):
    keys: tuple[str, ...]
    sentence: str
    hint: str = ""
    is_type_error: bool = False

    def explains(self, other: "_Problem") -> bool:
        """Whether `other` is redundant: a type error for the same value from another member of a union."""
        is_inside = self.keys[: len(other.keys)] == other.keys
        return other.is_type_error and is_inside and (len(self.keys) > len(other.keys) or not self.is_type_error)


def _problem(item: Any, kind: Any, within: Sequence[str], written: Written) -> _Problem:
    location = item["loc"]
    names_a_key = item["type"] in ("extra_forbidden", "missing")
    keys, types = _walk(location[:-1] if names_a_key else location, kind)
    keys += (str(location[-1]),) if names_a_key else ()
    where = ".".join((*within, *written.at(keys)))
    is_type_error = item["type"].endswith(("_type", "_parsing")) or item["type"] == "literal_error"
    match item["type"]:
        case "extra_forbidden":
            known = [key for spec in types if _is_spec(spec) for key in spec.known_keys()]
            place = written.places.get(keys[-1])
            hint = suggestion(keys[-1], known) if place is None else f"`{keys[-1]}` is a key {place}"
            return _Problem(keys, f"unknown key {where}", hint)
        case "missing":
            return _Problem(keys, f"{where} is missing")
        case "union_tag_invalid":
            tag, tags = item["ctx"]["tag"], [_tag(spec) for spec in types]
            hint = suggestion(tag, tags, "kinds")
            return _Problem(keys, f"{where}.kind = {tag!r}: must be one of {', '.join(tags)}", hint)
        case "union_tag_not_found":
            return _Problem(keys, f"{where}.kind is missing: must be one of {', '.join(map(_tag, types))}")
        case "value_error":
            error = item["ctx"]["error"]
            return _Problem(keys, f"{where}: {error}" if where else str(error), getattr(error, "hint", ""))
    misplaced = _misplaced(keys, kind) if is_type_error else ""
    if misplaced:
        outer, inner = ".".join((*within, *keys[:-1])), keys[-2]
        return _Problem(
            keys,
            f"the entries of {outer} are named by {misplaced}, so {keys[-1]} belongs below the name of a {misplaced}",
            f"write {inner}: {{<{misplaced}>: {{{keys[-1]}: {_plain(item['input'])}}}}}",
        )
    allowed = _allowed(types) if is_type_error else []
    if allowed:
        message = f"must be one of {', '.join(allowed)}"
    elif item["type"] == "string_pattern_mismatch":
        message = "must consist of letters, digits, '_', '.' and '-', and start with a letter or digit"
    else:
        message = re.sub("^(Input|Value|List|Tuple|Dictionary) should", "must", item["msg"]).partition(", unable")[0]
        for pydantic_words, yaml_words in _YAML_WORDS.items():
            message = re.sub(pydantic_words, yaml_words, message)
    hint = _hint(item["input"], message, types, keys[-1]) if is_type_error and keys else ""
    return _Problem(keys, f"{where} = {yaml_text(item['input'])}: {message}", hint, is_type_error=is_type_error)


def _misplaced(keys: tuple[str, ...], kind: Any) -> str:
    """Return by what a mapping is named, if the last key is one of its values' own instead of a name; else nothing."""
    if len(keys) < 2:
        return ""
    outer = _walk(keys[:-1], kind)[1]
    inner = [member for known in outer if get_origin(known) is dict for member in _members(get_args(known)[1])]
    own = {key for member in inner if _is_spec(member) for key in member.known_keys()}
    return _NAMED_BY.get(keys[-2], "level") if keys[-1] in own else ""


_MAX_PROBLEMS = 8
"""Faults of a study file that one error names."""
_NAMED_BY = {"tasks": "task", "methods": "method"}
"""What the names in a mapping are; levels in all others."""


def _hint(value: object, message: str, types: Sequence[Any], key: str) -> str:
    """Return what to write instead of a value of the wrong type."""
    if isinstance(value, str) and (hint := _hint_for_text(value, message, types)):
        return hint
    if Path in types:
        return f"write a path, such as {key}: /path/to/folder"
    allowed = _allowed(types) or ["true"] * (bool in types)
    near = difflib.get_close_matches(value, allowed, n=1, cutoff=0.5) if isinstance(value, str) else []
    return f"did you mean {near[0]!r}?" if near else f"for example {key}: {allowed[-1]}" if allowed else ""


def _hint_for_text(value: str, message: str, types: Sequence[Any]) -> str:
    """Return what to write instead of a text that should be a number, or the kind of a spec."""
    by_name = [member for known in types if get_origin(known) is dict for member in _members(get_args(known)[1])]
    if value in [_tag(member) for member in by_name if _is_spec(member)]:
        return f"write {{<level>: {{kind: {value}}}}}"
    if value in [_tag(member) for member in types if _is_spec(member) and "kind" in member.model_fields]:
        return f"write {{kind: {value}}}"
    if value in _allowed(types) and any(isinstance(own, int) for kind in types for own in get_args(kind)):
        return f"write {value} without quotation marks"
    is_number = re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", value) is not None
    return (
        f"write {value} without quotation marks" if is_number and ("integer" in message or "number" in message) else ""
    )


def _allowed(types: Sequence[Any]) -> list[str]:
    """Return the values, and types of values, of a key that takes certain values; nothing for any other key."""
    values = [str(value) for kind in types if get_origin(kind) is Literal for value in get_args(kind)]
    if not values:
        return []
    others = {bool: "true, false", float: "a number", tuple: "a list"}
    return [*(others[known] for known in map(_origin, types) if known in others), *values]


_YAML_WORDS = {
    "Input is not a valid path for .*": "must be a path",
    "Tuple": "a list",
    "Dictionary": "a mapping",
    " after validation": "",
    "valid tuple": "list",
    r"valid dictionary( or instance of \w+| or object to extract fields from)?": "mapping",
    "a valid string": "text",
    "a valid boolean": "true or false",
}
"""Pydantic's names of types, in the words of YAML."""


def yaml_text(value: object) -> str:
    """Return a value as YAML writes it on one line, with text in quotation marks; the end of a long one is left out."""
    text = _flow(value)
    return text if len(text) <= 80 else text[:77] + "..."


def _flow(value: object) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key}: {_flow(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_flow, value)) + "]"
    if value is None or isinstance(value, bool):
        return "null" if value is None else str(value).lower()
    return repr(value)


def _plain(value: object) -> str:
    """Return a value of YAML as it is written on one line; … for a long one."""
    text = value if isinstance(value, str) else _flow(value)
    return text if len(text) <= 40 and not isinstance(value, dict) else "…"


def _walk(location: Sequence[str | int], kind: Any) -> tuple[tuple[str, ...], list[Any]]:
    """Return the YAML keys of one of pydantic's locations, and the types allowed there.

    A location also holds names of the members of unions, which no file mentions.
    """
    keys: tuple[str, ...] = ()
    types = _members(kind)
    for part in location:
        below = [inner for outer in types for inner in _below(outer, part)]
        if below:
            keys += (str(part),)
            types = below
        else:
            types = [member for member in types if str(part).removesuffix("]").endswith(_tag(member))] or types
    return keys, types


def _below(kind: Any, part: str | int) -> list[Any]:
    """Return the types allowed under a key of a type; none where it has no such key."""
    if _is_spec(kind):
        return _members(kind.model_fields[part].annotation) if part in kind.model_fields else []
    if get_origin(kind) is dict:
        return _members(get_args(kind)[1])
    if get_origin(kind) is tuple and isinstance(part, int):
        return _members(get_args(kind)[0])
    return []


def _members(kind: Any) -> list[Any]:
    """Return the types that a union consists of; any other type is its only member."""
    if get_origin(kind) is Annotated:
        return _members(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [member for part in get_args(kind) if part is not type(None) for member in _members(part)]
    return [kind]


def _tag(kind: Any) -> str:
    """Return pydantic's name for a member of a union: its `kind`, or the name of its class."""
    if not _is_spec(kind):
        return str(kind)
    return str(kind.model_fields["kind"].default) if "kind" in kind.model_fields else kind.__name__


def _origin(kind: Any) -> Any:
    return get_origin(kind) or kind


def _is_spec(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Spec)
