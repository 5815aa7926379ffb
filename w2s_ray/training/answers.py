"""What a language model writes after a text: greedily, token by token, until it ends its answer.

An answer is learnt as a space, its text, and the end of text; what is written is read back to the first line end, and
white space around an answer never says anything. The
longest answer of the task bounds how much a model may write: a length, and nothing else, is taken from the truth.
"""

from collections.abc import Sequence

import numpy as np
import torch
from transformers import GenerationConfig, PreTrainedTokenizerFast

from w2s_ray.training.feed import Examples, Feeder, MicroBatch, TokenRow
from w2s_ray.training.models.network import Network
from w2s_ray.training.predict import evaluating


def answer_tokens(tokenizer: PreTrainedTokenizerFast, answers: Sequence[str]) -> list[TokenRow]:
    """Return the tokens of each answer as it follows a text, with the end of text."""
    spaced = [f" {answer.strip()}" for answer in answers]
    encoded = tokenizer(spaced, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    return [np.array([*tokens, tokenizer.eos_token_id], dtype=np.int32) for tokens in encoded]


def write_answers(
    network: Network, feeder: Feeder[Examples], tokenizer: PreTrainedTokenizerFast, max_tokens: int, *, sharded: bool
) -> list[str]:
    """Return what the network writes after each example's text, the same on every rank. Collective.

    Args:
        network: a language model.
        feeder: the texts.
        tokenizer: the network's.
        max_tokens: how many tokens it may write.
        sharded: whether its weights are spread over the ranks, which then take every step together.
    """
    workers = feeder.workers
    config = GenerationConfig(
        max_new_tokens=max_tokens,
        do_sample=False,
        num_beams=1,
        repetition_penalty=1.0,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    written_NA = torch.zeros((len(feeder.examples), max_tokens), dtype=torch.long, device=workers.device)
    with evaluating(network):
        for batch in feeder.sweep():
            tokens_RT, mask_RT = _left_padded(batch, tokenizer.pad_token_id)
            whole_RT = network.hf.generate(
                tokens_RT, attention_mask=mask_RT, generation_config=config, synced_gpus=sharded
            )
            new_RA = whole_RT[:, tokens_RT.shape[1] :]
            if len(batch.positions):
                rows_R = torch.from_numpy(batch.positions).to(workers.device)
                padded_RA = torch.full((len(rows_R), max_tokens), tokenizer.eos_token_id, device=workers.device)
                padded_RA[:, : new_RA.shape[1]] = new_RA
                written_NA[rows_R] = padded_RA
    return [_read_back(tokenizer, row) for row in workers.sum(written_NA).tolist()]


def _left_padded(batch: MicroBatch, pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the rows moved to the right edge, where writing goes on, and their mask."""
    width = batch.tokens_RT.shape[1]
    from_RT = torch.arange(width, device=batch.last_R.device)[None, :] - (width - 1 - batch.last_R)[:, None]
    mask_RT = (from_RT >= 0).long()
    tokens_RT = batch.tokens_RT.gather(1, from_RT.clamp(min=0))
    return torch.where(mask_RT.bool(), tokens_RT, pad), mask_RT


def _read_back(tokenizer: PreTrainedTokenizerFast, tokens: list[int]) -> str:
    end = tokenizer.eos_token_id
    text: str = tokenizer.decode(tokens[: tokens.index(end)] if end in tokens else tokens)
    return text.lstrip().split("\n", 1)[0].rstrip()
