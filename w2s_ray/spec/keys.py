"""Dotted keys of a study, as `--set` and `search.space` name them."""

from collections.abc import Collection


def split_key(key: str, names: Collection[str]) -> list[str]:
    """Split a dotted key into its parts; a name that has dots itself, `pythia-1.4b`, is one part.

    Args:
        key: `ladder.pythia-1.4b.optimisation.epochs`.
        names: what the study calls its tasks, levels and methods.
    """
    found: list[str] = []
    rest = key.split(".")
    while rest:
        lengths = range(len(rest), 0, -1)
        longest = next((length for length in lengths if found and ".".join(rest[:length]) in names), 1)
        found.append(".".join(rest[:longest]))
        rest = rest[longest:]
    return found
