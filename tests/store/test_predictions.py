"""Predictions in the store: they are read as written, and damage is detected."""

from collections.abc import Callable

import numpy as np
import pytest

from w2s_ray.errors import StoreError, TrainingError
from w2s_ray.spec.identity import identity
from w2s_ray.spec.stage import PredictionSpec, StageSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.record import Record

Commit = Callable[..., Record]
PROBS_NC = np.array([[0.1, 0.9], [0.25, 0.75], [1 / 3, 2 / 3], [0.5, 0.5]], dtype=np.float32)
PREDICTED = ["c", "a", "b", "ü – d"]

IDS = ["c", "a", "ü – d"]
TEXTS = ["e2e4", "", "O-O-O ♔\n"]
ALLOWED_N = np.array([True, False, True])


def test_answers_are_read_as_they_were_written(store: ArtifactStore, prediction: PredictionSpec) -> None:
    record = store.write_answers(prediction, IDS, TEXTS, ALLOWED_N)
    assert record.kind == "predictions" and set(record.files) == {"answers.parquet"}
    assert record.parents == (prediction.stage,)
    stored = store.read_answers(prediction.identity)
    assert (stored.ids, stored.texts) == (tuple(IDS), tuple(TEXTS))
    assert stored.is_allowed_N.dtype == bool and stored.is_allowed_N.tolist() == ALLOWED_N.tolist()


def test_stored_answers_are_not_replaced(store: ArtifactStore, prediction: PredictionSpec) -> None:
    first = store.write_answers(prediction, IDS, TEXTS, ALLOWED_N)
    assert store.write_answers(prediction, IDS, TEXTS[::-1], ALLOWED_N) == first
    assert store.read_answers(prediction.identity).texts == tuple(TEXTS)


def test_damaged_answers_are_refused(store: ArtifactStore, prediction: PredictionSpec) -> None:
    store.write_answers(prediction, IDS, TEXTS, ALLOWED_N)
    path = store.folder(prediction.slug, prediction.identity) / "answers.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="SHA-256"):
        store.read_answers(prediction.identity)


def test_answers_and_soft_labels_are_not_confused(store: ArtifactStore, prediction: PredictionSpec) -> None:
    other = prediction.model_copy(update={"context_tokens": 32})
    store.write_answers(prediction, IDS, TEXTS, ALLOWED_N)
    store.write_predictions(other, IDS, np.full((3, 2), 0.5))
    with pytest.raises(StoreError, match=r"not predictions\.parquet"):
        store.read_predictions(prediction.identity)
    with pytest.raises(StoreError, match=r"not answers\.parquet"):
        store.read_answers(other.identity)


def test_an_example_answered_twice_fails_an_assertion(store: ArtifactStore, prediction: PredictionSpec) -> None:
    with pytest.raises(AssertionError, match="answered twice"):
        store.write_answers(prediction, ["a", "a"], ["x", "y"], np.ones(2, dtype=bool))


def test_predictions_are_read_bit_for_bit_as_written(store: ArtifactStore, prediction: PredictionSpec) -> None:
    record = store.write_predictions(prediction, PREDICTED, PROBS_NC)
    assert record.parents == (prediction.stage,)
    stored = store.read_predictions(prediction.identity)
    assert stored.ids == tuple(PREDICTED)
    assert stored.probs_NC.dtype == np.float32
    np.testing.assert_array_equal(stored.probs_NC, PROBS_NC)


def test_stored_predictions_are_not_replaced(store: ArtifactStore, prediction: PredictionSpec) -> None:
    first = store.write_predictions(prediction, PREDICTED, PROBS_NC)
    assert store.write_predictions(prediction, PREDICTED, 1 - PROBS_NC) == first
    np.testing.assert_array_equal(store.read_predictions(prediction.identity).probs_NC, PROBS_NC)


def test_damaged_predictions_are_refused(store: ArtifactStore, prediction: PredictionSpec) -> None:
    store.write_predictions(prediction, PREDICTED, PROBS_NC)
    path = store.folder(prediction.slug, prediction.identity) / "predictions.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="SHA-256"):
        store.read_predictions(prediction.identity)


def test_missing_predictions_and_the_identity_of_a_stage_are_refused(
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
        store.write_predictions(prediction, PREDICTED, broken)
    assert store.find(prediction.identity) is None
