"""Examples that must stay together: those of one group, and those whose texts are the same but for case and signs."""

import re
from collections.abc import Sequence

_NOT_WORDS = re.compile(r"\W+")


def merged_groups(groups: Sequence[str], texts: Sequence[str], others: Sequence[str] = ()) -> list[str]:
    """Return each example's group, with groups that share a text made one, named by the first in sorted order.

    So a text that occurs twice never stands on two sides of a split, whatever the task said of its groups. `others` are
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
    """Return the words of a text in lower case; the text itself where it has no words."""
    return _NOT_WORDS.sub(" ", text).strip().casefold() or text


def _root(parents: dict[str, str], group: str) -> str:
    """The name that `group` goes by; the way there is shortened for the next one who asks."""
    while parents[group] != group:
        parents[group] = parents[parents[group]]
        group = parents[group]
    return group
