"""Tokenised examples, and their micro-batches as tensors.

The spec fixes which examples form an optimizer batch (data/batches.py); the execution decides how the batch is cut into
micro-batches over ranks. Under ZeRO every forward and backward pass is a collective, so all ranks get the same number
of micro-batches; missing ones are fillers of weight zero.

Shapes: N examples of K texts, B examples and R = K·B rows of a micro-batch, T tokens, C classes.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Generic, Literal, Self, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from w2s_ray.data.batches import partition
from w2s_ray.science import FloatArray, IntArray
from w2s_ray.training.workers import Workers

TokenRow = npt.NDArray[np.int32]
"""The tokens of one text."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """N tokenised examples of K texts each (K is 1 except for pairs and scored completions)."""

    tokens: list[TokenRow]
    """K·N rows: the first text of every example, then every second text, and so on."""
    texts_per_example: int = 1
    features_MD: FloatArray | None = None
    """Features of the M = K·N texts under a probe's frozen body; the network reads them instead of the tokens."""
    first: IntArray | None = None
    """Index of the completion's first token in each row; None where no completions are scored."""
    subtracted_NC: FloatArray | None = None
    """Scores of the reference, subtracted from those of each example; None without a reference."""

    def __len__(self) -> int:
        return len(self.tokens) // self.texts_per_example

    @cached_property
    def lengths_N(self) -> IntArray:
        """Tokens of each example, all its texts together."""
        return np.asarray(self._lengths_KN.sum(axis=0))

    @cached_property
    def padded_N(self) -> IntArray:
        """Tokens of each example when its texts are padded to the longest of them: its share of a micro-batch.

        Features are as long as one token.
        """
        if self.features_MD is not None:
            return np.full(len(self), self.texts_per_example)
        return np.asarray(self._lengths_KN.max(axis=0) * self.texts_per_example)

    @cached_property
    def _lengths_KN(self) -> IntArray:
        lengths = np.fromiter((len(row) for row in self.tokens), dtype=np.int64, count=len(self.tokens))
        return lengths.reshape(self.texts_per_example, -1)


@dataclass(frozen=True, kw_only=True)
class LabelledExamples(Examples):
    """Examples with a probability per class as target."""

    targets_NC: FloatArray
    ties_N: IntArray
    """hash(example id), which orders equal probabilities."""


@dataclass(frozen=True, kw_only=True)
class LanguageExamples(Examples):
    """Texts of which the tokens from some position on are learned."""

    loss_from_N: IntArray
    """Index of each row's first token that counts in the loss, at least 1; earlier tokens are context."""

    def num_loss_tokens(self, positions_N: IntArray) -> int:
        """Count the tokens of these examples that the loss counts."""
        return int((self.lengths_N[positions_N] - self.loss_from_N[positions_N]).sum())


AnyExamples = TypeVar("AnyExamples", bound=Examples, covariant=True)


