"""Variants of a study: the study at a point of its search, for candidates, and for what is run with the winners."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import TypeAdapter, ValidationError

from w2s_ray.errors import StudyError
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.explain import explained
from w2s_ray.spec.keys import split_key
from w2s_ray.spec.method import MethodSpec
from w2s_ray.spec.nearest import nearest
from w2s_ray.spec.search import Point, Range, SearchSpec
from w2s_ray.spec.study import SPREAD_KEYS, LevelSpec, Study
from w2s_ray.spec.trainable import Lora

_FIXED_KEYS = ("name", "search", "tracking", "report", "max_concurrent")
"""Keys of a study that change no chain."""
_NAMED_PARTS: dict[str, Any] = {"ladder": LevelSpec, "methods": MethodSpec}
"""Keys of a study whose values stand under names."""
_OUTSIDE_KEYS = ("model", "revision", "pad_token", "architecture")
"""Keys of a level that name what has to be resolved before anything runs."""


class Variants:
    """A study at many points; parts that several points share are made and checked once, and are one object."""

    def __init__(self, study: Study) -> None:
        """`study` is what the points change."""
        self._study = study.model_copy(update={"search": None})
        self._parts: dict[tuple[object, ...], Any] = {}

    def at(self, point: Point) -> Study:
        """Return the study with the point's values, and without a search.

        Raises:
            StudyError: when a value breaks a rule, or the values do not go together.
        """
        settings: dict[tuple[str, ...], list[tuple[tuple[str, ...], str]]] = {}
        for key, text in point.settings:
            for path in _spread(self._study, key):
                depth = 2 if path[0] in _NAMED_PARTS and len(path) > 1 else 1
                settings.setdefault(tuple(path[:depth]), []).append((tuple(path[depth:]), text))
        changed: dict[str, Any] = {}
        for root, values in settings.items():
            part = self._part(root, tuple(values))
            if len(root) == 1:
                changed[root[0]] = part
            else:
                changed[root[0]] = {**changed.get(root[0], getattr(self._study, root[0])), root[1]: part}
        variant = self._study.model_copy(update=changed)
        try:
            variant.check_together()
        except StudyError as error:
            value, remedy = f"search at {point.label}: {error.value}", f"change search.space, or {error.remedy}"
            raise StudyError(value, error.rule, remedy) from None
        return variant

    def _part(self, root: tuple[str, ...], values: tuple[tuple[tuple[str, ...], str], ...]) -> Any:
        known = self._parts.get((root, values))
        if known is None:
            known = self._parts[root, values] = self._made(root, values)
        return known

    def _made(self, root: tuple[str, ...], values: tuple[tuple[tuple[str, ...], str], ...]) -> Any:
        """One part of the study with some values changed, checked by itself."""
        raw: Any = self._study.model_dump(include={root[0]}).get(root[0])
        kind: Any = _NAMED_PARTS.get(root[0])
        if len(root) == 2:
            if root[1] not in raw:
                rule, remedy = f"{root[0]} has {', '.join(raw)}", "name one of these"
                raise StudyError(f"search.space: {'.'.join(root)} does not exist", rule, remedy)
            raw = raw[root[1]]
        elif root[0] in Study.model_fields:
            kind = Study.model_fields[root[0]].annotation
        else:
            remedy = nearest(root[0], list(Study.model_fields))
            raise StudyError(f"search.space: {root[0]} does not exist", "a search changes keys of its study", remedy)
        for path, text in values:
            raw = _with(raw, path, json.loads(text))
        try:
            return TypeAdapter(kind).validate_python(raw)
        except ValidationError as error:
            raise explained(error, "search.space", root) from None


def at(study: Study, point: Point) -> Study:
    """Return the study at one point; see `Variants`."""
    return Variants(study).at(point)


def candidates(variant: Study, search: SearchSpec) -> Study:
    """Return a variant as it is judged: on the development tasks, if there are any, and `search.seeds`."""
    names = search.development_tasks or tuple(variant.tasks)
    tasks = {name: task for name, task in variant.tasks.items() if name in names}
    return variant.model_copy(update={"tasks": tasks, "seeds": search.seeds})


def final(variant: Study, search: SearchSpec) -> Study:
    """Return a variant as a winner is run: on its own seeds and the tasks that judged nobody."""
    return variant.model_copy(update={"tasks": {name: variant.tasks[name] for name in search.reported(variant.tasks)}})


def optimisation_keys(study: Study) -> dict[str, tuple[str, str]]:
    """Return each key of one level's optimisation that is searched: the searched key that says it, and the level."""
    return {
        ".".join(path): (key, path[1])
        for key in _search(study).space
        for path in _spread(study, key)
        if path[0] == "ladder" and path[2:3] == ["optimisation"]
    }


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
    """Yield the study, and what each listed value, or end of a range, of its search alone makes of it.

    Raises:
        StudyError: when a value breaks a rule, or does not go together with the study.
    """
    yield study
    variants = Variants(study)
    for key, domain in (study.search.space if study.search is not None else {}).items():
        for value in _ends(domain):
            yield variants.at(Point.of({key: value}))


