import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from w2s_ray.errors import StoreError
from w2s_ray.spec.stage import PredictionSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import RECORD_NAME, publish_folder, write_file


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """Make the operating system refuse longer files, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_file(tmp_path / "record.json", b"old")
    with files_of_at_most(1000), pytest.raises(StoreError, match=r"cannot write .*record\.json"):
        write_file(tmp_path / "record.json", b"x" * 5000)
    assert (tmp_path / "record.json").read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["record.json"]


@pytest.mark.parametrize(
    ("code", "hint"), [(errno.ENOSPC, "free some space"), (errno.EROFS, "read-only"), (errno.EIO, "check the disk")]
)
def test_errors_of_the_operating_system_have_a_hint(
    code: int, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreError) as caught:
        write_file(tmp_path / "file", b"content")
    assert hint in caught.value.hint
    assert os.strerror(code) in caught.value.message
    assert os.listdir(tmp_path) == []


def test_predictions_that_do_not_fit_on_the_disk_leave_nothing(
    store: ArtifactStore, prediction: PredictionSpec
) -> None:
    ids = [f"example {number}" for number in range(20_000)]
    probs_NC = np.random.default_rng(0).random((len(ids), 2), dtype=np.float32)
    with files_of_at_most(20_000), pytest.raises(StoreError, match="cannot write"):
        store.write_predictions(prediction, ids, probs_NC)
    assert store.find(prediction.identity) is None
    store.write_predictions(prediction, ids, probs_NC)
    assert len(store.read_predictions(prediction.identity).ids) == len(ids)


def fill(folder: Path) -> None:
    (folder / RECORD_NAME).write_text("mine")


def test_a_published_folder_appears_whole(tmp_path: Path) -> None:
    def look(folder: Path) -> None:
        fill(folder)
        assert not (tmp_path / "data").exists()

    publish_folder(tmp_path / "data", look)
    assert (tmp_path / "data" / RECORD_NAME).read_text() == "mine"
    assert os.listdir(tmp_path) == ["data"]


def test_the_second_publisher_of_a_folder_keeps_the_first_one(tmp_path: Path) -> None:
    def slow(folder: Path) -> None:
        fill(folder)
        (tmp_path / "data").mkdir()
        (tmp_path / "data" / RECORD_NAME).write_text("theirs")

    publish_folder(tmp_path / "data", slow)
    assert (tmp_path / "data" / RECORD_NAME).read_text() == "theirs"
    assert os.listdir(tmp_path) == ["data"]


def test_a_folder_without_a_record_is_replaced_by_a_published_one(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rest").write_text("")
    publish_folder(tmp_path / "data", fill)
    assert os.listdir(tmp_path / "data") == [RECORD_NAME]


def test_a_folder_whose_filling_fails_is_not_published(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        fill(folder)
        raise KeyError("broken")

    with pytest.raises(KeyError):
        publish_folder(tmp_path / "data", fail)
    assert os.listdir(tmp_path) == []
