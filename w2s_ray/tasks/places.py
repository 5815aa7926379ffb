"""Which files a task reads: one file, a folder, a pattern, a saved data set, or a list of these.

In a folder or pattern, files whose names, or folders', have the word `test` or `eval` are the test set, if other files
remain for the pool and the study names no test files. Hidden files and the sidecars that programs write beside data are
left out. Whatever a user would not expect is a notice.
"""

import glob
import json
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from w2s_ray.errors import DataError
from w2s_ray.tasks.rows import FORMATS, without_compression

Paths = str | Sequence[str]
"""One path or pattern, or a list of them."""

_TEST_WORDS = {"test", "testing", "eval", "evaluation"}
_TRAIN_WORDS = {"train", "training"}
_VALIDATION_WORDS = {"valid", "validation", "val", "dev"}
_SIDECARS = {
    "dataset_info.json",
    "dataset_infos.json",
    "dataset_dict.json",
    "state.json",
    "dataset-metadata.json",
    "datapackage.json",
    "croissant.json",
    "schema.json",
    "config.json",
}
"""Files that describe data or a model beside it."""
_UNREAD = frozenset(
    ".txt .tab .psv .xlsx .xls .ods .xml .html .arrow .feather .orc .avro .pkl .pickle .h5 .hdf5 .db .sqlite .npy .npz "
    ".bz2 .xz .zip .tar .tgz .7z".split()
)
"""Endings of files that may hold rows and are not read from a folder."""
_PATTERN = re.compile(r"[*?\[]")
_SHOWN = 5


@dataclass
class DataFiles:
    """The files of a task.

    Attributes:
        pool: files of the pool, in order.
        test: files of the test set.
        notices: what a user would not expect of this choice.
    """

    pool: list[Path]
    test: list[Path] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)


def find_files(files: Paths, test_files: Paths | None, pool: str | None = None, test: str | None = None) -> DataFiles:
    """Return the files that `files` and `test_files` name.

    Args:
        files: what the study names for the pool.
        test_files: what it names for the test set, if anything.
        pool: the split of a known task; in its folder, the files named after it are read, or else all of them.
        test: its test split.

    Raises:
        DataError: when a folder contains no data files, or a pattern matches none.
    """
    found = DataFiles([])
    if test_files is not None:
        found.test = [path for entry in _entries(test_files) for path, _ in _expanded(entry, found.notices)]
    entries = _entries(files)
    named = {path.absolute(): (path, base) for entry in entries for path, base in _expanded(entry, found.notices)}
    if pool is not None and len(entries) == 1 and Path(entries[0]).is_dir():
        _choose_splits(found, [path for path, _ in named.values()], pool, test, has_test=test_files is not None)
    else:
        _choose_by_name(found, list(named.values()), has_test=test_files is not None)
    return found


def _entries(files: Paths) -> list[str]:
    return [files] if isinstance(files, str) else list(files)


def _choose_splits(found: DataFiles, paths: list[Path], pool: str, test: str | None, *, has_test: bool) -> None:
    """Choose the files of a known task's folder by the names of its splits."""
    of_pool = [path for path in paths if _is_of(path, pool)]
    found.pool = of_pool or paths
    if of_pool and not has_test:
        found.test = [path for path in paths if _is_of(path, test)]


def _choose_by_name(found: DataFiles, paths: list[tuple[Path, Path | None]], *, has_test: bool) -> None:
    """Choose the test set of own data by the names of its files, below the folder that the study names."""
    shown = {path: path.name if base is None else str(path.relative_to(base)) for path, base in paths}
    by_split: dict[str | None, list[Path]] = defaultdict(list)
    for path, base in paths:
        by_split[None if base is None else split_of(path.relative_to(base))].append(path)
    found.pool = [path for path, _ in paths]
    validation = _listed([shown[path] for path in by_split["validation"]])
    if by_split["test"] and len(by_split["test"]) < len(paths) and not has_test:
        found.test = by_split["test"]
        found.pool = [path for path in found.pool if path not in found.test]
        names = _listed([shown[path] for path in found.test])
        found.notices.append(f"the test set, by name: {names}; `test_files:` names another")
        if validation:
            found.notices.append(
                f"part of the pool, from which all training and validation examples are drawn: {validation}"
            )
        return
    explicit = [path for path, base in paths if base is None and split_of(Path(path.name)) == "test"]
    pooled = [path for path in (*by_split["test"], *explicit) if path not in found.test]
    if pooled and len(pooled) < len(paths):
        names = _listed([shown[path] for path in pooled])
        found.notices.append(f"part of the pool, in spite of the name: {names}; `test_files:` makes it the test set")
    elif validation and by_split["train"] and not has_test:
        found.notices.append(f"part of the pool: {validation}; `test_files:` makes it the test set")


def split_of(path: Path) -> str | None:
    """Return the split that the words of a file's name, or else of its folders, name: `train`, `validation`, `test`."""
    for part in (without_compression(path).stem, *reversed(path.parent.parts)):
        words = set(re.split(r"[^a-z]+", part.lower()))
        kinds = (("train", _TRAIN_WORDS), ("validation", _VALIDATION_WORDS), ("test", _TEST_WORDS))
        splits = [split for split, known in kinds if words & known]
        if splits:
            return splits[0] if len(splits) == 1 else None
    return None


