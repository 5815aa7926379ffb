import json
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from w2s_ray.errors import LeaseHeld, StoreError
from w2s_ray.spec.stage import StageSpec
from w2s_ray.store import artifacts
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.record import Record

Commit = Callable[..., Record]
PROBS_NC = np.array([[0.1, 0.9], [0.25, 0.75], [1 / 3, 2 / 3], [0.5, 0.5]], dtype=np.float32)
IDS = ["c", "a", "b", "ü – d"]


def test_a_store_object_creates_nothing_and_pickles(tmp_path: Path) -> None:
    store = ArtifactStore(str(tmp_path / "store"))
    assert not (tmp_path / "store").exists()
    assert pickle.loads(pickle.dumps(store)) == store
    assert store.find("a" * 64) is None
    assert list(store.records()) == []


def test_a_relative_root_is_resolved_when_the_store_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store = ArtifactStore("store")
    monkeypatch.chdir("/")
    assert store.root == tmp_path / "store"


def test_a_store_that_cannot_be_written_is_refused_with_a_hint(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for root in (tmp_path / "file" / "store", Path("/proc/store")):
        with pytest.raises(StoreError, match="cannot write") as caught:
            ArtifactStore(root).prepare()
        assert "--store" in caught.value.hint


def test_a_store_with_little_free_space_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_record_has_spec_parents_metrics_versions_and_files(stage: StageSpec, commit_stage: Commit) -> None:
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


def test_a_restart_removes_incomplete_files_and_keeps_checkpoints(store: ArtifactStore, stage: StageSpec) -> None:
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
    assert "remove" in caught.value.hint


@pytest.mark.parametrize("content", ["", "{", "{}", "[]"])
def test_a_damaged_record_is_an_error_and_not_a_missing_artifact(
    content: str, store: ArtifactStore, stage: StageSpec, commit_stage: Commit
) -> None:
    commit_stage(stage)
    (store.folder(stage.slug, stage.identity) / "record.json").write_text(content)
    with pytest.raises(StoreError, match=r"record\.json"):
        store.find(stage.identity)


def test_two_identities_with_one_short_digest_are_kept_apart(
    store: ArtifactStore, stage: StageSpec, commit_stage: Commit
) -> None:
    commit_stage(stage)
    assert store.find(stage.identity[:12] + "0" * 52) is None


def test_a_slug_with_anything_in_it_stays_inside_the_store(store: ArtifactStore) -> None:
    for slug in ("../../etc", "a/b c", "." * 5, "x" * 500, "ü"):
        assert store.folder(slug, "a" * 64).parent == store.root / "artifacts"
