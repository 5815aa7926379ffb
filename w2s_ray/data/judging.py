"""What the rule of a task says of written answers: which are allowed, and which as good as the one asked for."""

from collections.abc import Sequence

import numpy as np

from w2s_ray.data.prepare import PreparedTask
from w2s_ray.tasks.judges import open_judge


def allowed(prepared: PreparedTask, row_numbers: np.ndarray, answers: Sequence[str]) -> np.ndarray:
    """Say of the answer to each row whether it is a possible one at all, such as a legal move.

    Raises:
        DataError: when what the task's judge needs is not installed.
    """
    judge = open_judge(prepared.judge)
    examples = zip(prepared.texts(row_numbers), answers, strict=True)
    return np.array([judge.allows(text, answer) for text, answer in examples], dtype=bool)


def accepted(prepared: PreparedTask, row_numbers: np.ndarray, answers: Sequence[str]) -> np.ndarray:
    """Say of the answer to each row whether it is as good as the target, such as another move that mates.

    Raises:
        DataError: when what the task's judge needs is not installed.
    """
    judge = open_judge(prepared.judge)
    examples = zip(prepared.texts(row_numbers), prepared.others(row_numbers), answers, strict=True)
    return np.array([judge.accepts(text, target, answer) for text, target, answer in examples], dtype=bool)
