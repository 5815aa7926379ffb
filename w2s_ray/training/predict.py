"""Apply a model to examples: soft labels, accuracy against labels, next-token loss. Collective, in fp32."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from w2s_ray.errors import TrainingError
from w2s_ray.science.metrics import accuracy
from w2s_ray.training.feed import Feeder
from w2s_ray.training.losses import FloatArray, next_token_cross_entropy


def predict(model: nn.Module, feeder: Feeder, num_classes: int) -> FloatArray:
    """Return softmax probabilities_NC of every example of the feeder, the same on every rank.

    Raises:
        TrainingError: on every rank, when the model has come apart.
    """
    examples, workers = feeder.examples, feeder.workers
    probs_NC = torch.zeros((len(examples.tokens), num_classes), device=workers.device)
    with _evaluating(model):
        for batch in feeder.sweep():
            probs_BC = model(batch.tokens_BT, batch.last_B).softmax(dim=-1)
            if len(batch.positions):
                probs_NC[torch.from_numpy(batch.positions).to(workers.device)] = probs_BC
    gathered_NC = workers.sum(probs_NC).cpu().numpy().astype(np.float32)
    if not np.isfinite(gathered_NC).all():
        raise TrainingError(
            "the model's predictions are not finite",
            "a probability is a number",
            "lower optimisation.learning_rate, or look at the data",
        )
    return gathered_NC


def agreement_with_labels(model: nn.Module, feeder: Feeder) -> float:
    """Return the share of examples whose most probable class is that of their (soft) label."""
    targets_NC = feeder.examples.targets_NC
    probs_NC = predict(model, feeder, targets_NC.shape[1])
    return accuracy(probs_NC, targets_NC.argmax(axis=1))


def next_token_loss(model: nn.Module, feeder: Feeder) -> float:
    """Return the mean next-token cross-entropy in nats."""
    totals = torch.zeros(2, dtype=torch.float64, device=feeder.workers.device)
    with _evaluating(model):
        for batch in feeder.sweep(64):
            logits_BTV = model(batch.tokens_BT, batch.last_B)
            totals[0] += next_token_cross_entropy(logits_BTV, batch.tokens_BT, batch.real_B)
            totals[1] += len(batch.positions) * (batch.tokens_BT.shape[1] - 1)
    loss, count = feeder.workers.sum(totals).tolist()
    return float(loss / max(count, 1.0))


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
