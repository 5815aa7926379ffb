"""A stage from start to record, on one worker in this process."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForMaskedLM,
    RobertaConfig,
    RobertaForMaskedLM,
)

from tests.training.conftest import Onlooker, Tiny
from w2s_ray.data.splits import rows_of_split
from w2s_ray.errors import StoreError, TrainingError
from w2s_ray.ladder.tokenizer import FOLDER as TOKENIZER
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.store import files
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.training.models.loading import load_network, load_tokenizer
from w2s_ray.training.models.network import Network
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine


def floor_of(tiny: Tiny, **execution: object) -> PlannedStage:
    return tiny.chain(**execution).stages[0]


def test_a_stage_stores_its_model_metrics_and_predictions(tiny: Tiny, alone: Workers) -> None:
    stage = floor_of(tiny)
    result = run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    record = tiny.store.find(stage.identity)
    assert record is not None and not result.stopped and result.attempts_trained
    assert record.metrics["num_steps"] == 7
    assert tiny.store.num_attempts(stage.identity) == 1
    for prediction in stage.predicts:
        kept = tiny.store.read_predictions(prediction.identity)
        assert list(kept.ids) == tiny.prepared.ids(rows_of_split(tiny.prepared, prediction.split))
        np.testing.assert_allclose(kept.probs_NC.sum(axis=1), 1, rtol=1e-5)
    steps = [json.loads(line) for line in (tiny.store.verify(record) / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in steps] == list(range(1, 8))
    assert not (tiny.store.verify(record) / "checkpoints").exists()


def test_a_second_run_trains_nothing(tiny: Tiny, alone: Workers) -> None:
    stage = floor_of(tiny)
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    again = run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    assert not again.attempts_trained
    assert tiny.store.num_attempts(stage.identity) == 1


def test_trap_6_predictions_added_later_come_from_the_trained_model(tiny: Tiny, alone: Workers, tmp_path: Path) -> None:
    stage = floor_of(tiny)
    run_stage(stage.model_copy(update={"predicts": ()}), store=tiny.store, workers=alone, observer=Onlooker())
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    assert tiny.store.num_attempts(stage.identity) == 1
    other = ArtifactStore(tmp_path / "other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data").symlink_to(tiny.store.root / "data")
    run_stage(stage, store=other, workers=alone, observer=Onlooker())
    for prediction in stage.predicts:
        np.testing.assert_allclose(
            tiny.store.read_predictions(prediction.identity).probs_NC,
            other.read_predictions(prediction.identity).probs_NC,
            atol=1e-6,
        )


def test_trap_6_the_exported_folder_predicts_what_the_stage_predicted(tiny: Tiny, alone: Workers) -> None:
    stage = floor_of(tiny)
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    record = tiny.store.find(stage.identity)
    assert record is not None and stage.test_prediction is not None
    folder = tiny.store.verify(record) / "model"
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = rows_of_split(tiny.prepared, stage.test_prediction.split)
    texts = tiny.prepared.table()["text"].take(rows).to_pylist()
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        probs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.softmax(-1)
    kept = tiny.store.read_predictions(stage.test_prediction.identity).probs_NC
    np.testing.assert_allclose(probs.numpy(), kept, atol=1e-6)


def test_an_error_leaves_no_engine_in_memory(tiny: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    destroyed = []
    destroy = Engine.destroy
    monkeypatch.setattr(Engine, "destroy", lambda engine: (destroyed.append(engine), destroy(engine)))
    wild = floor_of(tiny).spec.optimisation.model_copy(update={"learning_rate": 1e30, "max_grad_norm": 1e30})
    stage = floor_of(tiny)
    stage = stage.model_copy(update={"spec": stage.spec.model_copy(update={"optimisation": wild})})
    with pytest.raises(TrainingError):
        run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    assert len(destroyed) == 1


@pytest.mark.parametrize("has_bf16", [True, False])
def test_a_device_without_bf16_computes_in_fp32_and_the_record_shows_it(
    tiny: Tiny,
    alone: Workers,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    has_bf16: bool,
) -> None:
    precisions: set[str] = set()
    forward = Network.forward

    def watched(network: Network, tokens_RT: torch.Tensor, last_R: torch.Tensor) -> torch.Tensor:
        if network.training:
            precisions.add(network.precision)
        return forward(network, tokens_RT, last_R)

    monkeypatch.setattr(Network, "forward", watched)
    monkeypatch.setattr("w2s_ray.training.workers.computes_bf16", lambda device: has_bf16)
    floor = floor_of(tiny)
    asked = floor.spec.optimisation.model_copy(update={"precision": "bf16", "epochs": 0.25})
    stage = floor.model_copy(update={"spec": floor.spec.model_copy(update={"optimisation": asked})})
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    record = tiny.store.find(stage.identity)
    assert record is not None
    assert precisions == {"bf16" if has_bf16 else "fp32"}
    assert record.metrics["fell_back_to_fp32"] == float(not has_bf16)
    assert ("no bf16 instructions" in capsys.readouterr().out) == (not has_bf16)


def test_an_encoders_classifier_block_is_drawn_from_the_stages_seed(tiny: Tiny, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(TOKENIZER, None)
    config = RobertaConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    RobertaForMaskedLM(config).save_pretrained(tmp_path)
    stage = floor_of(tiny)

    def drawn(seed: int) -> torch.Tensor:
        spec = stage.spec.model_copy(update={"init_seed": seed})
        network = load_network(spec, tmp_path, tokenizer, stage.execution)
        return torch.cat([parameter.flatten() for parameter in network.hf.classifier.parameters()])

    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@pytest.mark.parametrize("stop_at", [3, None], ids=["checkpoint", "model"])
def test_a_full_disk_is_an_error_before_anything_is_written(
    tiny: Tiny, alone: Workers, stop_at: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage = floor_of(tiny)
    monkeypatch.setattr(files.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(StoreError, match="MiB"):
        run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker(stop_at))
    assert tiny.store.find(stage.identity) is None
    monkeypatch.undo()
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    assert tiny.store.find(stage.identity) is not None


@pytest.mark.parametrize("is_encoder", [False, True])
def test_texts_are_read_with_the_tokenizers_special_tokens(tiny: Tiny, alone: Workers, is_encoder: bool) -> None:
    stage = floor_of(tiny)
    folder = Path(stage.spec.starts_from.name)
    tokenizer = load_tokenizer(folder, None)
    special = [(token, tokenizer.convert_tokens_to_ids(token)) for token in ("<|end|>", "<|pad|>")]
    template = "<|end|> $A <|end|>" if is_encoder else "<|end|> $A"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single=template, special_tokens=special)
    if is_encoder:
        tokenizer.cls_token = "<|end|>"
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            pad_token_id=tokenizer.pad_token_id,
        )
        BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    context = 12  # some texts are longer
    settings = stage.spec.optimisation.model_copy(update={"context_tokens": context})
    stage = stage.model_copy(update={"spec": stage.spec.model_copy(update={"optimisation": settings})})
    prediction = floor_of(tiny).test_prediction
    assert prediction is not None
    prediction = prediction.model_copy(update={"stage": stage.identity, "context_tokens": context})
    stage = stage.model_copy(update={"predicts": (prediction,)})
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    record = tiny.store.find(stage.identity)
    assert record is not None and record.metrics["cut_examples"] > 0
    kept = tiny.store.verify(record) / "model"
    model, read = AutoModelForSequenceClassification.from_pretrained(kept).eval(), AutoTokenizer.from_pretrained(kept)
    texts = tiny.prepared.texts(rows_of_split(tiny.prepared, prediction.split))
    batch = read(texts, padding=True, truncation=True, return_tensors="pt")
    assert (batch["input_ids"][:, 0] == tokenizer.eos_token_id).all()
    with torch.no_grad():
        probs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.softmax(-1)
    np.testing.assert_allclose(probs.numpy(), tiny.store.read_predictions(prediction.identity).probs_NC, atol=1e-6)
