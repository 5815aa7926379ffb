"""Which files a task reads: one file, a folder, a pattern, a saved data set, or a list of these.

In a folder or pattern, files whose names, or folders', say that they are a test set are the test set, if other files
remain for the pool and the study names no test files. Hidden files and the sidecars that programs write beside data are
left out. Whatever a user would not expect is a notice: also files that are named like a split and belong to the pool,
and files and folders that cannot be read.
"""

import glob
import json
import os
import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from w2s_ray.errors import DataError
from w2s_ray.tasks.rows import FORMATS, without_compression

Paths = str | Sequence[str]
"""One path or pattern, or a list of them."""

_SPLITS = {
    split: re.compile(
        rf"(?:{words})(?:s|sets?|data|datasets?|splits?|files?|parts?|folds?|rows|examples|samples|cases|df|[xy])?"
    )
    for split, words in {
        "train": "train|training|trn",
        "validation": "valid|validation|validate|val|dev|devel|development",
        "test": "test|testing|tst|eval|evaluation|holdout|heldout",
    }.items()
}
"""Words that name a split, by themselves or with what people write behind them without a space."""
_LIKE_TEST = re.compile(r"(?:test|eval|valid|holdout|heldout).*|.*(?:test|eval|holdout|heldout)")
_UNLIKE_TEST = frozenset(
    "latest greatest contest protest attest detest fastest shortest lightest brightest retrieval medieval".split()
)
"""Words that only end like the name of a test set."""
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
_NO_ROWS = frozenset(
    ".md .rst .py .ipynb .sh .yaml .yml .toml .cfg .ini .log .lock .crc .png .jpg .jpeg .svg .bib .tex .sha256".split()
)
"""Endings of files beside data that are passed over without a notice."""
_NAMES_WITHOUT_ROWS = frozenset("readme license licence copying citation notice changelog makefile _success".split())
_SYSTEM_FOLDERS = ("__MACOSX", "lost+found", "$RECYCLE.BIN", "System Volume Information")
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
        DataError: when a folder cannot be read or contains no data files, a pattern matches none, or a name is not
            UTF-8.
    """
    found = DataFiles([])
    if test_files is not None:
        found.test = [path for entry in _entries(test_files) for path, _ in _expanded(entry, found.notices)]
        training = [path.name for path in found.test if split_of(Path(path.name)) == "train"]
        if training:
            found.notices.append(f"part of the test set, in spite of the name: {_listed(training)}")
    entries = _entries(files)
    named = {path.absolute(): (path, base) for entry in entries for path, base in _expanded(entry, found.notices)}
    paths = [path for path, _ in named.values()]
    of_pool = [path for path in paths if _is_of(path, pool)] if len(entries) == 1 and os.path.isdir(entries[0]) else []
    if of_pool:
        found.pool = of_pool
        found.test += [path for path in paths if test_files is None and _is_of(path, test)]
        _note(
            found.notices,
            {"of no split that the task reads": [path.name for path in _other(paths, [*of_pool, *found.test])]},
        )
    else:
        common = Path(os.path.commonpath([os.path.abspath(_root_of(entry)) for entry in entries]))
        _choose_by_name(found, list(named.values()), common, keeps_all=test_files is not None or pool is not None)
    for path in (*found.pool, *found.test):
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise DataError(f"the name of {str(path)!a} is not UTF-8", "rename it") from None
    found.notices = list(dict.fromkeys(found.notices))
    return found


def _entries(files: Paths) -> list[str]:
    return [files] if isinstance(files, str) else list(files)


def _choose_by_name(found: DataFiles, paths: list[tuple[Path, Path | None]], common: Path, *, keeps_all: bool) -> None:
    """Choose the test set of own data by the names of its files, below the folder that the study names.

    Args:
        found: receives the choice and its notices.
        paths: the files, each with its folder, or None if the study names the file itself.
        common: the folder that everything is in that the study names.
        keeps_all: whether all of them belong to the pool.
    """
    names = {path: Path(os.path.abspath(path)).relative_to(common) for path, _ in paths}
    by_name = [path for path, base in paths if base and split_of(path.relative_to(base)) == "test"]
    if keeps_all or len(by_name) == len(paths):
        by_name = []
    found.test += by_name
    found.pool = [path for path, _ in paths if path not in by_name]
    rest = {path: split_of(names[path]) for path in found.pool if path not in found.test}
    pooled = [path for path, split in rest.items() if split == "test"]
    doubtful = [path for path, split in rest.items() if split is None and _is_like_test(names[path])]
    validation = [path for path, split in rest.items() if split == "validation"]
    remedy = "" if found.test else "; `test_files:` makes it the test set"
    for what, chosen, advice in (
        ("the test set, by name", by_name, "; `test_files:` names another"),
        ("part of the pool, in spite of the name", pooled, remedy),
        ("part of the pool, although the name is like that of a test set", doubtful * (len(paths) > 1), remedy),
        ("part of the pool, from which all training and validation examples are drawn", validation, remedy),
    ):
        if chosen:
            found.notices.append(f"{what}: {_listed([str(names[path]) for path in chosen])}{advice}")


def split_of(path: Path) -> str | None:
    """Return the split that the words of a file's name, or else of its folders, name: `train`, `validation`, `test`."""
    for part in (without_compression(path).stem, *reversed(path.parent.parts)):
        words = _words(part)
        splits = [split for split, known in _SPLITS.items() if any(map(known.fullmatch, words))]
        if splits:
            return splits[0] if len(splits) == 1 else None
    return None