@dataclass(frozen=True)
class Packing:
    """The places of R texts that follow each other in one row of M tokens, without padding."""

    bounds_S: torch.Tensor
    """S = R + 1: the place of each text's first token, and M; int32, as attention kernels take it."""
    text_M: torch.Tensor
    """The text that each token belongs to."""
    positions_M: torch.Tensor
    """Index of each token in its text."""
    longest: int
    """Tokens of the longest text."""

    @classmethod
    def of(cls, lengths_R: IntArray, device: torch.device) -> Self:
        bounds_S = np.concatenate([[0], lengths_R.cumsum()])
        text_M = np.repeat(np.arange(len(lengths_R)), lengths_R)
        positions_M = np.arange(bounds_S[-1]) - bounds_S[text_M]
        bounds_S = bounds_S.astype(np.int32)
        bounds, text, positions = (to_device(array, device) for array in (bounds_S, text_M, positions_M))
        return cls(bounds, text, positions, int(lengths_R.max()))


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one rank: R = K·B texts, the first texts of its B examples, then their second texts.

    Each text is a row, padded on the right; with a packing all texts are in one row. A filler is one example of padding
    and has no positions.
    """

    positions: IntArray
    """Indices of the examples among the stage's examples."""
    tokens_RT: torch.Tensor
    """With a packing, tokens_1M. Where the examples have features, features_RD."""
    last_R: torch.Tensor
    """Index, in its row, of each text's last token."""
    real_R: torch.Tensor
    """1 for texts of examples, 0 for those of a filler."""
    first_R: torch.Tensor | None = None
    """Index, in its row, of the first token of each completion; None where no completions are scored."""
    subtracted_BC: torch.Tensor | None = None
    """Scores of the reference, subtracted from those of each example; None without a reference."""
    packing: Packing | None = None
    """None for padded rows."""

    @property
    def inputs(self) -> tuple[torch.Tensor | Packing | None, ...]:
        """The arguments of a network's forward pass."""
        arguments = (self.tokens_RT, self.last_R, self.first_R, self.subtracted_BC, self.packing)
        given = [place for place, argument in enumerate(arguments, start=1) if argument is not None]
        return arguments[: given[-1]]


def to_device(array: npt.NDArray[Any], device: torch.device) -> torch.Tensor:
    """Return the array as a tensor on `device`, which may still be copying it."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def of_targets(values_R: torch.Tensor, packing: Packing | None) -> torch.Tensor:
    """Return each text's value for the tokens after the first of a row: (R, 1), or (1, M - 1) with a packing."""
    return values_R[:, None] if packing is None else values_R[packing.text_M[1:]][None]


Purpose = Literal["training", "predicting"]


@dataclass
class LargestMicroBatch:
    """The largest of the micro-batches that a rank got last; its size is halved when memory runs out."""

    purpose: Purpose = "training"
    allowed_tokens: int = 0
    tokens: int = 0
    """Padding included."""
    examples: int = 0


