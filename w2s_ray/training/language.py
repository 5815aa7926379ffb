"""Language: what the next tokens of a text cost.

Shapes: R rows of a micro-batch, T tokens, V vocabulary, N examples.
"""

import numpy as np
import torch

from w2s_ray.training.feed import Feeder, MicroBatch, Written
from w2s_ray.training.predict import evaluating


def token_losses(logits_RTV: torch.Tensor, tokens_RT: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy (R, T - 1) of each token but the first given those before it, in nats."""
    losses = torch.nn.functional.cross_entropy(
        logits_RTV[:, :-1].float().flatten(0, 1), tokens_RT[:, 1:].flatten(), reduction="none"
    )
    return losses.view(len(tokens_RT), -1)


def written_cross_entropy(logits_RTV: torch.Tensor, batch: MicroBatch, learnt_from_R: torch.Tensor) -> torch.Tensor:
    """Return the summed cross-entropy of the tokens that are learnt; padding and a filler's row weigh nothing."""
    ends_T = torch.arange(1, batch.tokens_RT.shape[1], device=batch.last_R.device)[None, :]
    learnt_RT = (ends_T >= learnt_from_R[:, None]) & (ends_T <= batch.last_R[:, None])
    losses_RT = token_losses(logits_RTV, batch.tokens_RT)
    return (losses_RT * learnt_RT * batch.real_R[:, None]).sum()


def held_out_loss(model: torch.nn.Module, feeder: Feeder[Written]) -> float:
    """Return the mean cross-entropy of the tokens that are learnt, in nats."""
    examples, workers = feeder.examples, feeder.workers
    total = torch.zeros((), dtype=torch.float64, device=workers.device)
    with evaluating(model):
        for batch in feeder.sweep(64):
            total += written_cross_entropy(model(batch.tokens_RT, batch.last_R), batch, learnt_from(examples, batch))
    return float(workers.sum(total)) / max(examples.num_learnt(np.arange(len(examples))), 1)


def learnt_from(examples: Written, batch: MicroBatch) -> torch.Tensor:
    """Return where learning begins in each row of a micro-batch."""
    rows = examples.learnt_from_N[batch.positions] if len(batch.positions) else np.ones(1, dtype=np.int64)
    return torch.from_numpy(rows).to(batch.last_R.device)
