import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from w2s_ray.errors import DataError
from w2s_ray.ladder.tokenizer import FOLDER, sample, text_task, texts_of, train_tokenizer

STUDY = """
name: pretraining
tasks:
  text: {files: somewhere.jsonl, text: review}
ladder:
  tiny: {model: w2s:small, architecture: {hidden_size: 8, num_layers: 1, num_heads: 1, intermediate_size: 8}}
methods:
  pretrain: {objective: next_token}
chains: [[tiny]]
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "study.yaml").write_text(STUDY)
    rows = [{"review": f"A thoroughly splendid film, number {number}."} for number in range(200)]
    (tmp_path / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "study.yaml"


def test_a_tokenizer_for_a_studys_text_needs_fewer_tokens_and_is_lossless(study: Path, tmp_path: Path) -> None:
    task = text_task(study, ["tasks.text.files=reviews.jsonl"])
    train_tokenizer(texts_of(task), tmp_path / "own")
    own, builtin = (AutoTokenizer.from_pretrained(folder) for folder in (tmp_path / "own", FOLDER))
    text = "A thoroughly splendid film, ÆΩ 7."
    assert own.decode(own(text)["input_ids"]) == text
    assert len(own(text)["input_ids"]) < len(builtin(text)["input_ids"])


def test_a_task_with_labels_is_refused(study: Path) -> None:
    with pytest.raises(DataError, match="classes"):
        text_task(study, ["tasks.text.label=review"])


def test_a_sample_ends_with_the_text_that_reaches_its_size() -> None:
    assert sample(["aaa", "bbb", "ccc"], chars=4) == ["aaa", "bbb"]