def executions(study: Study) -> dict[tuple[str, Execution], None]:
    """Return every way in which a level of the study's chains may be run, its search's included, with the level."""
    variants = list(one_changed(study))
    levels = {level for variant in variants for path in variant.paths for level in path}
    return {
        (name, level.execution): None
        for variant in variants
        for name, level in variant.ladder.items()
        if name in levels
    }


def uses_dropout(study: Study) -> bool:
    """Say whether a model of the study's chains may be trained with dropout, by its search too."""
    return any(
        variant.ladder[level].optimisation.dropout > 0
        or any(_drops_out(method, level) for method in variant.methods.values())
        for variant in one_changed(study)
        for path in variant.paths
        for level in path
    )


def count_chains(study: Study) -> int:
    """Return how many chains a study comes to at most, candidates and winners together, without compiling them."""
    served = sum(method.serves(task) for task in study.tasks for method in study.methods.values())
    each = len(study.paths) * served
    search = study.search
    if search is None:
        return each * len(study.seeds)
    if search.choose_by is None:
        return search.num_points * each * len(study.seeds)
    return each * (search.num_points * len(search.seeds) + search.num_winners * len(study.seeds))


def notices(study: Study) -> list[str]:
    """Return what a user should know of the search before it begins."""
    search = study.search
    if search is None:
        return []
    lines = [
        f"search.space.{key} is execution: it changes how stages run and never their results, so its values share them"
        for key in _execution_keys(search)
    ]
    if search.choose_by == "oracle":
        lines.append("choose_by: oracle judges candidates by ground truth; what it chooses is marked so in every table")
    return lines


def check_search(study: Study) -> None:
    """Refuse a search that could not run, or that would choose by a figure which cannot judge what is searched.

    Raises:
        StudyError: naming the key.
    """
    search = study.search
    if search is None:
        return
    unknown = [name for name in search.development_tasks if name not in study.tasks]
    if unknown:
        raise StudyError(
            f"search.development_tasks names {unknown[0]}",
            f"development tasks are tasks of the study: {', '.join(study.tasks)}",
            "declare the task, or drop it",
        )
    if search.development_tasks and len(search.development_tasks) == len(study.tasks):
        raise StudyError(
            "search.development_tasks names every task",
            "winners are run on tasks that judged nobody",
            "leave at least one task out",
        )
    judging = [task for task in search.development_tasks if any(each.serves(task) for each in study.methods.values())]
    if search.development_tasks and not judging:
        raise StudyError(
            f"search.development_tasks is {', '.join(search.development_tasks)}, and no method is for any of them",
            "candidates are judged on the development tasks that their methods are for",
            "name one of them under methods.<name>.tasks, or other development tasks",
        )
    left = search.reported(study.tasks)
    if search.development_tasks and not any(each.serves(task) for task in left for each in study.methods.values()):
        raise StudyError(
            f"no method is for {', '.join(left)}",
            "the best candidates are run on the tasks that judged nobody",
            "name one of these under methods.<name>.tasks, or other development tasks",
        )
    both = [seed for seed in search.seeds if seed in study.seeds] if search.choose_by else []
    if both:
        raise StudyError(
            f"search.seeds and seeds share {both[0]}", "winners are run on fresh seeds", "choose other search.seeds"
        )
    if search.choose_by is not None:
        _check_students(study, search)
    for key in search.space:
        _check_key(study, search, key)
    for _ in one_changed(study):
        pass  # whatever is found wrong is raised


def _check_students(study: Study, search: SearchSpec) -> None:
    """A candidate is judged by the last students of its chains."""
    for name, method in study.methods.items():
        if "chain" not in method.arms or method.objective != "labels":
            raise StudyError(
                f"methods.{name} has no chain arm",
                "candidates are judged by their chains' last students",
                f"add chain to methods.{name}.arms, or leave search.choose_by out",
            )
    if search.scheduler is not None and search.scheduler.kind == "pbt" and len(study.paths) > 1:
        raise StudyError(
            f"pbt over {len(study.paths)} chain shapes",
            "pbt compares trials at the end of each level, so all must climb alike",
            "name one chain",
        )


