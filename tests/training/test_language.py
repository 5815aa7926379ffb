"""What the next tokens of a text cost: only what is learnt counts, padding and fillers never."""

import numpy as np
import pytest
import torch

from w2s_ray.training.feed import Feeder, LanguageExamples, MicroBatch
from w2s_ray.training.losses import loss_from, token_cross_entropy
from w2s_ray.training.workers import Workers


def batch_of(
    rows: list[list[int]], starts: list[int], positions: list[int], world: int = 1, rank: int = 0
) -> tuple[MicroBatch, torch.Tensor, LanguageExamples]:
    examples = LanguageExamples(tokens=[np.array(row, dtype=np.int32) for row in rows], loss_from_N=np.array(starts))
    feeder = Feeder(examples, Workers(rank, world, torch.device("cpu")), 1000, 0)
    (batch,) = feeder.micro_batches(np.array(positions))
    return batch, loss_from(examples, batch), examples


def test_only_the_tokens_that_are_learnt_count() -> None:
    rows, starts = [[3, 4, 5, 6], [5, 2, 3]], [2, 1]
    batch, learnt, examples = batch_of(rows, starts, [0, 1])
    torch.manual_seed(0)
    logits = torch.randn(2, 4, 7)
    expected = 0.0
    for row, position in enumerate(batch.positions):
        log_probs = logits[row].log_softmax(-1)
        for at in range(starts[position], len(rows[position])):
            expected -= float(log_probs[at - 1, rows[position][at]])
    assert float(token_cross_entropy(logits, batch, learnt)) == pytest.approx(expected, rel=1e-6)
    assert examples.num_loss_tokens(np.array([0, 1])) == 4


def test_a_fillers_row_weighs_nothing() -> None:
    batches = [batch_of([[3, 4, 5]], [1], [0], world=2, rank=rank) for rank in (0, 1)]
    filler, learnt = next((batch, learnt) for batch, learnt, _ in batches if not len(batch.positions))
    assert float(token_cross_entropy(torch.randn(1, 2, 7), filler, learnt)) == 0.0
