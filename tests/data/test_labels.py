from collections.abc import Callable

import numpy as np
import pytest

from w2s_ray.data.labels import join, join_answers, one_hot, places, targets
from w2s_ray.data.prepare import PreparedTask
from w2s_ray.data.splits import groups_of, rows_of_split
from w2s_ray.errors import DataError, StoreError
from w2s_ray.spec.labels import GroundTruth, KeepRandom, LabelledSplit, SplitSpec, WeakLabels
from w2s_ray.spec.stage import PredictionSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.predictions import Answers, Predictions

Split = Callable[..., SplitSpec]


@pytest.fixture
def transfer(prepared: PreparedTask, split: Split) -> SplitSpec:
    return split(prepared, "T1", 60)


def predict(store: ArtifactStore, split: SplitSpec, ids: list[str], probs_NC: np.ndarray, stage: str = "a") -> str:
    """Store predictions and return their identity."""
    spec = PredictionSpec(stage=stage * 64, split=split, context_tokens=16)
    store.write_predictions(spec, ids, probs_NC)
    return spec.identity


def weak(split: SplitSpec, *predictions: str, **source: object) -> LabelledSplit:
    labels = WeakLabels.model_validate({"predictions": predictions, **source})
    return LabelledSplit(split=split, labels=labels)


def probabilities(num: int, seed: int = 0) -> np.ndarray:
    first = np.random.default_rng(seed).random(num, dtype=np.float32)
    return np.stack([first, 1 - first], axis=1)


def test_ground_truth_is_one_hot(store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec) -> None:
    rows, targets_NC = targets(store, prepared, LabelledSplit(split=transfer, labels=GroundTruth()), 2)
    assert targets_NC.dtype == np.float32
    np.testing.assert_array_equal(targets_NC.argmax(axis=1), prepared.labels(rows))
    np.testing.assert_array_equal(targets_NC.sum(axis=1), 1)


def test_weak_labels_are_joined_by_id_in_any_order(
    store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec
) -> None:
    rows = rows_of_split(prepared, transfer)
    probs_NC = probabilities(len(rows))
    shuffle = np.random.default_rng(1).permutation(len(rows))
    identity = predict(store, transfer, prepared.ids(rows[shuffle]), probs_NC[shuffle])
    results, targets_NC = targets(store, prepared, weak(transfer, identity), 2)
    np.testing.assert_array_equal(results, rows)
    np.testing.assert_array_equal(targets_NC, probs_NC)


def test_every_arm_of_a_level_learns_on_the_same_examples(
    store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec
) -> None:
    rows = rows_of_split(prepared, transfer)
    identity = predict(store, transfer, prepared.ids(rows), probabilities(len(rows)))
    ceiling, _ = targets(store, prepared, LabelledSplit(split=transfer, labels=GroundTruth()), 2)
    student, _ = targets(store, prepared, weak(transfer, identity), 2)
    np.testing.assert_array_equal(ceiling, student)


def test_several_supervisors_are_averaged(store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec) -> None:
    rows = rows_of_split(prepared, transfer)
    first, second = probabilities(len(rows), 0), probabilities(len(rows), 1)
    names = [
        predict(store, transfer, prepared.ids(rows), first, "a"),
        predict(store, transfer, prepared.ids(rows[::-1]), second[::-1], "b"),
    ]
    _, targets_NC = targets(store, prepared, weak(transfer, *names), 2)
    np.testing.assert_allclose(targets_NC, (first + second) / 2, rtol=1e-6)


def test_predictions_without_an_example_are_refused(
    store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec
) -> None:
    ids = prepared.ids(rows_of_split(prepared, transfer))
    identity = predict(store, transfer, ids[1:], probabilities(len(ids) - 1))
    with pytest.raises(DataError, match=f"1 of {len(ids)} examples, the first is '{ids[0]}'"):
        targets(store, prepared, weak(transfer, identity), 2)


def test_predictions_for_other_examples_are_refused(
    store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec, split: Split
) -> None:
    others = prepared.ids(rows_of_split(prepared, split(prepared, "T2", 60)))
    identity = predict(store, transfer, others, probabilities(60))
    with pytest.raises(DataError, match="60 of 60"):
        targets(store, prepared, weak(transfer, identity), 2)


