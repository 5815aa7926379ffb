"""Which written answers are as good as the one that was asked for, by the rule of the task."""

from collections.abc import Sequence

import numpy as np

from w2s_ray.data.prepare import PreparedTask
from w2s_ray.tasks.judges import open_judge


def accepted(prepared: PreparedTask, row_numbers: np.ndarray, answers: Sequence[str]) -> np.ndarray:
    """Say of the answer to each row whether it is as good as the target, such as another move that mates.

    Raises:
        DataError: when what the task's judge needs is not installed.
    """
    judge = open_judge(prepared.judge)
    examples = zip(prepared.texts(row_numbers), prepared.others(row_numbers), answers, strict=True)
    return np.array([judge.accepts(text, target, answer) for text, target, answer in examples], dtype=bool)
