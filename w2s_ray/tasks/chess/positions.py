"""Positions and moves, as objects of python-chess and as text; and the judge of moves.

There are two forms of text. A *position* is its FEN and a cue; its moves are in UCI (`e2e4`, `e7e8q`), because in UCI a
move has one spelling that follows from its two squares, whereas SAN also depends on the other pieces. A *history* is
all moves of the game in SAN with their numbers, as in the paper and in EleutherAI/lichess-puzzles. Both answers begin
with a space, so that text and answer together are normal text.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import chess

CUE = "\nmove:"
"""The text between a FEN and the move."""
_MOVE_NUMBER = re.compile(r"\d+\.+")


def position(fen: str) -> chess.Board:
    """Return the position of a FEN.

    Raises:
        ValueError: when it does not parse, or cannot occur in a game.
    """
    board = chess.Board(fen)
    if not board.is_valid():
        raise ValueError(f"{fen!r} cannot occur in a game: {board.status()!r}")
    return board


def line(board: chess.Board, moves: Sequence[str]) -> Iterator[tuple[chess.Board, chess.Move]]:
    """Yield each position of a line and the move (in UCI) that is made in it, and make the moves on `board`.

    Raises:
        ValueError: when a move does not parse, or is illegal.
    """
    for text in moves:
        move = uci_move(board, text)
        yield board, move
        board.push(move)


def replayed(history: str) -> chess.Board:
    """Return the position after a game's moves in SAN, from the beginning, with or without move numbers.

    Raises:
        ValueError: when a move does not parse, or is illegal.
    """
    board = chess.Board()
    for text in _MOVE_NUMBER.sub(" ", history).split():
        board.push(san_move(board, text))
    return board


def question(board: chess.Board) -> str:
    """Return the text of a position: its FEN and the cue."""
    return board.fen() + CUE


def answer(move: chess.Move) -> str:
    """Return a move as the answer to `question`."""
    return f" {move.uci()}"


def asked(text: str) -> chess.Board:
    """Return the position of a text from `question`.

    Raises:
        ValueError: when it is not such a text.
    """
    return position(text.removesuffix(CUE))


def uci_move(board: chess.Board, text: str) -> chess.Move:
    """Return a legal move from UCI.

    Raises:
        ValueError: when it does not parse, or is illegal.
    """
    return _real(board.parse_uci(text), text)


def san_move(board: chess.Board, text: str) -> chess.Move:
    """Return a legal move from SAN, with or without the signs of check and mate.

    Raises:
        ValueError: when it does not parse, is illegal, or fits several moves.
    """
    return _real(board.parse_san(text), text)


def gives_mate(board: chess.Board, move: chess.Move) -> bool:
    """Return whether a legal move is checkmate."""
    board.push(move)
    mates = board.is_checkmate()
    board.pop()
    return mates


def seen(board: chess.Board) -> str:
    """Return the pieces from the view of the side to move: the same for both colours and at any move number."""
    return (board if board.turn == chess.WHITE else board.mirror()).board_fen()


def _real(move: chess.Move, text: str) -> chess.Move:
    if not move:
        raise ValueError(f"{text!r} passes the turn")
    return move


@dataclass(frozen=True)
class MoveJudge:
    """Judges moves in the position that an example's text describes.

    Attributes:
        position: text → position.
        read: position and text → legal move; raises ValueError if the text is not one.
    """

    position: Callable[[str], chess.Board]
    read: Callable[[chess.Board, str], chess.Move]

    def allows(self, text: str, answer: str) -> bool:
        """Return whether the answer is a legal move."""
        return self._move(self.position(text), answer) is not None

    def accepts(self, text: str, target: str, answer: str) -> bool:
        """Return whether the answer is the target's move, or both are checkmate."""
        board = self.position(text)
        move, solution = self._move(board, answer), self._move(board, target)
        assert solution is not None, f"{target!r} is illegal in {text!r}"
        if move is None or move == solution:
            return move is not None
        return gives_mate(board, solution) and gives_mate(board, move)

    def _move(self, board: chess.Board, answer: str) -> chess.Move | None:
        try:
            return self.read(board, answer.strip())
        except ValueError:
            return None


def of_position() -> MoveJudge:
    """Return the judge of moves in UCI after a FEN."""
    return MoveJudge(asked, uci_move)


def of_history() -> MoveJudge:
    """Return the judge of moves in SAN after a game's moves."""
    return MoveJudge(replayed, san_move)