def _expanded(entry: str, notices: list[str]) -> Iterator[tuple[Path, Path | None]]:
    """Yield the files of an entry, each with the folder below which its name counts; None for a file named itself."""
    path = Path(entry)
    if path.is_dir():
        yield from ((file, path) for file in _files_of_folder(path, notices))
    elif not path.exists() and _PATTERN.search(entry):
        yield from ((file, base_of(entry)) for file in _files_of_pattern(entry, notices))
    else:
        yield path, None


def base_of(pattern: str) -> Path:
    """Return the longest folder of a pattern without wildcards."""
    parts = Path(pattern).parts
    plain = next((number for number, part in enumerate(parts) if _PATTERN.search(part)), len(parts))
    return Path(*parts[:plain]) if plain else Path()


def _files_of_pattern(pattern: str, notices: list[str]) -> list[Path]:
    matches = sorted(Path(match) for match in glob.glob(pattern, recursive=True, include_hidden=True))
    matches = list({path.resolve(): path for path in reversed(matches)}.values())[::-1]  # links may lead back
    folders = [path for path in matches if path.is_dir()]
    files = [path for path in matches if path.is_file()]
    kept = [path for path in files if _is_read(path, below=base_of(pattern))]
    if not kept and folders:
        kept = [file for folder in folders for file in _files_of_folder(folder, notices)]
    if not kept:
        raise DataError(
            f"no data file matches {pattern!r}",
            f"not read: {_listed([path.name for path in files])}" if files else "check the pattern and the folder",
        )
    _note_unread(files, kept, notices)
    return kept


def _files_of_folder(folder: Path, notices: list[str]) -> list[Path]:
    """Return the data files of a folder, or of its subfolders if it has none itself."""
    saved = _saved_files(folder)
    if saved is not None:
        return saved
    entries = sorted(folder.iterdir())
    files = [path for path in entries if path.is_file()]
    kept = [path for path in files if _is_read(path, below=folder)]
    kept = [path for path in kept if path.suffix != ".arrow"] or kept
    folders = [path for path in entries if path.is_dir() and not _is_hidden(Path(path.name))]
    if kept:
        _note_unread(files, kept, notices)
        below = [path for path in folders if any(map(_has_data_ending, path.iterdir()))]
        if below:
            names = _listed([f"{path.name}/" for path in below])
            notices.append(f'not read: {names} (below the folder; `files: "{folder.name}/**/*"` reads all)')
        return kept
    nested = [file for path in folders for file in _nested_files(path, notices)]
    if not nested:
        unread = [path.name for path in files if path.suffix.lower() in _UNREAD]
        has = f"; it has {_listed(unread)}" if unread else ""
        endings = ", ".join(f".{kind}" for kind in FORMATS)
        raise DataError(
            f"{folder} contains no data files ({endings}; text may be compressed with .gz or .zst){has}",
            "save the rows in one of these formats" if unread else "",
        )
    return nested


def _nested_files(folder: Path, notices: list[str]) -> list[Path]:
    saved = _saved_files(folder)
    if saved is not None:
        return saved
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    kept = [path for path in files if _is_read(path, below=folder)]
    _note_unread(files, kept, notices)
    return kept


def _saved_files(folder: Path) -> list[Path] | None:
    """Return the files of a folder that `save_to_disk` of the `datasets` library has written; None for other folders.

    Raises:
        DataError: when a file of the data set is missing.
    """
    if (folder / "dataset_dict.json").is_file():
        splits = [folder / str(split) for split in _listed_in(folder / "dataset_dict.json", "splits")]
        return [file for split in splits for file in _saved_files(split) or _missing(split)]
    if not (folder / "state.json").is_file():
        return None
    entries = _listed_in(folder / "state.json", "_data_files")
    files = [folder / str(entry["filename"]) for entry in entries if isinstance(entry, dict) and "filename" in entry]
    for file in files:
        if not file.is_file():
            _missing(file)
    return files or None


def _listed_in(path: Path, key: str) -> list[Any]:
    try:
        value = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} of the saved data set is not JSON: {error}", "save the data set again") from None
    listed = value.get(key) if isinstance(value, dict) else None
    return listed if isinstance(listed, list) else []


def _missing(path: Path) -> list[Path]:
    raise DataError(f"{path} of the saved data set does not exist", "copy the whole folder, or save it again")


def _note_unread(files: Sequence[Path], kept: Sequence[Path], notices: list[str]) -> None:
    """Notice files that may hold rows and are not read."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for path in (path for path in files if path not in kept):
        if not _has_data_ending(path):
            if path.suffix.lower() in _UNREAD and not _is_hidden(Path(path.name)):
                reasons["not the ending of a data file"].append(path.name)
        elif path.name in _SIDECARS:
            reasons["a description of data"].append(path.name)
        elif path.suffix == ".arrow":
            reasons["an Arrow file beside other data"].append(path.name)
        else:
            reasons["hidden, as the files that programs put beside data"].append(path.name)
    notices += (f"not read: {_listed(names)} ({reason})" for reason, names in reasons.items())


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _is_read(path: Path, below: Path) -> bool:
    relative = path.relative_to(below) if path.is_relative_to(below) else Path(path.name)
    return _has_data_ending(path) and not _is_hidden(relative) and path.name not in _SIDECARS


def _has_data_ending(path: Path) -> bool:
    return path.is_file() and without_compression(path).suffix.lower().removeprefix(".") in FORMATS


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith((".", "~$")) or part == "__MACOSX" for part in relative.parts)


def _is_of(path: Path, split: str | None) -> bool:
    return split is not None and path.name.partition(".")[0].partition("-")[0] in split.split("+")
