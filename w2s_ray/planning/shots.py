"""How many shots of a prompt fit into its context, estimated before a run.

A shot that does not fit before the whole of a text is left out (training/models/prompts.py).
"""

from collections.abc import Iterable, Iterator
from statistics import mean, median
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from w2s_ray.data.prepare import PreparedTask, load_prepared
from w2s_ray.data.tokens import longest_tokens
from w2s_ray.planning.memory import tokenizer_of
from w2s_ray.spec.chain import PlannedStage, Resolution
from w2s_ray.spec.stage import Prompt
from w2s_ray.store.artifacts import ArtifactStore

_TEXTS_TRIED = 200


def shot_notices(stages: Iterable[PlannedStage], resolution: Resolution, store: ArtifactStore) -> Iterator[str]:
    """Yield a line for each task, level, number of shots and context in which some shots do not fit.

    Stages whose data, or whose model's tokenizer, is not on this machine are passed over.
    """
    asked = {
        (stage.task, stage.level, stage.spec.trainable, stage.spec.optimisation.context_tokens): stage
        for stage in stages
        if isinstance(stage.spec.trainable, Prompt) and stage.spec.trainable.num_shots
    }
    for (task, level, prompt, context), stage in asked.items():
        tokenizer = tokenizer_of(resolution, task, level, stage.spec.starts_from.name)
        if tokenizer is None:
            continue
        middle, longest = _fitting(
            stage, prompt, context, tokenizer, load_prepared(store, resolution.tasks[task].fingerprint)
        )
        if longest.num_shots < prompt.num_shots:
            yield (
                f"task {task}, level {level}: of {prompt.num_shots} shots in {context} tokens about {middle.num_shots} "
                f"fit before a text of median length ({middle.num_tokens} tokens) and {longest.num_shots} before the "
                f"longest ({longest.num_tokens}); the others are left out. Raise context_tokens in the method's "
                "optimisation, or lower num_shots"
            )


class _Fit(NamedTuple):
    num_tokens: int
    """Tokens of a text."""
    num_shots: int
    """Shots that fit before it."""


def _fitting(
    stage: PlannedStage, prompt: Prompt, context: int, tokenizer: Tokenizer, prepared: PreparedTask
) -> tuple[_Fit, _Fit]:
    """Return how many shots fit before a text of median length, and before the longest."""

    def num_tokens(texts: list[str]) -> list[int]:
        return [len(encoding.ids) for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]

    table = prepared.table()
    rows = np.unique(np.linspace(0, table.num_rows - 1, _TEXTS_TRIED).astype(int))
    is_answered = stage.spec.objective == "answer"
    cue = "" if is_answered else prompt.cue
    answers = prepared.distinct_others()[:_TEXTS_TRIED] if is_answered else stage.spec.class_names
    texts_N = num_tokens(table["text"].take(rows).to_pylist())
    answers_N = num_tokens([f"{cue} {answer}" for answer in answers])
    shot = mean(texts_N) + mean(answers_N) + 1  # a separator
    room = context - max(answers_N)
    middle, longest = (
        _Fit(size, max(min(int((room - size) / shot), prompt.num_shots), 0))
        for size in (round(median(texts_N)), longest_tokens(prepared, tokenizer))
    )
    return middle, longest
