"""The nearest right word for a wrong one."""

import difflib
from collections.abc import Iterable


def nearest(key: str, known: Iterable[str], what: str = "keys") -> str:
    """Return the remedy for a key that does not exist: the nearest one that does, or all of them."""
    known = list(known)
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"did you mean {near[0]!r}?" if near else f"known {what} here: {', '.join(known)}"
