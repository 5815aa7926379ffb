from collections.abc import Callable

import numpy as np
import pytest

from w2s_ray.data.labels import join, join_answers, one_hot, places, targets
from w2s_ray.data.prepare import PreparedTask
from w2s_ray.data.splits import draw
from w2s_ray.errors import DataError, StoreError
from w2s_ray.spec.stage import GroundTruth, LabelledSplit, PredictionSpec, SplitSpec, WeakLabels
from w2s_ray.store.answers import Answers
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.predictions import Predictions

Split = Callable[..., SplitSpec]


@pytest.fixture
def transfer(prepared: PreparedTask, split: Split) -> SplitSpec:
    return split(prepared, "T1", 60)


def predict(store: ArtifactStore, split: SplitSpec, ids: list[str], probs_NC: np.ndarray, stage: str = "a") -> str:
    """Store predictions and return their identity."""
    spec = PredictionSpec(stage=stage * 64, split=split, context_tokens=16)
    store.write_predictions(spec, ids, probs_NC)
    return spec.identity


def weak(split: SplitSpec, *predictions: str) -> LabelledSplit:
    return LabelledSplit(split=split, labels=WeakLabels(predictions=predictions))


def probabilities(num: int, seed: int = 0) -> np.ndarray:
    first = np.random.default_rng(seed).random(num, dtype=np.float32)
    return np.stack([first, 1 - first], axis=1)


def test_ground_truth_is_all_on_the_true_class(
    store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec
) -> None:
    rows, targets_NC = targets(store, prepared, LabelledSplit(split=transfer, labels=GroundTruth()), 2)
    assert targets_NC.dtype == np.float32
    np.testing.assert_array_equal(targets_NC.argmax(axis=1), prepared.labels(rows))
    np.testing.assert_array_equal(targets_NC.sum(axis=1), 1)


def test_weak_labels_follow_the_ids_whatever_the_order_of_the_predictions(
    store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec
) -> None:
    rows = draw(prepared, transfer)
    probs_NC = probabilities(len(rows))
    shuffle = np.random.default_rng(1).permutation(len(rows))
    identity = predict(store, transfer, prepared.ids(rows[shuffle]), probs_NC[shuffle])
    found, targets_NC = targets(store, prepared, weak(transfer, identity), 2)
    np.testing.assert_array_equal(found, rows)
    np.testing.assert_array_equal(targets_NC, probs_NC)


def test_every_arm_of_a_level_learns_on_the_same_examples(
    store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec
) -> None:
    rows = draw(prepared, transfer)
    identity = predict(store, transfer, prepared.ids(rows), probabilities(len(rows)))
    ceiling, _ = targets(store, prepared, LabelledSplit(split=transfer, labels=GroundTruth()), 2)
    student, _ = targets(store, prepared, weak(transfer, identity), 2)
    np.testing.assert_array_equal(ceiling, student)


def test_several_supervisors_are_averaged(store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec) -> None:
    rows = draw(prepared, transfer)
    first, second = probabilities(len(rows), 0), probabilities(len(rows), 1)
    names = [
        predict(store, transfer, prepared.ids(rows), first, "a"),
        predict(store, transfer, prepared.ids(rows[::-1]), second[::-1], "b"),
    ]
    _, targets_NC = targets(store, prepared, weak(transfer, *names), 2)
    np.testing.assert_allclose(targets_NC, (first + second) / 2, rtol=1e-6)


def test_predictions_that_lack_an_example_are_refused(
    store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec
) -> None:
    ids = prepared.ids(draw(prepared, transfer))
    identity = predict(store, transfer, ids[1:], probabilities(len(ids) - 1))
    with pytest.raises(DataError, match=f"lack 1 of {len(ids)} examples, the first is '{ids[0]}'"):
        targets(store, prepared, weak(transfer, identity), 2)


def test_predictions_for_other_examples_are_refused(
    store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec, split: Split
) -> None:
    others = prepared.ids(draw(prepared, split(prepared, "T2", 60)))
    identity = predict(store, transfer, others, probabilities(60))
    with pytest.raises(DataError, match="lack 60 of 60"):
        targets(store, prepared, weak(transfer, identity), 2)


def test_predictions_with_an_example_twice_are_refused() -> None:
    doubled = Predictions(ids=("a", "b", "a"), probs_NC=probabilities(3))
    with pytest.raises(DataError, match="more than once"):
        join(["a", "b"], doubled, 2, "predictions")


def test_predictions_of_other_classes_are_refused() -> None:
    with pytest.raises(DataError, match="have 2 classes, the student 3"):
        join(["a"], Predictions(ids=("a",), probs_NC=probabilities(1)), 3, "predictions")


def test_a_label_beyond_the_head_is_refused() -> None:
    with pytest.raises(DataError, match="label 2"):
        one_hot(np.array([0, 2]), 2)


def test_predictions_that_are_not_there_are_refused(
    store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec
) -> None:
    with pytest.raises(StoreError, match="no predictions"):
        targets(store, prepared, weak(transfer, "0" * 64), 2)


def test_wanted_examples_are_found_at_their_places_and_the_others_are_left() -> None:
    assert places(["c", "a", "b"], ["b", "c"], "answers") == [2, 0]


def test_answers_are_joined_by_id() -> None:
    written = Answers(("c", "a", "b"), ("C", "A", "B"), np.array([True, False, True]))
    found = join_answers(["a", "b"], written, "answers")
    assert (found.ids, found.texts, found.is_allowed_N.tolist()) == (("a", "b"), ("A", "B"), [False, True])
    with pytest.raises(DataError, match="answers lack 1 of 2 examples, the first is 'z'"):
        join_answers(["a", "z"], written, "answers")
