"""Anthropic's hh-rlhf as pairs of dialogs (Bai et al. 2022), a public stand-in for the paper's reward modelling.

A row holds two dialogs, `chosen` and `rejected`, that begin alike and end in different answers. Neither is good or bad
by itself, so single answers with a label are chance (field trap 11): an example is the pair, and a student gives each
dialog a score.

Rows whose dialogs begin with the same human turn, in any case and spacing, are related: crowd workers asked some things
more than once, and each further turn of a conversation became a row of its own.
"""

import re

from w2s_ray.spec.identity import identity

HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"
"""What each turn of a dialog begins with."""
_FIRST_TURN = re.compile(rf"\s*Human:(.*?)(?={ASSISTANT}|\Z)", re.DOTALL)


def first_human_turn(dialog: str) -> str | None:
    """Return what the human says first, in lower case and with single spaces; None where a dialog begins otherwise."""
    found = _FIRST_TURN.match(dialog)
    return " ".join(found[1].lower().split()) if found else None


def group_of(dialog: str) -> str:
    """Return the group of the dialogs that begin as this one does."""
    return identity("first human turn", first_human_turn(dialog))[:24]
