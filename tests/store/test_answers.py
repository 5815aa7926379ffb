"""Answers in the store: they come back as they were written, and damage is seen."""

import numpy as np
import pytest

from w2s_ray.errors import StoreError
from w2s_ray.spec.stage import PredictionSpec
from w2s_ray.store.artifacts import ArtifactStore

IDS = ["c", "a", "ü – d"]
TEXTS = ["e2e4", "", "O-O-O ♔\n"]
ALLOWED_N = np.array([True, False, True])


def test_answers_come_back_letter_for_letter_in_their_order(store: ArtifactStore, prediction: PredictionSpec) -> None:
    record = store.write_answers(prediction, IDS, TEXTS, ALLOWED_N)
    assert record.kind == "predictions" and set(record.files) == {"answers.parquet"}
    assert record.parents == (prediction.stage,)
    found = store.read_answers(prediction.identity)
    assert (found.ids, found.texts) == (tuple(IDS), tuple(TEXTS))
    assert found.is_allowed_N.dtype == bool and found.is_allowed_N.tolist() == ALLOWED_N.tolist()


def test_answers_that_are_stored_stay(store: ArtifactStore, prediction: PredictionSpec) -> None:
    first = store.write_answers(prediction, IDS, TEXTS, ALLOWED_N)
    assert store.write_answers(prediction, IDS, TEXTS[::-1], ALLOWED_N) == first
    assert store.read_answers(prediction.identity).texts == tuple(TEXTS)


def test_answers_that_were_damaged_are_not_read(store: ArtifactStore, prediction: PredictionSpec) -> None:
    store.write_answers(prediction, IDS, TEXTS, ALLOWED_N)
    path = store.folder(prediction.slug, prediction.identity) / "answers.parquet"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(StoreError, match="SHA-256"):
        store.read_answers(prediction.identity)


def test_answers_are_not_taken_for_soft_labels_nor_these_for_answers(
    store: ArtifactStore, prediction: PredictionSpec
) -> None:
    other = prediction.model_copy(update={"context_tokens": 32})
    store.write_answers(prediction, IDS, TEXTS, ALLOWED_N)
    store.write_predictions(other, IDS, np.full((3, 2), 0.5))
    with pytest.raises(StoreError, match=r"not predictions\.parquet"):
        store.read_predictions(prediction.identity)
    with pytest.raises(StoreError, match=r"not answers\.parquet"):
        store.read_answers(other.identity)


def test_an_example_answered_twice_is_our_own_mistake(store: ArtifactStore, prediction: PredictionSpec) -> None:
    with pytest.raises(AssertionError, match="answered twice"):
        store.write_answers(prediction, ["a", "a"], ["x", "y"], np.ones(2, dtype=bool))
