"""Pairs: which of two texts is the better one?

Data of this kind says which text was preferred, so a pair must be put into an order before it is shown, and the order
must say nothing. A coin decides, thrown by the hash of the pair's id: the same in every process, and whatever was read
before (field trap: random numbers with a state inside `map`). The id in turn is of the two texts without their order,
so that a pair that occurs twice is found, and so is one that occurs both ways round.
"""

from typing import NamedTuple

from w2s_ray.spec.identity import identity, seeded_hash

CLASS_NAMES = ("first", "second")
"""Which of the two is the better one."""


class Pair(NamedTuple):
    """Two texts in the order in which they are shown.

    Attributes:
        id: digest of the two texts, whichever is the better one.
        text: the first.
        other: the second.
        label: 0 where the first is the better one, 1 where the second is.
    """

    id: str
    text: str
    other: str
    label: int


def paired(better: str, worse: str) -> Pair:
    """Return two different texts as a pair, in the order that the coin of its id gives."""
    assert better != worse, "a pair compares two texts"
    first, second = sorted((better, worse))
    id_ = identity("example", ["pair", first, second])[:24]
    if seeded_hash("pair order", id_) % 2:
        first, second = second, first
    return Pair(id_, first, second, int(better == second))
