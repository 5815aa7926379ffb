"""Prompts: the texts that a language model is asked with where nothing is trained.

A prompt is some labelled examples (shots), each a text, the cue and its answer, then the text in question and the cue.
Shots come from the stage's own training split, in the order of a hash of their ids, with the labels of its own source:
a supervisor's for a student, the truth for a ceiling.
"""

from collections.abc import Sequence

import numpy as np
from transformers import PreTrainedTokenizerFast

from w2s_ray.spec.identity import seeded_hash
from w2s_ray.spec.trainable import Prompt
from w2s_ray.training.feed import TokenRow

_BETWEEN = "\n\n"


def shots(prompt: Prompt, ids: Sequence[str], texts: Sequence[str], answers: Sequence[str], seed: int) -> str:
    """Return what stands before every text: `prompt.num_shots` of these examples, as many as there are at most."""
    order = sorted(range(len(ids)), key=lambda at: seeded_hash(seed, "shot", ids[at]))[: prompt.num_shots]
    return "".join(f"{texts[at]}{prompt.cue} {answers[at].strip()}{_BETWEEN}" for at in order)


def asked(tokenizer: PreTrainedTokenizerFast, prompt: Prompt, before: str, texts: Sequence[str]) -> list[TokenRow]:
    """Return the tokens of each text's prompt, up to the cue; `before` is what the shots come to."""
    whole = [f"{before}{text}{prompt.cue}" for text in texts]
    encoded = tokenizer(whole, add_special_tokens=False, return_attention_mask=False, verbose=False)
    return [np.array(tokens, dtype=np.int32) for tokens in encoded["input_ids"]]


def joined(before: TokenRow, after: TokenRow, context: int) -> TokenRow:
    """Return the tokens of a prompt and of what follows it; a longer one keeps its last `context` tokens."""
    return np.concatenate([before, after])[-context:]
