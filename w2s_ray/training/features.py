"""What a student makes of texts before it is trained: the last hidden state of each text's last token.

Filters and relabellings of weak labels compare examples by these, so they must be the same on every rank, and must not
depend on how a stage is executed: texts are read in batches that their lengths alone fix, each whole on one rank, in
fp32. Weights are those that the stage starts from; its head and its own training have no part in it.
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import AutoModel, PreTrainedModel

from w2s_ray.spec.stage import Execution
from w2s_ray.training.feed import Examples, Feeder, FloatArray
from w2s_ray.training.predict import evaluating
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine, sharded_loading

_TEXTS_PER_BATCH = 16


def features(examples: Examples, folder: Path, pad: int, execution: Execution, workers: Workers) -> FloatArray:
    """Return the features_ND of N examples under the pretrained model in `folder`. Collective.

    Those of a pair are its second text's hidden state less its first's: swapped texts have the opposite features.
    """
    with sharded_loading(execution):
        hf = AutoModel.from_pretrained(folder, dtype=torch.float32)
    engine = Engine(_Reader(hf).to(workers.device), execution, None)
    try:
        hidden_MD = _read(engine.model, Examples(tokens=examples.tokens), pad, workers)
    finally:
        engine.destroy()
    if examples.texts_per_example == 1:
        return hidden_MD
    first_ND, second_ND = hidden_MD.reshape(2, len(examples), -1)
    return np.asarray(second_ND - first_ND)


class _Reader(nn.Module):
    def __init__(self, hf: PreTrainedModel) -> None:
        super().__init__()
        self.hf = hf
        hf.config.use_cache = False

    def forward(self, tokens_RT: torch.Tensor, last_R: torch.Tensor) -> torch.Tensor:
        """Return hidden_RD of each row's last real token."""
        positions_T = torch.arange(tokens_RT.shape[1], device=last_R.device)
        real_RT = (positions_T[None, :] <= last_R[:, None]).long()
        hidden_RTD: torch.Tensor = self.hf(input_ids=tokens_RT, attention_mask=real_RT).last_hidden_state
        return hidden_RTD[torch.arange(len(last_R), device=last_R.device), last_R]


def _read(model: nn.Module, texts: Examples, pad: int, workers: Workers) -> FloatArray:
    """Each batch goes to one rank; a rank without one reads the last again and keeps nothing of it."""
    feeder = Feeder(texts, Workers(0, 1, workers.device), sys.maxsize, pad)
    order_N = np.argsort(texts.lengths_N, kind="stable")
    batches = [order_N[start : start + _TEXTS_PER_BATCH] for start in range(0, len(order_N), _TEXTS_PER_BATCH)]
    hidden_ND: torch.Tensor | None = None
    with evaluating(model):
        for first in range(workers.rank, len(batches) + workers.rank, workers.size):
            (batch,) = feeder.group(batches[min(first, len(batches) - 1)])
            hidden_RD = model(batch.tokens_RT, batch.last_R)
            if hidden_ND is None:
                hidden_ND = torch.zeros((len(texts), hidden_RD.shape[1]), device=workers.device)
            if first < len(batches):
                hidden_ND[torch.from_numpy(batch.positions).to(workers.device)] = hidden_RD
    assert hidden_ND is not None, "there are texts"
    return workers.sum(hidden_ND).cpu().numpy()
