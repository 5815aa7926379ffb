"""Completions as rows of tokens, and the network that scores them."""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from w2s_ray.errors import DataError
from w2s_ray.ladder.tokenizer import FOLDER as TOKENIZER
from w2s_ray.spec.stage import Score
from w2s_ray.training.feed import Examples, Feeder
from w2s_ray.training.models.completions import Completions, pair_completions, text_start
from w2s_ray.training.models.loading import load_tokenizer
from w2s_ray.training.models.network import CompletionNetwork
from w2s_ray.training.workers import Workers

CONTEXT = 64
SIZES = {"vocab_size": 300, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
ARCHITECTURES: dict[str, PretrainedConfig] = {
    "llama": LlamaConfig(**SIZES, intermediate_size=32, num_key_value_heads=2),
    "gpt2": GPT2Config(vocab_size=300, n_embd=16, n_layer=1, n_head=2),
    "gpt_neox": GPTNeoXConfig(**SIZES, intermediate_size=32, tie_word_embeddings=False),
    "gemma2, whose logits are capped": Gemma2Config(
        **SIZES, intermediate_size=32, num_key_value_heads=2, head_dim=8, final_logit_softcapping=0.5
    ),
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return load_tokenizer(TOKENIZER, None)


def completions(
    tokenizer: PreTrainedTokenizerFast, prompts: Sequence[str], ends: Sequence[tuple[str, str]], context: int = CONTEXT
) -> Completions:
    texts = [
        [
            np.array(tokenizer.encode(prompt + pair[place], add_special_tokens=False), dtype=np.int32)
            for prompt, pair in zip(prompts, ends, strict=True)
        ]
        for place in (0, 1)
    ]
    ids = [f"p{number}" for number in range(len(prompts))]
    return pair_completions(tokenizer, prompts, texts, ids, context)


def test_a_completion_is_the_rest_of_its_text(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt, ends = "the value is", (" none", " a list of names")
    made = completions(tokenizer, [prompt], [ends])
    for (row,), (length,), end in zip(made.rows, made.lengths, ends, strict=True):
        assert tokenizer.decode(row[:-length]) == prompt and tokenizer.decode(row[-length:]) == end
    assert made.first.tolist() == [len(row) - length for (row,), (length,) in zip(made.rows, made.lengths, strict=True)]


def test_a_token_across_the_end_of_the_prompt_counts_in_both_completions(tokenizer: PreTrainedTokenizerFast) -> None:
    prompt, ends = "    retu", ("rn x", " 3")
    made = completions(tokenizer, [prompt], [ends])
    starts = {tokenizer.decode(row[:-length]) for (row,), (length,) in zip(made.rows, made.lengths, strict=True)}
    (start,) = starts
    assert len(start) < len(prompt) and prompt.startswith(start)
    for (row,), end in zip(made.rows, ends, strict=True):
        assert tokenizer.decode(row) == prompt + end


def test_a_pair_without_a_prompt_follows_the_end_of_text(tokenizer: PreTrainedTokenizerFast) -> None:
    made = completions(tokenizer, [""], [("one thing", "another thing")])
    assert [row[0] for (row,) in made.rows] == [tokenizer.eos_token_id] * 2 == [text_start(tokenizer)[0]] * 2
    assert made.first.tolist() == [1, 1] and not made.is_cut_N.any()


def test_only_the_prompt_is_cut_and_equally_for_both_completions(tokenizer: PreTrainedTokenizerFast) -> None:
    prompts, ends = ["a long prompt of many words\n" * 4, "short\n"], [("yes", "no it is not so"), ("yes", "no")]
    context = 24
    made, whole = completions(tokenizer, prompts, ends, context), completions(tokenizer, prompts, ends, 10_000)
    assert made.is_cut_N.tolist() == [True, False] and made.lengths == whole.lengths
    starts = [row[: len(row) - length] for (row, _), (length, _) in zip(made.rows, made.lengths, strict=True)]
    assert starts[0].tolist() == starts[1].tolist()
    assert max(len(row) for row, _ in made.rows) == context
    for cut, uncut in zip(made.tokens, whole.tokens, strict=True):
        assert cut.tolist() == uncut[-len(cut) :].tolist()


@pytest.mark.parametrize(
    ("pair", "value"), [(("", "no"), "no tokens"), (("no", "no"), "same tokens"), (("no", "yes " * 40), "context")]
)
def test_a_pair_that_cannot_be_scored_is_refused(
    tokenizer: PreTrainedTokenizerFast, pair: tuple[str, str], value: str
) -> None:
    with pytest.raises(DataError, match=value) as error:
        completions(tokenizer, ["is it so? "], [pair], context=16)
    assert "p0" in error.value.message and error.value.hint


def test_a_completion_may_fill_the_context_but_for_one_token(tokenizer: PreTrainedTokenizerFast) -> None:
    ((length, *_), *_) = completions(tokenizer, ["so: "], [("yes " * 9, "no")]).lengths
    rows = completions(tokenizer, ["so: "], [("yes " * 9, "no")], context=length + 1).rows
    assert len(rows[0][0]) == length + 1
    with pytest.raises(DataError):
        completions(tokenizer, ["so: "], [("yes " * 9, "no")], context=length)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_scores_are_those_of_the_whole_models_logits(name: str) -> None:
    torch.manual_seed(0)
    hf = AutoModelForCausalLM.from_config(ARCHITECTURES[name]).eval()
    rng = np.random.default_rng(0)
    rows = [rng.integers(3, 300, size=length).astype(np.int32) for length in (9, 5, 7, 6, 6, 4, 3, 4)]
    first, off = np.array([6, 2, 1, 4, 1, 1, 1, 1]), rng.normal(size=(2, 2)).astype(np.float32)
    examples = Examples(tokens=rows, texts_per_example=4, first=first, subtracted_NC=off)
    (batch,) = Feeder(examples, Workers(0, 1, torch.device("cpu")), 10_000, pad=0).micro_batches(np.arange(2))

    def log_probability(row: np.ndarray, start: int) -> torch.Tensor:
        logits_TV = hf(torch.from_numpy(row.astype(np.int64))[None]).logits[0].log_softmax(-1)
        return torch.stack([logits_TV[place - 1, row[place]] for place in range(start, len(row))])

    parts = [log_probability(row, int(start)) for row, start in zip(rows, first, strict=True)]
    order = batch.positions
    for score in (Score(), Score(beta=2, normalise=False)):
        values = [part.mean() if score.normalise else part.sum() for part in parts]
        wanted = score.beta * torch.stack(values).view(4, 2).T[order]
        logits = CompletionNetwork(deepcopy(hf), "fp32", score, 4)(*batch.inputs[:3])
        torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5)
    means_XN = torch.stack([part.mean() for part in parts]).view(4, 2)
    wanted = (means_XN[:2] - means_XN[2:]).T[order] - torch.from_numpy(off[order])
    logits = CompletionNetwork(deepcopy(hf), "fp32", Score(calibrate=True), 2)(*batch.inputs)
    torch.testing.assert_close(logits, wanted, rtol=1e-5, atol=1e-5)


def test_a_filler_takes_part_and_gives_finite_scores() -> None:
    hf = AutoModelForCausalLM.from_config(ARCHITECTURES["llama"])
    row = np.arange(5, dtype=np.int32)
    off = np.ones((1, 2), dtype=np.float32)
    examples = Examples(tokens=[row, row], texts_per_example=2, first=np.array([2, 2]), subtracted_NC=off)
    (batch,) = Feeder(examples, Workers(0, 1, torch.device("cpu")), 100, pad=0).micro_batches(np.arange(0))
    logits_BC = CompletionNetwork(hf, "fp32", Score(), 2)(*batch.inputs)
    assert logits_BC.shape == (1, 2) and torch.isfinite(logits_BC).all()
