"""From rows of a split to tensors: the examples of a stage, its optimizer batches, and their micro-batches.

Which examples make an optimizer batch is fixed by the spec (data/batches.py); how a batch is cut into micro-batches on
ranks is execution. All ranks take as many micro-batches, the missing ones filled with rows of weight zero, because
under ZeRO every forward and backward is a collective.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Generic, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from w2s_ray.data.batches import partition
from w2s_ray.training.workers import Workers

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
TokenRow = npt.NDArray[np.int32]
"""The tokens of one text."""


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Tokenised examples of a stage: N examples of K texts each, as a rule one."""

    tokens: list[TokenRow]
    """N·K rows: the first texts of all examples, then all second ones, and so on."""
    texts_per_example: int = 1

    def __len__(self) -> int:
        """N."""
        return len(self.tokens) // self.texts_per_example

    @cached_property
    def lengths_N(self) -> IntArray:
        """Tokens of each example, all its texts together."""
        return np.asarray(self._lengths_KN.sum(axis=0))

    @cached_property
    def padded_N(self) -> IntArray:
        """Tokens of each example when its texts are padded to the longest of them: its share of a micro-batch."""
        return np.asarray(self._lengths_KN.max(axis=0) * self.texts_per_example)

    @cached_property
    def _lengths_KN(self) -> IntArray:
        lengths = np.fromiter((len(row) for row in self.tokens), dtype=np.int64, count=len(self.tokens))
        return lengths.reshape(self.texts_per_example, -1)


@dataclass(frozen=True, kw_only=True)
class Labelled(Examples):
    """Examples with soft targets."""

    targets_NC: FloatArray
    ties_N: IntArray
    """hash(example id), which orders equal probabilities."""


@dataclass(frozen=True, kw_only=True)
class Written(Examples):
    """Texts whose tokens are learnt, from some place on."""

    learnt_from_N: IntArray
    """Index of each row's first token that is learnt, at least 1; those before it are given."""

    def num_learnt(self, positions_N: IntArray) -> int:
        """Count the tokens that are learnt of these examples."""
        return int((self.lengths_N[positions_N] - self.learnt_from_N[positions_N]).sum())


AnyExamples = TypeVar("AnyExamples", bound=Examples, covariant=True)


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one rank: R = K·B rows, the first texts of its B examples, then their second ones.

    Padding is on the right; a filler is one example of padding and has no positions.
    """

    positions: IntArray
    """Which of the stage's examples these are."""
    tokens_RT: torch.Tensor
    last_R: torch.Tensor
    """Index of each row's last real token."""
    real_R: torch.Tensor
    """1 for texts, 0 for a filler's rows."""


Purpose = Literal["training", "predicting"]


@dataclass
class LastGroup:
    """The micro-batches that a rank was given last: what is to be halved if memory runs out."""

    purpose: Purpose = "training"
    allowed: int = 0
    """Tokens that each of them might have."""
    tokens: int = 0
    """Padded tokens of the largest."""
    examples: int = 0
    """Examples of the largest."""


@dataclass(frozen=True)
class Feeder(Generic[AnyExamples]):
    """Cuts optimizer batches for one rank and makes tensors of them."""

    examples: AnyExamples
    workers: Workers
    tokens_per_micro_batch: int
    pad: int
    purpose: Purpose = "training"
    last: LastGroup = field(default_factory=LastGroup)

    def group(self, positions_N: IntArray) -> list[MicroBatch]:
        """Return this rank's micro-batches of one optimizer batch; as many on every rank."""
        pieces = partition(
            positions_N,
            self.examples.padded_N,
            world=self.workers.size,
            tokens_per_micro_batch=self.tokens_per_micro_batch,
        )
        group = [self._collate(piece) for piece in pieces[self.workers.rank]]
        largest = max(group, key=lambda batch: batch.tokens_RT.numel())
        self.last.purpose, self.last.allowed = self.purpose, self.tokens_per_micro_batch
        self.last.tokens, self.last.examples = largest.tokens_RT.numel(), len(largest.positions)
        return group

    def sweep(self, examples_per_group: int = 512) -> Iterator[MicroBatch]:
        """Yield every example once, spread over the ranks, similar lengths together: for prediction."""
        order_N = np.argsort(self.examples.lengths_N, kind="stable")
        for start in range(0, len(order_N), examples_per_group):
            yield from self.group(order_N[start : start + examples_per_group])

    def _collate(self, positions: IntArray) -> MicroBatch:
        examples = self.examples
        places = range(examples.texts_per_example)
        rows = [examples.tokens[position + place * len(examples)] for place in places for position in positions]
        real = [1.0] * len(rows)
        if not rows:
            rows, real = [np.full(2, self.pad, dtype=np.int32) for _ in places], [0.0] * len(places)
        width = max(len(row) for row in rows)
        tokens = np.full((len(rows), width), self.pad, dtype=np.int64)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = row
        last = [len(row) - 1 for row in rows]
        device = self.workers.device
        return MicroBatch(
            positions=np.asarray(positions, dtype=np.int64),
            tokens_RT=torch.from_numpy(tokens).to(device),
            last_R=torch.tensor(last, device=device),
            real_R=torch.tensor(real, device=device),
        )
