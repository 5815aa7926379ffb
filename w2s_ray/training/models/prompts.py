"""Prompts for language models that write an answer or score the names of classes.

A prompt is some labelled examples (shots), each a text, the cue and its answer, then the text in question and the cue.
Only models that are not trained get shots. They come from the stage's own training split, ordered by a hash of their
ids, with the labels of the stage's own source: a supervisor's for a student, the truth for a ceiling. Classes take
turns, so that the shots have equally many of each, and the hash decides which class is first.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from w2s_ray.data.tokens import special_tokens
from w2s_ray.errors import DataError
from w2s_ray.science import BoolArray
from w2s_ray.spec.identity import seeded_hash
from w2s_ray.spec.stage import Prompt
from w2s_ray.training.feed import TokenRow

_SEPARATOR = "\n\n"


def few_shot_prefix(
    prompt: Prompt,
    ids: Sequence[str],
    texts: Sequence[str],
    answers: Sequence[str],
    seed: int,
    classes: Sequence[int] | None = None,
) -> str:
    """Return the text before every prompt: `prompt.num_shots` of these examples, or all if there are fewer.

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
    return "".join(f"{texts[number]}{prompt.cue} {answers[number].strip()}{_SEPARATOR}" for number in order)


def prompt_tokens(
    tokenizer: PreTrainedTokenizerFast, prompt: Prompt, prefix: str, texts: Sequence[str], room: int
) -> tuple[list[TokenRow], BoolArray]:
    """Return the tokens of each text's prompt, up to the cue, and whether its text was cut.

    Args:
        tokenizer: the model's.
        prompt: its cue and number of shots.
        prefix: the shots.
        texts: the texts in question.
        room: tokens that a prompt may have. In a longer prompt only the text is cut, and keeps its last tokens.

    Raises:
        DataError: when shots and cue leave no room for any of a text.
    """
    special, _ = special_tokens(tokenizer)
    room -= len(special)
    prompts = [f"{prefix}{text}{prompt.cue}" for text in texts]
    encoded = tokenizer(
        prompts, add_special_tokens=False, return_attention_mask=False, return_offsets_mapping=True, verbose=False
    )
    rows: list[TokenRow] = []
    for text, tokens, spans in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        excess = len(tokens) - room
        if excess > 0:
            starts = [start for start, _ in spans]
            first, end = (bisect_left(starts, offset) for offset in (len(prefix), len(prefix) + len(text)))
            if excess >= end - first:
                raise DataError(
                    f"a prompt of {prompt.num_shots} shots has {len(tokens) - (end - first)} tokens without its text, "
                    f"and the context has room for {room} beside the longest answer",
                    "raise optimisation.context_tokens, or lower num_shots",
                )
            tokens = [*tokens[:first], *tokens[first + excess :]]
        rows.append(np.array([*special, *tokens], dtype=np.int32))
    return rows, np.array([len(tokens) > room for tokens in encoded["input_ids"]], dtype=bool)


def join_to_context(before: TokenRow, after: TokenRow, context: int) -> TokenRow:
    """Return both rows joined; a longer row keeps its last `context` tokens."""
    return np.concatenate([before, after])[-context:]
