"""Anthropic's hh-rlhf as pairs of dialogs (Bai et al. 2022), a public substitute for the paper's reward modelling.

A row has two dialogs, `chosen` and `rejected`, that begin alike and end in different answers. Neither is good or bad by
itself, so classifying single answers gives chance accuracy (field trap 11): an example is the pair, and a student gives
each dialog a score. The pair's prompt is the turns that both dialogs share, up to where the last answer begins.

Rows whose dialogs begin with the same human turn, ignoring case and spacing, are related: crowd workers asked some
questions more than once, and each further turn of a conversation is a row of its own.
"""

import re
from collections.abc import Iterable

from w2s_ray.tasks.dataset import Recipe
from w2s_ray.tasks.examples import PAIR_CLASSES, Example, Format, Skip, pair, text_of
from w2s_ray.tasks.own import group_of
from w2s_ray.tasks.rows import Row

SUBSETS = ("harmless-base", "helpful-base", "helpful-online", "helpful-rejection-sampled")
"""Folders of the data set, and strata of its examples."""
_ANSWER = "\n\nAssistant:"
_FIRST_TURN = re.compile(r"\s*Human:(.*?)(?=\n\nAssistant:|\Z)", re.DOTALL)


def dialogs(row: Row) -> Iterable[Example]:
    """Make a row one pair."""
    chosen, rejected = text_of(row, "chosen"), text_of(row, "rejected")
    turn = first_human_turn(chosen)
    if turn is None or turn != first_human_turn(rejected):
        raise Skip("two dialogs that do not begin with the same human turn")
    yield pair(chosen, rejected, group=group_of(turn), prompt=shared_turns(chosen, rejected))


def shared_turns(first: str, second: str) -> str:
    """Return the beginning of both dialogs up to the last start of an answer that they share; "" without one."""
    pairs = enumerate(zip(first, second, strict=False))
    end = next((at for at, (one, other) in pairs if one != other), min(len(first), len(second)))
    return "".join(first[:end].rpartition(_ANSWER)[:2])


def first_human_turn(dialog: str) -> str | None:
    """Return the first human turn in lower case with single spaces; None if the dialog begins differently."""
    match = _FIRST_TURN.match(dialog)
    return " ".join(match[1].lower().split()) if match else None


HH_RLHF = Recipe(
    name="hh_rlhf",
    format=Format("pairs", ("chosen", "rejected"), dialogs, PAIR_CLASSES),
    hub="Anthropic/hh-rlhf",
    licence="MIT",
    citation="Bai et al. 2022",
    protocol="pairs of dialogs, grouped by first human turn; results also by subset",
    branch="main",
    commit="09be8c5bbc57cb3887f3a9732ad6aa7ec602a1fa",
    test="test",
    num_rows=169_352,
    parts=SUBSETS,
)
