import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from w2s_ray.errors import LeaseHeld, StoreError, TrainingError
from w2s_ray.spec.identity import identity
from w2s_ray.spec.stage import PredictionSpec, StageSpec
from w2s_ray.store import artifacts
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.record import Record

Commit = Callable[..., Record]
PROBS_NC = np.array([[0.1, 0.9], [0.25, 0.75], [1 / 3, 2 / 3], [0.5, 0.5]], dtype=np.float32)
IDS = ["c", "a", "b", "ü – d"]


def test_making_a_store_touches_nothing_and_it_pickles(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()
    assert pickle.loads(pickle.dumps(store)) == store
    assert store.find("a" * 64) is None
    assert list(store.records()) == []


def test_a_relative_root_means_the_same_folder_from_everywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = ArtifactStore("store")
    monkeypatch.chdir("/")
    assert store.root == tmp_path / "store"


def test_a_store_that_cannot_be_written_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file" / "store", Path("/proc/store")):
        with pytest.raises(StoreError, match="cannot write") as caught:
            ArtifactStore(root).prepare()
        assert "--store" in caught.value.remedy


def test_a_store_with_hardly_any_room_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifacts, "MIN_FREE_BYTES", 2**62)
    with pytest.raises(StoreError, match="MiB free"):
        ArtifactStore(tmp_path).prepare()


def test_an_artifact_is_found_only_once_it_is_committed(
    store: ArtifactStore, stage: StageSpec, commit_stage: Commit
) -> None:
    folder = store.begin("stage", stage.slug, stage.identity)
    (folder / "model").mkdir()
    (folder / "model" / "weights.bin").write_bytes(b"half")
    assert store.find(stage.identity) is None
    assert list(store.records()) == []
    record = commit_stage(stage)
    assert store.find(stage.identity) == record
    assert list(store.records()) == [record]
    assert store.verify(record) == folder


def test_a_record_says_what_the_artifact_is(stage: StageSpec, commit_stage: Commit) -> None:
    record = commit_stage(stage, parents=("p" * 64,))
    assert StageSpec.model_validate(record.spec) == stage
    assert record.parents == ("p" * 64,)
    assert record.metrics == {"loss": 1.0}
    assert {"numpy", "torch"} <= set(record.versions)
    assert set(record.files) == {"model/weights.bin", "metrics.jsonl"}


def test_committing_removes_the_checkpoints_and_keeps_the_attempts(
    store: ArtifactStore, stage: StageSpec, commit_stage: Commit
) -> None:
    folder = store.folder(stage.slug, stage.identity)
    commit_stage(stage)
    assert not (folder / "checkpoints").exists()
    assert (folder / "attempts.jsonl").exists()


def test_each_start_of_a_stage_is_one_attempt(store: ArtifactStore, stage: StageSpec, commit_stage: Commit) -> None:
    assert store.num_attempts(stage.identity) == 0
    store.begin("stage", stage.slug, stage.identity)
    commit_stage(stage)
    assert store.num_attempts(stage.identity) == 2


def test_an_incomplete_attempt_line_is_not_counted_and_is_removed(store: ArtifactStore, stage: StageSpec) -> None:
    folder = store.begin("stage", stage.slug, stage.identity)
    with (folder / "attempts.jsonl").open("a") as file:
        file.write('{"started_')
    assert store.num_attempts(stage.identity) == 1
    store.begin("stage", stage.slug, stage.identity)
    assert store.num_attempts(stage.identity) == 2
    first, last = (folder / "attempts.jsonl").read_text().splitlines()
    assert json.loads(first).keys() == json.loads(last).keys()


def test_only_the_last_start_of_a_stage_finishes_it(store: ArtifactStore, stage: StageSpec) -> None:
    def finish(attempt: int) -> None:
        store.commit(
            kind="stage",
            slug=stage.slug,
            spec=stage,
            identity=stage.identity,
            parents=(),
            metrics={},
            attempt=attempt,
        )

    attempts = []
    for _ in range(2):
        store.begin("stage", stage.slug, stage.identity)
        attempts.append(store.last_attempt(stage.slug, stage.identity))
    assert attempts == [1, 2]
    with pytest.raises(LeaseHeld, match="start 2 after start 1"):
        finish(1)
    assert store.find(stage.identity) is None
    finish(2)
    assert store.find(stage.identity) is not None


