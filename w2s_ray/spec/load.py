"""Read a study file, apply overrides and check it."""

import glob
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from w2s_ray.errors import StudyError
from w2s_ray.spec.base import Written, split_key, study_error, suggestion
from w2s_ray.spec.checks import check_study
from w2s_ray.spec.execution import ExecutionSpec
from w2s_ray.spec.points import one_changed
from w2s_ray.spec.stage import Optimisation
from w2s_ray.spec.study import SPREAD_KEYS, Study

STUDY_NAME = "study.yaml"
"""The name of a study's file in a store and in a job."""
_NAMED: dict[str, tuple[str, ...]] = {"tasks": ("builtin", "hub", "files"), "ladder": ("model",), "methods": ()}
"""Keys of a study whose values have names; a new value needs one of the keys listed here."""
_SPACE = "search.space."
_PLACES = {
    **dict.fromkeys(ExecutionSpec.model_fields, "of `execution`"),
    **dict.fromkeys(Optimisation.model_fields, "of `optimisation`"),
    **dict.fromkeys(Study.known_keys(), "at the top"),
}
"""Where a key belongs that is in the wrong place, if there is one such place."""


class _Loader(yaml.SafeLoader):
    """Refuses a duplicate key in a mapping, where YAML's own loader keeps the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line, known = key.start_mark.line + 1, lines.get((key.tag, key.value))
            if known is not None:
                raise StudyError(
                    f"{key.start_mark.name}: duplicate key {key.value} in lines {known} and {line}",
                    "remove or rename one of them",
                )
            lines[key.tag, key.value] = line
        return node


def load_study(path: Path | str, overrides: Sequence[str] = ()) -> Study:
    """Read and check the study at `path`; `overrides` are `path.to.key=value` texts, the value in YAML.

    Data and model paths in it are relative to the study file; those of the result are absolute.

    Raises:
        StudyError: when the file is missing, is not YAML, or breaks a rule.
    """
    path = Path(path)
    study = _absolute(parse_study(read_raw(path, overrides), source=str(path)), path.resolve().parent)
    return study.read_from(path.resolve())


def read_raw(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read the mapping in `path` and apply the overrides, without any check.

    Paths in the result are relative to the study file. Those in an override are given relative to the working folder.

    Raises:
        StudyError: when the file is missing or is not YAML, or an override does not fit it.
    """
    if not path.is_file():
        if path.is_dir():
            raise StudyError(f"study file {path} is a folder", "name the study's file in it")
        files = [file.name for file in path.parent.glob("*.y*ml")]
        hint = suggestion(path.name, files, "files") if files else "check the path"
        raise StudyError(f"study file {path} does not exist", hint)
    try:
        with path.open(encoding="utf-8") as file:
            raw = yaml.load(file, _Loader)  # a safe loader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise StudyError(f"{path} must be a mapping of keys, not {type(raw).__name__}", "start with `name:`")
    own: dict[str, Any] = _unshared(raw)
    for override in overrides:
        _apply(own, override, path.resolve().parent)
    return own


def parse_study(raw: dict[str, Any], source: str = "the study") -> Study:
    """Return the checked study of a mapping.

    Raises:
        StudyError: naming every key with an invalid value, or the first rule across keys that is broken.
    """
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        raise study_error(error, source, Study, written=Written(partial(_written_at, raw), _PLACES)) from None
    try:
        check_study(study)
        for _ in one_changed(study):
            pass  # each searched value is checked when its variant is made
    except StudyError as error:
        raise StudyError(f"{source}: {error.message}", error.hint) from None
    return study


