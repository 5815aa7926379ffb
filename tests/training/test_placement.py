"""Offloaded state: in the host's memory by DeepSpeed, and in files, which change no result and leave nothing behind."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.conftest import Onlooker, Tiny
from tests.training.test_checkpoints import losses, read_model, sharing_data
from tests.training.test_zero import network_of, texts
from w2s_ray.errors import StoreError, StudyError
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.execution import Execution, ZeroStage
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.stage import Optimisation
from w2s_ray.training import placement
from w2s_ray.training.models.loading import load_network, load_tokenizer
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine

EVERYTHING = {"offload_optimizer": True, "offload_parameters": True}
WAYS: list[dict[str, Any]] = [
    {"zero_stage": 0, "offload_optimizer": True},
    {"zero_stage": 1, "offload_optimizer": True},
    {"zero_stage": 2, "offload_optimizer": True},
    {"zero_stage": 3, "offload_optimizer": True},
    {"zero_stage": 3, "offload_parameters": True},
    {"zero_stage": 3, **EVERYTHING},
]


def is_in_file(tensor: torch.Tensor, folder: Path) -> bool:
    """Whether the tensor's memory is a mapping of a file of the folder."""
    place = tensor.data_ptr()
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, last = (int(end, 16) for end in line.split()[0].split("-"))
        if first <= place < last:
            return str(folder) in line
    return False


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let DeepSpeed keep the optimizer's state on the host although it is the device, as it does for a GPU."""
    monkeypatch.setattr(placement, "device_has_own_memory", lambda: True)


def trained(tiny: Tiny, alone: Workers, folder: Path, stop_at: int | None = None, **execution: Any) -> PlannedStage:
    stage = tiny.chain(**execution).stages[0].model_copy(update={"predicts": ()})
    run_stage(stage, store=sharing_data(tiny, folder), workers=alone, observer=Onlooker(stop_at))
    return stage


@pytest.mark.parametrize("host", ["cpu", "gpu"])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_state_in_files_gives_the_same_losses_and_weights(
    tiny: Tiny, alone: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: dict[str, Any], host: str
) -> None:
    plain = trained(tiny, alone, tmp_path / "plain")
    if host == "gpu":
        as_on_a_gpu(monkeypatch)
    folder = tmp_path / "nvme"
    trained(tiny, alone, tmp_path / "files", nvme_folder=folder, **way)
    stores = [type(tiny.store)(tmp_path / name) for name in ("plain", "files")]
    np.testing.assert_allclose(losses(stores[1], plain), losses(stores[0], plain), rtol=1e-5)
    (expected, _), (weights, _) = (read_model(store, plain) for store in stores)
    for name, tensor in expected.items():
        torch.testing.assert_close(weights[name], tensor, atol=1e-4, rtol=1e-4)
    assert not list(folder.iterdir()), "files have no names"


