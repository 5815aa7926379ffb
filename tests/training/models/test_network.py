"""Pooling, heads, seeds: what a network computes from its tokens (traps 1 and 18 of the field)."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from tests.training.conftest import Tiny
from w2s_ray.errors import ModelError
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import ModelSource
from w2s_ray.training.models.loading import load_network, load_tokenizer
from w2s_ray.training.models.network import Network


@pytest.fixture
def gpt2_like(tmp_path: Path) -> Path:
    """A tiny GPT-2 whose token 0 is "!", as in GPT-2, with no padding token of its own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {sign: index for index, sign in enumerate(alphabet)}
    assert vocabulary["!"] == 0
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>")
    fast.save_pretrained(tmp_path)
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=len(fast), n_positions=64, n_embd=16, n_layer=2, n_head=2)
    GPT2LMHeadModel(config).save_pretrained(tmp_path)
    return tmp_path


def network_of(
    tiny: Tiny, folder: Path, tokenizer: PreTrainedTokenizerFast, init_seed: int = 0, *, random: bool = False
) -> Network:
    spec = tiny.chain().stages[0].spec
    source = ModelSource(name=str(folder), revision="tiny", pad_token=tokenizer.pad_token, random=random)
    spec = spec.model_copy(update={"starts_from": source, "init_seed": init_seed})
    return load_network(spec, folder, tokenizer, Execution()).eval()


def padded(rows: list[list[int]], pad: int) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(map(len, rows))
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows]), torch.tensor(
        [len(row) - 1 for row in rows]
    )


def test_trap_1_exclamation_marks_count_in_batches_of_any_size(tiny: Tiny, gpt2_like: Path) -> None:
    tokenizer = load_tokenizer(gpt2_like, "<|endoftext|>")
    network = network_of(tiny, gpt2_like, tokenizer)
    texts = ["wow!", "!!!!", "a longer text that ends!!", "b"]
    rows = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    with torch.no_grad():
        many = network(*padded(rows, tokenizer.pad_token_id))
        ones = torch.cat([network(*padded([row], tokenizer.pad_token_id)) for row in rows])
    torch.testing.assert_close(many, ones, atol=1e-6, rtol=1e-5)
    assert not torch.allclose(many[0], network(*padded([rows[0][:-1]], 0))[0]), "the last ! must count"


def test_trap_1_a_text_that_spells_the_padding_token_keeps_its_last_token(tiny: Tiny, gpt2_like: Path) -> None:
    tokenizer = load_tokenizer(gpt2_like, "<|endoftext|>")
    row = tokenizer.encode("the end <|endoftext|>", add_special_tokens=False)
    assert tokenizer.pad_token_id not in row, "a text never yields the padding token"


def test_loading_a_tokenizer_without_padding_token_is_refused(gpt2_like: Path) -> None:
    with pytest.raises(ModelError, match="pad_token"):
        load_tokenizer(gpt2_like, None)


def test_the_head_starts_from_the_unembedding_rows_of_the_digits(tiny: Tiny, gpt2_like: Path) -> None:
    tokenizer = load_tokenizer(gpt2_like, "<|endoftext|>")
    network = network_of(tiny, gpt2_like, tokenizer)
    rows = [tokenizer.encode(digit)[0] for digit in "01"]
    torch.testing.assert_close(network.hf.score.weight, network.hf.get_input_embeddings().weight[rows])


def test_the_head_of_an_untied_model_starts_from_its_unembedding(tiny: Tiny, tmp_path: Path) -> None:
    tied = Path(tiny.study.ladder["small"].model)
    config = LlamaConfig.from_pretrained(tied)
    config.tie_word_embeddings = False
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tied, None)
    network = network_of(tiny, tmp_path, tokenizer)
    rows = [tokenizer.encode(digit)[0] for digit in "01"]
    torch.testing.assert_close(network.hf.score.weight, model.lm_head.weight[rows])
    assert not torch.equal(model.lm_head.weight[rows], model.get_input_embeddings().weight[rows])


def test_the_head_of_an_untied_random_model_follows_the_seed(tiny: Tiny, tmp_path: Path) -> None:
    tied = Path(tiny.study.ladder["small"].model)
    config = LlamaConfig.from_pretrained(tied)
    config.tie_word_embeddings = False
    heads = []
    for _ in range(2):  # two checkpoints
        LlamaForCausalLM(config).save_pretrained(tmp_path)
        network = network_of(tiny, tmp_path, load_tokenizer(tied, None), random=True)
        heads.append(network.hf.score.weight.detach().clone())
    torch.testing.assert_close(*heads, rtol=0, atol=0)
    other = network_of(tiny, tmp_path, load_tokenizer(tied, None), init_seed=1, random=True)
    assert not torch.allclose(other.hf.score.weight, heads[0])


def test_trap_18_weights_are_fp32_even_if_the_checkpoint_is_bf16(tiny: Tiny) -> None:
    folder = Path(tiny.study.ladder["small"].model)
    LlamaForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    stored = load_file(folder / "model.safetensors").values()
    assert {tensor.dtype for tensor in stored} == {torch.bfloat16}
    network = network_of(tiny, folder, load_tokenizer(folder, None))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float32}