def _written_at(raw: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[str, ...]:
    """Return the keys of a level's value as the file has them: at the top, unless the level sets that key itself."""
    match keys:
        case ("ladder", level, section, *inside) if section in SPREAD_KEYS and raw.get(section):
            entry = raw["ladder"].get(level)
            own = entry.get(section) if isinstance(entry, dict) else None
            if not own or (isinstance(own, dict) and inside and inside[0] not in own):
                return (section, *inside)
    return keys


def _unshared(raw: Any, inside: tuple[int, ...] = ()) -> Any:
    """Return a copy in which no object occurs twice, as the targets of YAML's aliases do.

    Raises:
        StudyError: when an alias is inside its own anchor.
    """
    if not isinstance(raw, dict | list):
        return raw
    if id(raw) in inside:
        raise StudyError("the file has a recursive YAML alias", "remove it")
    inside = (*inside, id(raw))
    if isinstance(raw, dict):
        return {key: _unshared(value, inside) for key, value in raw.items()}
    return [_unshared(value, inside) for value in raw]


def _apply(raw: dict[str, Any], override: str, folder: Path) -> None:
    """Set one `path.to.key=value` in place; `folder` is the study file's."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise StudyError(f"--set {override} must be path.to.key=value", "for example --set seeds=[0,1,2]")
    *parents, last = parts = _parts(raw, key)
    named, needed = raw.get(parts[0]), _NAMED.get(parts[0])
    if len(parts) > 2 and needed and isinstance(named, dict) and parts[1] not in named and parts[2] not in needed:
        raise StudyError(f"--set {key} names an unknown key: {parts[0]}.{parts[1]}", suggestion(parts[1], named))
    node: Any = raw
    for parent in parents:
        if isinstance(node, list) and parent.isdigit() and int(parent) < len(node):
            node = node[int(parent)]
            continue
        if not isinstance(node, dict):
            raise StudyError(f"--set {key}: {parent} is not in a mapping of the study file")
        if isinstance(node.get(parent), str) and parents[0] == "ladder" and node is raw["ladder"]:
            node[parent] = {"model": node[parent]}  # `large: w2s:large` is short for a level with defaults
        node = node.setdefault(parent, {})
    if not isinstance(node, dict):
        raise StudyError(f"--set {key} is not a key of a mapping", "set the whole list instead")
    try:
        node[last] = _from_study(yaml.safe_load(text), parts, folder)
    except yaml.YAMLError as error:
        raise StudyError(f"--set {override}: the value is not valid YAML", "quote it") from error


def _from_study(value: Any, keys: Sequence[str], folder: Path) -> Any:
    """Return an override's value with its paths, which are relative to the working folder, relative to the study's.

    A path that exists only in the study's folder stays, and so does a model that is no folder here: it may be a name.
    """
    match keys:
        case ["tasks", _, "files" | "test_files"]:
            paths = value if isinstance(value, list) else [value]
            moved = [_moved(path, folder) if isinstance(path, str) else path for path in paths]
            return moved if isinstance(value, list) else moved[0]
        case ["ladder", _] | ["ladder", _, "model"] if isinstance(value, str):
            return _moved(value, folder) if Path(value).is_dir() else value
    if keys[0] in ("tasks", "ladder") and isinstance(value, dict):
        return {key: _from_study(own, [*keys, key], folder) for key, own in value.items()}
    return value


def _moved(path: str, folder: Path) -> str:
    exists_here = os.path.exists(path) or any(glob.iglob(path))
    if os.path.isabs(path) or (not exists_here and os.path.exists(folder / path)):
        return path
    return os.path.relpath(path, folder)


def _parts(raw: dict[str, Any], key: str) -> list[str]:
    """Split an override's key; a searched key inside `search.space` is one part, with all its dots."""
    search = raw.get("search")
    if key.startswith(_SPACE) and isinstance(search, dict):
        inside = key.removeprefix(_SPACE)
        space = search.get("space")
        searched = space if isinstance(space, dict) else {}
        known = max((name for name in searched if f"{inside}.".startswith(f"{name}.")), key=len, default=inside)
        rest = inside.removeprefix(known).removeprefix(".")
        return [*_SPACE.split(".")[:2], known, *([rest] if rest else [])]
    named = [raw[part] for part in _NAMED if isinstance(raw.get(part), dict)]
    return split_key(key, {name for names in named for name in names})


def _absolute(study: Study, folder: Path) -> Study:
    tasks = {}
    for name, task in study.tasks.items():
        paths = {key: getattr(task, key) for key in ("files", "test_files") if getattr(task, key)}
        tasks[name] = task.model_copy(update={key: _resolved(folder, value) for key, value in paths.items()})
    ladder = {}
    for name, level in study.ladder.items():
        local = folder / level.model
        ladder[name] = level.model_copy(update={"model": str(local.resolve())}) if local.is_dir() else level
    return study.model_copy(update={"tasks": tasks, "ladder": ladder})


def _resolved(folder: Path, paths: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not isinstance(paths, str):
        return tuple(_resolved_path(folder, path) for path in paths)
    return _resolved_path(folder, paths)


def _resolved_path(folder: Path, path: str) -> str:
    whole = folder / path
    if glob.has_magic(path) and not os.path.lexists(whole):  # a pattern, which the folder's own name is no part of
        return os.path.join(glob.escape(str(folder.resolve())), path)
    return str(whole) if "\0" in path else os.path.realpath(whole)
