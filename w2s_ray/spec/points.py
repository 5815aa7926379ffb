"""Studies at points of a search: its candidates, its winners, and every value that it may try."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from w2s_ray.errors import StudyError
from w2s_ray.spec.base import study_error, suggestion
from w2s_ray.spec.checks import check_together
from w2s_ray.spec.execution import ExecutionSpec
from w2s_ray.spec.losses import check_registered
from w2s_ray.spec.search import Point, Range, SearchSpec
from w2s_ray.spec.stage import Lora
from w2s_ray.spec.study import SPREAD_KEYS, LevelSpec, MethodSpec, Study

_NAMED_PARTS: dict[str, Any] = {"ladder": LevelSpec, "methods": MethodSpec}
"""Keys of a study whose values have names, and the type of these values."""
_Path = tuple[str, ...]


class Variants:
    """A study at many points; a part that several points share is made and checked once."""

    def __init__(self, study: Study) -> None:
        self._study = study.model_copy(update={"search": None})
        self._parts: dict[tuple[_Path, tuple[tuple[_Path, str], ...]], Any] = {}
        """By the part's place in the study and its changed values, each with its place in the part, as JSON."""

    def at(self, point: Point) -> Study:
        """Return the study with the point's values, and without a search.

        Raises:
            StudyError: when a value breaks a rule, or the values do not go together.
        """
        settings: dict[_Path, list[tuple[_Path, str]]] = {}
        for key, text in point.settings:
            for path in _paths(self._study, key):
                depth = 2 if path[0] in _NAMED_PARTS and len(path) > 1 else 1
                settings.setdefault(path[:depth], []).append((path[depth:], text))
        changed: dict[str, Any] = {}
        for root, values in settings.items():
            part_key = (root, tuple(values))
            if part_key not in self._parts:
                self._parts[part_key] = self._part(root, values)
            if len(root) == 1:
                changed[root[0]] = self._parts[part_key]
            else:
                whole = changed.get(root[0], getattr(self._study, root[0]))
                changed[root[0]] = {**whole, root[1]: self._parts[part_key]}
        variant = self._study.model_copy(update=changed)
        try:
            check_together(variant)
        except StudyError as error:
            raise StudyError(f"search at {point.label}: {error.message}", error.hint) from None
        return variant

    def _part(self, root: _Path, values: Sequence[tuple[_Path, str]]) -> Any:
        """Return one part of the study with some values changed, checked by itself."""
        if root[0] not in Study.model_fields:
            hint = suggestion(root[0], Study.known_keys())
            raise StudyError(f"search.space names an unknown key: {root[0]}", hint)
        part: Any = self._study.model_dump(include={root[0]})[root[0]]
        kind: Any = Study.model_fields[root[0]].annotation
        if len(root) == 2:
            kind = _NAMED_PARTS[root[0]]
            if root[1] not in part:
                hint = suggestion(root[1], part, root[0])
                raise StudyError(f"search.space names an unknown key: {'.'.join(root)}", hint)
            part = part[root[1]]
        for path, text in values:
            part = _with(part, path, json.loads(text))
        try:
            return TypeAdapter(kind).validate_python(part)
        except ValidationError as error:
            raise study_error(error, "search.space", kind, within=root) from None


def at(study: Study, point: Point) -> Study:
    """Return the study at one point; see `Variants`."""
    return Variants(study).at(point)


def candidates(variant: Study, search: SearchSpec) -> Study:
    """Return a variant as a candidate: on the development tasks, if there are any, and `search.seeds`."""
    names = search.development_tasks or tuple(variant.tasks)
    tasks = {name: task for name, task in variant.tasks.items() if name in names}
    return variant.model_copy(update={"tasks": tasks, "seeds": search.seeds})


def final(variant: Study, search: SearchSpec) -> Study:
    """Return a variant as a winner: on the study's own seeds and the tasks that are not for development."""
    return variant.model_copy(update={"tasks": {name: variant.tasks[name] for name in search.reported(variant.tasks)}})


def optimisation_keys(study: Study) -> dict[str, tuple[str, str]]:
    """Return each searched key of one level's optimisation, with its key in `search.space` and whose ceiling judges it.

    That is a level, or `method/level` for a key of one method.
    """
    keys: dict[str, tuple[str, str]] = {}
    for key in study.search.space if study.search is not None else ():
        for path in _paths(study, key):
            match path:
                case ("ladder", level, "optimisation", *_):
                    keys[".".join(path)] = (key, level)
                case ("methods", method, "optimisation", level, *_):
                    keys[".".join(path)] = (key, f"{method}/{level}")
    return keys


