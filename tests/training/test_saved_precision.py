"""A model saved in bf16 has half the size, and predicts what its stage predicted right after training."""

import shutil
import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from tests.training.conftest import Onlooker, Replies, Tiny, make_tiny
from tests.training.processes import run_cases
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.store.artifacts import MODEL, SNAPSHOTS
from w2s_ray.training import stage as stage_module
from w2s_ray.training.models.network import Network
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers

METHODS = {
    "all": {"arms": ["chain", "ceiling"]},
    "lora": {"arms": ["ceiling"], "trainable": {"large": {"kind": "lora", "rank": 2}}},
    "probe": {"arms": ["ceiling"], "trainable": {"large": {"kind": "probe"}}},
}


def tiny_of(folder: Path, precision: str = "bf16", **optimisation: object) -> Tiny:
    settings = {"learning_rate": 3e-3, "examples_per_step": 16, "saved_precision": precision, **optimisation}
    return make_tiny(folder, methods=METHODS, optimisation=settings)


def ceiling(tiny: Tiny, method: str = "all", **execution: object) -> PlannedStage:
    stage = tiny.chain(method, **execution).find("ceiling", "large")
    assert stage is not None
    return stage


def run(tiny: Tiny, stage: PlannedStage, workers: Workers) -> Path:
    run_stage(stage, store=tiny.store, workers=workers, observer=Onlooker())
    record = tiny.store.find(stage.identity)
    assert record is not None
    return tiny.store.verify(record)


def predicted(tiny: Tiny, stage: PlannedStage) -> np.ndarray:
    assert stage.test_prediction is not None
    return tiny.store.read_predictions(stage.test_prediction.identity).probs_NC


def predict_again(tiny: Tiny, stage: PlannedStage, workers: Workers) -> np.ndarray:
    """The predictions of the stored model, made by a later run."""
    test = stage.test_prediction
    assert test is not None
    shutil.rmtree(tiny.store.folder(test.slug, test.identity))
    run(tiny, stage, workers)
    return predicted(tiny, stage)


@pytest.mark.parametrize(("method", "zero_stage"), [("all", 0), ("all", 3), ("lora", 3), ("probe", 0)])
def test_predictions_after_training_are_those_of_the_saved_model(
    tmp_path: Path, alone: Workers, method: str, zero_stage: int
) -> None:
    tiny = tiny_of(tmp_path)
    stage = ceiling(tiny, method, zero_stage=zero_stage)
    folder = run(tiny, stage, alone) / MODEL
    weights = load_file(folder / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.bfloat16}
    first_NC = predicted(tiny, stage)
    np.testing.assert_array_equal(predict_again(tiny, stage, alone), first_NC)


def test_the_saved_model_has_half_the_size_and_the_weights_of_the_other_rounded(tmp_path: Path, alone: Workers) -> None:
    folders = {}
    for precision in ("fp32", "bf16"):
        tiny = tiny_of(tmp_path / precision, precision, keep_at=[0.5])
        folders[precision] = run(tiny, ceiling(tiny), alone)
    for name in (MODEL, f"{SNAPSHOTS}/0.5"):
        files = [folders[precision] / name / "model.safetensors" for precision in ("fp32", "bf16")]
        whole, rounded = map(load_file, files)
        assert whole.keys() == rounded.keys()
        assert all(torch.equal(whole[key].bfloat16(), rounded[key]) for key in whole)
        assert files[1].stat().st_size < 0.55 * files[0].stat().st_size
    loaded = AutoModelForSequenceClassification.from_pretrained(folders["bf16"] / MODEL)
    assert loaded.dtype == torch.bfloat16


def test_the_trained_network_is_freed_before_the_saved_one_is_loaded(
    tmp_path: Path, alone: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    load_network, load_trained = stage_module.load_network, stage_module.load_trained
    trained: list[weakref.ref[Network]] = []

    def load(*arguments: Any) -> Network:
        network = load_network(*arguments)
        trained.append(weakref.ref(network))
        return network

    def load_again(*arguments: Any) -> Network:
        assert [network() for network in trained] == [None]
        return load_trained(*arguments)

    monkeypatch.setattr(stage_module, "load_network", load)
    monkeypatch.setattr(stage_module, "load_trained", load_again)
    tiny = tiny_of(tmp_path)
    run(tiny, ceiling(tiny), alone)


def test_a_language_model_is_saved_in_bf16(tmp_path: Path, alone: Workers) -> None:
    settings = {"learning_rate": 3e-3, "examples_per_step": 16, "saved_precision": "bf16"}
    tiny = make_tiny(tmp_path, Replies(), methods={"all": METHODS["all"]}, optimisation=settings)
    folder = run(tiny, ceiling(tiny), alone) / MODEL
    assert AutoModelForCausalLM.from_pretrained(folder).dtype == torch.bfloat16


@pytest.mark.soak
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_two_workers_save_what_they_predict_with(tmp_path: Path, alone: Workers, zero_stage: int) -> None:
    tiny = tiny_of(tmp_path)
    stage = ceiling(tiny, "lora" if zero_stage == 1 else "all", zero_stage=zero_stage, workers=2)
    run_cases({"stage@bare": stage.model_dump_json()}, tiny.store.root, 2, tmp_path, reset=False)
    first_NC = predicted(tiny, stage)
    np.testing.assert_allclose(predict_again(tiny, stage, alone), first_NC, rtol=0, atol=1e-6)
