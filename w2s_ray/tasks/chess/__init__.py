"""Chess: find the best move of a puzzle (Burns et al. 2023, section 4.2).

A Lichess puzzle is a position, a mistake of the opponent, and the line that punishes it. The answer is the line's first
move. Each move of the solving side is the only good one, except that all mates in one are equally good
(database.lichess.org).

    recipes     the tasks: the Lichess dump, EleutherAI/lichess-puzzles, and text for pretraining
    puzzles     their rows become examples
    positions   positions and moves, and the judge of moves

python-chess is an optional package, because its licence is the GPL. Only opening a chess task needs it.
"""

from importlib.util import find_spec

from w2s_ray.errors import DataError


def require_chess() -> None:
    """Check that python-chess is installed.

    Raises:
        DataError: when it is not.
    """
    if find_spec("chess") is None:
        raise DataError("chess tasks need python-chess, which is not installed", "pip install 'w2s_ray[chess]'")
