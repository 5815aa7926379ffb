"""The chess tasks: from the Lichess dump, with the game's history, and as text for pretraining.

Listing the tasks does not need python-chess. Modules that do are imported when a task is opened.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks.chess import require_chess
from w2s_ray.tasks.dataset import DatasetTask, Recipe
from w2s_ray.tasks.examples import Example, Format
from w2s_ray.tasks.rows import Row


def _puzzle(row: Row) -> Iterable[Example]:
    from w2s_ray.tasks.chess.puzzles import puzzle

    return puzzle(row)


def _puzzle_after_game(row: Row) -> Iterable[Example]:
    from w2s_ray.tasks.chess.puzzles import puzzle_after_game

    return puzzle_after_game(row)


def _line_as_text(row: Row) -> Iterable[Example]:
    from w2s_ray.tasks.chess.puzzles import line_as_text

    return line_as_text(row)


@dataclass(frozen=True)
class ChessRecipe(Recipe):
    """A data set that is read by the rules of chess."""

    def open(self, spec: TaskSpec) -> DatasetTask:
        """Return the task.

        Raises:
            DataError: when python-chess is not installed.
        """
        require_chess()
        return super().open(spec)


_DUMP = ("PuzzleId", "FEN", "Moves", "Rating")
_DUMP_COMMIT = "950f927767db79497dab436d873d7c743aca923d"
LICHESS_PUZZLES = ChessRecipe(
    name="lichess_puzzles",
    format=Format("answers", _DUMP, _puzzle, ("answer",), judge="chess_position"),
    hub="Lichess/chess-puzzles",
    licence="CC0",
    citation="Lichess",
    protocol="a position (FEN) → the best move (UCI); any mate where the solution mates; results also by rating band",
    branch="main",
    commit=_DUMP_COMMIT,
    num_rows=4_062_423,
)
LICHESS_PUZZLES_HISTORY = ChessRecipe(
    name="lichess_puzzles_history",
    format=Format("answers", ("id", "ctx", "target"), _puzzle_after_game, ("answer",), judge="chess_history"),
    hub="EleutherAI/lichess-puzzles",
    licence="CC0",
    citation="Lichess; Burns et al. 2023; EleutherAI",
    protocol="a game's moves (SAN) → the best next move, as in the paper; any mate where the solution mates",
    branch="main",
    commit="787a704697824359fceb7aca8be2ea23dce2f463",
    num_rows=1_479_018,
)
CHESS_TEXT = ChessRecipe(
    name="chess_text",
    format=Format("text", _DUMP, _line_as_text, ("text",)),
    hub="Lichess/chess-puzzles",
    licence="CC0",
    citation="Lichess",
    protocol="positions and moves of other puzzles than the labelled tasks', for pretraining",
    branch="main",
    commit=_DUMP_COMMIT,
    num_rows=4_062_423,
)
RECIPES = (LICHESS_PUZZLES, LICHESS_PUZZLES_HISTORY, CHESS_TEXT)