def largest(study: Study) -> Study:
    """Return the study with every split as large as its search may make it, and all seeds that it uses."""
    search = study.search
    if search is None:
        return study
    values = {key: max(_ends(domain)) for key, domain in search.space.items() if key.startswith("splits.")}
    seeds = tuple(dict.fromkeys((*study.seeds, *(search.seeds if search.choose_by else ()))))
    grown = at(study, Point.of(values)) if values else study
    return grown.model_copy(update={"seeds": seeds, "search": search})


def one_changed(study: Study) -> Iterator[Study]:
    """Yield the study, and its variant for each listed value, or end of a range, of its search alone.

    Raises:
        StudyError: when a value breaks a rule, or does not go together with the study.
    """
    yield study
    variants = Variants(study)
    for key, domain in (study.search.space if study.search is not None else {}).items():
        for value in _ends(domain):
            yield variants.at(Point.of({key: value}))


def check_own_losses(study: Study) -> None:
    """Refuse own losses, also those that a search tries, whose source is not that of a function of this process.

    Raises:
        StudyError: for the first one.
    """
    for variant in one_changed(study):
        for method in variant.methods.values():
            for loss in method.losses.values():
                check_registered(loss)


def executions(study: Study) -> dict[tuple[str, ExecutionSpec], None]:
    """Return every level of the study's chains with every way in which it may be run, its search included."""
    variants = list(one_changed(study))
    levels = {level for variant in variants for path in variant.paths for level in path}
    return {
        (name, level.execution): None
        for variant in variants
        for name, level in variant.ladder.items()
        if name in levels
    }


def uses_dropout(study: Study) -> bool:
    """Return whether a model of the study's chains may be trained with dropout, its search included."""
    return any(
        _has_dropout(variant, method, level)
        for variant in one_changed(study)
        for method in variant.methods.values()
        for path in variant.paths
        for level in path
    )


def count_chains(study: Study) -> int:
    """Return how many chains a study has at most, candidates and winners together, without compiling them."""
    num_served = sum(method.serves(task) for task in study.tasks for method in study.methods.values())
    num_per_seed = len(study.paths) * num_served
    search = study.search
    if search is None:
        return num_per_seed * len(study.seeds)
    if search.choose_by is None:
        return search.num_points * num_per_seed * len(study.seeds)
    return num_per_seed * (search.num_points * len(search.seeds) + search.num_winners * len(study.seeds))


def notices(study: Study) -> list[str]:
    """Return what a user should know about the search before it starts."""
    search = study.search
    if search is None:
        return []
    lines = [
        f"search.space.{key} is execution, which changes how stages run and not their results: its values share them"
        for key in search.space
        if "execution" in key.split(".")
    ]
    if search.choose_by == "oracle":
        lines.append("choose_by: oracle scores candidates by ground truth; every table marks what it chooses")
    return lines


def _has_dropout(study: Study, method: MethodSpec, level: str) -> bool:
    trainable = method.trainable_of(level)
    shares = [settings.dropout for settings in study.optimisations(method, level)]
    return any(share > 0 for share in (*shares, trainable.dropout if isinstance(trainable, Lora) else 0))


def _ends(domain: Any) -> tuple[Any, ...]:
    """Return a domain's values, or a range's two ends."""
    if not isinstance(domain, Range):
        return tuple(domain)
    ends = (domain.low, domain.high)
    return tuple(int(end) for end in ends) if domain.integer else ends


def _paths(study: Study, key: str) -> Iterator[_Path]:
    """Yield the places in the study that a key sets: `optimisation.…` at the top sets it for every level."""
    parts = tuple(study.key_parts(key))
    if parts[0] in SPREAD_KEYS:
        yield from (("ladder", level, *parts) for level in study.ladder)
    else:
        yield parts


def _with(raw: Any, path: _Path, value: Any) -> Any:
    """Return a copy of `raw` with one value changed."""
    if not path:
        return value
    inside = raw if isinstance(raw, Mapping) else {}
    return {**inside, path[0]: _with(inside.get(path[0]), path[1:], value)}