def test_a_finished_artifact_is_not_begun_again(store: ArtifactStore, stage: StageSpec, commit_stage: Commit) -> None:
    record = commit_stage(stage)
    with pytest.raises(StoreError, match="finished"):
        store.begin("stage", stage.slug, stage.identity)
    assert store.num_attempts(stage.identity) == 1
    store.verify(record)


def test_beginning_again_clears_what_was_left_half_written_and_keeps_the_checkpoints(
    store: ArtifactStore, stage: StageSpec
) -> None:
    folder = store.begin("stage", stage.slug, stage.identity)
    for name in ("model", "checkpoints"):
        (folder / name).mkdir()
        (folder / name / "part").write_text("x")
    (folder / "metrics.jsonl").write_text("{}\n")
    store.begin("stage", stage.slug, stage.identity)
    assert sorted(entry.name for entry in folder.iterdir()) == ["attempts.jsonl", "checkpoints", "metrics.jsonl"]
    assert (folder / "checkpoints" / "part").exists()


@pytest.mark.parametrize("damage", [b"weights" * 999 + b"weighty", b"", None])
def test_a_file_that_changed_is_refused(
    damage: bytes | None, store: ArtifactStore, stage: StageSpec, commit_stage: Commit
) -> None:
    record = commit_stage(stage)
    weights = store.folder(stage.slug, stage.identity) / "model" / "weights.bin"
    weights.unlink() if damage is None else weights.write_bytes(damage)
    with pytest.raises(StoreError, match=r"weights\.bin") as caught:
        store.verify(record)
    assert "remove" in caught.value.remedy


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_a_damaged_record_is_an_error_and_not_a_missing_artifact(
    content: str, store: ArtifactStore, stage: StageSpec, commit_stage: Commit
) -> None:
    commit_stage(stage)
    (store.folder(stage.slug, stage.identity) / "record.json").write_text(content)
    with pytest.raises(StoreError, match="not a record"):
        store.find(stage.identity)


def test_two_identities_with_one_short_digest_are_kept_apart(
    store: ArtifactStore, stage: StageSpec, commit_stage: Commit
) -> None:
    commit_stage(stage)
    assert store.find(stage.identity[:12] + "0" * 52) is None


def test_predictions_come_back_bit_for_bit_in_their_order(store: ArtifactStore, prediction: PredictionSpec) -> None:
    record = store.write_predictions(prediction, IDS, PROBS_NC)
    assert record.parents == (prediction.stage,)
    found = store.read_predictions(prediction.identity)
    assert found.ids == tuple(IDS)
    assert found.probs_NC.dtype == np.float32
    np.testing.assert_array_equal(found.probs_NC, PROBS_NC)


def test_predictions_that_are_stored_stay(store: ArtifactStore, prediction: PredictionSpec) -> None:
    first = store.write_predictions(prediction, IDS, PROBS_NC)
    assert store.write_predictions(prediction, IDS, 1 - PROBS_NC) == first
    np.testing.assert_array_equal(store.read_predictions(prediction.identity).probs_NC, PROBS_NC)


def test_predictions_that_were_damaged_are_not_read(store: ArtifactStore, prediction: PredictionSpec) -> None:
    store.write_predictions(prediction, IDS, PROBS_NC)
    path = store.folder(prediction.slug, prediction.identity) / "predictions.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="SHA-256"):
        store.read_predictions(prediction.identity)


def test_missing_predictions_and_a_stage_in_their_place_are_refused(
    store: ArtifactStore, stage: StageSpec, commit_stage: Commit
) -> None:
    commit_stage(stage)
    for name in (identity("predictions", "x"), stage.identity):
        with pytest.raises(StoreError, match="no predictions"):
            store.read_predictions(name)


def test_predictions_that_are_not_finite_are_refused_by_example(
    store: ArtifactStore, prediction: PredictionSpec
) -> None:
    broken = PROBS_NC.copy()
    broken[2, 1] = np.nan
    with pytest.raises(TrainingError, match="example b"):
        store.write_predictions(prediction, IDS, broken)
    assert store.find(prediction.identity) is None


def test_a_slug_with_anything_in_it_stays_inside_the_store(store: ArtifactStore) -> None:
    for slug in ("../../etc", "a/b c", "." * 5, "x" * 500, "ü"):
        assert store.folder(slug, "a" * 64).parent == store.root / "artifacts"