def test_predictions_with_an_example_twice_are_refused() -> None:
    doubled = Predictions(ids=("a", "b", "a"), probs_NC=probabilities(3))
    with pytest.raises(DataError, match="more than once"):
        join(["a", "b"], doubled, 2, "predictions")


def test_predictions_of_other_classes_are_refused() -> None:
    with pytest.raises(DataError, match=r"2 classes.* 3"):
        join(["a"], Predictions(ids=("a",), probs_NC=probabilities(1)), 3, "predictions")


def test_a_label_beyond_the_head_is_refused() -> None:
    with pytest.raises(DataError, match="label 2"):
        one_hot(np.array([0, 2]), 2)


def test_missing_predictions_are_refused(store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec) -> None:
    with pytest.raises(StoreError, match="no predictions"):
        targets(store, prepared, weak(transfer, "0" * 64), 2)


@pytest.fixture
def labelled(store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec) -> tuple[np.ndarray, np.ndarray, str]:
    """Rows, weak labels that are right on the first 45 of 60, and their identity."""
    rows = rows_of_split(prepared, transfer)
    said_N = np.where(np.arange(60) < 45, prepared.labels(rows), 1 - prepared.labels(rows))
    sure_N = np.linspace(0.51, 0.99, 60, dtype=np.float32)
    probs_NC = np.where(np.eye(2, dtype=bool)[said_N], sure_N[:, None], 1 - sure_N[:, None])
    return rows, probs_NC, predict(store, transfer, prepared.ids(rows), probs_NC)


def test_a_filter_removes_rows_and_keeps_the_labels_of_the_others(
    store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec, labelled: tuple[np.ndarray, np.ndarray, str]
) -> None:
    rows, probs_NC, identity = labelled
    part = weak(transfer, identity, transforms=[{"kind": "keep_confident", "fraction": 0.5}])
    kept, targets_KC = targets(store, prepared, part, 2)
    np.testing.assert_array_equal(kept, rows[30:])
    np.testing.assert_array_equal(targets_KC, probs_NC[30:])
    assert targets_KC.dtype == np.float32


def test_transforms_that_read_the_truth_get_that_of_their_own_rows(
    store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec, labelled: tuple[np.ndarray, np.ndarray, str]
) -> None:
    rows, _, identity = labelled
    transforms = [{"kind": "keep_random", "fraction": 0.5}, {"kind": "mix_ground_truth", "fraction": 1.0}]
    kept, targets_KC = targets(store, prepared, weak(transfer, identity, transforms=transforms), 2)
    assert len(kept) == 30 and set(kept) < set(rows)
    np.testing.assert_array_equal(targets_KC.argmax(axis=1), prepared.labels(kept))


def test_synthetic_errors_have_the_supervisors_accuracy(
    store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec, labelled: tuple[np.ndarray, np.ndarray, str]
) -> None:
    rows, probs_NC, identity = labelled
    _, targets_NC = targets(store, prepared, weak(transfer, identity, transforms=[{"kind": "synthetic_errors"}]), 2)
    assert (targets_NC.argmax(axis=1) == prepared.labels(rows)).mean() == 0.75
    assert (targets_NC.argmax(axis=1) != probs_NC.argmax(axis=1)).any()


def test_features_are_computed_only_for_a_transform_that_needs_them(
    store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec, labelled: tuple[np.ndarray, np.ndarray, str]
) -> None:
    rows, _, identity = labelled
    asked: list[np.ndarray] = []

    def features(rows_N: np.ndarray) -> np.ndarray:
        asked.append(rows_N)
        return prepared.labels(rows_N)[:, None] * np.array([9.0, 9.0], dtype=np.float32)

    targets(store, prepared, weak(transfer, identity, transforms=[{"kind": "harden"}]), 2, features)
    assert not asked
    relabel = {"kind": "knn", "k": 9, "mode": "relabel", "fraction": 0.0}
    _, targets_NC = targets(
        store, prepared, weak(transfer, identity, transforms=[{"kind": "harden"}, relabel]), 2, features
    )
    np.testing.assert_array_equal(asked[0], rows)
    truth_N = prepared.labels(rows)
    assert (targets_NC.argmax(axis=1) == truth_N).mean() > 0.9, "the features predict the class"


