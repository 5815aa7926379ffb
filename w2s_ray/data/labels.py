"""Labels for a split: the task's own, or what supervisors predicted, joined by example id; then their transforms."""

from collections.abc import Callable, Sequence

import numpy as np

from w2s_ray.data.prepare import PreparedTask
from w2s_ray.data.splits import draw
from w2s_ray.errors import DataError
from w2s_ray.science.ensemble import combine
from w2s_ray.science.metrics import accuracy
from w2s_ray.science.relabelling.apply import apply
from w2s_ray.science.relabelling.label_set import LabelSet
from w2s_ray.spec.identity import short
from w2s_ray.spec.labels import LabelledSplit, WeakLabels, Weighing
from w2s_ray.spec.stage import StageSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.predictions import Answers, Predictions

Features = Callable[[np.ndarray], np.ndarray]
"""Gives the features_ND of rows of the task: what the student itself makes of them before it is trained."""


def targets(
    store: ArtifactStore,
    prepared: PreparedTask,
    part: LabelledSplit,
    num_classes: int,
    features: Features | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a labelled split that a stage learns on, and a probability per class for each (float32).

    Filters leave rows out. `features` is asked only where a transform looks at them, and must be there then.

    Raises:
        DataError: when a prediction lacks or doubles an example, or has other classes, or a transform has too few.
        StoreError: when a prediction is missing or damaged.
    """
    rows_N, labels = draw(prepared, part.split), part.labels
    if isinstance(labels, WeakLabels):
        soft_NC = combined(store, prepared, prepared.ids(rows_N), labels, num_classes)
    else:
        soft_NC = one_hot(prepared.labels(rows_N), num_classes)
    if labels.transforms:
        assert features is not None or not labels.needs_features, "whoever asks must know the student's features"
        examples = LabelSet(
            ids=prepared.ids(rows_N),
            targets_NC=soft_NC.astype(np.float64),
            coin_seed=labels.coin_seed,
            truth_N=prepared.labels(rows_N).astype(np.int64),
            features_ND=features(rows_N).astype(np.float64) if features and labels.needs_features else None,
        )
        soft_NC, kept_K = apply(labels.transforms, examples)
        rows_N = rows_N[kept_K]
    return rows_N, soft_NC.astype(np.float32)


def learnt(store: ArtifactStore, prepared: PreparedTask, stage: StageSpec) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows that a finished stage of classes learned on, and the labels that it learned; for reports.

    Raises:
        DataError: when labels lack an example, or have other classes.
        StoreError: when labels are missing or damaged.
    """
    if not stage.keeps_labels:
        found = [targets(store, prepared, part, stage.num_classes) for part in stage.train]
        return np.concatenate([rows_N for rows_N, _ in found]), np.concatenate([labels_NC for _, labels_NC in found])
    kept = store.read_labels(stage.identity)
    rows_N = np.concatenate([draw(prepared, part.split) for part in stage.train])
    return rows_N[places(prepared.ids(rows_N), kept.ids, f"splits of {stage.slug}")], kept.probs_NC


def combined(
    store: ArtifactStore, prepared: PreparedTask, ids: Sequence[str], labels: WeakLabels, num_classes: int
) -> np.ndarray:
    """Return one label per example from all supervisors, before any transform.

    Raises:
        DataError: when a prediction lacks or doubles an example, or has other classes.
        StoreError: when a prediction is missing or damaged.
    """
    probs_SNC = _joined(store, ids, labels.predictions, num_classes)
    if labels.weighing is None:
        return combine(probs_SNC, labels.combine)
    errors_S, num_judged = _errors(store, prepared, labels.weighing, num_classes)
    return combine(probs_SNC, labels.combine, errors_S, num_judged)


def _errors(
    store: ArtifactStore, prepared: PreparedTask, weighing: Weighing, num_classes: int
) -> tuple[np.ndarray, int]:
    """On which share of how many labelled examples each supervisor is wrong."""
    rows_N = draw(prepared, weighing.split)
    probs_SNC = _joined(store, prepared.ids(rows_N), weighing.predictions, num_classes)
    truth_N = prepared.labels(rows_N)
    return np.array([1 - accuracy(probs_NC, truth_N) for probs_NC in probs_SNC]), len(rows_N)


def _joined(store: ArtifactStore, ids: Sequence[str], predictions: Sequence[str], num_classes: int) -> np.ndarray:
    """The probabilities_SNC of several predictions."""
    each = (join(ids, store.read_predictions(name), num_classes, f"predictions {short(name)}") for name in predictions)
    return np.stack(list(each))


def answers(store: ArtifactStore, prepared: PreparedTask, part: LabelledSplit) -> tuple[np.ndarray, list[str]]:
    """Return the rows of a labelled split of a task of answers, and the answer to be learnt for each.

    Raises:
        DataError: when the supervisor's answers lack or double an example.
        StoreError: when they are missing or damaged.
    """
    row_numbers = draw(prepared, part.split)
    if not isinstance(part.labels, WeakLabels):
        return row_numbers, prepared.others(row_numbers)
    (source,) = part.labels.predictions
    written = join_answers(prepared.ids(row_numbers), store.read_answers(source), f"answers {short(source)}")
    return row_numbers, list(written.texts)


def one_hot(labels_N: np.ndarray, num_classes: int) -> np.ndarray:
    """Return all probability on the class that is true."""
    if labels_N.size and labels_N.max() >= num_classes:
        raise DataError(
            f"label {labels_N.max()} with a head of {num_classes} classes",
            "the head has an output per class",
            "check the task's `classes:`",
        )
    targets_NC = np.zeros((len(labels_N), num_classes), dtype=np.float32)
    targets_NC[np.arange(len(labels_N)), labels_N] = 1.0
    return targets_NC


def join(ids: Sequence[str], predictions: Predictions, num_classes: int, name: str) -> np.ndarray:
    """Return the predicted probabilities in the order of `ids`.

    Raises:
        DataError: when an id is missing from the predictions or stands in them twice, or the classes differ.
    """
    rows = places(predictions.ids, ids, name)
    if predictions.probs_NC.shape[1] != num_classes:
        raise DataError(
            f"{name} have {predictions.probs_NC.shape[1]} classes, the student {num_classes}",
            "supervisor and student share their classes",
            _REMEDY,
        )
    return predictions.probs_NC[rows]


def join_answers(ids: Sequence[str], answers: Answers, name: str) -> Answers:
    """Return the answers in the order of `ids`.

    Raises:
        DataError: when an id is missing from the answers or stands in them twice.
    """
    rows = places(answers.ids, ids, name)
    return Answers(tuple(ids), tuple(answers.texts[row] for row in rows), answers.is_allowed_N[rows])


def places(ids: Sequence[str], wanted: Sequence[str], name: str) -> list[int]:
    """Return where each wanted example stands among `ids`.

    Args:
        ids: of what was predicted.
        wanted: the examples to be joined to it.
        name: how errors call what was predicted.

    Raises:
        DataError: when a wanted id is missing, or any id stands there twice.
    """
    rule = "labels are joined by example id: each example has exactly one"
    place = {example: row for row, example in enumerate(ids)}
    if len(place) != len(ids):
        raise DataError(f"{name} hold {len(ids) - len(place)} ids more than once", rule, _REMEDY)
    missing = [example for example in wanted if example not in place]
    if missing:
        raise DataError(
            f"{name} lack {len(missing)} of {len(wanted)} examples, the first is {missing[0]!r}", rule, _REMEDY
        )
    return [place[example] for example in wanted]


_REMEDY = "remove the predictions' folder; the next run makes them again"
