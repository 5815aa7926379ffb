"""Answers on the disk: one Parquet file of example ids and the texts that a stage wrote for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from w2s_ray.store.files import writing

ANSWERS_NAME = "answers.parquet"


@dataclass(frozen=True)
class Answers:
    """What was written for each example; rows as in `ids`."""

    ids: tuple[str, ...]
    texts: tuple[str, ...]
    is_allowed_N: np.ndarray
    """Whether the task's rule allows the answer, such as a legal move; true where the task has no rule."""


def write(folder: Path, ids: Sequence[str], texts: Sequence[str], is_allowed_N: np.ndarray) -> None:
    """Write answers into `folder`; forbidden ones are kept as they are."""
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


def read(folder: Path) -> Answers:
    """Read the answers in `folder`, which were checked already."""
    table = pq.read_table(folder / ANSWERS_NAME)
    return Answers(
        ids=tuple(table["id"].to_pylist()),
        texts=tuple(table["answer"].to_pylist()),
        is_allowed_N=table["is_allowed"].to_numpy(zero_copy_only=False),
    )
