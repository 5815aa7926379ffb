"""Tune's state of a search survives a kill in the middle of its being written."""

import json
from pathlib import Path

import pytest
from ray import cloudpickle
from w2s_ray.scheduling.tune_state import forget, keep, mend

STATE, SEARCHER, SETTINGS = "experiment_state-1.json", "searcher-state-1.pkl", "tuner.pkl"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "search"
    folder.mkdir()
    (folder / STATE).write_text(json.dumps({"trials": [1, 2]}))
    for name in (SEARCHER, SETTINGS):
        (folder / name).write_bytes(cloudpickle.dumps({"of": name}))
    return folder


@pytest.mark.parametrize("name", [STATE, SEARCHER, SETTINGS])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_torn_file_is_put_back_with_all_that_belongs_to_it(folder: Path, name: str, share: float) -> None:
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    keep(folder)
    (folder / STATE).write_text(json.dumps({"trials": [1, 2, 3]}))
    content = whole[name]
    (folder / name).write_bytes(content[: round(share * len(content))])
    assert mend(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole


def test_a_whole_state_is_left_alone_even_where_an_older_one_lies_aside(folder: Path) -> None:
    keep(folder)
    newer = json.dumps({"trials": [1, 2, 3]})
    (folder / STATE).write_text(newer)
    assert mend(folder) and (folder / STATE).read_text() == newer


def test_a_torn_state_is_never_put_aside(folder: Path) -> None:
    keep(folder)
    (folder / SEARCHER).write_bytes(b"")
    keep(folder)
    assert mend(folder) and (folder / SEARCHER).stat().st_size


def test_nothing_to_go_on_with_is_told(folder: Path) -> None:
    (folder / STATE).write_bytes(b"")
    assert not mend(folder), "nothing was put aside"
    (folder / STATE).unlink()
    assert not mend(folder)


def test_what_lies_aside_is_forgotten_when_another_search_begins(folder: Path) -> None:
    keep(folder)
    forget(folder)
    (folder / SETTINGS).write_bytes(b"")
    assert not mend(folder)
