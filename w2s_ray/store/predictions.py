"""Predictions as Parquet files of example ids with soft labels or, for tasks of answers, written texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from w2s_ray.errors import TrainingError
from w2s_ray.science import BoolArray, FloatArray
from w2s_ray.store.files import writing

PREDICTIONS_NAME = "predictions.parquet"
ANSWERS_NAME = "answers.parquet"
LABELS_NAME = "labels.parquet"
"""Beside a stage's model: the labels that it learned, if transforms changed those of its label source."""


@dataclass(frozen=True)
class Predictions:
    """Soft labels by example id."""

    ids: tuple[str, ...]
    probs_NC: FloatArray
    """float32, a probability per class; rows as in `ids`."""
    logs_NC: FloatArray | None = None
    """Their logarithms, which stay finite where a probability is too small for float32; None if they are not kept."""


@dataclass(frozen=True)
class Answers:
    """A written text for each example; rows as in `ids`."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    is_allowed_N: BoolArray
    """Whether the task's judge allows the answer, such as a legal move; true for a task without a judge."""


def write(
    folder: Path,
    ids: Sequence[str],
    probs_NC: FloatArray,
    name: str = PREDICTIONS_NAME,
    logs_NC: FloatArray | None = None,
) -> None:
    """Write soft labels, and perhaps their logarithms, to `folder`/`name`.

    Raises:
        TrainingError: when a probability is not finite, because the model diverged.
    """
    probs_NC = np.ascontiguousarray(probs_NC, dtype=np.float32)
    assert probs_NC.ndim == 2 and len(ids) == len(probs_NC), (len(ids), probs_NC.shape)
    assert len(set(ids)) == len(ids), "an example was predicted twice"
    broken = np.flatnonzero(~np.isfinite(probs_NC).all(axis=1))
    if broken.size:
        raise TrainingError(
            f"{broken.size} of {len(ids)} predictions are not finite, the first for example {ids[broken[0]]}",
            "lower the learning rate of the stage that predicts, or use fp32",
        )
    columns = {"id": pa.array(list(ids), pa.string()), "probabilities": _lists(probs_NC)}
    if logs_NC is not None:
        columns["log_probabilities"] = _lists(np.ascontiguousarray(logs_NC, dtype=np.float32))
    table = pa.table(columns)
    with writing(folder / name):
        pq.write_table(table, folder / name, compression="zstd")


def read(folder: Path, name: str = PREDICTIONS_NAME) -> Predictions:
    """Read soft labels, without checking the file."""
    table = pq.read_table(folder / name)
    logs_NC = _array(table["log_probabilities"]) if "log_probabilities" in table.column_names else None
    return Predictions(tuple(table["id"].to_pylist()), _array(table["probabilities"]), logs_NC)


def _lists(values_NC: FloatArray) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values_NC.reshape(-1)), values_NC.shape[1])


def _array(column: pa.ChunkedArray) -> FloatArray:
    lists = column.combine_chunks()
    flat: FloatArray = lists.flatten().to_numpy(zero_copy_only=False).astype(np.float32, copy=False)
    return flat.reshape(len(lists), -1)


def write_answers(folder: Path, ids: Sequence[str], texts: Sequence[str], is_allowed_N: BoolArray) -> None:
    """Write answers to `folder`, including those that are not allowed."""
    assert len(ids) == len(texts) == len(is_allowed_N), (len(ids), len(texts), len(is_allowed_N))
    assert len(set(ids)) == len(ids), "an example was answered twice"
    table = pa.table(
        {
            "id": pa.array(list(ids), pa.string()),
            "answer": pa.array(list(texts), pa.string()),
            "is_allowed": pa.array(np.asarray(is_allowed_N, dtype=bool)),
        }
    )
    with writing(folder / ANSWERS_NAME):
        pq.write_table(table, folder / ANSWERS_NAME, compression="zstd")


def read_answers(folder: Path) -> Answers:
    """Read answers, without checking the file."""
    table = pq.read_table(folder / ANSWERS_NAME)
    return Answers(
        ids=tuple(table["id"].to_pylist()),
        texts=tuple(table["answer"].to_pylist()),
        is_allowed_N=table["is_allowed"].to_numpy(zero_copy_only=False),
    )
