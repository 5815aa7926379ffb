import pickle

import chess
import pytest

from w2s_ray.errors import DataError
from w2s_ray.tasks import chess as chess_tasks
from w2s_ray.tasks.chess import positions
from w2s_ray.tasks.judges import JUDGES, Verbatim, open_judge

TWO_MATES = "6k1/5ppp/8/8/8/8/5PPP/RR4K1 w - - 0 1\nmove:"
"""Either rook mates on the last rank."""
PLAIN = "rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP/RNBQKBNR w KQkq - 0 1\nmove:"
PROMOTION = "8/P6k/8/8/8/8/8/K7 w - - 0 1\nmove:"
CASTLING = "4k3/8/8/8/8/8/8/4K2R w K - 0 1\nmove:"


@pytest.mark.parametrize(
    ("text", "answer", "allowed"),
    [
        (PLAIN, " e2e4", True),
        (PLAIN, "e2e4\n", True),
        (PLAIN, " e2e5", False),
        (PLAIN, " e7e5", False),
        (PLAIN, " e4", False),
        (PLAIN, "", False),
        (PLAIN, " 0000", False),
        (PLAIN, " e2e4 e7e5", False),
        (PLAIN, " ♟\udc80", False),
        (PROMOTION, " a7a8q", True),
        (PROMOTION, " a7a8", False),
        (CASTLING, " e1g1", True),
    ],
)
def test_a_move_is_allowed_if_it_is_legal(text: str, answer: str, allowed: bool) -> None:
    assert positions.of_position().allows(text, answer) is allowed


def test_any_mate_is_accepted_if_the_solution_mates() -> None:
    of_position = positions.of_position()
    assert of_position.accepts(TWO_MATES, " a1a8", " b1b8")
    assert of_position.accepts(TWO_MATES, " a1a8", "a1a8")
    assert not of_position.accepts(TWO_MATES, " a1a8", " a1a7")
    assert not of_position.accepts(TWO_MATES, " a1a8", " a1h8")


def test_if_the_solution_does_not_mate_only_itself_is_accepted() -> None:
    of_position = positions.of_position()
    assert of_position.accepts(PLAIN, " e2e4", " e2e4")
    assert not of_position.accepts(PLAIN, " e2e4", " d2d4")
    assert not of_position.accepts(TWO_MATES, " a1a7", " a1a8")


def test_a_history_is_judged_in_san_with_or_without_numbers_and_signs() -> None:
    of_history = positions.of_history()
    fools_mate = "1. f3 1... e5 2. g4 2..."
    assert of_history.allows(fools_mate, " Qh4#") and of_history.allows(fools_mate, " Qh4")
    assert of_history.accepts(fools_mate, " Qh4#", " Qh4")
    assert not of_history.allows(fools_mate, " Qg5+ wins") and not of_history.allows(fools_mate, " Nd2")
    assert positions.replayed("1. f3 e5 2.g4") == positions.replayed(fools_mate)


def test_a_judge_keeps_no_state() -> None:
    of_position = positions.of_position()
    first = [of_position.accepts(TWO_MATES, " a1a8", answer) for answer in (" b1b8", " a1a7")]
    assert [of_position.accepts(TWO_MATES, " a1a8", answer) for answer in (" b1b8", " a1a7")] == first == [True, False]


def test_the_default_judge_accepts_only_the_target() -> None:
    verbatim = open_judge(None)
    assert isinstance(verbatim, Verbatim)
    assert verbatim.allows("2 + 2 =", "fish") and verbatim.accepts("2 + 2 =", " 4", "4\n")
    assert not verbatim.accepts("2 + 2 =", " 4", " 5")


@pytest.mark.parametrize("name", JUDGES)
def test_every_judge_opens(name: str) -> None:
    assert open_judge(name)


def test_an_unknown_judge_is_refused() -> None:
    with pytest.raises(DataError, match="'chees'"):
        open_judge("chees")


def test_without_python_chess_a_judge_is_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chess_tasks, "find_spec", lambda name: None)
    with pytest.raises(DataError) as caught:
        open_judge("chess_position")
    assert "w2s_ray[chess]" in caught.value.hint
    assert pickle.loads(pickle.dumps(caught.value)).hint == caught.value.hint


MATE_IN_TWO = ("3R4/6pk/pp2p1q1/2p3rp/2P4Q/1P6/P4PNP/6K1 w - - 6 35", "h4h3 g6b1 d8d1 b1d1")


@pytest.mark.parametrize(
    ("fen", "reason"),
    [
        ("", "empty fen"),
        ("rnbqkbnr/pppppppp/8/8/8/8/PPPPPPPP w KQkq - 0 1", "expected 8 rows"),
        ("3R4/6pk/pp2p1q1/2p3rp/2P4Q/1P6/P4PNP/6K1 x - - 6 35", "'w' or 'b'"),
        ("8/8/8/8/8/8/8/K7 w - - 0 1", "cannot occur in a game"),
        ("kK6/8/8/8/8/8/8/8 w - - 0 1", "cannot occur in a game"),
    ],
)
def test_an_invalid_fen_or_an_impossible_position_is_refused(fen: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        positions.position(fen)


def test_a_line_yields_each_position_and_its_move() -> None:
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
def test_a_history_with_an_invalid_move_is_refused(history: str) -> None:
    with pytest.raises(ValueError):
        positions.replayed(history)


def test_a_position_is_recovered_from_the_text_that_asks_about_it() -> None:
    board = chess.Board(MATE_IN_TWO[0])
    assert positions.asked(positions.question(board)) == board


def test_a_position_has_one_name_for_both_colours_and_any_move_number() -> None:
    white = chess.Board("6k1/5ppp/8/8/8/8/5PPP/R5K1 w - - 0 1")
    later = chess.Board("6k1/5ppp/8/8/8/8/5PPP/R5K1 w - - 12 40")
    black = chess.Board("r5k1/5ppp/8/8/8/8/5PPP/6K1 b - - 3 9")
    assert positions.seen(white) == positions.seen(later) == positions.seen(black)
    other_side = chess.Board("6k1/5ppp/8/8/8/8/5PPP/R5K1 b - - 0 1")
    assert positions.seen(other_side) != positions.seen(white)
