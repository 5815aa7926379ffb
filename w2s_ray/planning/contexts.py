"""What fits into the contexts of language models that name classes or score completions, before a run.

A completion is never cut, so one that is too long is refused. A shot that does not fit before the whole of a text is
left out (training/models/prompts.py); how many fit is estimated. Stages whose data, or whose model's tokenizer, is not
on this machine are passed over here, and checked by the worker.
"""

from collections.abc import Iterable, Iterator, Sequence
from statistics import mean, median
from typing import NamedTuple

import numpy as np
from tokenizers import Tokenizer

from w2s_ray.data.prepare import PreparedTask, load_prepared
from w2s_ray.data.splits import rows_of_split
from w2s_ray.data.tokens import completion_too_long, longest_tokens, num_shared
from w2s_ray.planning.memory import tokenizer_of
from w2s_ray.spec.chain import PlannedStage, Resolution
from w2s_ray.spec.labels import SplitSpec
from w2s_ray.spec.stage import Prompt
from w2s_ray.store.artifacts import ArtifactStore

_TEXTS_TRIED = 200


def check_contexts(stages: Iterable[PlannedStage], resolution: Resolution, store: ArtifactStore) -> None:
    """Refuse completions that leave no token before them in the context of a stage that scores them.

    Raises:
        DataError: with the first one.
    """
    checked: set[tuple[object, ...]] = set()
    for stage in (stage for stage in stages if stage.spec.completion_score is not None):
        spec, place = stage.spec, (stage.task, stage.level)
        tokenizer = tokenizer_of(resolution, *place, spec.starts_from.name)
        if tokenizer is None:
            continue
        own = spec.optimisation.context_tokens
        if spec.objective == "classification":
            names = [f" {name}" for name in spec.class_names]
            lengths = [len(encoding.ids) for encoding in tokenizer.encode_batch(names, add_special_tokens=False)]
            _check_room(f"the class names {', '.join(spec.class_names)}", lengths, own - 1, own)
            continue
        prepared = load_prepared(store, resolution.tasks[stage.task].fingerprint)
        reads = {(split, own) for split in spec.splits_read}
        reads |= {(prediction.split, prediction.context_tokens) for prediction in stage.predicts}
        for split, context in reads:
            if (*place, split, context) not in checked:
                checked.add((*place, split, context))
                _check_pairs(prepared, split, tokenizer, context)


def _check_pairs(prepared: PreparedTask, split: SplitSpec, tokenizer: Tokenizer, context: int) -> None:
    """Check the completions of a split that have more bytes than the context has room for tokens."""
    rows_N = rows_of_split(prepared, split)
    specials = tokenizer.encode("a").special_tokens_mask
    room = context - max(specials.index(0), 1)
    columns = (prepared.ids(rows_N), prepared.prompts(rows_N), prepared.texts(rows_N), prepared.others(rows_N))
    for id_, prompt, *texts in zip(*columns, strict=True):
        if max(len(text.encode()) for text in texts) - len(prompt.encode()) <= room:
            continue
        encodings = tokenizer.encode_batch([prompt, *texts], add_special_tokens=False)
        before, *pair = (np.array(encoding.ids, dtype=np.int32) for encoding in encodings)
        shared = min(num_shared(before, text) for text in pair)
        _check_room(f"the completions of the pair {id_!r}", [len(text) - shared for text in pair], room, context)


def _check_room(name: str, lengths: Sequence[int], room: int, context: int) -> None:
    if max(lengths) > room:
        raise completion_too_long(name, max(lengths), room, context)


def shot_notices(stages: Iterable[PlannedStage], resolution: Resolution, store: ArtifactStore) -> Iterator[str]:
    """Yield a line for each task, level, number of shots and context in which some shots do not fit."""
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