@dataclass(frozen=True)
class Feeder(Generic[AnyExamples]):
    """Cuts optimizer batches into one rank's micro-batches."""

    examples: AnyExamples
    workers: Workers
    tokens_per_micro_batch: int
    pad: int
    purpose: Purpose = "training"
    largest: LargestMicroBatch = field(default_factory=LargestMicroBatch)
    packs: bool = False
    """Put the texts of a micro-batch into one row without padding; not where the examples have features."""

    def micro_batches(self, positions_N: IntArray) -> list[MicroBatch]:
        """Return this rank's micro-batches of one optimizer batch; the same number on every rank."""
        return self._noted(self._collated(positions_N))

    def in_advance(self, steps: Sequence[IntArray]) -> Iterator[list[MicroBatch]]:
        """Yield the micro-batches of each step; a thread prepares those of the next one meanwhile."""
        with ThreadPoolExecutor(1, "input", self._enter_device) as thread:
            following = [thread.submit(self._collated, positions_N) for positions_N in steps[:1]]
            for positions_N in steps[1:]:
                batches = following.pop().result()
                following.append(thread.submit(self._collated, positions_N))
                yield self._noted(batches)
            for last in following:
                yield self._noted(last.result())

    def _enter_device(self) -> None:
        """Make this thread pin memory for the worker's device."""
        if self.workers.device.type == "cuda":
            torch.cuda.set_device(self.workers.device)

    def _noted(self, batches: list[MicroBatch]) -> list[MicroBatch]:
        """Note the largest of the micro-batches that are about to be read."""
        largest = max(batches, key=self._num_tokens)
        self.largest.purpose, self.largest.allowed_tokens = self.purpose, self.tokens_per_micro_batch
        self.largest.tokens, self.largest.examples = self._num_tokens(largest), len(largest.positions)
        return batches

    def _collated(self, positions_N: IntArray) -> list[MicroBatch]:
        pieces = partition(
            positions_N,
            self.examples.lengths_N if self.packs else self.examples.padded_N,
            world=self.workers.size,
            tokens_per_micro_batch=self.tokens_per_micro_batch,
            packs=self.packs,
        )
        return [self.collate(piece) for piece in pieces[self.workers.rank]]

    def sweep(self, examples_per_round: int = 0) -> Iterator[MicroBatch]:
        """Yield every example once, spread over the ranks, similar lengths together: for prediction.

        Without a number, a round has 512 examples, or one for every 16 tokens of all ranks' micro-batches if more.
        """
        if not examples_per_round:
            examples_per_round = max(512, self.tokens_per_micro_batch // 16 * self.workers.size)
        order_N = np.argsort(self.examples.lengths_N, kind="stable")
        starts = range(0, len(order_N), examples_per_round)
        for batches in self.in_advance([order_N[start : start + examples_per_round] for start in starts]):
            yield from batches

    def _num_tokens(self, batch: MicroBatch) -> int:
        """Return its tokens with padding; a text's features count as one, as they do when micro-batches are cut."""
        return (batch.tokens_RT if self.examples.features_MD is None else batch.last_R).numel()

    def collate(self, positions: IntArray) -> MicroBatch:
        """Return these examples, in this order, as one micro-batch; without any, a filler."""
        examples = self.examples
        texts = range(examples.texts_per_example)
        if examples.features_MD is not None:
            return self._collate_features(positions, examples.features_MD)
        places = [position + text * len(examples) for text in texts for position in positions]
        rows = [examples.tokens[place] for place in places]
        is_filler = not rows
        if is_filler:
            rows = [np.full(2, self.pad, dtype=np.int32) for _ in texts]
        device = self.workers.device
        lengths_R = np.array([len(row) for row in rows], dtype=np.int64)
        packing = Packing.of(lengths_R, device) if self.packs else None
        starts_R = np.zeros_like(lengths_R) if packing is None else lengths_R.cumsum() - lengths_R
        first_R, subtracted_BC = None, None
        if examples.first is not None:
            first = examples.first[places] if places else np.ones(len(rows), dtype=np.int64)
            first_R = to_device(starts_R + first, device)
        if examples.subtracted_NC is not None:
            of_filler = np.zeros((1, examples.subtracted_NC.shape[1]), dtype=np.float32)
            subtracted = examples.subtracted_NC[positions] if places else of_filler
            subtracted_BC = to_device(subtracted, device)
        tokens = self._padded(rows) if packing is None else np.concatenate(rows).astype(np.int64)[None]
        return MicroBatch(
            positions=np.asarray(positions, dtype=np.int64),
            tokens_RT=to_device(tokens, device),
            last_R=to_device(starts_R + lengths_R - 1, device),
            real_R=torch.full((len(rows),), float(not is_filler), device=device),
            first_R=first_R,
            subtracted_BC=subtracted_BC,
            packing=packing,
        )

    def _padded(self, rows: list[TokenRow]) -> IntArray:
        tokens_RT = np.full((len(rows), max(map(len, rows))), self.pad, dtype=np.int64)
        for index, row in enumerate(rows):
            tokens_RT[index, : len(row)] = row
        return tokens_RT

    def _collate_features(self, positions: IntArray, features_MD: FloatArray) -> MicroBatch:
        places_K = np.arange(self.examples.texts_per_example) * len(self.examples)
        rows_RD = features_MD[(places_K[:, None] + positions[None, :]).reshape(-1)]
        is_filler = not len(positions)
        if is_filler:
            rows_RD = np.zeros((len(places_K), features_MD.shape[1]), dtype=features_MD.dtype)
        device = self.workers.device
        return MicroBatch(
            positions=np.asarray(positions, dtype=np.int64),
            tokens_RT=to_device(rows_RD, device),
            last_R=torch.zeros(len(rows_RD), dtype=torch.int64, device=device),
            real_R=torch.full((len(rows_RD),), float(not is_filler), device=device),
        )
