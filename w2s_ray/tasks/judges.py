"""Judges decide whether a written answer is possible, and whether it is as good as the target.

A task of answers may name a judge. A judge sees only an example's own text, so evaluation does not need the task's raw
files. An answer that is not allowed still serves as a weak label: students must cope with their supervisor's mistakes.
"""

from typing import Protocol

from w2s_ray.errors import DataError


class AnswerJudge(Protocol):
    """Decides which answers to a text are allowed, and which are as good as the target."""

    def allows(self, text: str, answer: str) -> bool:
        """Return whether the answer is possible at all, such as a legal move."""

    def accepts(self, text: str, target: str, answer: str) -> bool:
        """Return whether the answer is as good as the target; the target itself always is."""


class Verbatim:
    """Allows every answer and accepts only the target, ignoring white space at the ends."""

    def allows(self, text: str, answer: str) -> bool:
        return True

    def accepts(self, text: str, target: str, answer: str) -> bool:
        return answer.strip() == target.strip()


JUDGES = ("chess_position", "chess_history")
"""Names of judges; a task without one uses `Verbatim`."""


def open_judge(name: str | None) -> AnswerJudge:
    """Return the judge of that name, or `Verbatim` for None.

    Raises:
        DataError: when no judge has that name, or its package is not installed.
    """
    if name is None:
        return Verbatim()
    if name not in JUDGES:
        raise DataError(f"unknown judge {name!r}", f"the judges are {', '.join(JUDGES)}")
    from w2s_ray.tasks.chess import require_chess

    require_chess()
    from w2s_ray.tasks.chess import positions

    return positions.of_position() if name == "chess_position" else positions.of_history()
