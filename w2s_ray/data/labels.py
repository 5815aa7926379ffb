"""Labels for a split: the task's own, or what supervisors predicted, joined by example id."""

from collections.abc import Sequence

import numpy as np

from w2s_ray.data.prepare import PreparedTask
from w2s_ray.data.splits import draw
from w2s_ray.errors import DataError
from w2s_ray.spec.identity import short
from w2s_ray.spec.labels import LabelledSplit, WeakLabels
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
    rule = "labels are joined by example id: each example has exactly one"
    remedy = "remove the predictions' folder; the next run makes them again"
    place = {example: row for row, example in enumerate(predictions.ids)}
    if len(place) != len(predictions.ids):
        doubles = len(predictions.ids) - len(place)
        raise DataError(f"{name} hold {doubles} ids more than once", rule, remedy)
    missing = [example for example in ids if example not in place]
    if missing:
        raise DataError(f"{name} lack {len(missing)} of {len(ids)} examples, the first is {missing[0]!r}", rule, remedy)
    if predictions.probs_NC.shape[1] != num_classes:
        raise DataError(
            f"{name} have {predictions.probs_NC.shape[1]} classes, the student {num_classes}",
            "supervisor and student share their classes",
            remedy,
        )
    return predictions.probs_NC[[place[example] for example in ids]]
