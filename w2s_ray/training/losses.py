"""All losses: what the optimizer minimises, from logits to one summed loss per micro-batch.

The loop asks a `BatchLoss` for the loss of each micro-batch (`values`) and for the number of examples or tokens that
the sum is divided by (`num_units`), so the result does not depend on how the optimizer batch was cut.

    ClassBatchLoss   soft labels, and one of the student losses below (`loss:` in the study)
    TokenBatchLoss   cross-entropy of the next token, for answers and text

A student loss has two parts. `targets` sees the whole optimizer batch, over all ranks and micro-batches, without
gradients: a threshold computed over less would depend on how the batch was cut. `value` sees one micro-batch, with
gradients. To add a loss, write its settings in spec/losses.py (where the formulas and their sources are) and register
a function here under its `kind` that returns the parts in which it differs from the naive loss. Value and gradient have
to stay finite for students and labels that are certain.

Shapes: R rows and B examples of a micro-batch, N examples of an optimizer batch, C classes, T tokens, V vocabulary.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch.nn.functional import cross_entropy, kl_div, log_softmax

from w2s_ray.data.labels import one_hot
from w2s_ray.errors import TrainingError
from w2s_ray.science import FloatArray, IntArray
from w2s_ray.spec.base import rounded_up
from w2s_ray.spec.losses import (
    ConfidenceLoss,
    EntropyLoss,
    HardLoss,
    KLLoss,
    Loss,
    NaiveLoss,
    OwnLoss,
    ProductLoss,
    WindowLoss,
)
from w2s_ray.spec.own_code import function_from
from w2s_ray.training.feed import LabelledExamples, LanguageExamples, MicroBatch, of_targets, to_device
from w2s_ray.training.workers import Workers

_LOG_ODDS_EPSILON = 1e-7
"""Keeps the log-odds of a label finite (EleutherAI/w2s)."""
_KL_EPSILON = 1e-6
"""Smallest label of a class in the reverse KL divergence, which is infinite at 0."""

Forward = Callable[..., torch.Tensor]
"""Maps the `inputs` of a micro-batch to logits: an engine, or a network."""


@dataclass(frozen=True)
class OptimizerBatch:
    """All examples of one optimizer step, over all ranks and micro-batches, in the planned order."""

    labels_NC: FloatArray
    ties_N: IntArray
    """hash(example id), which orders equal probabilities."""
    progress: float
    """Share of the training's steps that are done, in [0, 1)."""
    probs_NC: FloatArray | None = None
    """The student's predictions before this step; None for losses that do not read them."""


def _labels(batch: OptimizerBatch) -> FloatArray:
    return batch.labels_NC


def _cross_entropy(logits_BC: torch.Tensor, targets_BC: torch.Tensor, progress: float) -> torch.Tensor:
    return soft_cross_entropy(logits_BC, targets_BC)


@dataclass(frozen=True)
class StudentLoss:
    """A loss with its settings. The defaults are the naive loss CE(w, p)."""

    targets: Callable[[OptimizerBatch], FloatArray] = _labels
    """Returns targets_NC, through which no gradient flows."""
    value: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor] = _cross_entropy
    """Maps (logits_BC, targets_BC, progress) to the loss summed over the micro-batch, in fp32."""
    reads_predictions: bool = False
    """Whether `targets` needs the student's predictions for the whole optimizer batch."""


Build = Callable[[Any, FloatArray], StudentLoss]
"""Makes a loss from its settings and labels_NC, all labels of the training (some losses need their mean or median)."""
_BUILD: dict[str, Build] = {}


def student_loss(spec: Loss, labels_NC: FloatArray) -> StudentLoss:
    """Return the loss that the study names by `kind`; `labels_NC` are all labels that the student learns from."""
    return _BUILD[spec.kind](spec, labels_NC)


def _register(kind: str) -> Callable[[Build], Build]:
    def add(build: Build) -> Build:
        _BUILD[kind] = build
        return build

    return add


@_register("naive")
def _naive(spec: NaiveLoss, labels_NC: FloatArray) -> StudentLoss:
    """CE(w, p)."""
    return StudentLoss()