@pytest.mark.parametrize("host", ["cpu", "gpu"])
def test_a_stage_with_state_in_files_resumes_and_others_resume_from_it(
    tiny: Tiny, alone: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    expected = losses(type(tiny.store)(tmp_path / "plain"), trained(tiny, alone, tmp_path / "plain"))
    if host == "gpu":
        as_on_a_gpu(monkeypatch)
    in_files = {"zero_stage": 3, "nvme_folder": tmp_path / "nvme", **EVERYTHING}
    for name, first, second in (("to", {}, in_files), ("from", in_files, {"zero_stage": 2})):
        store = sharing_data(tiny, tmp_path / name)
        for stop_at, execution in ((3, first), (None, second)):
            stage = tiny.chain(**execution).stages[0].model_copy(update={"predicts": ()})
            run_stage(stage, store=store, workers=alone, observer=Onlooker(stop_at))
        assert store.num_attempts(stage.identity) == 2
        np.testing.assert_allclose(losses(store, stage), expected, rtol=1e-5)


def held(engine: Engine) -> dict[str, torch.Tensor]:
    shard = next(iter(engine._held()))
    return shard.tensors


@pytest.mark.parametrize("host", ["cpu", "gpu"])
def test_masters_moments_and_weights_are_in_files(
    tiny: Tiny, alone: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    if host == "gpu":
        as_on_a_gpu(monkeypatch)
    execution = Execution(zero_stage=3, nvme_folder=tmp_path / "nvme", **EVERYTHING)
    engine = Engine(network_of(tiny, tiny.store.root.parent / "large"), execution, Optimisation())
    for _ in range(2):
        engine.backward(engine(*texts()).sum(), is_last=True)
        engine.step(1e-3)
    assert all(is_in_file(tensor, tmp_path / "nvme") for tensor in held(engine).values())
    sharded = [parameter for parameter in engine.model.parameters() if parameter.ds_status.name == "NOT_AVAILABLE"]
    assert sharded and all(is_in_file(parameter.ds_tensor, tmp_path / "nvme") for parameter in sharded)
    assert float(held(engine)["exp_avg"].abs().sum()) > 0
    engine.destroy()


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_on_cpus_offload_without_files_moves_nothing(tiny: Tiny, alone: Workers, zero_stage: ZeroStage) -> None:
    execution = Execution(zero_stage=zero_stage, offload_optimizer=True)
    folder, stage = tiny.store.root.parent / "large", tiny.chain().stages[-1]
    engine = Engine(
        load_network(stage.spec, folder, load_tokenizer(folder, None), execution), execution, Optimisation()
    )
    weights = [getattr(parameter, "ds_tensor", parameter.data) for parameter in engine.model.parameters()]
    assert held(engine)["weight"].data_ptr() in {weight.data_ptr() for weight in weights}
    engine.destroy()


def test_weights_of_a_model_that_only_predicts_are_in_files(tiny: Tiny, alone: Workers, tmp_path: Path) -> None:
    folder = tiny.store.root.parent / "large"
    plain = Engine(network_of(tiny, folder), Execution(zero_stage=3), None)
    with torch.no_grad():
        expected = plain.model(*texts())
    plain.destroy()
    execution = Execution(zero_stage=3, offload_parameters=True, nvme_folder=tmp_path / "nvme")
    engine = Engine(network_of(tiny, folder), execution, None)
    with torch.no_grad():
        torch.testing.assert_close(engine.model(*texts()), expected)
    assert all(is_in_file(parameter.ds_tensor, tmp_path / "nvme") for parameter in engine.model.parameters())
    engine.destroy()


def test_a_disk_without_room_is_an_error_with_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(descriptor: int, first: int, num_bytes: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", refuse)
    with pytest.raises(StoreError) as refused:
        placement.zeros_in_file(torch.ones(4), tmp_path / "nvme")
    assert "execution.nvme_folder" in refused.value.message and "store" not in refused.value.hint
    assert str(tmp_path / "nvme") in refused.value.message and not list((tmp_path / "nvme").iterdir())
    with pytest.raises(StoreError):
        placement.zeros_in_file(torch.empty(2**50, device="meta"), tmp_path / "nvme")


@pytest.mark.parametrize(
    ("execution", "rule", "remedy"),
    [
        ({"offload_parameters": True, "zero_stage": 2}, "zero_stage is 2", "zero_stage: 3"),
        ({"offload_parameters": True}, "zero_stage is 0", "zero_stage: auto"),
        ({"offload_optimizer": True, "gpus_per_worker": 1}, "zero_stage is 0", "zero_stage: 2"),
        ({"nvme_folder": "/fast"}, "nothing is offloaded", "offload_optimizer: true"),
        ({"nvme_folder": "fast", "offload_optimizer": True}, "nvme_folder = fast", "write /"),
    ],
)
def test_impossible_offload_is_refused(execution: dict[str, Any], rule: str, remedy: str) -> None:
    raw = {"name": "n", "tasks": {"t": {"builtin": "code_continuation"}}, "ladder": {"a": "w2s:small"}}
    with pytest.raises(StudyError) as refused:
        parse_study(raw | {"execution": execution})
    assert rule in refused.value.message and remedy in refused.value.hint
    assert refused.value.exit_code == 2