def _check_key(study: Study, search: SearchSpec, key: str) -> None:
    parts = _parts(study, key)
    if parts[0] in _FIXED_KEYS:
        raise StudyError(f"search.space.{key}", f"{parts[0]} changes no result", "search over another key")
    if parts[0] == "tasks":
        raise StudyError(
            f"search.space.{key}", "tasks are not searched but listed", "declare each variant as a task of its own"
        )
    if parts[0] == "ladder" and (len(parts) < 3 or parts[2] in _OUTSIDE_KEYS):
        raise StudyError(
            f"search.space.{key}",
            "models are not searched but listed",
            "declare each model as a level of the ladder and search over `chains`, or over one key of a level",
        )
    if parts[0] == "seeds":
        raise StudyError(f"search.space.{key}", "seeds are not searched", "list them under search.seeds and seeds")
    if parts == ["splits"]:
        raise StudyError(f"search.space.{key}", "sizes are searched one by one", "search over splits.train_examples")
    if parts[0] == "splits" and all(getattr(task, parts[1], None) is not None for task in study.tasks.values()):
        raise StudyError(
            f"search.space.{key} changes nothing",
            f"every task has {parts[1]} of its own",
            f"drop it, or the tasks' own {parts[1]}",
        )
    if parts[0] == "chains" and study.report.compare:
        raise StudyError(
            f"search.space.{key} beside report.compare",
            "a declared comparison is of the study's chains, and each point of this search has others",
            "list the chains under `chains:` instead, or drop report.compare",
        )
    if search.choose_by == "agreement" and not _ranked_by_agreement(study, parts):
        last = sorted({path[-1] for path in study.paths})
        raise StudyError(
            f"search.space.{key} with choose_by: agreement",
            "agreement with weak labels ranks only optimisation keys of the last student, under one supervisor: a "
            "constant supervisor is perfectly imitable, and the confidence loss is meant to disagree",
            f"search over ladder.{last[0]}.optimisation.*, or choose by development_tasks or oracle",
        )
    if search.scheduler is not None and search.scheduler.kind == "pbt" and level_of(study, key) is None:
        raise StudyError(
            f"search.space.{key} with pbt",
            "pbt varies a trial from one stage to the next, so every key must belong to one level",
            "search over ladder.<level>.optimisation.* or methods.<method>.losses.<level>.*",
        )


def level_of(study: Study, key: str) -> str | None:
    """Return the level that a key belongs to; None where it concerns the whole chain."""
    match _parts(study, key):
        case ["ladder", level, *_] if level in study.ladder:
            return level
        case ["methods", _, "losses" | "labels" | "trainable" | "generative", level, *_] if level in study.ladder:
            return level
    return None


def _ranked_by_agreement(study: Study, parts: list[str]) -> bool:
    last = {path[-1] for path in study.paths}
    lower = {level for path in study.paths for level in path[:-1]}
    return parts[0] == "ladder" and parts[1] in last - lower and parts[2:3] == ["optimisation"]


def _search(study: Study) -> SearchSpec:
    assert study.search is not None
    return study.search


def _execution_keys(search: SearchSpec) -> list[str]:
    return [key for key in search.space if "execution" in key.split(".")]


def _drops_out(method: MethodSpec, level: str) -> bool:
    reading, own = method.generative.get(level), method.trainable_of(level)
    return (reading is not None and reading.dropout > 0) or (isinstance(own, Lora) and own.dropout > 0)


def _ends(domain: Any) -> tuple[Any, ...]:
    """Return a domain's values, or a range's two ends."""
    if not isinstance(domain, Range):
        return tuple(domain)
    ends = (domain.low, domain.high)
    return tuple(int(end) for end in ends) if domain.integer else ends


def _parts(study: Study, key: str) -> list[str]:
    return split_key(key, {*study.tasks, *study.ladder, *study.methods})


def _spread(study: Study, key: str) -> Iterator[list[str]]:
    """The paths that a key stands for: `optimisation.…` at the top means every level's."""
    parts = _parts(study, key)
    if parts[0] in SPREAD_KEYS:
        yield from (["ladder", level, *parts] for level in study.ladder)
    else:
        yield parts


def _with(raw: Any, path: Sequence[str], value: Any) -> Any:
    """Return `raw` with one value changed; what is not on the path is shared."""
    if not path:
        return value
    inside = raw if isinstance(raw, Mapping) else {}
    return {**inside, path[0]: _with(inside.get(path[0]), path[1:], value)}
