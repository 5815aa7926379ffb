"""What a pretrained model makes of texts."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModel, RobertaConfig, RobertaForMaskedLM

from tests.training.conftest import write_tiny_llama
from w2s_ray.ladder.tokenizer import FOLDER as TOKENIZER
from w2s_ray.spec.stage import Execution
from w2s_ray.training.feed import Examples, TokenRow
from w2s_ray.training.inputs import features
from w2s_ray.training.models.network import load_tokenizer
from w2s_ray.training.workers import Workers

PAD = 0


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return write_tiny_llama(tmp_path / "llama", hidden=16, seed=3)


def texts(num: int = 40) -> list[TokenRow]:
    """Rows of ragged length; some hold the padding token, some end in it."""
    draws = np.random.default_rng(0)
    rows = [draws.integers(0, 200, size=length).astype(np.int32) for length in draws.integers(1, 30, size=num)]
    rows[3][-1] = rows[7][0] = PAD
    return rows


def one_by_one(folder: Path, rows: list[TokenRow]) -> np.ndarray:
    model = AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    with torch.no_grad():
        states = [model(input_ids=torch.from_numpy(row[None].astype(np.int64))).last_hidden_state for row in rows]
    return np.stack([state[0, -1].numpy() for state in states])


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_features_are_the_last_hidden_state_of_each_texts_last_token(
    llama: Path, alone: Workers, zero_stage: int
) -> None:
    rows = texts()
    found_ND = features(Examples(tokens=rows), llama, PAD, Execution(zero_stage=zero_stage), alone)
    assert found_ND.shape == (40, 16) and found_ND.dtype == np.float32
    np.testing.assert_allclose(found_ND, one_by_one(llama, rows), atol=1e-5)


def test_an_encoder_sees_no_padding_either(tmp_path: Path, alone: Workers) -> None:
    vocabulary = len(load_tokenizer(TOKENIZER, None))
    config = RobertaConfig(
        vocab_size=vocabulary, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16
    )
    RobertaForMaskedLM(config).save_pretrained(tmp_path)
    rows = [np.where(row == config.pad_token_id, 5, row) for row in texts()]
    found_ND = features(Examples(tokens=rows), tmp_path, config.pad_token_id, Execution(), alone)
    np.testing.assert_allclose(found_ND, one_by_one(tmp_path, rows), atol=1e-5)


def test_features_of_a_pair_are_its_second_texts_less_its_firsts(llama: Path, alone: Workers) -> None:
    first, second = texts()[:10], texts()[10:20]
    pairs = Examples(tokens=[*first, *second], texts_per_example=2)
    swapped = Examples(tokens=[*second, *first], texts_per_example=2)
    found_ND = features(pairs, llama, PAD, Execution(), alone)
    np.testing.assert_allclose(found_ND, one_by_one(llama, second) - one_by_one(llama, first), atol=1e-5)
    np.testing.assert_array_equal(found_ND, -features(swapped, llama, PAD, Execution(), alone))


def test_features_do_not_depend_on_micro_batches(llama: Path, alone: Workers) -> None:
    rows = Examples(tokens=texts())
    tight, roomy = (Execution(tokens_per_micro_batch=size) for size in (32, 100_000))
    np.testing.assert_array_equal(features(rows, llama, PAD, tight, alone), features(rows, llama, PAD, roomy, alone))
