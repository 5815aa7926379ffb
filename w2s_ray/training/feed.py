"""From rows of a split to tensors: the examples of a stage, its optimizer batches, and their micro-batches.

Which examples make an optimizer batch is fixed by the spec (data/batches.py); how a batch is cut into micro-batches on
ranks is execution. All ranks take as many micro-batches, the missing ones filled with rows of weight zero, because
under ZeRO every forward and backward is a collective.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt
import torch

from w2s_ray.data.batches import partition
from w2s_ray.training.workers import Workers

IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Examples:
    """Tokenised examples of a stage: N rows of tokens, and for classification their soft targets."""

    tokens: list[npt.NDArray[np.int32]]
    targets_NC: npt.NDArray[np.float32]
    """Empty second axis for next-token prediction."""
    ties_N: IntArray
    """hash(example id), which orders equal probabilities."""

    @cached_property
    def lengths_N(self) -> IntArray:
        """Tokens of each example."""
        return np.fromiter((len(row) for row in self.tokens), dtype=np.int64, count=len(self.tokens))


@dataclass(frozen=True)
class MicroBatch:
    """One forward pass of one rank. Padding is on the right; a filler has one row and no positions."""

    positions: IntArray
    """Which of the stage's examples these are."""
    tokens_BT: torch.Tensor
    last_B: torch.Tensor
    """Index of each row's last real token."""
    real_B: torch.Tensor
    """1 for examples, 0 for the filler's row."""


@dataclass(frozen=True)
class Feeder:
    """Cuts optimizer batches for one rank and makes tensors of them."""

    examples: Examples
    workers: Workers
    tokens_per_micro_batch: int
    pad: int

    def group(self, positions_N: IntArray) -> list[MicroBatch]:
        """Return this rank's micro-batches of one optimizer batch; as many on every rank."""
        pieces = partition(
            positions_N,
            self.examples.lengths_N,
            world=self.workers.size,
            tokens_per_micro_batch=self.tokens_per_micro_batch,
        )
        return [self._collate(piece) for piece in pieces[self.workers.rank]]

    def sweep(self, examples_per_group: int = 512) -> Iterator[MicroBatch]:
        """Yield every example once, spread over the ranks, similar lengths together: for prediction."""
        order_N = np.argsort(self.examples.lengths_N, kind="stable")
        for start in range(0, len(order_N), examples_per_group):
            yield from self.group(order_N[start : start + examples_per_group])

    def _collate(self, positions: IntArray) -> MicroBatch:
        rows = [self.examples.tokens[position] for position in positions]
        real = [1.0] * len(rows)
        if not rows:
            rows, real = [np.full(2, self.pad, dtype=np.int32)], [0.0]
        width = max(len(row) for row in rows)
        tokens = np.full((len(rows), width), self.pad, dtype=np.int64)
        for index, row in enumerate(rows):
            tokens[index, : len(row)] = row
        last = [len(row) - 1 for row in rows]
        device = self.workers.device
        return MicroBatch(
            positions=np.asarray(positions, dtype=np.int64),
            tokens_BT=torch.from_numpy(tokens).to(device),
            last_B=torch.tensor(last, device=device),
            real_B=torch.tensor(real, device=device),
        )
