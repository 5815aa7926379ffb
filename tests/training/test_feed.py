"""Micro-batches: right-padded rows whose last real token is known, fillers, equal numbers on all ranks."""

from typing import Any

import numpy as np
import pytest
import torch

from w2s_ray.spec.execution import Execution
from w2s_ray.spec.labels import GroundTruth, LabelledSplit, SplitSpec
from w2s_ray.spec.stage import ModelSource, StageSpec
from w2s_ray.training.feed import Examples, Feeder, LabelledExamples
from w2s_ray.training.memory.footprint import prediction_tokens
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


@pytest.mark.parametrize(("tokens", "size", "largest"), [(2_048, 1, 86), (2_048, 4, 64), (65_536, 4, 2_048)])
def test_predictions_fill_the_micro_batches_of_any_device(tokens: int, size: int, largest: int) -> None:
    feeder = feeder_of([[5] * 20] * 20_000, size=size, tokens_per_micro_batch=tokens)
    batches = list(feeder.sweep())
    assert max(len(batch.positions) for batch in batches) == largest
    assert all(batch.tokens_RT.numel() <= tokens for batch in batches)


@pytest.mark.parametrize(
    ("objective", "gpus", "trained_with", "tokens"),
    [
        ("classification", 0, 4_096, 2_048),
        ("classification", 1, 4_096, 32_768),
        ("preference", 1, 512, 8_192),
        ("answer", 1, 4_096, 8_192),
    ],
)
def test_gpus_predict_from_more_texts_at_once(objective: Any, gpus: float, trained_with: int, tokens: int) -> None:
    split = SplitSpec(task="t", name="S", num_examples=4, num_levels=2, split_seed=0)
    spec = StageSpec(
        objective=objective,
        starts_from=ModelSource(name="m", revision=""),
        train=(LabelledSplit(split=split, labels=GroundTruth()),),
        init_seed=0,
        order_seed=0,
    )
    execution = Execution(gpus_per_worker=gpus, tokens_per_micro_batch=trained_with)
    assert prediction_tokens(spec, execution) == tokens
