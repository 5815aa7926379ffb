"""Prompts for language models that write an answer or score the names of classes.

A prompt is some labelled examples (shots), each a text, the cue and its answer, then the text in question and the cue.
Only models that are not trained get shots. They come from the stage's own training split, ordered by a hash of their
ids, with the labels of the stage's own source: a supervisor's for a student, the truth for a ceiling. Classes take
turns, so that the shots have equally many of each, and the hash decides which class is first.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from transformers import PreTrainedTokenizerFast

from w2s_ray.data.tokens import special_tokens
from w2s_ray.errors import DataError
from w2s_ray.science import BoolArray, IntArray
from w2s_ray.spec.identity import seeded_hash
from w2s_ray.spec.stage import Prompt
from w2s_ray.training.feed import TokenRow

_SEPARATOR = "\n\n"


def few_shots(
    prompt: Prompt,
    ids: Sequence[str],
    texts: Sequence[str],
    answers: Sequence[str],
    seed: int,
    classes: Sequence[int] | None = None,
) -> list[str]:
    """Return the text of each shot: `prompt.num_shots` of these examples, or all if there are fewer.

    With `classes`, the class of each example, they alternate between the classes.
    """
    order = sorted(range(len(ids)), key=lambda number: seeded_hash(seed, "shot", ids[number]))
    if classes is not None:
        place_of: dict[int, int] = {}
        seen = Counter[int]()
        for number in order:
            place_of[number] = seen[classes[number]]
            seen[classes[number]] += 1
        order.sort(key=place_of.__getitem__)  # of each class the first, then of each the second; stable
    order = order[: prompt.num_shots]
    return [f"{texts[number]}{prompt.cue} {answers[number].strip()}{_SEPARATOR}" for number in order]


class Prompts(NamedTuple):
    """The prompts of N texts."""

    rows: list[TokenRow]
    """Tokens of each, up to the cue."""
    is_cut_N: BoolArray
    """Whether the text was cut."""
    num_shots_N: IntArray
    """Shots before each text."""


def prompt_tokens(
    tokenizer: PreTrainedTokenizerFast, prompt: Prompt, shots: Sequence[str], texts: Sequence[str], room: int
) -> Prompts:
    """Return the texts' prompts: each text with as many of the shots, from the first, as fit before the whole of it.

    So the prompt of a text does not depend on the other texts, and shots never displace a part of it. A text that does
    not even fit without shots keeps its last tokens.

    Args:
        tokenizer: the model's.
        prompt: its cue.
        shots: the shots, in their order.
        texts: the texts in question.
        room: tokens that a prompt may have.

    Raises:
        DataError: when the cue leaves no room for any of a text.
    """
    special, _ = special_tokens(tokenizer)
    room -= len(special)
    rows: list[TokenRow] = [special] * len(texts)
    is_cut_N, num_shots_N = np.zeros(len(texts), dtype=bool), np.zeros(len(texts), dtype=np.int64)
    waiting = list(range(len(texts)))
    for num_shots in range(len(shots), -1, -1):
        prefix, too_long = "".join(shots[:num_shots]), []
        encoded = tokenizer(
            [f"{prefix}{texts[number]}{prompt.cue}" for number in waiting],
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=True,
            verbose=False,
        )
        for number, tokens, spans in zip(waiting, encoded["input_ids"], encoded["offset_mapping"], strict=True):
            if len(tokens) > room and num_shots:
                too_long.append(number)
                continue
            is_cut_N[number], num_shots_N[number] = len(tokens) > room, num_shots
            if is_cut_N[number]:
                end = bisect_left([start for start, _ in spans], len(texts[number]))
                tokens = _cut(tokens, end, room)
            rows[number] = np.array([*special, *tokens], dtype=np.int32)
        waiting = too_long
        if not waiting:
            break
    return Prompts(rows, is_cut_N, num_shots_N)


def _cut(tokens: list[int], end: int, room: int) -> list[int]:
    """Return a prompt's last tokens, of which those from `end` are the cue's."""
    if len(tokens) - end >= room:
        raise DataError(
            f"the cue of a prompt has {len(tokens) - end} tokens, and the context has room for {room} beside the "
            "longest answer",
            "raise optimisation.context_tokens",
        )
    return tokens[len(tokens) - room :]


def join_to_context(before: TokenRow, after: TokenRow, context: int) -> TokenRow:
    """Return both rows joined; a longer row keeps its last `context` tokens."""
    return np.concatenate([before, after])[-context:]
