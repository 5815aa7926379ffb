"""Read a study file, with errors that name the line's key, the rule and the nearest right word."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from w2s_ray.errors import StudyError
from w2s_ray.spec.explain import explained
from w2s_ray.spec.keys import split_key
from w2s_ray.spec.study import Study
from w2s_ray.spec.variants import check_search

STUDY_NAME = "study.yaml"
"""What a study's file is called in a store and in a job."""
_NAMED = ("tasks", "ladder", "methods")
"""Keys of a study whose values stand under names of its own."""
_SPACE = "search.space."
"""What stands before a key that is searched."""


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in a mapping, of which YAML's own would keep the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            line, known = key.start_mark.line + 1, lines.get((key.tag, key.value))
            if known is not None:
                raise StudyError(
                    f"{key.start_mark.name}: the key {key.value} stands in line {known} and again in line {line}",
                    "a key stands once in its mapping",
                    "drop one of them, or give it another name",
                )
            lines[key.tag, key.value] = line
        return node


def load_study(path: Path | str, overrides: Sequence[str] = ()) -> Study:
    """Read and check the study at `path`; `overrides` are `path.to.key=value` texts, the value in YAML.

    Relative data and model paths are made absolute, seen from the study file.

    Raises:
        StudyError: when the file is missing, is not YAML, or breaks a rule.
    """
    path = Path(path)
    return _absolute(parse_study(read_raw(path, overrides), source=str(path)), path.resolve().parent)


def read_raw(path: Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """Read the mapping that `path` holds, with the overrides set in it, and check nothing in it.

    Raises:
        StudyError: when the file is missing or is not YAML, or an override does not fit it.
    """
    if not path.is_file():
        raise StudyError(f"study file {path} does not exist", "a study is one YAML file", "check the path")
    try:
        with path.open(encoding="utf-8") as file:
            raw = yaml.load(file, _Loader)  # a safe loader
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise StudyError(
            f"{path} is not readable YAML: {error}", "a study is one YAML file", "mend the file"
        ) from error
    if not isinstance(raw, dict):
        raise StudyError(f"{path} holds {type(raw).__name__}", "a study is a mapping of keys", "start with `name:`")
    own: dict[str, Any] = _unshared(raw)
    for override in overrides:
        _apply(own, override)
    return own


def parse_study(raw: dict[str, Any], source: str = "the study") -> Study:
    """Check a study that was read already.

    Raises:
        StudyError: naming every key that breaks a rule.
    """
    try:
        study = Study.model_validate(raw)
    except ValidationError as error:
        raise explained(error, source) from None
    except StudyError as error:
        raise StudyError(f"{source}: {error.value}", error.rule, error.remedy) from None
    check_search(study)
    return study


def _unshared(raw: Any, inside: tuple[int, ...] = ()) -> Any:
    """Return a copy in which no part stands in two places, as the parts of YAML's anchors do.

    Raises:
        StudyError: when a part stands inside itself.
    """
    if not isinstance(raw, dict | list):
        return raw
    if id(raw) in inside:
        raise StudyError("an anchor of the file stands inside itself", "a study ends somewhere", "drop that alias")
    inside = (*inside, id(raw))
    if isinstance(raw, dict):
        return {key: _unshared(value, inside) for key, value in raw.items()}
    return [_unshared(value, inside) for value in raw]


def _apply(raw: dict[str, Any], override: str) -> None:
    """Set one `path.to.key=value` in place."""
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise StudyError(f"--set {override}", "an override reads path.to.key=value", "for example --set seeds=[0,1,2]")
    *parents, last = _parts(raw, key)
    node: Any = raw
    for parent in parents:
        if isinstance(node, list) and parent.isdigit() and int(parent) < len(node):
            node = node[int(parent)]
            continue
        if not isinstance(node, dict):
            raise StudyError(
                f"--set {key}", f"{parent!r} is not inside a mapping", "check the path against the study file"
            )
        if isinstance(node.get(parent), str) and "ladder" in raw and node is raw["ladder"]:
            node[parent] = {"model": node[parent]}  # `large: w2s:large` is short for a level with defaults
        node = node.setdefault(parent, {})
    if not isinstance(node, dict):
        raise StudyError(f"--set {key}", "only a key of a mapping can be set", "set the whole list instead")
    try:
        node[last] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise StudyError(f"--set {override}", "the value is read as YAML", "quote it") from error


def _parts(raw: dict[str, Any], key: str) -> list[str]:
    """Split an override's key; a key of `search.space` is one part, with all its dots."""
    search = raw.get("search")
    if key.startswith(_SPACE) and isinstance(search, dict):
        inside = key.removeprefix(_SPACE)
        space = search.get("space")
        searched = space if isinstance(space, dict) else {}
        known = max((each for each in searched if f"{inside}.".startswith(f"{each}.")), key=len, default=inside)
        rest = inside.removeprefix(known).removeprefix(".")
        return [*_SPACE.split(".")[:2], known, *([rest] if rest else [])]
    named = [raw[part] for part in _NAMED if isinstance(raw.get(part), dict)]
    return split_key(key, {name for names in named for name in names})


def _absolute(study: Study, folder: Path) -> Study:
    tasks = {}
    for name, task in study.tasks.items():
        paths = {
            key: str((folder / getattr(task, key)).resolve()) for key in ("files", "test_files") if getattr(task, key)
        }
        tasks[name] = task.model_copy(update=paths)
    ladder = {}
    for name, level in study.ladder.items():
        local = folder / level.model
        ladder[name] = level.model_copy(update={"model": str(local.resolve())}) if local.is_dir() else level
    return study.model_copy(update={"tasks": tasks, "ladder": ladder})
