"""Labels for a split: the task's own, or what supervisors predicted, joined by example id."""

from collections.abc import Sequence

import numpy as np

from w2s_ray.data.prepare import PreparedTask
from w2s_ray.data.splits import draw
from w2s_ray.errors import DataError
from w2s_ray.spec.identity import short
from w2s_ray.spec.stage import LabelledSplit, WeakLabels
from w2s_ray.store.answers import Answers
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.predictions import Predictions


def targets(
    store: ArtifactStore, prepared: PreparedTask, part: LabelledSplit, num_classes: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows of a labelled split and a probability per class for each (float32).

    Several supervisors are averaged.

    Raises:
        DataError: when a prediction lacks or doubles an example, or has other classes.
        StoreError: when a prediction is missing or damaged.
    """
    row_numbers = draw(prepared, part.split)
    if not isinstance(part.labels, WeakLabels):
        return row_numbers, one_hot(prepared.labels(row_numbers), num_classes)
    ids = prepared.ids(row_numbers)
    total_NC = np.zeros((len(ids), num_classes), dtype=np.float64)
    for identity in part.labels.predictions:
        total_NC += join(ids, store.read_predictions(identity), num_classes, f"predictions {short(identity)}")
    return row_numbers, (total_NC / len(part.labels.predictions)).astype(np.float32)


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
