"""Former versions of a study: what a study file with the same name replaced.

    studies/<name>/               study.yaml, its lock, its search and its failures: the last version that ran
    studies/<name>/versions/<n>/  the same files of a former version

Only what can change results makes another version: not tracking, report and execution. A version is kept before it is
replaced, so `w2s gc` keeps its stages, and it can be reported (as study `<name>/versions/<n>`).
"""

import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from w2s_ray.errors import StudyError, W2SError
from w2s_ray.spec.chain import Resolution
from w2s_ray.spec.identity import identity
from w2s_ray.spec.load import STUDY_NAME, load_study
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import TEMPORARY_MARK, sync_tree, write_file, writing
from w2s_ray.store.search_result import FAILURES_NAME, SEARCH_RESULT_NAME

LOCK_NAME = "study.lock.yaml"
_SOURCE_NAME = "source.txt"
"""File with the path of the study file that ran last."""
_FILES = (STUDY_NAME, LOCK_NAME, SEARCH_RESULT_NAME, FAILURES_NAME, _SOURCE_NAME)
_VERSIONS = "versions"


def write_study(study: Study, resolution: Resolution, store: ArtifactStore) -> None:
    """Write the study's file into its folder; keep the version that it replaces, if that has other results."""
    folder = store.study_folder(study.name)
    before, digest = _digest_in(folder), _digest(study, resolution.model_dump(mode="json"))
    if before is not None and before != digest:
        _keep(folder, before)
    for number in former_versions(study.name, store):
        own = _folder_of(folder, number)
        if _digest_in(own) == digest:  # it is the last version again
            shutil.rmtree(own)
    text = yaml.safe_dump(study.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
    write_file(folder / STUDY_NAME, text.encode())
    write_file(folder / _SOURCE_NAME, study.source.encode())


def notice_of_change(study: Study, resolution: Resolution, store: ArtifactStore) -> str | None:
    """Return a notice if a run of this study would replace another version of it in the store."""
    if resolution.unresolved or not _is_other_version(study, resolution, store):
        return None
    other = _last_source(study, store)
    number = max(former_versions(study.name, store), default=0) + 1
    kept = f"its stages stay, and `w2s report --version {number}` will show it"
    if other and study.source and other != study.source:
        return (
            f"warning: study {study.name} in this store is that of {other}, which has other results; a run of "
            f"{study.source} makes it version {number}: {kept}. Give one of them another `name:` to keep both apart"
        )
    return f"study {study.name} has changed since its last run, which becomes version {number}: {kept}"


def notice_of_other_version(study: Study, resolution: Resolution, store: ArtifactStore) -> str | None:
    """Return a notice for verbs that only read, if the last run in the store was of another version of the study."""
    if not _is_other_version(study, resolution, store):
        return None
    other = _last_source(study, store)
    of_file = f" was that of {other}, and" if other and study.source and other != study.source else ""
    return (
        f"the last run of study {study.name} in this store{of_file} had other settings; below is the study with those "
        "of this command (its file and --set)"
    )


def _is_other_version(study: Study, resolution: Resolution, store: ArtifactStore) -> bool:
    before = _digest_in(store.root / "studies" / study.name)
    return before is not None and before != _digest(study, resolution.model_dump(mode="json"))


def _last_source(study: Study, store: ArtifactStore) -> str:
    path = store.root / "studies" / study.name / _SOURCE_NAME
    return path.read_text(encoding="utf-8") if path.is_file() else ""


def former_versions(name: str, store: ArtifactStore) -> list[int]:
    """Return the numbers of the former versions of a study, the oldest first."""
    folder = store.root / "studies" / name / _VERSIONS
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal()) if folder.is_dir() else []


def version_of(study: Study, number: int, store: ArtifactStore) -> Study:
    """Return a former version of a study.

    Raises:
        StudyError: when the store has no version of this number.
    """
    known = former_versions(study.name, store)
    if number not in known:
        numbers = ", ".join(map(str, known)) or "none"
        raise StudyError(
            f"study {study.name} has no former version {number}; it has {numbers}",
            "omit --version for the last one" if not known else "",
        )
    return load_stored(_folder_of(store.root / "studies" / study.name, number), store)


def stored_studies(store: ArtifactStore) -> list[Path]:
    """Return the folders of all studies in the store and of their former versions."""
    studies = store.root / "studies"
    folders = [*studies.glob("*"), *studies.glob(f"*/{_VERSIONS}/*")]
    return sorted(folder for folder in folders if (folder / STUDY_NAME).is_file() and TEMPORARY_MARK not in folder.name)


def is_former(folder: Path) -> bool:
    """Return whether a folder of `stored_studies` is a former version."""
    return folder.parent.name == _VERSIONS


def load_stored(folder: Path, store: ArtifactStore) -> Study:
    """Return the study of a folder of `stored_studies`; a former version is named by its folder.

    Raises:
        StudyError: when this version of w2s_ray cannot read it.
    """
    study = load_study(folder / STUDY_NAME)
    name = str(folder.relative_to(store.root / "studies"))
    return study if name == study.name else study.model_copy(update={"name": name})


def _digest(study: Study, resolution: dict[str, Any]) -> str:
    """Return a digest of what can change the study's results, with fingerprints instead of paths."""
    keys = study.model_dump(mode="json", exclude={"name", "tracking", "report", "max_concurrent"})
    for name, level in keys["ladder"].items():
        level |= {"model": resolution["models"].get(name, {}).get("revision"), "revision": None, "execution": None}
    for name, task in keys["tasks"].items():
        task |= {"files": None, "test_files": None, "revision": None}
        task["fingerprint"] = resolution["tasks"].get(name, {}).get("fingerprint")
    return identity("version", keys)


def _digest_in(folder: Path) -> str | None:
    """Return the digest of the study in a folder; None without one, the folder's name for one that cannot be read."""
    if not (folder / STUDY_NAME).is_file():
        return None
    try:
        lock = yaml.safe_load((folder / LOCK_NAME).read_text(encoding="utf-8"))
        return _digest(load_study(folder / STUDY_NAME), lock["resolution"])
    except (W2SError, OSError, UnicodeDecodeError, yaml.YAMLError, TypeError, KeyError, AttributeError):
        return str(folder)


def _keep(folder: Path, digest: str) -> None:
    """Copy the study's files to a new version, unless a run that was killed has just done so."""
    numbers = [int(path.name) for path in (folder / _VERSIONS).glob("*") if path.name.isdecimal()]
    if any(_digest_in(_folder_of(folder, number)) == digest for number in numbers):
        return
    target = _folder_of(folder, max(numbers, default=0) + 1)
    aside = target.with_name(f".{target.name}{TEMPORARY_MARK}{os.getpid()}")
    with writing(target):
        aside.mkdir(parents=True, exist_ok=True)  # a process of the same number may have been killed here
        for name in _FILES:
            if (folder / name).is_file():
                shutil.copy2(folder / name, aside / name)
        sync_tree(aside)
        aside.rename(target)


def _folder_of(study_folder: Path, number: int) -> Path:
    return study_folder / _VERSIONS / str(number)
