"""The judge of chess moves: legal or not, and as good as the solution or not."""

from collections.abc import Callable
from dataclasses import dataclass

import chess

from w2s_ray.tasks.chess import positions


@dataclass(frozen=True)
class MoveJudge:
    """Judges moves in the position that an example's text describes.

    Attributes:
        position: the position of a text.
        read: a legal move of a position from its spelling; raises ValueError where it is none.
    """

    position: Callable[[str], chess.Board]
    read: Callable[[chess.Board, str], chess.Move]

    def allows(self, text: str, answer: str) -> bool:
        """Tell whether the answer is a legal move."""
        return self._move(self.position(text), answer) is not None

    def accepts(self, text: str, target: str, answer: str) -> bool:
        """Tell whether the answer is the target's move, or mates where the target mates."""
        board = self.position(text)
        move, solution = self._move(board, answer), self._move(board, target)
        assert solution is not None, f"{target!r} is illegal in {text!r}"
        if move is None or move == solution:
            return move is not None
        return positions.gives_mate(board, solution) and positions.gives_mate(board, move)

    def _move(self, board: chess.Board, answer: str) -> chess.Move | None:
        try:
            return self.read(board, answer.strip())
        except ValueError:
            return None


def of_position() -> MoveJudge:
    """Return the judge of moves in UCI after a FEN."""
    return MoveJudge(positions.asked, positions.uci_move)


def of_history() -> MoveJudge:
    """Return the judge of moves in SAN after a game's moves."""
    return MoveJudge(positions.replayed, positions.san_move)
