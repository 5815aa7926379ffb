"""Tune's state of a search, kept whole.

Tune copies its state into the study's folder file by file. A run that is killed meanwhile leaves torn files there, and
Tune, which cannot read them, says so in its log and begins anew without the search's settings. So the state is also
kept in one archive that is replaced at a stroke, and put back where the folder's own is torn.
"""

import io
import json
import zipfile
from pathlib import Path

from ray import cloudpickle

from w2s_ray.store.files import write_file

_STATE = "experiment_state-*.json"
_SETTINGS = "tuner.pkl"
_PICKLED = ("search_gen_state-*.json", "searcher-state-*.pkl", "basic-variant-state-*.json", _SETTINGS)


def keep(folder: Path) -> None:
    """Put the state in `folder` aside, if it is whole at this moment."""
    files = _read(folder)
    if not _is_whole(files):
        return
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as stream:
        for name, content in files.items():
            stream.writestr(name, content)
    write_file(_aside(folder), archive.getvalue())


def mend(folder: Path) -> bool:
    """Say whether `folder` holds a whole state, after the one aside was put back where its own is torn."""
    if _is_whole(_read(folder)):
        return True
    if not _aside(folder).is_file():
        return False
    for name in _read(folder):
        (folder / name).unlink()
    with zipfile.ZipFile(_aside(folder)) as stream:
        stream.extractall(folder)
    return True


def forget(folder: Path) -> None:
    """Remove what was put aside: another search begins."""
    _aside(folder).unlink(missing_ok=True)


def _aside(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}-state.zip")


def _read(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for pattern in (_STATE, *_PICKLED) for path in folder.glob(pattern)}


def _is_whole(files: dict[str, bytes]) -> bool:
    states = {name for name in files if Path(name).match(_STATE)}
    if not states or _SETTINGS not in files:
        return False
    try:
        for name, content in files.items():
            (json.loads if name in states else cloudpickle.loads)(content)
    except Exception:  # a torn pickle raises whatever its first half comes to
        return False
    return True
