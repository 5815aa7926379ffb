"""Adapters that are stored without their base: the merged model is the one that a stage would have stored."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import AutoPeftModelForCausalLM, AutoPeftModelForSequenceClassification
from safetensors.torch import load_file, save_file

from tests.training.conftest import Onlooker, Replies, Tiny, make_tiny
from tests.training.model_folders import own_tokenizer, write_model
from tests.training.processes import run_cases
from w2s_ray.cli.report import _merged
from w2s_ray.data.splits import rows_of_split
from w2s_ray.errors import ModelError
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.stage import ModelSource
from w2s_ray.store.artifacts import MODEL, ArtifactStore
from w2s_ray.store.record import Record
from w2s_ray.training.models.loading import load_tokenizer
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers

LORA = {"large": {"kind": "lora", "rank": 2}}
METHODS = {
    "lora": {"arms": ["ceiling"], "trainable": LORA},
    "read": {
        "arms": ["ceiling"],
        "trainable": LORA,
        "generative": {"large": {"learning_rate": 3e-3, "examples_per_step": 4, "context_tokens": 32}},
    },
}
SETTINGS = {"learning_rate": 1e-2, "examples_per_step": 16, "context_tokens": 32}


def lora(tiny: Tiny, method: str = "lora", model: Path | None = None, **execution: object) -> PlannedStage:
    """A ceiling that keeps its adapters, on this model."""
    stage = tiny.chain(method, **{"keep_adapters": True, **execution}).find("ceiling", "large")
    assert stage is not None and stage.test_prediction is not None
    if model is None:
        return stage
    spec = stage.spec.model_copy(update={"starts_from": ModelSource(name=str(model), revision=model.name)})
    test = stage.test_prediction.model_copy(update={"stage": spec.identity})
    return stage.model_copy(update={"spec": spec, "predicts": (test,)})


def run(tiny: Tiny, stage: PlannedStage, workers: Workers) -> Record:
    run_stage(stage, store=tiny.store, workers=workers, observer=Onlooker())
    record = tiny.store.find(stage.identity)
    assert record is not None
    return record


def predicted(store: ArtifactStore, stage: PlannedStage) -> np.ndarray:
    assert stage.test_prediction is not None
    return store.read_predictions(stage.test_prediction.identity).probs_NC


def forget(tiny: Tiny, stage: PlannedStage) -> None:
    """Remove the test predictions, so that the next run makes them with the stored model."""
    test = stage.test_prediction
    assert test is not None
    shutil.rmtree(tiny.store.folder(test.slug, test.identity))


@pytest.mark.parametrize(
    ("name", "execution"),
    [
        ("llama", {}),
        ("gpt2", {"zero_stage": 3}),
        pytest.param("roberta", {"zero_stage": 2}, marks=pytest.mark.soak),
        pytest.param("modernbert", {"zero_stage": 3}, marks=pytest.mark.soak),
    ],
)
def test_the_merged_model_is_the_one_that_the_stage_would_have_stored(
    tmp_path: Path, alone: Workers, name: str, execution: dict[str, object]
) -> None:
    folder = write_model(tmp_path / name, name, own_tokenizer(name))
    tiny = make_tiny(tmp_path / "kept", methods=METHODS, optimisation=SETTINGS)
    stage = lora(tiny, model=folder, **execution)
    record = run(tiny, stage, alone)
    assert record.base is not None and record.base.files.keys() == {"config.json", "model.safetensors"}
    kept = tiny.store.verify(record) / MODEL
    assert {"adapter_model.safetensors", "adapter_config.json", "tokenizer.json"} <= {
        file.name for file in kept.iterdir()
    }
    assert not (kept / "model.safetensors").exists() and not (kept / "config.json").exists()
    other = make_tiny(tmp_path / "whole", methods=METHODS, optimisation=SETTINGS)
    plain = lora(other, model=folder, **execution, keep_adapters=False)
    assert plain.identity == stage.identity
    whole = other.store.verify(run(other, plain, alone)) / MODEL
    with _merged(tiny.store, stage, record, kept) as merged:
        expected, actual = load_file(whole / "model.safetensors"), load_file(merged / "model.safetensors")
        assert expected.keys() == actual.keys()
        assert all(torch.equal(expected[key], actual[key]) for key in expected)
        assert (whole / "config.json").read_text() == (merged / "config.json").read_text()
    assert not merged.exists()
    first_NC = predicted(tiny.store, stage)
    forget(tiny, stage)
    run(tiny, stage, alone)
    np.testing.assert_allclose(predicted(tiny.store, stage), first_NC, atol=1e-5)
    assert list(tiny.store.root.glob(".*")) == []


@pytest.mark.parametrize("name", ["llama", "roberta"])
def test_peft_loads_the_stored_adapters(tmp_path: Path, alone: Workers, name: str) -> None:
    folder = write_model(tmp_path / name, name, own_tokenizer(name))
    tiny = make_tiny(tmp_path / "tiny", methods=METHODS, optimisation=SETTINGS)
    stage = lora(tiny, model=folder)
    kept = tiny.store.verify(run(tiny, stage, alone)) / MODEL
    model = AutoPeftModelForSequenceClassification.from_pretrained(kept).eval()
    assert stage.test_prediction is not None
    texts = tiny.prepared.texts(rows_of_split(tiny.prepared, stage.test_prediction.split))
    tokenizer = load_tokenizer(kept, None)
    batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt")
    with torch.no_grad():
        probs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits.softmax(-1)
    np.testing.assert_allclose(probs.numpy(), predicted(tiny.store, stage), atol=1e-5)


def test_peft_loads_the_adapters_of_a_language_model(tmp_path: Path, alone: Workers) -> None:
    tiny = make_tiny(tmp_path, Replies(), methods={"lora": METHODS["lora"]}, optimisation=SETTINGS)
    stage = lora(tiny)
    record = run(tiny, stage, alone)
    kept = tiny.store.verify(record) / MODEL
    model = AutoPeftModelForCausalLM.from_pretrained(kept).merge_and_unload()
    with _merged(tiny.store, stage, record, kept) as merged:
        expected = load_file(merged / "model.safetensors")
    actual = model.state_dict()
    for key, tensor in expected.items():
        torch.testing.assert_close(actual[key], tensor, rtol=0, atol=1e-6)


def test_a_changed_base_is_refused(tmp_path: Path, alone: Workers) -> None:
    folder = write_model(tmp_path / "base", "llama", own_tokenizer("llama"))
    tiny = make_tiny(tmp_path / "tiny", methods=METHODS, optimisation=SETTINGS)
    stage = lora(tiny, model=folder)
    run(tiny, stage, alone)
    forget(tiny, stage)
    weights = load_file(folder / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][0, 0] += 1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError) as caught:
        run(tiny, stage, alone)
    assert str(folder / "model.safetensors") in caught.value.message and "train it again" in caught.value.hint


def test_adapters_on_the_model_of_another_stage_are_merged_with_it(tmp_path: Path, alone: Workers) -> None:
    tiny = make_tiny(tmp_path, methods=METHODS, optimisation=SETTINGS)
    stage = lora(tiny, "read")
    for before in tiny.chain("read", keep_adapters=True).stages:
        if before.identity in stage.requires:
            run(tiny, before, alone)
    record = run(tiny, stage, alone)
    assert record.base is not None and record.base.files == {}
    assert record.base.revision in stage.requires
    first_NC = predicted(tiny.store, stage)
    forget(tiny, stage)
    run(tiny, stage, alone)
    np.testing.assert_allclose(predicted(tiny.store, stage), first_NC, atol=1e-5)


def test_adapters_in_bf16_predict_what_their_stage_did(tmp_path: Path, alone: Workers) -> None:
    tiny = make_tiny(tmp_path, methods=METHODS, optimisation=SETTINGS | {"saved_precision": "bf16"})
    stage = lora(tiny)
    run(tiny, stage, alone)
    first_NC = predicted(tiny.store, stage)
    forget(tiny, stage)
    run(tiny, stage, alone)
    np.testing.assert_array_equal(predicted(tiny.store, stage), first_NC)


def test_adapters_of_random_weights_are_stored_merged(tmp_path: Path, alone: Workers) -> None:
    """Their base has no files."""
    methods = {"lora": {"arms": ["ceiling"], "trainable": LORA, "random": ["large"]}}
    tiny = make_tiny(tmp_path, methods=methods, optimisation=SETTINGS)
    record = run(tiny, lora(tiny), alone)
    assert record.base is None and "model/model.safetensors" in record.files


@pytest.mark.soak
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_two_workers_store_and_merge_adapters(tmp_path: Path, alone: Workers, zero_stage: int) -> None:
    folder = write_model(tmp_path / "gpt2", "gpt2", own_tokenizer("gpt2"))
    tiny = make_tiny(tmp_path / "tiny", methods=METHODS, optimisation=SETTINGS)
    stage = lora(tiny, model=folder, workers=2, zero_stage=zero_stage)
    planned = {"stage@bare": stage.model_dump_json()}
    run_cases(planned, tiny.store.root, 2, tmp_path, reset=False)
    first_NC = predicted(tiny.store, stage)
    forget(tiny, stage)
    (tmp_path / "meeting2").unlink(missing_ok=True)
    run_cases(planned, tiny.store.root, 2, tmp_path, reset=False)
    np.testing.assert_allclose(predicted(tiny.store, stage), first_NC, atol=1e-5)
    forget(tiny, stage)
    run(tiny, stage, alone)
    np.testing.assert_allclose(predicted(tiny.store, stage), first_NC, atol=1e-5)
