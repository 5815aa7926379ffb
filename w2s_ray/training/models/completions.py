"""Completions that a language model scores, as rows of tokens: a prompt, and one completion after it.

    pairs    the prompt is the text that both texts begin with, the completions are the rest of each. Prompt and texts
             are tokenised whole, and the completions begin where the tokens of any of the texts first differ from
             those of the prompt: a token across the end of the prompt belongs to the completions of both texts, so
             both are scored after the same tokens
    classes  the prompt is a text and the cue (prompts.py), the completions are " " and a class's name, tokenised apart

A completion is never cut. A prompt that leaves no room for the longest completion of its example loses its first
tokens, the same ones for each completion. A completion without a prompt follows the tokens that the tokenizer puts
before any text or, where there are none, the end-of-text token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerFast

from w2s_ray.data.tokens import completion_too_long, num_shared, plain_ids, special_tokens
from w2s_ray.errors import DataError, ModelError
from w2s_ray.science import BoolArray, IntArray
from w2s_ray.training.feed import TokenRow


@dataclass(frozen=True)
class Completions:
    """The completions of N examples, K each."""

    rows: list[list[TokenRow]]
    """Prompt and completion, [completion][example]."""
    lengths: list[list[int]]
    """Tokens of each completion, [completion][example]."""
    is_cut_N: BoolArray
    """Whether an example's prompt was cut."""

    @property
    def tokens(self) -> list[TokenRow]:
        """All rows: the first completion of every example, then every second one, and so on."""
        return [row for rows in self.rows for row in rows]

    @property
    def first(self) -> IntArray:
        """Index of the completion's first token in each row of `tokens`."""
        starts = [
            len(row) - length
            for rows, lengths in zip(self.rows, self.lengths, strict=True)
            for row, length in zip(rows, lengths, strict=True)
        ]
        return np.array(starts, dtype=np.int64)

    def without_prompts(self, befores: Sequence[TokenRow]) -> "Completions":
        """Return the completions of each example after its tokens of `befores`, for calibration."""
        ends = [
            [
                np.concatenate([before, row[-length:]])
                for before, row, length in zip(befores, rows, lengths, strict=True)
            ]
            for rows, lengths in zip(self.rows, self.lengths, strict=True)
        ]
        return Completions(ends, self.lengths, self.is_cut_N)

    def joined(self, other: "Completions") -> "Completions":
        """Return the completions of both, as further completions of the same examples."""
        return Completions(self.rows + other.rows, self.lengths + other.lengths, self.is_cut_N)


def pair_completions(
    tokenizer: PreTrainedTokenizerFast,
    prompts: Sequence[str],
    texts: Sequence[Sequence[TokenRow]],
    ids: Sequence[str],
    context: int,
) -> Completions:
    """Return the completions of N pairs.

    Args:
        tokenizer: the model's.
        prompts: the N prompts.
        texts: the tokens of the N first texts and of the N second ones, prompts included, without special tokens.
        ids: of the N examples, for errors.
        context: tokens that a row may have.

    Raises:
        DataError: when a completion has no tokens or more than fit into the context, or two of a pair are alike.
    """
    before, _ = special_tokens(tokenizer)
    encoded = plain_ids(tokenizer, prompts)
    rows: list[list[TokenRow]] = [[] for _ in texts]
    lengths: list[list[int]] = [[] for _ in texts]
    is_cut: list[bool] = []
    for number, ids_of_prompt in enumerate(encoded):
        prompt = np.array(ids_of_prompt, dtype=np.int32)
        pair = [texts_of[number] for texts_of in texts]
        shared = min(num_shared(prompt, text) for text in pair)
        ends = [text[: 0 if np.array_equal(text, prompt) else None][shared:] for text in pair]  # none without a rest
        check_completions(ends, f"the completions of the pair {ids[number]!r}", context - max(len(before), 1), context)
        room = context - len(before) - max(len(end) for end in ends)
        kept = prompt[max(shared - room, 0) : shared]
        start = np.concatenate([before, kept]) if len(before) or len(kept) else text_start(tokenizer)
        for place, end in enumerate(ends):
            rows[place].append(np.concatenate([start, end]).astype(np.int32))
            lengths[place].append(len(end))
        is_cut.append(shared > room)
    return Completions(rows, lengths, np.array(is_cut, dtype=bool))


def class_completions(prompts: Sequence[TokenRow], is_cut_N: BoolArray, names: Sequence[TokenRow]) -> Completions:
    """Return the class names as completions of N prompts, which leave room for the longest name."""
    rows = [[np.concatenate([prompt, name]) for prompt in prompts] for name in names]
    return Completions(rows, [[len(name)] * len(prompts) for name in names], is_cut_N)


def text_start(tokenizer: PreTrainedTokenizerFast) -> TokenRow:
    """Return the tokens that a completion without a prompt follows.

    Raises:
        ModelError: when the tokenizer has neither tokens that begin a text nor one that ends it.
    """
    before, _ = special_tokens(tokenizer)
    if len(before):
        return before
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"the tokenizer of {tokenizer.name_or_path} has no end-of-text token, which completions without a prompt "
            "follow",
            "choose a language model whose tokenizer has `eos_token`",
        )
    return np.array([tokenizer.eos_token_id], dtype=np.int32)


def check_completions(ends: Sequence[TokenRow], name: str, room: int, context: int) -> None:
    """Check the completions of one example; `name` is used in errors.

    Raises:
        DataError: when one has no tokens or more than `room`, or two are alike.
    """
    if not all(len(end) for end in ends):
        raise DataError(f"one of {name} has no tokens", "remove it from the data")
    if len({end.tobytes() for end in ends}) < len(ends):
        raise DataError(f"two of {name} have the same tokens, so they cannot be told apart", "remove one of them")
    longest = max(len(end) for end in ends)
    if longest > room:
        raise completion_too_long(name, longest, room, context)