def test_trap_22_transforms_get_the_groups_of_the_task(
    store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec, labelled: tuple[np.ndarray, np.ndarray, str]
) -> None:
    """The examples of a group have equal features here, and no proposal is the label of its own group."""
    rows, _, identity = labelled
    groups_N = groups_of(prepared, rows)
    assert 1 < np.bincount(groups_N).max() <= 4

    def features(rows_N: np.ndarray) -> np.ndarray:
        return groups_of(prepared, rows_N)[:, None].astype(np.float32)

    def nearest(row: int) -> np.ndarray:
        others = sorted({group for group in groups_N if group != groups_N[row]}, key=lambda g: abs(g - groups_N[row]))
        tied = [group for group in others if abs(group - groups_N[row]) == abs(others[0] - groups_N[row])]
        return np.flatnonzero(np.isin(groups_N, tied))

    relabel = {"kind": "knn", "k": 1, "mode": "relabel", "fraction": 0.0}
    _, targets_NC = targets(store, prepared, weak(transfer, identity, transforms=[relabel]), 2, features)
    _, weak_NC = targets(store, prepared, weak(transfer, identity), 2)
    for row in range(60):
        assert any(np.array_equal(targets_NC[row], weak_NC[other]) for other in nearest(row))


def test_ground_truth_may_be_thinned_to_a_bag(
    store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec
) -> None:
    bags = [
        targets(
            store,
            prepared,
            LabelledSplit(split=transfer, labels=GroundTruth(transforms=(KeepRandom(fraction=0.6),), coin_seed=seed)),
            2,
        )
        for seed in (1, 2)
    ]
    for rows, targets_KC in bags:
        assert len(rows) == 36
        np.testing.assert_array_equal(targets_KC.argmax(axis=1), prepared.labels(rows))
    assert set(bags[0][0]) != set(bags[1][0])


def test_supervisors_are_weighted_by_their_errors_on_labelled_validation(
    store: ArtifactStore, prepared: PreparedTask, transfer: SplitSpec, split: Split
) -> None:
    judged = split(prepared, "V0", 40)
    judged_rows, rows = rows_of_split(prepared, judged), rows_of_split(prepared, transfer)
    truth_N = prepared.labels(judged_rows)
    sources, judging = [], []
    for stage, num_wrong, answer in (("a", 2, 1), ("b", 14, 0), ("c", 14, 0)):
        wrong_N = np.arange(40) < num_wrong
        judging.append(predict(store, judged, prepared.ids(judged_rows), np.eye(2)[truth_N ^ wrong_N], stage))
        sources.append(predict(store, transfer, prepared.ids(rows), np.tile(np.eye(2)[answer], (60, 1)), stage))
    part = weak(transfer, *sources, combine="weighted", weighing={"split": judged.model_dump(), "predictions": judging})
    _, targets_NC = targets(store, prepared, part, 2)
    good, poor = np.log(38 / 2), np.log(26 / 14)
    np.testing.assert_allclose(targets_NC, np.tile([2 * poor, good], (60, 1)) / (good + 2 * poor), rtol=1e-5)
    assert targets_NC[0, 1] > 0.5


def test_weights_without_a_weighted_combination_are_refused() -> None:
    with pytest.raises(ValueError, match="combine: weighted of 2 supervisors with 0 weights"):
        WeakLabels(predictions=("a", "b"), combine="weighted")


def test_places_gives_the_index_of_each_wanted_example() -> None:
    assert places(["c", "a", "b"], ["b", "c"], "answers") == [2, 0]


def test_answers_are_joined_by_id() -> None:
    written = Answers(("c", "a", "b"), ("C", "A", "B"), np.array([True, False, True]))
    results = join_answers(["a", "b"], written, "answers")
    assert (results.ids, results.texts, results.is_allowed_N.tolist()) == (("a", "b"), ("A", "B"), [False, True])
    with pytest.raises(DataError, match="1 of 2 examples, the first is 'z'"):
        join_answers(["a", "z"], written, "answers")