@_register("hard")
def _hard(spec: HardLoss, labels_NC: FloatArray) -> StudentLoss:
    """CE(onehot(argmax w), p)."""
    return StudentLoss(targets=lambda batch: _most_probable(batch.labels_NC))


@_register("confidence")
def _confidence(spec: ConfidenceLoss, labels_NC: FloatArray) -> StudentLoss:
    """CE((1 - α)·w + α·h, p), h the student's own prediction hardened over the whole optimizer batch.

    Over single examples the threshold would degenerate: it would always choose class 0.
    """
    mean_label = float(labels_NC[:, -1].mean())

    def hardened(batch: OptimizerBatch) -> FloatArray:
        assert batch.probs_NC is not None, "predictions of the optimizer batch are missing"
        if spec.prior == "argmax" or len(batch.probs_NC) == 1:
            return _most_probable(batch.probs_NC)
        shares = {"half": 0.5, "weak": mean_label, "batch": float(batch.labels_NC[:, 1].mean())}
        return _above_threshold(batch.probs_NC, batch.ties_N, shares[spec.prior])

    def targets(batch: OptimizerBatch) -> FloatArray:
        alpha = _alpha(batch.progress, spec.alpha_max, spec.warmup_fraction, spec.schedule)
        batch_labels_NC = _balanced(batch.labels_NC) if spec.balance_labels else batch.labels_NC
        mixed_NC: FloatArray = ((1 - alpha) * batch_labels_NC + alpha * hardened(batch)).astype("float32")
        return mixed_NC

    return StudentLoss(targets=targets, reads_predictions=True)


@_register("entropy")
def _entropy(spec: EntropyLoss, labels_NC: FloatArray) -> StudentLoss:
    """CE((1 - α)·w + α·p', p), p' the student's own prediction without gradients."""

    def value(logits_BC: torch.Tensor, targets_BC: torch.Tensor, progress: float) -> torch.Tensor:
        alpha = _alpha(progress, spec.alpha_max, spec.warmup_fraction)
        own_BC = logits_BC.detach().float().softmax(dim=-1)
        return soft_cross_entropy(logits_BC, (1 - alpha) * targets_BC + alpha * own_BC)

    if spec.balance_labels:
        return StudentLoss(targets=lambda batch: _balanced(batch.labels_NC), value=value)
    return StudentLoss(value=value)


@_register("product")
def _product(spec: ProductLoss, labels_NC: FloatArray) -> StudentLoss:
    """CE(q, p), q ∝ w^weak_power · p^student_power without gradients, computed from logarithms to avoid underflow."""

    def value(logits_BC: torch.Tensor, targets_BC: torch.Tensor, progress: float) -> torch.Tensor:
        log_own_BC = logits_BC.detach().float().log_softmax(dim=-1)
        log_product_BC = spec.weak_power * targets_BC.log() + spec.student_power * log_own_BC
        return soft_cross_entropy(logits_BC, log_product_BC.softmax(dim=-1))

    return StudentLoss(value=value)


@_register("window")
def _window(spec: WindowLoss, labels_NC: FloatArray) -> StudentLoss:
    """CE(w, p) where max p < 1/2 + radius, else 0."""
    radius = float(np.median(np.abs(labels_NC[:, 1] - 0.5))) if spec.radius == "midweak" else spec.radius

    def value(logits_BC: torch.Tensor, targets_BC: torch.Tensor, progress: float) -> torch.Tensor:
        confidence_B1 = logits_BC.detach().float().softmax(dim=-1).amax(dim=-1, keepdim=True)
        return soft_cross_entropy(logits_BC, targets_BC * (confidence_B1 < 0.5 + radius))

    return StudentLoss(value=value)


@_register("kl")
def _kl(spec: KLLoss, labels_NC: FloatArray) -> StudentLoss:
    """KL(w ‖ p), or in reverse KL(p ‖ w)."""

    def value(logits_BC: torch.Tensor, targets_BC: torch.Tensor, progress: float) -> torch.Tensor:
        log_own_BC = log_softmax(logits_BC.float(), dim=-1)
        if spec.direction == "forward":
            return kl_div(log_own_BC, targets_BC, reduction="sum")
        log_weak_BC = targets_BC.clamp(min=_KL_EPSILON).log()
        return kl_div(log_weak_BC, log_own_BC, reduction="sum", log_target=True)

    return StudentLoss(value=value)


