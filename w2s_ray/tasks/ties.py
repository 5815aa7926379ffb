"""Examples that are related through one another: they share a key, or each shares one with a third.

A sentence stands in several pairs, a scenario is ranked against several others: whoever is linked by any key belongs to
one group, so that a split never parts them.
"""

import itertools
from collections.abc import Sequence

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components


def tied(keys: Sequence[Sequence[str]]) -> list[str]:
    """Return the group of each example from its keys, the first of which is its own group's name.

    Groups that share a key are one, named by the first of their names in sorted order.
    """
    if all(len(each) == 1 for each in keys):
        return [own for (own,) in keys]
    number_of = {key: number for number, key in enumerate(sorted(set(itertools.chain.from_iterable(keys))))}
    pairs = np.array([(number_of[own], number_of[key]) for own, *others in keys for key in (own, *others)])
    links = coo_matrix((np.ones(len(pairs), dtype=bool), pairs.T), shape=(len(number_of),) * 2)
    _, component_of_key = connected_components(links, directed=False)
    first: dict[int, str] = {}
    for own in sorted({own for own, *_ in keys}):
        first.setdefault(int(component_of_key[number_of[own]]), own)
    return [first[int(component_of_key[number_of[own]])] for own, *_ in keys]
