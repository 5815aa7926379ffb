"""Apply a model to examples: a probability for each class. Collective, in fp32."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import nn

from w2s_ray.errors import TrainingError
from w2s_ray.training.feed import Examples, Feeder, FloatArray


def predict(model: nn.Module, feeder: Feeder[Examples], num_classes: int) -> FloatArray:
    """Return softmax probabilities_NC of every example of the feeder, the same on every rank.

    Raises:
        TrainingError: on every rank, when the model has come apart.
    """
    examples, workers = feeder.examples, feeder.workers
    probs_NC = torch.zeros((len(examples), num_classes), device=workers.device)
    with evaluating(model):
        for batch in feeder.sweep():
            probs_BC = model(batch.tokens_RT, batch.last_R).softmax(dim=-1)
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


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into its mode for predictions, and back."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