@_register("own")
def _registered(spec: OwnLoss, labels_NC: FloatArray) -> StudentLoss:
    """A function of the program's own, which gives the loss of each example."""
    function = function_from(spec.source, spec.function)

    def value(logits_BC: torch.Tensor, targets_BC: torch.Tensor, progress: float) -> torch.Tensor:
        loss_B = function(logits_BC.float(), targets_BC, progress, **dict(spec.settings))
        if not isinstance(loss_B, torch.Tensor) or loss_B.shape != targets_BC.shape[:1]:
            shape = tuple(getattr(loss_B, "shape", ())) or type(loss_B).__name__
            raise TrainingError(
                f"loss {spec.name} returned {shape} for {len(targets_BC)} examples; it must return one value for each",
                "sum over classes, for example .sum(dim=-1), and not over examples",
            )
        return loss_B.sum()

    return StudentLoss(value=value)


def soft_cross_entropy(logits_BC: torch.Tensor, target_BC: torch.Tensor) -> torch.Tensor:
    """Return -Σ target · log softmax(logits), summed over the micro-batch, in fp32."""
    return -(target_BC * log_softmax(logits_BC.float(), dim=-1)).sum()


def _alpha(
    progress: float, alpha_max: float, warmup_fraction: float, schedule: Literal["linear", "openai"] = "linear"
) -> float:
    """Return α at a share of training: a linear rise to `alpha_max`, or openai's jump at the end of the warm-up."""
    if schedule == "openai":
        return alpha_max * (progress if progress <= warmup_fraction else 1.0)
    return alpha_max * (min(1.0, progress / warmup_fraction) if warmup_fraction > 0 else 1.0)


def _most_probable(probs_NC: FloatArray) -> FloatArray:
    """Return one-hot rows of the most probable class; of equal ones the first."""
    return one_hot(probs_NC.argmax(axis=1), probs_NC.shape[1])


def _above_threshold(probs_NC: FloatArray, ties_N: IntArray, share: float) -> FloatArray:
    """Return one-hot rows of two classes: class 1 for the `share` of examples with the highest probability of class 1.

    The threshold is the (1 - share) quantile, interpolated linearly, so ⌈share · (N - 1)⌉ examples are above it, as in
    public code. `ties_N` orders equal probabilities (a head that starts at zero makes all of them equal), so the number
    holds then too and does not depend on the order of the batch.
    """
    assert probs_NC.shape[1] == 2, probs_NC.shape
    ranked_N = np.lexsort((ties_N, -probs_NC[:, 1].astype(np.float64)))
    classes_N = np.zeros(len(probs_NC), dtype=np.int64)
    classes_N[ranked_N[: rounded_up(share * (len(probs_NC) - 1))]] = 1
    return one_hot(classes_N, 2)


def _balanced(labels_NC: FloatArray) -> FloatArray:
    """Return two-class labels with their log-odds shifted so that the batch's mean is 0."""
    assert labels_NC.shape[1] == 2, labels_NC.shape
    labels_N = labels_NC[:, 1].astype(np.float64)
    log_odds_N = np.log(labels_N + _LOG_ODDS_EPSILON) - np.log(1 - labels_N + _LOG_ODDS_EPSILON)
    shifted_N = 1 / (1 + np.exp(log_odds_N.mean() - log_odds_N))
    return np.stack([1 - shifted_N, shifted_N], axis=1).astype(np.float32)


