"""Judges: what is to be said of an answer besides whether it is the very one that was asked for.

A task whose examples are answers may name a judge. It needs nothing but an example's own text, so whoever evaluates a
student asks it without the task's raw files. An answer that is not allowed still serves as a weak label: students must
bear what their supervisor says.
"""

from typing import Protocol

from w2s_ray.errors import DataError


class Judge(Protocol):
    """Says which answers to a text are allowed and which are as good as the target."""

    def allows(self, text: str, answer: str) -> bool:
        """Tell whether the answer is a possible one at all."""

    def accepts(self, text: str, target: str, answer: str) -> bool:
        """Tell whether the answer is as good as the target; the target itself always is."""


class Verbatim:
    """Every answer is allowed and none but the target is right, save for white space at the ends."""

    def allows(self, text: str, answer: str) -> bool:
        """Return true."""
        return True

    def accepts(self, text: str, target: str, answer: str) -> bool:
        """Tell whether the answer is the target."""
        return answer.strip() == target.strip()


JUDGES = ("chess_position", "chess_history")
"""What a task may name; without a name it is `Verbatim`."""


def open_judge(name: str | None) -> Judge:
    """Return the judge that a task names.

    Raises:
        DataError: when there is none of that name, or what it needs is not installed.
    """
    if name is None:
        return Verbatim()
    if name not in JUDGES:
        rule, remedy = f"judges are {', '.join(JUDGES)}", "name one of these, or none for an exact match"
        raise DataError(f"{name!r} is no judge", rule, remedy)
    from w2s_ray.tasks.chess.extra import require_chess

    require_chess()
    from w2s_ray.tasks.chess import judge

    return judge.of_position() if name == "chess_position" else judge.of_history()
