"""Random weights have the same values sharded and unsharded."""

from pathlib import Path

import pytest
import torch

from tests.training.conftest import Tiny
from tests.training.model_folders import ARCHITECTURES, DECODERS, ENCODERS, own_tokenizer, write_model
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import Architecture, ModelSource, StageSpec
from w2s_ray.training.models.loading import load_network, load_tokenizer
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine


def drawn(spec: StageSpec, folder: Path, zero_stage: int) -> dict[str, torch.Tensor]:
    execution = Execution(zero_stage=zero_stage)  # type: ignore[arg-type]
    network = load_network(spec, folder, load_tokenizer(folder, None), execution)
    engine = Engine(network, execution, None)
    assert {hasattr(weight, "ds_id") for weight in network.parameters()} == {zero_stage == 3}
    weights = {name: tensor.clone() for name, tensor in engine.gather(engine.saved_bytes, keeps=True).items()}
    engine.destroy()
    return weights


@pytest.mark.parametrize("name", [*DECODERS, *ENCODERS, "bart"])
def test_random_weights_are_the_same_under_zero_3(tiny: Tiny, alone: Workers, tmp_path: Path, name: str) -> None:
    folder = write_model(tmp_path / name, name, own_tokenizer(name))
    stage = tiny.chain().find("ceiling", "large")
    assert stage is not None and name in ARCHITECTURES
    source = ModelSource(name=str(folder), revision="random", random=True)
    spec = stage.spec.model_copy(update={"starts_from": source})
    _compare(spec, folder)


@pytest.mark.parametrize("objective", ["next_token", "answer"])
def test_a_model_from_scratch_is_the_same_under_zero_3(
    tiny: Tiny, alone: Workers, tmp_path: Path, objective: str
) -> None:
    folder = write_model(tmp_path / "m", "llama", own_tokenizer("llama"))
    shape = Architecture(hidden_size=32, num_layers=2, num_heads=2, intermediate_size=48, context_tokens=32)
    stage = tiny.chain().find("ceiling", "large")
    assert stage is not None
    source = ModelSource(name=str(folder), revision="scratch", architecture=shape)
    _compare(stage.spec.model_copy(update={"starts_from": source, "objective": objective}), folder)


def _compare(spec: StageSpec, folder: Path) -> None:
    whole, sharded = drawn(spec, folder, 0), drawn(spec, folder, 3)
    assert whole.keys() == sharded.keys()
    different = [name for name in whole if not torch.equal(whole[name], sharded[name])]
    assert different == []
