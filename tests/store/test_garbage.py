import os
import time
from collections.abc import Callable

import numpy as np

from w2s_ray.spec.stage import PredictionSpec, StageSpec
from w2s_ray.store import lease
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.garbage import abandoned, remove, unreferenced
from w2s_ray.store.record import Record

Commit = Callable[..., Record]


def other(stage: StageSpec, seed: int) -> StageSpec:
    return StageSpec.model_validate(stage.model_dump() | {"init_seed": seed})


def test_unfinished_work_is_listed_with_its_size_and_finished_work_is_not(
    store: ArtifactStore, stage: StageSpec, commit_stage: Commit
) -> None:
    commit_stage(stage)
    late = other(stage, 7)
    folder = store.begin("stage", late.slug, late.identity)
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "state").write_bytes(b"x" * 5000)
    (item,) = abandoned(store)
    assert item.path == folder
    assert 5000 < item.num_bytes < 6000
    assert remove(store, [item]) == item.num_bytes
    assert abandoned(store) == []
    assert store.find(stage.identity) is not None


def test_leased_work_is_not_abandoned(store: ArtifactStore, stage: StageSpec) -> None:
    store.begin("stage", stage.slug, stage.identity)
    (listed,) = abandoned(store)
    store.lease(stage.identity, stage.slug, "a run")
    assert abandoned(store) == []
    assert remove(store, [listed]) == 0  # leased between listing and removal
    assert listed.path.exists()


def test_checkpoints_are_kept_while_a_run_may_resume_them(store: ArtifactStore, stage: StageSpec) -> None:
    """Between two worker groups a stage has no lease, and its run still needs it."""
    folder = store.begin("stage", stage.slug, stage.identity)
    (folder / "checkpoints").mkdir()
    lease.take(store.study_folder("mine"), "a run of the study")
    assert abandoned(store) == []
    lease.release(store.study_folder("mine"), "a run of the study")
    assert [item.path for item in abandoned(store)] == [folder]


def test_checkpoints_of_a_finished_stage_are_listed_alone(
    store: ArtifactStore, stage: StageSpec, commit_stage: Commit
) -> None:
    record = commit_stage(stage)
    checkpoints = store.folder(stage.slug, stage.identity) / "checkpoints"
    checkpoints.mkdir()
    assert [item.path for item in abandoned(store)] == [checkpoints]
    remove(store, abandoned(store))
    store.verify(record)


def test_work_finished_after_it_was_listed_is_kept(
    store: ArtifactStore, stage: StageSpec, commit_stage: Commit
) -> None:
    store.begin("stage", stage.slug, stage.identity)
    listed = abandoned(store)
    record = commit_stage(stage)
    assert len(listed) == 1 and remove(store, listed) == 0
    store.verify(record)


def test_checkpoints_leased_after_they_were_listed_are_kept(
    store: ArtifactStore, stage: StageSpec, commit_stage: Commit
) -> None:
    commit_stage(stage)
    checkpoints = store.folder(stage.slug, stage.identity) / "checkpoints"
    checkpoints.mkdir()
    listed = abandoned(store)
    store.lease(stage.identity, stage.slug, "a run")
    assert len(listed) == 1 and remove(store, listed) == 0
    assert checkpoints.exists()


def test_unfinished_predictions_are_kept_while_their_stage_is_leased(
    store: ArtifactStore, stage: StageSpec, prediction: PredictionSpec, commit_stage: Commit
) -> None:
    commit_stage(stage)
    folder = store.begin("predictions", prediction.slug, prediction.identity)
    store.lease(stage.identity, stage.slug, "a run")
    assert abandoned(store) == []
    store.release(stage.identity, stage.slug, "a run")
    listed = abandoned(store)
    assert [item.path for item in listed] == [folder]
    store.lease(stage.identity, stage.slug, "another run")
    assert remove(store, listed) == 0 and folder.exists()


def test_old_temporary_names_are_listed_and_fresh_ones_are_not(store: ArtifactStore) -> None:
    old, fresh = (store.root / "data" / f".toy.tmp-1-{name}" for name in ("old", "fresh"))
    for path in (old, fresh):
        path.mkdir()
    os.utime(old, (time.time() - 7200,) * 2)
    assert [item.path for item in abandoned(store)] == [old]


def test_unnamed_artifacts_are_listed_and_ancestors_of_named_ones_are_not(
    store: ArtifactStore, stage: StageSpec, prediction: PredictionSpec, commit_stage: Commit
) -> None:
    commit_stage(stage)
    store.write_predictions(prediction, ["a"], np.array([[0.5, 0.5]]))
    student, stranger = other(stage, 7), other(stage, 8)
    commit_stage(student, parents=(prediction.identity,))
    commit_stage(stranger)
    assert [item.path for item in unreferenced(store, {student.identity})] == [
        store.folder(stranger.slug, stranger.identity)
    ]
    remove(store, unreferenced(store, {student.identity}))
    kept = {record.identity for record in store.records()}
    assert kept == {stage.identity, prediction.identity, student.identity}


def test_prepared_tasks_are_kept_by_their_fingerprint(store: ArtifactStore) -> None:
    for fingerprint in ("1" * 64, "2" * 64, "3" * 64):
        store.data_folder("toy", fingerprint).mkdir()
    for fingerprint in ("1" * 64, "2" * 64):  # the third is new: a study that is being resolved may use it
        os.utime(store.data_folder("toy", fingerprint), (time.time() - 7200,) * 2)
    assert [item.path for item in unreferenced(store, {"1" * 64})] == [store.data_folder("toy", "2" * 64)]


def test_features_of_a_kept_task_are_listed_when_they_are_an_hour_old(store: ArtifactStore) -> None:
    task = store.data_folder("toy", "1" * 64)
    old, fresh = (task / f"features-T1-{digit * 12}" for digit in "ab")
    for folder in (task / "tokens-cccccccccccc", old, fresh):
        folder.mkdir(parents=True)
    for path in (task, task / "tokens-cccccccccccc", old):
        os.utime(path, (time.time() - 7200,) * 2)
    assert [item.path for item in unreferenced(store, {"1" * 64})] == [old]
