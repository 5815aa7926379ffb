"""Which examples make one optimizer step, and how workers share them.

`plan_steps` decides the science: the list of optimizer batches depends on lengths, sizes and the order seed alone.
`partition` decides the execution: how one batch is cut into micro-batches for any number of workers. The second cannot
change the first.
"""

import itertools
import math
from bisect import bisect_right

import numpy as np

from w2s_ray.science import IntArray
from w2s_ray.spec.identity import seeded_hash


def num_steps(num_examples: int, *, epochs: float, examples_per_step: int) -> int:
    """Return the number of optimizer steps for `epochs` passes; fractions are rounded to whole steps."""
    per_epoch = math.ceil(num_examples / examples_per_step)
    return max(1, math.floor(epochs * per_epoch + 0.5))


def plan_steps(
    lengths_N: IntArray, *, epochs: float, examples_per_step: int, order_seed: int, bucketing_window: int
) -> list[IntArray]:
    """Return the optimizer batches of a whole training, each an array of example positions.

    Every epoch has its own order and visits every example once. Within windows of `bucketing_window` batches, examples
    are sorted by length, cut into batches, and the batches shuffled, so that a batch has texts of similar length. The
    remainder of an epoch, chosen at random before sorting, is a smaller batch.
    """
    assert len(lengths_N), "nothing to plan"
    total = num_steps(len(lengths_N), epochs=epochs, examples_per_step=examples_per_step)
    steps: list[IntArray] = []
    epoch = 0
    while len(steps) < total:
        seed = seeded_hash(order_seed, "epoch", epoch)
        steps += _epoch(np.asarray(lengths_N), examples_per_step, bucketing_window, seed)
        epoch += 1
    return steps[:total]


def partition(
    step_positions: IntArray, lengths_N: IntArray, *, world: int, tokens_per_micro_batch: int, packs: bool = False
) -> list[list[IntArray]]:
    """Cut one optimizer batch into micro-batches: [rank][micro] → positions.

    All ranks have equally many micro-batches, some of them empty if there are too few examples. The size of a
    micro-batch is its longest text times its number of examples (padded), or with `packs` the sum of its texts. It is
    at most `tokens_per_micro_batch`, except for a single text that is longer. There are as few rounds as possible, with
    sizes as even as possible.
    """
    positions = np.asarray(step_positions, dtype=np.int64)
    lengths = np.maximum(np.asarray(lengths_N)[positions], 1)
    order = np.lexsort((positions, -lengths))
    positions, descending = positions[order], lengths[order].tolist()
    rounds = max(1, math.ceil(len(_cut(descending, tokens_per_micro_batch, packs)) / world))
    sizes = _cut(descending, _smallest_cap(descending, rounds * world, tokens_per_micro_batch, packs), packs)
    pieces = np.split(positions, np.cumsum(sizes)[:-1]) if sizes else []
    pieces += [np.empty(0, dtype=np.int64)] * (rounds * world - len(pieces))
    ranks: list[list[IntArray]] = [[] for _ in range(world)]
    for number in range(rounds):
        in_round = pieces[number * world : (number + 1) * world]
        for rank, piece in zip(range(world), in_round if number % 2 == 0 else reversed(in_round), strict=True):
            ranks[rank].append(piece)
    return ranks


def _epoch(lengths_N: IntArray, examples_per_step: int, window: int, seed: int) -> list[IntArray]:
    """Return one epoch's batches."""
    order = _shuffled(len(lengths_N), seed)
    num_full = len(order) // examples_per_step
    full, rest = order[: num_full * examples_per_step], order[num_full * examples_per_step :]
    steps: list[IntArray] = []
    for first in range(0, num_full, window):
        inside = full[first * examples_per_step : (first + window) * examples_per_step]
        inside = inside[np.argsort(lengths_N[inside], kind="stable")]
        batches = inside.reshape(-1, examples_per_step)
        steps += list(batches[_shuffled(len(batches), seeded_hash(seed, "window", first))])
    if len(rest):
        steps.append(rest)
    return steps


def _shuffled(count: int, seed: int) -> IntArray:
    """Return a random order of 0 … count - 1; the raw bits of PCG64 are the same in every version of NumPy."""
    return np.argsort(np.random.PCG64(seed).random_raw(count), kind="stable")


def _cut(descending: list[int], cap: int, packs: bool) -> list[int]:
    """Return the sizes of runs of `descending` lengths, each as long as its padded or packed size allows (`cap`)."""
    sums = list(itertools.accumulate(descending, initial=0)) if packs else []
    sizes: list[int] = []
    begin = 0
    while begin < len(descending):
        fitting = bisect_right(sums, sums[begin] + cap) - 1 - begin if packs else cap // descending[begin]
        size = min(max(1, fitting), len(descending) - begin)
        sizes.append(size)
        begin += size
    return sizes


def _smallest_cap(descending: list[int], num_pieces: int, cap: int, packs: bool) -> int:
    """Return the smallest size of a piece for which `num_pieces` runs are enough, by bisection."""
    low, high = 1, cap
    while low < high:
        middle = (low + high) // 2
        if len(_cut(descending, middle, packs)) <= num_pieces:
            high = middle
        else:
            low = middle + 1
    return high
