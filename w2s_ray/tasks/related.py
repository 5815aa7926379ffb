"""Groups of related examples, which a split never divides.

Examples are related when they share a key such as a passage or a sentence (`tied`), or when their texts differ in case
and punctuation only (`merged_groups`). The relation is transitive: examples that are linked through others are in one
group.
"""

import itertools
import re
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

_NOT_WORDS = re.compile(r"\W+")


def tied(keys: Sequence[Sequence[str]]) -> list[str]:
    """Return the group of each example from its keys, of which the first is the name of its own group.

    Groups that share a key are merged, and named by the first of their names in sorted order.
    """
    if all(len(own_keys) == 1 for own_keys in keys):
        return [own for (own,) in keys]
    number_of = {key: number for number, key in enumerate(sorted(set(itertools.chain.from_iterable(keys))))}
    pairs = np.array([(number_of[own], number_of[key]) for own, *others in keys for key in (own, *others)])
    links = coo_matrix((np.ones(len(pairs), dtype=bool), pairs.T), shape=(len(number_of),) * 2)
    _, component_of_key = connected_components(links, directed=False)
    first: dict[int, str] = {}
    for own in sorted({own for own, *_ in keys}):
        first.setdefault(int(component_of_key[number_of[own]]), own)
    return [first[int(component_of_key[number_of[own]])] for own, *_ in keys]


def merged_groups(groups: Sequence[str], texts: Sequence[str], others: Sequence[str] = ()) -> list[str]:
    """Return each example's group after groups that share a text are merged, named by the first in sorted order.

    Therefore a text that occurs twice is never in two splits, even if the task gives it two groups. `others` are
    the second texts of pairs.
    """
    parents = {group: group for group in groups}
    group_of_text: dict[str, str] = {}
    members = [*zip(groups, texts, strict=True), *(zip(groups, others, strict=True) if others else ())]
    for group, text in members:
        first = group_of_text.setdefault(normalised(text), group)
        if first != group:
            low, high = sorted((_root(parents, first), _root(parents, group)))
            parents[high] = low
    return [_root(parents, group) for group in groups]


def normalised(text: str) -> str:
    """Return the words of a text in lower case, or the text itself if it has no words."""
    return _NOT_WORDS.sub(" ", text).strip().casefold() or text


def _root(parents: dict[str, str], group: str) -> str:
    """Return the name of the merged group, and shorten the path to it (union-find with path halving)."""
    while parents[group] != group:
        parents[group] = parents[parents[group]]
        group = parents[group]
    return group
