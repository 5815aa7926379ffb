"""The optional package that chess needs."""

from importlib.util import find_spec

from w2s_ray.errors import DataError


def require_chess() -> None:
    """Raise where python-chess is not installed.

    Raises:
        DataError: with how to install it.
    """
    if find_spec("chess") is None:
        raise DataError(
            "python-chess is not installed",
            "chess tasks follow the rules of the game with python-chess, an optional package (its licence is the GPL)",
            "pip install 'w2s_ray[chess]'",
        )
