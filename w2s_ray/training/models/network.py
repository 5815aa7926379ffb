"""Networks: a decoder or encoder with a classification head, a language model, or one that scores completions.

A network maps the tokens of examples to logits: of classes, or of every next token. For pairs one head with one output
scores both texts, and the two scores are the logits of which text is better: their softmax is sigmoid(score2 - score1)
(Burns et al. 2023, reward modelling).

Pooling uses the attention mask and never looks for a padding token: `"!"` is token 0 in GPT-2, and a text may end in
the padding token. Rows are padded on the right, so a causal decoder needs no mask: no real token sees padding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from w2s_ray.science import IntArray
from w2s_ray.spec.stage import Precision, Score, StageSpec
from w2s_ray.training.feed import TokenRow

HEADS = ("score", "classifier")
"""Names of transformers' classification heads."""


class Network(nn.Module):
    """A transformers model that maps right-padded tokens to logits, at the last token or at every token.

    Attributes:
        hf: the model.
        precision: of the forward pass in training mode.
        predicts_in: precision in evaluation mode; the head is computed in fp32 there.
    """

    def __init__(self, hf: PreTrainedModel, precision: Precision) -> None:
        super().__init__()
        self.hf = hf
        self.precision = precision
        self.predicts_in: Precision = "fp32"
        head = self._head()
        if head is not None:
            head.forward = partial(self._call_head, head.forward)

    def _head(self) -> nn.Module | None:
        """Return the layers that make logits of hidden states."""
        for name in HEADS:
            head = getattr(self.hf, name, None)
            if isinstance(head, nn.Module):
                return head
        return self.hf.get_output_embeddings()  # type: ignore[no-any-return]

    def _call_head(self, forward: Callable[..., torch.Tensor], hidden: torch.Tensor, *others: Any) -> torch.Tensor:
        """Call the head: in fp32 when the body predicts in bf16, whose few digits would make equal logits."""
        if self.training or self.predicts_in == "fp32":
            return forward(hidden, *others)
        with torch.autocast(hidden.device.type, enabled=False):
            return forward(hidden.float(), *others)

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the context in which the model computes on `device`."""
        precision = self.precision if self.training else self.predicts_in
        return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")

    def forward(self, tokens_RT: torch.Tensor, last_R: torch.Tensor) -> torch.Tensor:
        """Return logits_RC of each row's last token (classification) or logits_RTV (language), in fp32."""
        with self.autocast(tokens_RT.device):
            if not hasattr(self.hf, "score"):
                return self._own_logits(tokens_RT, last_R).float()
            hidden_RTD = self.hf.base_model(input_ids=tokens_RT, use_cache=False).last_hidden_state
            pooled_RD = hidden_RTD[torch.arange(len(last_R), device=last_R.device), last_R]
            logits_RC: torch.Tensor = self.hf.score(pooled_RD)
            return logits_RC.float()

    def _own_logits(self, tokens_RT: torch.Tensor, last_R: torch.Tensor) -> torch.Tensor:
        """Return the logits of a language model, or of an encoder whose classifier pools by itself with the mask."""
        arguments: dict[str, Any] = {}
        if isinstance(self.hf, PreTrainedModel) and "SequenceClassification" in type(self.hf).__name__:
            positions_T = torch.arange(tokens_RT.shape[1], device=tokens_RT.device)
            arguments["attention_mask"] = (positions_T[None, :] <= last_R[:, None]).long()
        else:
            arguments["use_cache"] = False
        logits: torch.Tensor = self.hf(input_ids=tokens_RT, **arguments).logits
        return logits


class PairNetwork(Network):
    """Compares two texts: their scores are the logits of which is better."""

    def forward(self, tokens_RT: torch.Tensor, last_R: torch.Tensor) -> torch.Tensor:
        """Return logits_B2 of B pairs; their first texts are the first half of the rows."""
        scores_R1 = super().forward(tokens_RT, last_R)
        return scores_R1.view(2, -1).T


class CompletionNetwork(Network):
    """Scores completions by their log-probabilities (`Score`): an example's scores are its logits.

    Only the logits that predict a completion's tokens are computed: the hidden states of all others are removed before
    the output embedding, whatever the architecture does to its logits afterwards.
    """

    def __init__(self, hf: PreTrainedModel, precision: Precision, score: Score, num_completions: int) -> None:
        """`num_completions`: completions of one example."""
        super().__init__(hf, precision)
        self.score, self.num_completions = score, num_completions
        self._wanted_RT: torch.Tensor | None = None
        hf.get_output_embeddings().register_forward_pre_hook(self._keep_wanted)

    def forward(
        self,
        tokens_RT: torch.Tensor,
        last_R: torch.Tensor,
        first_R: torch.Tensor | None = None,
        subtracted_BC: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Return logits_BC of B examples in fp32.

        First come all rows with the first completion, then those with the second; for calibration then the completions
        without prompts, in the same order.
        """
        assert first_R is not None, "no completions"
        ends_T = torch.arange(1, tokens_RT.shape[1], device=last_R.device)[None, :]
        self._wanted_RT = (ends_T >= first_R[:, None]) & (ends_T <= last_R[:, None])
        logits_MV = super().forward(tokens_RT, last_R)[0]
        losses_M = cross_entropy(logits_MV, tokens_RT[:, 1:][self._wanted_RT], reduction="none")
        losses_RT = torch.zeros(self._wanted_RT.shape, device=last_R.device).masked_scatter(self._wanted_RT, losses_M)
        scores_R = -losses_RT.sum(dim=1)
        if self.score.normalise:
            scores_R = scores_R / (last_R - first_R + 1)
        scores_XB = scores_R.view(-1, len(tokens_RT) // self._texts_per_example)
        if self.score.calibrate:
            scores_XB = scores_XB[: self.num_completions] - scores_XB[self.num_completions :]
        logits_BC = self.score.beta * scores_XB.T
        return logits_BC if subtracted_BC is None else logits_BC - subtracted_BC

    @property
    def _texts_per_example(self) -> int:
        return self.num_completions * (2 if self.score.calibrate else 1)

    def _keep_wanted(self, _: nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        """Return hidden_1MD of the M positions before the completions' tokens, in the order of the rows."""
        hidden_RTD, *others = arguments
        assert self._wanted_RT is not None, "the output embedding is used outside of the network's forward pass"
        return (hidden_RTD[:, :-1][self._wanted_RT][None], *others)


def checkpoint_activations(network: Network) -> bool:
    """Keep only the inputs of each layer for the backward pass; return whether the model supports it.

    The backward pass recomputes the layers with the same operations and the same dropout, so no result changes
    (Chen et al. 2016, arXiv 1604.06174).
    """
    if not network.hf.supports_gradient_checkpointing:
        return False
    network.hf.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return True


def class_name_tokens(spec: StageSpec, tokenizer: PreTrainedTokenizerFast) -> list[TokenRow]:
    """Return the tokens of each class's name as it follows the cue."""
    encoded = (tokenizer.encode(f" {name}", add_special_tokens=False) for name in spec.class_names)
    return [np.array(tokens, dtype=np.int32) for tokens in encoded]


@contextmanager
def logits_at(hf: PreTrainedModel, places_RP: IntArray) -> Iterator[None]:
    """Compute a language model's logits at these places of each row only; all of them may take gigabytes."""

    def keep(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden_RTD, *others = arguments
        return (hidden_RTD[np.arange(len(places_RP))[:, None], places_RP], *others)

    handle = hf.get_output_embeddings().register_forward_pre_hook(keep)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Put the model into evaluation mode, without gradients, inside the block."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)
