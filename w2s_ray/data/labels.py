"""Labels of a split: the task's own, or predictions of supervisors, joined by example id; then their transforms."""

from collections.abc import Callable, Sequence

import numpy as np

from w2s_ray.data.prepare import PreparedTask
from w2s_ray.data.splits import groups_of, rows_of_split
from w2s_ray.errors import DataError
from w2s_ray.science import FloatArray, IntArray
from w2s_ray.science.ensemble import combine
from w2s_ray.science.metrics import accuracy
from w2s_ray.science.relabelling import LabelSet, apply
from w2s_ray.spec.identity import short
from w2s_ray.spec.labels import LabelledSplit, WeakLabels, Weighing
from w2s_ray.spec.stage import StageSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.predictions import Answers, Predictions

Features = Callable[[IntArray], FloatArray]
"""Rows of the task → features_ND, the student's hidden states before training."""


def targets(
    store: ArtifactStore,
    prepared: PreparedTask,
    part: LabelledSplit,
    num_classes: int,
    features: Features | None = None,
) -> tuple[IntArray, FloatArray]:
    """Return the rows of a labelled split that a stage learns on, and a probability per class for each (float32).

    Filters remove rows. `features` is needed only if a transform uses them.

    Raises:
        DataError: when predictions do not have each example once or have other classes, or a filter leaves too few.
        StoreError: when predictions are missing or damaged.
    """
    rows_N, labels = rows_of_split(prepared, part.split), part.labels
    if isinstance(labels, WeakLabels):
        soft_NC = combined(store, prepared, prepared.ids(rows_N), labels, num_classes)
    else:
        soft_NC = one_hot(prepared.labels(rows_N), num_classes)
    if labels.transforms:
        assert features is not None or not labels.needs_features, "a transform needs the student's features"
        examples = LabelSet(
            ids=prepared.ids(rows_N),
            targets_NC=soft_NC.astype(np.float64),
            coin_seed=labels.coin_seed,
            groups_N=groups_of(prepared, rows_N),
            truth_N=prepared.labels(rows_N).astype(np.int64),
            features_ND=features(rows_N).astype(np.float64) if features and labels.needs_features else None,
        )
        soft_NC, kept_K = apply(labels.transforms, examples)
        rows_N = rows_N[kept_K]
    return rows_N, soft_NC.astype(np.float32)


def learnt(store: ArtifactStore, prepared: PreparedTask, stage: StageSpec) -> tuple[IntArray, FloatArray]:
    """Return the rows that a finished stage of classes learned on, and the labels that it learned; for reports.

    Raises:
        DataError: when labels do not have each example once, or have other classes.
        StoreError: when labels are missing or damaged.
    """
    if not stage.keeps_labels:
        parts = [targets(store, prepared, part, stage.num_classes) for part in stage.train]
        return np.concatenate([rows_N for rows_N, _ in parts]), np.concatenate([labels_NC for _, labels_NC in parts])
    kept = store.read_labels(stage.identity)
    rows_N = np.concatenate([rows_of_split(prepared, part.split) for part in stage.train])
    return rows_N[places(prepared.ids(rows_N), kept.ids, f"splits of {stage.slug}")], kept.probs_NC


def combined(
    store: ArtifactStore, prepared: PreparedTask, ids: Sequence[str], labels: WeakLabels, num_classes: int
) -> FloatArray:
    """Return the combined label (N, C) of all supervisors for each example, before any transform.

    Raises:
        DataError: when predictions do not have each example once, or have other classes.
        StoreError: when predictions are missing or damaged.
    """
    probs_SNC = _joined(store, ids, labels.predictions, num_classes)
    if labels.weighing is None:
        return combine(probs_SNC, labels.combine)
    errors_S, num_judged = _errors(store, prepared, labels.weighing, num_classes)
    return combine(probs_SNC, labels.combine, errors_S, num_judged)


def _errors(
    store: ArtifactStore, prepared: PreparedTask, weighing: Weighing, num_classes: int
) -> tuple[FloatArray, int]:
    """Return the error rate of each supervisor on labelled examples, and the number of those."""
    rows_N = rows_of_split(prepared, weighing.split)
    probs_SNC = _joined(store, prepared.ids(rows_N), weighing.predictions, num_classes)
    truth_N = prepared.labels(rows_N)
    return np.array([1 - accuracy(probs_NC, truth_N) for probs_NC in probs_SNC]), len(rows_N)


def _joined(store: ArtifactStore, ids: Sequence[str], predictions: Sequence[str], num_classes: int) -> FloatArray:
    """Return the probabilities (S, N, C) of several predictions."""
    return np.stack(
        [join(ids, store.read_predictions(name), num_classes, f"predictions {short(name)}") for name in predictions]
    )


def answers(store: ArtifactStore, prepared: PreparedTask, part: LabelledSplit) -> tuple[IntArray, list[str]]:
    """Return the rows of a labelled split of a task of answers, and the answer to learn for each.

    Raises:
        DataError: when the supervisor's answers do not have each example once.
        StoreError: when they are missing or damaged.
    """
    row_numbers = rows_of_split(prepared, part.split)
    if not isinstance(part.labels, WeakLabels):
        return row_numbers, prepared.others(row_numbers)
    (source,) = part.labels.predictions
    written = join_answers(prepared.ids(row_numbers), store.read_answers(source), f"answers {short(source)}")
    return row_numbers, list(written.texts)


def one_hot(labels_N: IntArray, num_classes: int) -> FloatArray:
    """Return the probability 1 (float32) for each example's class.

    Raises:
        DataError: when there is no such class.
    """
    if labels_N.size and labels_N.max() >= num_classes:
        raise DataError(
            f"label {labels_N.max()} is outside of the head's {num_classes} classes", "check the task's `classes:`"
        )
    targets_NC: FloatArray = np.eye(num_classes, dtype=np.float32)[labels_N]
    return targets_NC


def join(ids: Sequence[str], predictions: Predictions, num_classes: int, name: str) -> FloatArray:
    """Return the predicted probabilities in the order of `ids`.

    Raises:
        DataError: when the predictions do not have each id exactly once, or the numbers of classes differ.
    """
    rows = places(predictions.ids, ids, name)
    if predictions.probs_NC.shape[1] != num_classes:
        raise DataError(
            f"{name} have {predictions.probs_NC.shape[1]} classes, and the student has {num_classes}", _HINT
        )
    return predictions.probs_NC[rows]


def join_answers(ids: Sequence[str], answers: Answers, name: str) -> Answers:
    """Return the answers in the order of `ids`.

    Raises:
        DataError: when the answers do not have each id exactly once.
    """
    rows = places(answers.ids, ids, name)
    return Answers(tuple(ids), tuple(answers.texts[row] for row in rows), answers.is_allowed_N[rows])


def places(ids: Sequence[str], wanted: Sequence[str], name: str) -> list[int]:
    """Return the index in `ids` of each wanted example; `name` is used in errors.

    Raises:
        DataError: when a wanted id is missing, or an id occurs twice.
    """
    place = {example: row for row, example in enumerate(ids)}
    if len(place) != len(ids):
        raise DataError(f"{name} have {len(ids) - len(place)} ids more than once", _HINT)
    missing = [example for example in wanted if example not in place]
    if missing:
        raise DataError(f"{name} miss {len(missing)} of {len(wanted)} examples, the first is {missing[0]!r}", _HINT)
    return [place[example] for example in wanted]


_HINT = "remove the predictions' folder; the next run makes them again"