class ClassBatchLoss:
    """A student loss over examples with a label per class. Collective."""

    def __init__(self, spec: Loss, examples: LabelledExamples, workers: Workers) -> None:
        self._loss = student_loss(spec, examples.targets_NC)
        self._examples = examples
        self._workers = workers

    def num_units(self, positions_N: IntArray) -> int:
        return len(positions_N)

    def values(
        self, forward: Forward, batches: Sequence[MicroBatch], positions_N: IntArray, step: int, num_steps: int
    ) -> Iterator[torch.Tensor]:
        """Yield the summed loss of each of this rank's micro-batches; one graph is alive at a time.

        A loss that reads the predictions of the whole batch gets them from a pass without gradients, so that only one
        graph is alive; where each rank has a single micro-batch, the pass with gradients serves both purposes.
        """
        rows_of = {int(position): row for row, position in enumerate(positions_N)}
        only_logits_BC, probs_NC = None, None
        if self._loss.reads_predictions:
            only_logits_BC = forward(*batches[0].inputs) if len(batches) == 1 else None
            probs_NC = self._predict(forward, batches, only_logits_BC, rows_of)
        batch = OptimizerBatch(
            labels_NC=self._examples.targets_NC[positions_N],
            ties_N=self._examples.ties_N[positions_N],
            progress=step / num_steps,
            probs_NC=probs_NC,
        )
        targets_NC = self._loss.targets(batch)
        for micro in batches:
            logits_BC = forward(*micro.inputs) if only_logits_BC is None else only_logits_BC
            if not len(micro.positions):
                yield logits_BC.sum() * 0.0  # a filler takes part in the collectives and adds nothing
                continue
            rows = [rows_of[int(position)] for position in micro.positions]
            targets_BC = to_device(targets_NC[rows], logits_BC.device)
            yield self._loss.value(logits_BC, targets_BC, batch.progress)

    def _predict(
        self,
        forward: Forward,
        batches: Sequence[MicroBatch],
        only_logits_BC: torch.Tensor | None,
        rows_of: dict[int, int],
    ) -> FloatArray:
        """Return probs_NC of the whole optimizer batch, from all ranks, the same on each."""
        probs_NC = torch.zeros((len(rows_of), self._examples.targets_NC.shape[1]), device=self._workers.device)
        with torch.no_grad():
            for micro in batches:
                logits_BC = forward(*micro.inputs) if only_logits_BC is None else only_logits_BC
                if len(micro.positions):
                    probs_NC[[rows_of[int(position)] for position in micro.positions]] = logits_BC.float().softmax(
                        dim=-1
                    )
        gathered_NC: FloatArray = self._workers.sum(probs_NC).cpu().numpy()
        return gathered_NC


class TokenBatchLoss:
    """Cross-entropy of every learned token given the tokens before it."""

    def __init__(self, examples: LanguageExamples) -> None:
        self._examples = examples

    def num_units(self, positions_N: IntArray) -> int:
        return self._examples.num_loss_tokens(positions_N)

    def values(
        self, forward: Forward, batches: Sequence[MicroBatch], positions_N: IntArray, step: int, num_steps: int
    ) -> Iterator[torch.Tensor]:
        for batch in batches:
            logits_RTV = forward(*batch.inputs)
            yield token_cross_entropy(logits_RTV, batch, loss_from(self._examples, batch))


BatchLoss = ClassBatchLoss | TokenBatchLoss


def token_losses(logits_RTV: torch.Tensor, tokens_RT: torch.Tensor) -> torch.Tensor:
    """Return the cross-entropy (R, T - 1) of each token but the first given those before it, in nats."""
    losses = cross_entropy(logits_RTV[:, :-1].float().flatten(0, 1), tokens_RT[:, 1:].flatten(), reduction="none")
    return losses.view(len(tokens_RT), -1)


def token_cross_entropy(logits_RTV: torch.Tensor, batch: MicroBatch, loss_from_R: torch.Tensor) -> torch.Tensor:
    """Return the summed cross-entropy of the tokens from `loss_from_R` on; padding and fillers count nothing."""
    ends_T = torch.arange(1, batch.tokens_RT.shape[1], device=batch.last_R.device)[None, :]
    from_RT, last_RT, real_RT = (
        of_targets(values_R, batch.packing) for values_R in (loss_from_R, batch.last_R, batch.real_R)
    )
    counts_RT = (ends_T >= from_RT) & (ends_T <= last_RT)
    losses_RT = token_losses(logits_RTV, batch.tokens_RT)
    return (losses_RT * counts_RT * real_RT).sum()


def loss_from(examples: LanguageExamples, batch: MicroBatch) -> torch.Tensor:
    """Return the index in its row of each text's first token that counts."""
    rows = examples.loss_from_N[batch.positions] if len(batch.positions) else np.ones(1, dtype=np.int64)
    from_R = to_device(rows, batch.last_R.device)
    return from_R if batch.packing is None else from_R + batch.packing.bounds_S[:-1]
