"""Networks: a decoder or encoder with a classification head, a language model, or one that scores completions.

A network maps the tokens of examples to logits: of classes, or of every next token. For pairs one head with one output
scores both texts, and the two scores are the logits of which text is better: their softmax is sigmoid(score2 - score1)
(Burns et al. 2023, reward modelling).

Pooling uses the attention mask and never looks for a padding token: `"!"` is token 0 in GPT-2, and a text may end in
the padding token. Rows are padded on the right, so a causal decoder needs no mask: no real token sees padding. Or all
texts follow each other in one row without padding (attention.py); the logits are the same but for rounding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from w2s_ray.science import IntArray
from w2s_ray.spec.stage import Precision, Score, StageSpec
from w2s_ray.training.feed import AnyExamples, Feeder, Packing, TokenRow, of_targets
from w2s_ray.training.models.attention import AttentionKind, encoder_logits, packed_arguments

HEADS = ("score", "classifier")
"""Names of transformers' classification heads."""


class Network(nn.Module):
    """A transformers model that maps the tokens of texts to logits, at the last token or at every token.

    Attributes:
        hf: the model.
        precision: of the forward pass in training mode.
        predicts_in: precision in evaluation mode; the head is computed in fp32 there.
        attention: how it computes attention; all kinds but `sdpa` can read packed texts.
    """

    attention: AttentionKind = "sdpa"

    def __init__(self, hf: PreTrainedModel, precision: Precision) -> None:
        super().__init__()
        self.hf = hf
        self.precision = precision
        self.predicts_in: Precision = "fp32"
        head = self.head
        if head is not None:
            head.forward = partial(self._call_head, head.forward)

    @property
    def body(self) -> nn.Module:
        """The layers that make hidden states; the whole model if it does not tell them apart."""
        return self.hf.base_model  # type: ignore[no-any-return]

    @property
    def head(self) -> nn.Module | None:
        """The layers that make logits of hidden states."""
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

    @property
    def computes_in(self) -> Precision:
        """Precision of a forward pass in the present mode."""
        return self.precision if self.training else self.predicts_in

    def autocast(self, device: torch.device) -> torch.autocast:
        """Return the context in which the model computes on `device`."""
        return torch.autocast(device.type, torch.bfloat16, enabled=self.computes_in == "bf16")

    def fed_by(self, feeder: Feeder[AnyExamples]) -> Feeder[AnyExamples]:
        """Return the feeder with micro-batches that suit the network in its mode: packed, or padded.

        Kernels compute in bf16, so passes in fp32 are padded on a GPU.
        """
        packs = self.attention != "sdpa" and (self.computes_in == "bf16" or feeder.workers.device.type == "cpu")
        return replace(feeder, packs=packs)

    def forward(
        self,
        tokens_RT: torch.Tensor,
        last_R: torch.Tensor,
        first_R: torch.Tensor | None = None,
        subtracted_BC: torch.Tensor | None = None,
        packing: Packing | None = None,
    ) -> torch.Tensor:
        """Return logits_RC at each text's last token (classification) or logits_RTV (language), in fp32.

        The arguments are those of a micro-batch; only `CompletionNetwork` reads `first_R` and `subtracted_BC`.
        """
        with self.autocast(tokens_RT.device):
            if not hasattr(self.hf, "score"):
                return self._own_logits(tokens_RT, last_R, packing).float()
            arguments = {} if packing is None else packed_arguments(self.hf, packing)
            hidden_RTD = self.hf.base_model(input_ids=tokens_RT, use_cache=False, **arguments).last_hidden_state
            rows = torch.arange(len(last_R), device=last_R.device) if packing is None else 0
            logits_RC: torch.Tensor = self.hf.score(hidden_RTD[rows, last_R])
            return logits_RC.float()

    def _own_logits(self, tokens_RT: torch.Tensor, last_R: torch.Tensor, packing: Packing | None) -> torch.Tensor:
        """Return the logits of a language model, or of an encoder whose classifier pools by itself with the mask."""
        arguments: dict[str, Any] = {} if packing is None else packed_arguments(self.hf, packing)
        if not (isinstance(self.hf, PreTrainedModel) and "SequenceClassification" in type(self.hf).__name__):
            arguments["use_cache"] = False
        elif packing is not None:
            hidden_1MD = self.hf.base_model(input_ids=tokens_RT, **arguments).last_hidden_state
            return encoder_logits(self.hf, hidden_1MD, packing)
        else:
            positions_T = torch.arange(tokens_RT.shape[1], device=tokens_RT.device)
            arguments["attention_mask"] = (positions_T[None, :] <= last_R[:, None]).long()
        logits: torch.Tensor = self.hf(input_ids=tokens_RT, **arguments).logits
        return logits


class PairNetwork(Network):
    """Compares two texts: their scores are the logits of which is better."""

    def forward(self, *inputs: Any) -> torch.Tensor:
        """Return logits_B2 of B pairs; their first texts are the first half of the texts."""
        scores_R1 = super().forward(*inputs)
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
        packing: Packing | None = None,
    ) -> torch.Tensor:
        """Return logits_BC of B examples in fp32.

        First come all texts with the first completion, then those with the second; for calibration then the completions
        without prompts, in the same order.
        """
        assert first_R is not None, "no completions"
        ends_T = torch.arange(1, tokens_RT.shape[1], device=last_R.device)[None, :]
        self._wanted_RT = (ends_T >= of_targets(first_R, packing)) & (ends_T <= of_targets(last_R, packing))
        logits_MV = super().forward(tokens_RT, last_R, packing=packing)[0]
        losses_M = cross_entropy(logits_MV, tokens_RT[:, 1:][self._wanted_RT], reduction="none")
        losses_RT = torch.zeros(self._wanted_RT.shape, device=last_R.device).masked_scatter(self._wanted_RT, losses_M)
        if packing is None:
            scores_R = -losses_RT.sum(dim=1)
        else:
            scores_R = torch.zeros(len(last_R), device=last_R.device).index_add(0, packing.text_M[1:], -losses_RT[0])
        if self.score.normalise:
            scores_R = scores_R / (last_R - first_R + 1)
        scores_XB = scores_R.view(-1, len(last_R) // self._texts_per_example)
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
