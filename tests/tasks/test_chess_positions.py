import chess
import pytest

from w2s_ray.tasks.chess import positions

MATE_IN_TWO = ("3R4/6pk/pp2p1q1/2p3rp/2P4Q/1P6/P4PNP/6K1 w - - 6 35", "h4h3 g6b1 d8d1 b1d1")


@pytest.mark.parametrize(
    ("fen", "reason"),
    [
        ("", "empty fen"),
        ("rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP w KQkq - 0 1", "expected 8 rows"),
        ("3R4/6pk/pp2p1q1/2p3rp/2P4Q/1P6/P4PNP/6K1 x - - 6 35", "'w' or 'b'"),
        ("8/8/8/8/8/8/8/K7 w - - 0 1", "no game comes to"),
        ("kK6/8/8/8/8/8/8/8 w - - 0 1", "no game comes to"),
    ],
)
def test_a_fen_that_is_none_or_that_no_game_comes_to_is_refused(fen: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        positions.position(fen)


def test_a_line_yields_each_position_and_the_move_that_is_made_in_it() -> None:
    fen, moves = MATE_IN_TWO
    played = positions.line(positions.position(fen), moves.split())
    fens, made = zip(*((board.fen(), move.uci()) for board, move in played), strict=True)
    assert list(made) == moves.split()
    assert fens[0] == fen
    assert fens[1] == "3R4/6pk/pp2p1q1/2p3rp/2P5/1P5Q/P4PNP/6K1 b - - 7 35"


@pytest.mark.parametrize("moves", [["h4h9"], ["h4a5"], ["h4h3", "h4h3"], ["0000"], ["Qh3"]])
def test_an_illegal_move_is_refused(moves: list[str]) -> None:
    with pytest.raises(ValueError):
        list(positions.line(positions.position(MATE_IN_TWO[0]), moves))


@pytest.mark.parametrize("history", ["1. e4 1... e4", "1. e4 1-0", "e5", "1. Nf3 1... -- 2. Ng1"])
def test_a_history_with_a_move_that_is_none_is_refused(history: str) -> None:
    with pytest.raises(ValueError):
        positions.replayed(history)


def test_a_position_is_recovered_from_the_text_that_asks_about_it() -> None:
    board = chess.Board(MATE_IN_TWO[0])
    assert positions.asked(positions.question(board)) == board


def test_a_position_has_one_name_in_either_colour_and_at_any_move_number() -> None:
    white = chess.Board("6k1/5ppp/8/8/8/8/5PPP/R5K1 w - - 0 1")
    later = chess.Board("6k1/5ppp/8/8/8/8/5PPP/R5K1 w - - 12 40")
    black = chess.Board("r5k1/5ppp/8/8/8/8/5PPP/6K1 b - - 3 9")
    assert positions.seen(white) == positions.seen(later) == positions.seen(black)
    other_side = chess.Board("6k1/5ppp/8/8/8/8/5PPP/R5K1 b - - 0 1")
    assert positions.seen(other_side) != positions.seen(white)