def _words(name: str) -> list[str]:
    """Return the words of a name in small letters: `TrainData_2` has `train`, `data` and `traindata`."""
    spaced = f"{name} " + re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", name)
    return re.findall(r"[^\W\d_]+", re.sub(r"\bh(?:e|o)ld[\W_]+out", " holdout", spaced.lower().replace("_", " ")))


def _is_like_test(path: Path) -> bool:
    words = [word for part in (without_compression(path).stem, *path.parent.parts) for word in _words(part)]
    return any(_LIKE_TEST.fullmatch(word) for word in words if word not in _UNLIKE_TEST)


def _expanded(entry: str, notices: list[str]) -> Iterator[tuple[Path, Path | None]]:
    """Yield the files of an entry, each with the folder below which its name counts; None for a file named itself."""
    path = Path(entry)
    if os.path.isdir(path):
        yield from ((file, path) for file in _files_of_folder(path, notices))
    elif not os.path.lexists(path) and _PATTERN.search(entry):
        yield from ((file, base_of(entry)) for file in _files_of_pattern(entry, notices))
    else:
        yield path, None


def _root_of(entry: str) -> Path:
    """Return the folder that a path or pattern names or begins with."""
    if os.path.isdir(entry):
        return Path(entry)
    return base_of(entry) if not os.path.lexists(entry) and _PATTERN.search(entry) else Path(entry).parent


def base_of(pattern: str) -> Path:
    """Return the longest folder of a pattern without wildcards."""
    parts = Path(pattern).parts
    plain = next((number for number, part in enumerate(parts) if _PATTERN.search(part)), len(parts))
    return Path(*parts[:plain]) if plain else Path()


def _files_of_pattern(pattern: str, notices: list[str]) -> list[Path]:
    matches = sorted(Path(match) for match in glob.glob(pattern, recursive=True, include_hidden=True))
    matches = list({os.path.realpath(path): path for path in reversed(matches)}.values())[::-1]  # links may lead back
    folders = [path for path in matches if os.path.isdir(path)]
    others = [path for path in matches if path not in folders]
    base = base_of(pattern)
    for _ in _walked(base, notices, None if "**" in pattern else len(Path(pattern).parts) - len(base.parts) - 1):
        pass  # `glob` passes over folders that it cannot list
    kept = [path for path in others if _is_read(path, below=base)]
    if not kept and folders:
        kept = [file for folder in folders for file in _files_of_folder(folder, notices)]
    elif kept:
        _note_below(folders, kept, notices, f"{base.name}/**/*")
    _note_unread(others, kept, notices)
    if not kept:
        raise DataError(
            f"no data file matches {pattern!r}",
            "; ".join(notices) or "check the pattern and the folder",
        )
    return kept


def _files_of_folder(folder: Path, notices: list[str]) -> list[Path]:
    """Return the data files of a folder, or of its subfolders if it has none itself.

    Raises:
        DataError: when it cannot be listed, or has no data files.
    """
    saved = _saved_files(folder)
    if saved is not None:
        return saved
    try:
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(f"cannot list {folder}: {error.strerror}", "check its permissions") from None
    folders = [path for path in entries if os.path.isdir(path) and not _is_hidden(Path(path.name))]
    others = [path for path in entries if not os.path.isdir(path)]
    kept = [path for path in others if _is_read(path, below=folder)]
    kept = [path for path in kept if path.suffix != ".arrow"] or kept
    if kept:
        _note_unread(others, kept, notices)
        _note_below(folders, kept, notices, f"{folder.name}/**/*")
        return kept
    nested = _nested_files(folder, notices)
    if not nested:
        unread = [path.name for path in others if _why_unread(path)]
        has = f"; it has {_listed(unread)}" if unread else ""
        endings = ", ".join(f".{kind}" for kind in FORMATS)
        raise DataError(
            f"{folder} contains no data files ({endings}; text may be compressed with .gz, .bz2 or .zst){has}",
            "; ".join([*notices, *(["save the rows in one of these formats, or rename the files"] if unread else [])]),
        )
    return nested


def _note_below(folders: Sequence[Path], kept: Collection[Path], notices: list[str], pattern: str) -> None:
    """Notice folders with data files that are not read."""
    known = set(kept)
    below = [
        f"{path.name}/"
        for path in folders
        if not _is_hidden(Path(path.name))
        and any(_has_data_ending(file) and file not in known for file in _walked(path, notices))
    ]
    if below:
        notices.append(f'not read: {_listed(below)} (below the files; `files: "{pattern}"` reads all)')


