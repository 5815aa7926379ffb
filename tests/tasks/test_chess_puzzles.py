import csv
import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import chess
import pytest

from w2s_ray.data.prepare import prepare_task
from w2s_ray.data.splits import num_documents
from w2s_ray.errors import DataError
from w2s_ray.spec.identity import seeded_hash
from w2s_ray.spec.study import TaskSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.tasks import chess as chess_tasks
from w2s_ray.tasks.chess import positions
from w2s_ray.tasks.chess.puzzles import TEXT_SHARE, band_of, is_for_text
from w2s_ray.tasks.judges import open_judge
from w2s_ray.tasks.registry import open_task
from w2s_ray.tasks.task import TaskData

COLUMNS = "PuzzleId FEN Moves Rating RatingDeviation Popularity NbPlays Themes GameUrl OpeningTags".split()
"""Columns of the dump, in its order."""
Row = dict[str, str]
MATE = "3R4/6pk/pp2p1q1/2p3rp/2P4Q/1P6/P4PNP/6K1 w - - 6 35", "h4h3 g6b1 d8d1 b1d1"


def as_row(number: int, fen: str, moves: str, rating: object = 1200) -> Row:
    values = [f"p{number:04}", fen, moves, str(rating), "75", "90", "100", "mate short", f"https://li/{number}", ""]
    return dict(zip(COLUMNS, values, strict=True))


def game(number: int) -> list[chess.Move]:
    """Return a game of twelve legal half-moves or more, chosen by hash."""
    board = chess.Board()
    for ply in range(12 + number % 8):
        legal = list(board.legal_moves)
        board.push(legal[seeded_hash(number, ply) % len(legal)])
    return board.move_stack


def puzzles(num: int) -> list[Row]:
    """Rows of the real shape: the last four half-moves of a game as the line, with the position before them."""
    made = []
    for number in range(num):
        moves = game(number)
        board = chess.Board()
        for move in moves[:-4]:
            board.push(move)
        line = " ".join(move.uci() for move in moves[-4:])
        made.append(as_row(number, board.fen(), line, 700 + 37 * number % 2000))
    return made


def histories(num: int) -> list[Row]:
    """Rows of the real shape: every half-move with its number, and the number of the target move."""
    made = []
    for number in range(num):
        board, words = chess.Board(), []
        *before, target = game(number)[:-2]
        for move in before:
            words += [f"{board.fullmove_number}{'.' if board.turn else '...'}", board.san(move)]
            board.push(move)
        words.append(f"{board.fullmove_number}{'.' if board.turn else '...'}")
        made.append({"id": f"p{number:04}", "ctx": " ".join(words), "target": f" {board.san(target)}"})
    return made


