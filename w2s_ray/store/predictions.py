"""Predictions on the disk: one Parquet file of example ids and soft labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from w2s_ray.errors import TrainingError
from w2s_ray.store.files import writing

PREDICTIONS_NAME = "predictions.parquet"
LABELS_NAME = "labels.parquet"
"""Beside a stage's model, in the same form: what it learned, where that is not what its supervisors said."""


@dataclass(frozen=True)
class Predictions:
    """Soft labels by example id."""

    ids: tuple[str, ...]
    probs_NC: np.ndarray
    """float32, a probability per class; rows as in `ids`."""


def write(folder: Path, ids: Sequence[str], probs_NC: np.ndarray, name: str = PREDICTIONS_NAME) -> None:
    """Write predictions into `folder`.

    Raises:
        TrainingError: when a probability is not finite, as those of a model that diverged.
    """
    probs_NC = np.ascontiguousarray(probs_NC, dtype=np.float32)
    assert probs_NC.ndim == 2 and len(ids) == len(probs_NC), (len(ids), probs_NC.shape)
    assert len(set(ids)) == len(ids), "an example was predicted twice"
    broken = np.flatnonzero(~np.isfinite(probs_NC).all(axis=1))
    if broken.size:
        raise TrainingError(
            f"{broken.size} of {len(ids)} predictions are not finite, the first for example {ids[broken[0]]}",
            "predictions are probabilities",
            "lower the learning rate of the stage that predicts, or use fp32",
        )
    probabilities = pa.FixedSizeListArray.from_arrays(pa.array(probs_NC.reshape(-1)), probs_NC.shape[1])
    table = pa.table({"id": pa.array(list(ids), pa.string()), "probabilities": probabilities})
    with writing(folder / name):
        pq.write_table(table, folder / name, compression="zstd")


def read(folder: Path, name: str = PREDICTIONS_NAME) -> Predictions:
    """Read the predictions in `folder`, which were checked already."""
    table = pq.read_table(folder / name)
    lists = table["probabilities"].combine_chunks()
    probs_NC = lists.flatten().to_numpy(zero_copy_only=False).reshape(len(lists), -1).astype(np.float32, copy=False)
    return Predictions(ids=tuple(table["id"].to_pylist()), probs_NC=probs_NC)
