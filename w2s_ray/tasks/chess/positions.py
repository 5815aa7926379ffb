"""Positions and moves: as the rules of chess see them, and as a language model reads them.

Two forms are read. A *position* is its FEN and a cue; its moves are in UCI (`e2e4`, `e7e8q`), because a move then has
one spelling that follows from the two squares alone, where SAN also depends on what the other pieces could do. A
*history* is all moves of the game in SAN, each with its number, as in the paper and in EleutherAI/lichess-puzzles.
Both answers begin with a space, so that text and answer together read like any text.
"""

import re
from collections.abc import Iterator, Sequence

import chess

CUE = "\nmove:"
"""Stands between a FEN and the move."""
_MOVE_NUMBER = re.compile(r"\d+\.+")


def position(fen: str) -> chess.Board:
    """Return the position of a FEN.

    Raises:
        ValueError: when it does not parse, or no game can come to it.
    """
    board = chess.Board(fen)
    if not board.is_valid():
        raise ValueError(f"no game comes to {fen!r}: {board.status()!r}")
    return board


def line(board: chess.Board, moves: Sequence[str]) -> Iterator[tuple[chess.Board, chess.Move]]:
    """Yield each position of a line and the move (in UCI) that is made in it; `board` moves on with them.

    Raises:
        ValueError: when a move is none, or illegal.
    """
    for each in moves:
        move = uci_move(board, each)
        yield board, move
        board.push(move)


def replayed(history: str) -> chess.Board:
    """Return the position after a game's moves, in SAN and from the beginning; their numbers may stand or lack.

    Raises:
        ValueError: when a move is none, or illegal.
    """
    board = chess.Board()
    for each in _MOVE_NUMBER.sub(" ", history).split():
        board.push(san_move(board, each))
    return board


def question(board: chess.Board) -> str:
    """Return the text that asks for a move in this position."""
    return board.fen() + CUE


def answer(move: chess.Move) -> str:
    """Return a move as the answer to `question`."""
    return f" {move.uci()}"


def asked(text: str) -> chess.Board:
    """Return the position that `question` asks about.

    Raises:
        ValueError: when the text is none of its kind.
    """
    return position(text.removesuffix(CUE))


def uci_move(board: chess.Board, text: str) -> chess.Move:
    """Return a legal move from UCI.

    Raises:
        ValueError: when it is none, or illegal.
    """
    return _real(board.parse_uci(text), text)


def san_move(board: chess.Board, text: str) -> chess.Move:
    """Return a legal move from SAN; signs of check and mate may lack.

    Raises:
        ValueError: when it is none, illegal, or fits several moves.
    """
    return _real(board.parse_san(text), text)


def gives_mate(board: chess.Board, move: chess.Move) -> bool:
    """Tell whether a legal move mates."""
    board.push(move)
    mates = board.is_checkmate()
    board.pop()
    return mates


def seen(board: chess.Board) -> str:
    """Return the pieces as the side to move sees them: one name for a position in either colour, at any move number."""
    return (board if board.turn == chess.WHITE else board.mirror()).board_fen()


def _real(move: chess.Move, text: str) -> chess.Move:
    if not move:
        raise ValueError(f"{text!r} passes the turn")
    return move
