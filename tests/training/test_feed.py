"""Micro-batches: right-padded rows whose last real token is known, fillers, equal numbers on all ranks."""

import numpy as np
import torch

from w2s_ray.training.feed import Examples, Feeder, LabelledExamples
from w2s_ray.training.workers import Workers

PAD = 0


def feeder_of(
    rows: list[list[int]], size: int = 1, rank: int = 0, tokens_per_micro_batch: int = 1000
) -> Feeder[LabelledExamples]:
    examples = LabelledExamples(
        tokens=[np.array(row, dtype=np.int32) for row in rows],
        targets_NC=np.zeros((len(rows), 2), dtype=np.float32),
        ties_N=np.arange(len(rows)),
    )
    return Feeder(examples, Workers(rank, size, torch.device("cpu")), tokens_per_micro_batch, PAD)


def test_trap_1_a_text_that_ends_in_the_padding_token_is_pooled_at_its_end() -> None:
    rows = [[5, PAD, 7, PAD], [PAD, PAD], [5, 6, 7, 8, 9, PAD]]
    (batch,) = feeder_of(rows).micro_batches(np.arange(3))
    last = {int(position): int(at) for position, at in zip(batch.positions, batch.last_R, strict=True)}
    assert last == {0: 3, 1: 1, 2: 5}


def test_rows_are_padded_on_the_right() -> None:
    (batch,) = feeder_of([[5, 6], [7, 8, 9]]).micro_batches(np.arange(2))
    rows = {int(position): row.tolist() for position, row in zip(batch.positions, batch.tokens_RT, strict=True)}
    assert rows == {0: [5, 6, PAD], 1: [7, 8, 9]}


def test_all_ranks_get_as_many_micro_batches_with_fillers_of_weight_zero() -> None:
    groups = [feeder_of([[5, 6, 7]], size=2, rank=rank).micro_batches(np.arange(1)) for rank in (0, 1)]
    assert [len(group) for group in groups] == [1, 1]
    assert sorted(float(group[0].real_R.sum()) for group in groups) == [0.0, 1.0]


def test_the_largest_micro_batch_of_features_counts_each_text_as_one_token() -> None:
    examples = Examples(tokens=[np.arange(9, dtype=np.int32)] * 6, features_MD=np.zeros((6, 32), dtype=np.float32))
    feeder = Feeder(examples, Workers(0, 1, torch.device("cpu")), tokens_per_micro_batch=4, pad=PAD)
    feeder.micro_batches(np.arange(6))
    assert (feeder.largest.tokens, feeder.largest.examples) == (3, 3)