def _nested_files(folder: Path, notices: list[str]) -> list[Path]:
    files = sorted(_walked(folder, notices))
    kept = [path for path in files if _is_read(path, below=folder)]
    of_saved = {path.parent for path in files if path.name == "state.json"}
    saved = {path: _saved_files(path) for path in of_saved}
    kept = [path for path in kept if not saved.get(path.parent) or path in (saved[path.parent] or ())]
    _note_unread([path for path in files if not saved.get(path.parent)], kept, notices)
    return kept


def _walked(folder: Path, notices: list[str], depth: int | None = None) -> Iterator[Path]:
    """Yield what is below a folder and is no folder; links are followed, but to no folder twice.

    Folders that cannot be listed are noticed. `depth` is how many levels of subfolders are visited, all by default.
    """
    seen = {os.path.realpath(folder)}

    def note(error: OSError) -> None:
        _note(notices, {str(error.strerror): [f"{Path(error.filename).name}/"]})

    for inner, folders, names in os.walk(folder, followlinks=True, onerror=note):
        is_deepest = depth is not None and len(Path(inner).relative_to(folder).parts) >= depth
        places = {os.path.realpath(os.path.join(inner, name)): name for name in sorted(folders, reverse=True)}
        folders[:] = sorted(
            name
            for place, name in places.items()
            if not is_deepest and place not in seen and not _is_hidden(Path(name))
        )
        seen |= places.keys()
        yield from (Path(inner, name) for name in sorted(names))


def _saved_files(folder: Path) -> list[Path] | None:
    """Return the files of a folder that `save_to_disk` of the `datasets` library has written; None for other folders.

    Raises:
        DataError: when a file of the data set is missing.
    """
    if os.path.isfile(folder / "dataset_dict.json"):
        splits = [folder / str(split) for split in _listed_in(folder / "dataset_dict.json", "splits")]
        return [file for split in splits for file in _saved_files(split) or _missing(split)]
    if not os.path.isfile(folder / "state.json"):
        return None
    entries = _listed_in(folder / "state.json", "_data_files")
    files = [folder / str(entry["filename"]) for entry in entries if isinstance(entry, dict) and "filename" in entry]
    for file in files:
        if not os.path.isfile(file):
            _missing(file)
    return files or None


def _listed_in(path: Path, key: str) -> list[Any]:
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}", "check its permissions") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} of the saved data set is not JSON: {error}", "save the data set again") from None
    listed = value.get(key) if isinstance(value, dict) else None
    return listed if isinstance(listed, list) else []


def _missing(path: Path) -> list[Path]:
    raise DataError(f"{path} of the saved data set does not exist", "copy the whole folder, or save it again")


def _note_unread(paths: Sequence[Path], kept: Collection[Path], notices: list[str]) -> None:
    """Notice what may hold rows and is not read."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for path in _other(paths, kept):
        reasons[_why_unread(path)].append(path.name)
    reasons.pop("", None)
    _note(notices, reasons)


def _other(paths: Sequence[Path], kept: Collection[Path]) -> list[Path]:
    known = set(kept)
    return [path for path in paths if path not in known]


def _why_unread(path: Path) -> str:
    """Return why a file is not read; nothing for files that hold no rows."""
    plain = without_compression(path)
    is_named_data = plain.suffix.lower().removeprefix(".") in FORMATS
    if _is_hidden(Path(path.name)):
        return "hidden, as the files that programs put beside data" if is_named_data else ""
    if plain.suffix.lower() in _NO_ROWS or plain.stem.lower() in _NAMES_WITHOUT_ROWS:
        return ""
    if not os.path.isfile(path):
        return "a link to nothing" if os.path.islink(path) else "no regular file"
    if path.name in _SIDECARS:
        return "a description of data"
    if not is_named_data:
        return "not the ending of a data file"
    return "an Arrow file beside other data" if path.suffix == ".arrow" else "in a hidden folder"


def _note(notices: list[str], reasons: dict[str, list[str]]) -> None:
    notices += (f"not read: {_listed(names)} ({reason})" for reason, names in reasons.items() if names)


def _listed(names: Sequence[str]) -> str:
    shown = [name.encode(errors="backslashreplace").decode() for name in names[:_SHOWN]]
    return ", ".join(shown) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")


def _is_read(path: Path, below: Path) -> bool:
    relative = path.relative_to(below) if path.is_relative_to(below) else Path(path.name)
    return _has_data_ending(path) and not _is_hidden(relative) and path.name not in _SIDECARS


def _has_data_ending(path: Path) -> bool:
    return without_compression(path).suffix.lower().removeprefix(".") in FORMATS and os.path.isfile(path)


def _is_hidden(relative: Path) -> bool:
    return any(part.startswith((".", "~$")) or part in _SYSTEM_FOLDERS for part in relative.parts)


def _is_of(path: Path, split: str | None) -> bool:
    return split is not None and path.name.partition(".")[0].partition("-")[0] in split.split("+")
