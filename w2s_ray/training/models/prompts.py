"""Prompts: the texts that a language model is asked with where nothing is trained.

A prompt is some labelled examples (shots), each a text, the cue and its answer, then the text in question and the cue.
Shots come from the stage's own training split, in the order of a hash of their ids, with the labels of its own source:
a supervisor's for a student, the truth for a ceiling.
"""

from bisect import bisect_left
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerFast

from w2s_ray.data.tokens import special_tokens
from w2s_ray.errors import DataError
from w2s_ray.spec.identity import seeded_hash
from w2s_ray.spec.stage import Prompt
from w2s_ray.training.feed import TokenRow

_BETWEEN = "\n\n"


def shots(prompt: Prompt, ids: Sequence[str], texts: Sequence[str], answers: Sequence[str], seed: int) -> str:
    """Return what stands before every text: `prompt.num_shots` of these examples, as many as there are at most."""
    order = sorted(range(len(ids)), key=lambda at: seeded_hash(seed, "shot", ids[at]))[: prompt.num_shots]
    return "".join(f"{texts[at]}{prompt.cue} {answers[at].strip()}{_BETWEEN}" for at in order)


def asked(
    tokenizer: PreTrainedTokenizerFast, prompt: Prompt, before: str, texts: Sequence[str], room: int
) -> tuple[list[TokenRow], npt.NDArray[np.bool_]]:
    """Return the tokens of each text's prompt, up to the cue, and whether its text was cut.

    Args:
        tokenizer: the model's.
        prompt: how it is asked.
        before: what the shots come to.
        texts: those in question.
        room: tokens that a prompt may have; of a longer one the text alone is cut, and keeps its last tokens.

    Raises:
        DataError: when shots and cue leave no room for any of a text.
    """
    special, _ = special_tokens(tokenizer)
    room -= len(special)
    whole = [f"{before}{text}{prompt.cue}" for text in texts]
    encoded = tokenizer(
        whole, add_special_tokens=False, return_attention_mask=False, return_offsets_mapping=True, verbose=False
    )
    rows: list[TokenRow] = []
    for text, tokens, spans in zip(texts, encoded["input_ids"], encoded["offset_mapping"], strict=True):
        excess = len(tokens) - room
        if excess > 0:
            begins = [begin for begin, _ in spans]
            first, end = (bisect_left(begins, at) for at in (len(before), len(before) + len(text)))
            if excess >= end - first:
                raise DataError(
                    f"a prompt of {prompt.num_shots} shots has {len(tokens) - (end - first)} tokens without its text, "
                    f"and beside the longest answer the context has room for {room}",
                    "shots, cue, some of a text and its answer stand in one context",
                    "raise optimisation.context_tokens, or lower num_shots",
                )
            tokens = [*tokens[:first], *tokens[first + excess :]]
        rows.append(np.array([*special, *tokens], dtype=np.int32))
    return rows, np.array([len(tokens) > room for tokens in encoded["input_ids"]], dtype=bool)


def joined(before: TokenRow, after: TokenRow, context: int) -> TokenRow:
    """Return the tokens of a text and of what follows it; a longer row keeps its last `context` tokens."""
    return np.concatenate([before, after])[-context:]