def write_csv(path: Path, rows: Iterable[Row]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    return path


def write_json(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(builtin: str, path: Path, **spec: Any) -> TaskData:
    return open_task(TaskSpec(builtin=builtin, files=str(path), **spec)).read()


def test_a_puzzle_asks_for_the_move_after_the_opponents(tmp_path: Path) -> None:
    given = puzzles(60)
    data = read("lichess_puzzles", write_csv(tmp_path / "a.csv", given))
    assert data.class_names == ("answer",) and data.judge == "chess_position"
    by_id = {row["PuzzleId"]: row for row in given}
    assert 10 < data.table.num_rows < 50
    for example in data.table.to_pylist():
        row = by_id[example["id"].removeprefix("pool-")]
        first, second, *_ = row["Moves"].split()
        board = chess.Board(row["FEN"])
        board.push_uci(first)
        assert example["text"] == f"{board.fen()}\nmove:"
        assert example["other"] == f" {second}"
        assert example["stratum"] == band_of(int(row["Rating"]))


def test_a_puzzle_after_its_game_asks_for_the_target(tmp_path: Path) -> None:
    given = histories(60)
    data = read("lichess_puzzles_history", write_json(tmp_path / "a.jsonl", given))
    judge = open_judge(data.judge)
    by_id = {row["id"]: row for row in given}
    assert 10 < data.table.num_rows < 50
    for example in data.table.to_pylist():
        row = by_id[example["id"].removeprefix("pool-")]
        assert (example["text"], example["other"]) == (row["ctx"], row["target"])
        assert judge.allows(example["text"], example["other"])


def test_both_forms_of_a_puzzle_are_in_one_group_and_on_one_side(tmp_path: Path) -> None:
    """The dump's line starts four half-moves before the game's end, and the history ends two before it."""
    of_positions = read("lichess_puzzles", write_csv(tmp_path / "a.csv", puzzles(80))).table
    of_histories = read("lichess_puzzles_history", write_json(tmp_path / "a.jsonl", histories(80))).table
    groups = dict(zip(of_positions["id"].to_pylist(), of_positions["group"].to_pylist(), strict=True))
    assert groups == dict(zip(of_histories["id"].to_pylist(), of_histories["group"].to_pylist(), strict=True))


def test_every_answer_is_allowed_and_accepted_by_the_tasks_own_judge(tmp_path: Path) -> None:
    data = read("lichess_puzzles", write_csv(tmp_path / "a.csv", puzzles(40)))
    judge = open_judge(data.judge)
    for example in data.table.to_pylist():
        assert judge.allows(example["text"], example["other"])
        assert judge.accepts(example["text"], example["other"], example["other"])
        assert not judge.allows(example["text"], " a1a1")


def test_puzzles_with_one_position_are_one_group_in_either_colour(tmp_path: Path) -> None:
    same = [
        as_row(1000, "6k1/5ppp/8/8/8/7P/5PP1/R5K1 b - - 0 30", "h7h6 a1a8"),
        as_row(1001, "6k1/5ppp/8/8/8/7P/5PP1/R5K1 b - - 5 41", "h7h6 a1a8"),
        as_row(1002, "r5k1/5pp1/7p/8/8/8/5PPP/6K1 w - - 2 12", "h2h3 a8a1"),
    ]
    path = write_csv(tmp_path / "a.csv", [*puzzles(20), *same])
    name = positions.seen(chess.Board("6k1/5pp1/7p/8/8/7P/5PP1/R5K1 w - - 0 31"))
    of_both = {task: read(task, path).table["group"].to_pylist() for task in ("lichess_puzzles", "chess_text")}
    side = "chess_text" if is_for_text(name) else "lichess_puzzles"
    assert of_both.pop(side).count(name) == 3
    assert name not in next(iter(of_both.values()))


def test_no_text_for_pretraining_has_a_position_of_a_puzzle(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "a.csv", puzzles(300))
    labelled, texts = read("lichess_puzzles", path).table, read("chess_text", path).table
    assert labelled.num_rows + texts.num_rows == 300
    assert abs(texts.num_rows / 300 - TEXT_SHARE) < 0.1
    shown = set()
    for text in texts["text"].to_pylist():
        for fen, move in zip(*[iter(text.split("\n"))] * 2, strict=True):
            board = chess.Board(fen)
            shown.add(positions.seen(board))
            assert move.startswith("move: ") and chess.Move.from_uci(move.split()[1]) in board.legal_moves
    assert all(is_for_text(name) for name in shown)
    assert shown.isdisjoint(positions.seen(positions.asked(text)) for text in labelled["text"].to_pylist())


def test_a_text_has_the_puzzles_position_and_solution(tmp_path: Path) -> None:
    given = puzzles(60)
    table = read("chess_text", write_csv(tmp_path / "a.csv", given)).table
    texts = "\n".join(table["text"].to_pylist())
    results = 0
    for row in given:
        board = chess.Board(row["FEN"])
        first, second, *_ = row["Moves"].split()
        board.push_uci(first)
        results += f"{board.fen()}\nmove: {second}" in texts
    assert results == table.num_rows


def test_bad_rows_are_counted_by_reason_and_left_out(tmp_path: Path) -> None:
    fen, moves = MATE
    bad = [
        as_row(1000, "3R4/6pk/pp2p1q1 w - - 6 35", moves),
        as_row(1001, "", moves),
        as_row(1002, fen, ""),
        as_row(1003, fen, "h4h3"),
        as_row(1004, fen, "h4h3 g6a8"),
        as_row(1005, fen, "h4h3 Qb1"),
        as_row(1006, fen, "0000 g6b1"),
        as_row(1007, fen, moves, "unrated"),
    ]
    path = write_csv(tmp_path / "a.csv", [*puzzles(200), *bad])
    results = {entry.first_rows: entry.reason for entry in read("lichess_puzzles", path).left_out if entry.is_fault}
    assert [results[rows].partition(" '")[0].partition(' "')[0] for rows in sorted(results)] == [
        "a FEN that is not a position",
        "no FEN",
        "no Moves",
        "no answer to the opponent's move",
        "an illegal move",
        "unknown Rating",
    ]
    assert sorted(row for rows in results for row in rows) == list(range(201, 209))
    text_faults = [row for entry in read("chess_text", path).left_out if entry.is_fault for row in entry.first_rows]
    assert sorted(text_faults) == list(range(201, 208)), "a text has no rating"
    with pytest.raises(DataError, match=r"8 of 208 rows are not usable, .* a FEN that is not a position"):
        read("lichess_puzzles", path, max_skipped=0.01)


def test_bad_histories_are_counted_by_reason_and_left_out(tmp_path: Path) -> None:
    good = histories(200)
    bad = [
        {**good[0], "ctx": "1. e4 1... e4 2."},
        {**good[0], "target": " Qxh8"},
        {**good[0], "target": ""},
        {"id": "p1", "target": " e4"},
    ]
    data = read("lichess_puzzles_history", write_json(tmp_path / "a.jsonl", [*good, *bad]))
    left_out = [entry for entry in data.left_out if entry.is_fault]
    faults = {entry.reason.partition(' "')[0].partition(" '")[0]: entry.first_rows for entry in left_out}
    assert faults == {"an illegal move": (201, 202), "no target": (203,), "no ctx": (204,)}


def test_a_column_that_is_missing_is_named(tmp_path: Path) -> None:
    path = write_json(tmp_path / "a.jsonl", [{"FEN": MATE[0], "moves": MATE[1], "Rating": 1, "PuzzleId": "x"}])
    with pytest.raises(DataError, match="did you mean 'moves'"):
        read("lichess_puzzles", path)


def test_every_rating_is_in_one_band() -> None:
    names = {rating: band_of(rating) for rating in (399, 999, 1000, 1499, 1500, 1999, 2000, 3165)}
    assert list(dict.fromkeys(names.values())) == [
        "rated 0 to 999",
        "rated 1000 to 1499",
        "rated 1500 to 1999",
        "rated 2000 or more",
    ]
    assert names[999] != names[1000] == names[1499] != names[1500]


@pytest.mark.parametrize("name", ["lichess_puzzles", "lichess_puzzles_history", "chess_text"])
def test_without_python_chess_a_task_is_refused_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(chess_tasks, "find_spec", lambda package: None)
    with pytest.raises(DataError) as caught:
        open_task(TaskSpec(builtin=name))
    assert caught.value.hint == "pip install 'w2s_ray[chess]'"


def test_tasks_are_listed_without_python_chess() -> None:
    script = (
        "import sys; sys.modules['chess'] = None\n"
        "from w2s_ray.tasks.registry import known_tasks\n"
        "print('chess_text' in {task.name for task in known_tasks()})"
    )
    listed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert listed == "True\n"


def test_text_is_prepared_with_a_held_out_part_and_puzzles_with_a_judge(tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    store.prepare()
    path = write_csv(tmp_path / "a.csv", puzzles(200))
    text = prepare_task(store, "text", open_task(TaskSpec(builtin="chess_text", files=str(path))), 0.1)
    train, held_out = num_documents(text)
    assert train > 60 and held_out > 2
    labelled = prepare_task(store, "puzzles", open_task(TaskSpec(builtin="lichess_puzzles", files=str(path))), 0.2)
    assert text.judge is None and labelled.judge == "chess_position"
    results = prepare_task(store, "puzzles", open_task(TaskSpec(builtin="lichess_puzzles", files=str(path))), 0.2)
    assert results.judge == "chess_position", "a task that is loaded from the store keeps its judge"


def test_the_dump_itself_is_read(real_data: Path) -> None:
    folder = real_data / "lichess_puzzles"
    labelled, texts = read("lichess_puzzles", folder), read("chess_text", folder)
    assert not [entry for entry in (*labelled.left_out, *texts.left_out) if entry.is_fault]
    assert labelled.table.num_rows + texts.table.num_rows == 40_000
    assert abs(texts.table.num_rows / 40_000 - TEXT_SHARE) < 0.01
    judge = open_judge(labelled.judge)
    for example in labelled.table.slice(0, 300).to_pylist():
        assert judge.accepts(example["text"], example["other"], example["other"])
