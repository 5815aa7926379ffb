"""Rows become chess puzzles, and text for pretraining.

Positions are divided into two *sides* by a hash that does not depend on the colour to move or the move number: a share
of `TEXT_SHARE` is for text, the others for the labelled tasks. A text is made from puzzles of its own side, and only
from the positions of their lines that are on its side. Therefore no text shows a position of a labelled example, and
puzzles with the same position, which are one group, are on one side.
"""

from collections.abc import Iterable
from itertools import islice

import chess

from w2s_ray.spec.identity import seeded_hash
from w2s_ray.tasks.chess import positions
from w2s_ray.tasks.examples import Example, Skip, number_of, text_of
from w2s_ray.tasks.rows import Row

TEXT_SHARE = 0.5
"""Share of the positions for text; the rest is for the labelled tasks."""
BANDS = (1000, 1500, 2000)
"""Lower limits of the bands of a puzzle's rating (Glicko-2); each band is a stratum."""


def puzzle(row: Row) -> Iterable[Example]:
    """A row of the dump: the position after the opponent's move → the best move."""
    board = _board(row)
    moves = text_of(row, "Moves").split()
    if len(moves) < 2:
        raise Skip("no answer to the opponent's move")
    try:
        _, (board, move) = islice(positions.line(board, moves), 2)
    except ValueError as error:
        raise Skip("an illegal move", str(error)) from None
    band, id_ = band_of(number_of(row, "Rating")), text_of(row, "PuzzleId")
    yield Example(positions.question(board), _labelled(board), other=positions.answer(move), stratum=band, id=id_)


def puzzle_after_game(row: Row) -> Iterable[Example]:
    """A game's moves (`ctx`) → the next move (`target`), both in SAN."""
    history, target = text_of(row, "ctx"), text_of(row, "target")
    try:
        board = positions.replayed(history)
        positions.san_move(board, target)
    except ValueError as error:
        raise Skip("an illegal move", str(error)) from None
    yield Example(history, _labelled(board), other=f" {target}", id=text_of(row, "id"))


def line_as_text(row: Row) -> Iterable[Example]:
    """A row of the dump as text: each position of its line that is for text, in the task's form, with its move."""
    parts, names = [], []
    try:
        for board, move in positions.line(_board(row), text_of(row, "Moves").split()):
            names.append(positions.seen(board))
            if is_for_text(names[-1]):
                parts.append(positions.question(board) + positions.answer(move))
    except ValueError as error:
        raise Skip("an illegal move", str(error)) from None
    if len(names) < 2:
        raise Skip("no answer to the opponent's move")
    if not is_for_text(names[1]):
        raise Skip("a puzzle that is for the labelled tasks", is_fault=False)
    yield Example("\n".join(parts), names[1])


def is_for_text(position: str) -> bool:
    """Return whether a position, as given by `positions.seen`, is for text."""
    return seeded_hash("chess text", position) < TEXT_SHARE * 2**63


def band_of(rating: int) -> str:
    """Return the name of a rating's band."""
    above = [edge for edge in BANDS if rating >= edge]
    below = [edge for edge in BANDS if rating < edge]
    if not above:
        return f"rated 0 to {below[0] - 1}"
    return f"rated {above[-1]} to {below[0] - 1}" if below else f"rated {above[-1]} or more"


def _board(row: Row) -> chess.Board:
    try:
        return positions.position(text_of(row, "FEN"))
    except ValueError as error:
        raise Skip("a FEN that is not a position", str(error)) from None


def _labelled(board: chess.Board) -> str:
    """Return the group of a position for the labelled tasks; raise `Skip` if the position is for text."""
    name = positions.seen(board)
    if is_for_text(name):
        raise Skip("a puzzle that is for chess_text", is_fault=False)
    return name
