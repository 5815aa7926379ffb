"""From logits to losses: the whole optimizer batch is seen before it is learnt, and one graph is held at a time."""

import weakref

import numpy as np
import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

from w2s_ray.spec.losses import ConfidenceLoss, EntropyLoss, HardLoss, KLLoss, Loss, NaiveLoss, ProductLoss, WindowLoss
from w2s_ray.training.feed import Feeder, LabelledExamples
from w2s_ray.training.losses import ClassBatchLoss
from w2s_ray.training.workers import Workers

ALONE = Workers(0, 1, torch.device("cpu"))
LOSSES = [NaiveLoss(), HardLoss(), ConfidenceLoss(), EntropyLoss(), ProductLoss(), WindowLoss(), KLLoss()]
NUM_EXAMPLES = 12
ONE_BY_ONE, AT_ONCE = 1, 10_000
"""Tokens of a micro-batch."""


class Scorer(torch.nn.Module):
    """A model as small as can be: the scores of a text's tokens, added up."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = torch.nn.Embedding(50, 2)
        self.saved: weakref.WeakSet[Saved] = weakref.WeakSet()
        self.held: list[int] = []
        """Tensors that are held for backward passes when a forward pass begins."""
        self.num_blind = 0
        """Passes without gradients."""

    def forward(self, tokens_RT: torch.Tensor, last_R: torch.Tensor) -> torch.Tensor:
        self.held.append(len(self.saved))
        self.num_blind += not torch.is_grad_enabled()
        logits_RC: torch.Tensor = self.table(tokens_RT).tanh().cumsum(dim=1)[torch.arange(len(last_R)), last_R]
        return logits_RC


class Saved:
    """A tensor that autograd holds until the backward pass."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor


def learn(loss: Loss, tokens_per_micro_batch: int) -> Scorer:
    """One optimizer batch's forward and backward passes, in the middle of training."""
    coin = np.random.default_rng(0)
    labels_N = coin.uniform(size=NUM_EXAMPLES)
    examples = LabelledExamples(
        tokens=[coin.integers(1, 50, size, dtype=np.int32) for size in coin.integers(2, 9, NUM_EXAMPLES)],
        targets_NC=np.stack([1 - labels_N, labels_N], axis=1).astype(np.float32),
        ties_N=coin.permutation(NUM_EXAMPLES),
    )
    model, batch_loss = Scorer(), ClassBatchLoss(loss, examples, ALONE)
    positions_N = coin.permutation(NUM_EXAMPLES)
    group = Feeder(examples, ALONE, tokens_per_micro_batch, pad=0).micro_batches(positions_N)
    assert len(group) == (NUM_EXAMPLES if tokens_per_micro_batch == ONE_BY_ONE else 1)

    def pack(tensor: torch.Tensor) -> Saved:
        saved = Saved(tensor)
        model.saved.add(saved)
        return saved

    with saved_tensors_hooks(pack, lambda saved: saved.tensor):
        for value in batch_loss.values(model, group, positions_N, step=5, num_steps=10):
            value.backward()
    return model


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.label)
def test_trap_3_micro_batches_of_one_learn_what_the_whole_batch_learns(loss: Loss) -> None:
    one, all_ = learn(loss, ONE_BY_ONE), learn(loss, AT_ONCE)
    assert one.table.weight.grad is not None and all_.table.weight.grad is not None
    assert one.table.weight.grad.abs().sum() > 0
    torch.testing.assert_close(one.table.weight.grad, all_.table.weight.grad)


@pytest.mark.parametrize("loss", LOSSES, ids=lambda loss: loss.label)
def test_trap_4_no_graph_of_an_earlier_micro_batch_is_kept(loss: Loss) -> None:
    model = learn(loss, ONE_BY_ONE)
    assert len(model.held) >= NUM_EXAMPLES
    assert set(model.held) == {0}


def test_only_a_threshold_over_several_micro_batches_costs_a_pass_without_gradients() -> None:
    blind = {loss.label: learn(loss, ONE_BY_ONE).num_blind for loss in LOSSES}
    assert {label for label, count in blind.items() if count} == {ConfidenceLoss().label}
    model = learn(ConfidenceLoss(), AT_ONCE)
    assert (model.num_blind, len(model.held)) == (0, 1), "where a rank has one micro-batch, its pass is used"
