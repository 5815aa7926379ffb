"""Whether a stage fits into the memory of the nodes, and which setting would."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from w2s_ray.errors import ResourceError, StudyError
from w2s_ray.planning.memory import available_bytes, check_memory, fit_memory, with_execution
from w2s_ray.planning.nodes import Node
from w2s_ray.spec.chain import ModelShape, PlannedStage, Resolution, ResolvedModel, ResolvedTask
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.stage import Probe
from w2s_ray.training.memory.footprint import FILE_BYTES, footprint
from w2s_ray.training.memory.usage import GIB, device_bytes

SEVEN_B = ResolvedModel(
    revision="one",
    num_parameters=7_600_000_000,
    shape=ModelShape(
        hidden_size=3584,
        num_layers=28,
        inner_size=18944,
        key_size=512,
        vocabulary=152_064,
        activation="silu",
        gated=True,
    ),
)
CONTEXT = 512
"""In tokens; the texts fill it."""


def student(**execution: Any) -> tuple[PlannedStage, Resolution]:
    study = parse_study(
        {
            "name": "sevens",
            "tasks": {"moods": {"files": "unused.jsonl", "text": "text", "label": "label"}},
            "ladder": {"small": "w2s:small", "large": {"model": "some/seven-b", "execution": execution}},
            "optimisation": {"context_tokens": 512, "precision": "bf16"},
            "splits": {"train_examples": 100, "validation_examples": 20},
            "methods": {"naive": {}},
        }
    )
    task = ResolvedTask(fingerprint="0" * 64, num_classes=2, num_test=60)
    small = ResolvedModel(revision="two", num_parameters=400_000)
    resolution = Resolution(tasks={"moods": task}, models={"small": small, "large": SEVEN_B})
    (chain,) = compile_study(study, resolution)
    stage = chain.find("chain", "large")
    assert stage is not None
    return stage, resolution


def gpus(num: int, gib: int = 80) -> list[Node]:
    return [Node(cpus=64, gpus=num, memory_bytes=500 * GIB, gpu_bytes=gib * GIB)]


def test_cpu_workers_share_a_nodes_memory_and_gpu_workers_their_gpu() -> None:
    nodes = [Node(cpus=4, memory_bytes=64 * GIB)]
    one, two = (student(workers=workers)[0].execution for workers in (1, 2))
    first, second = available_bytes(one, nodes), available_bytes(two, nodes)
    assert first is not None and second == first // 2
    assert available_bytes(student(workers=2, gpus_per_worker=1)[0].execution, gpus(2)) == 80 * GIB
    assert available_bytes(student(workers=2, gpus_per_worker=0.5)[0].execution, gpus(1)) == 40 * GIB
    assert available_bytes(one, [Node(cpus=4)]) is None, "memory is unknown"


def test_a_stage_that_fits_is_not_refused() -> None:
    stage, resolution = student(workers=8, gpus_per_worker=1, zero_stage=3)
    check_memory([stage], resolution, gpus(8), lambda _: CONTEXT)


def test_a_stage_that_cannot_fit_is_refused_with_a_setting_that_does() -> None:
    stage, resolution = student(workers=8, gpus_per_worker=1, zero_stage=1)
    with pytest.raises(ResourceError) as refused:
        check_memory([stage], resolution, gpus(8, gib=48), lambda _: CONTEXT)
    error = refused.value
    assert "large" in error.message and "48.0 GiB" in error.message
    zero = int(error.hint.partition("zero_stage=")[2][0])
    check_memory([with_execution(stage, zero_stage=zero)], resolution, gpus(8, gib=48), lambda _: CONTEXT)


def test_auto_recomputes_activations_only_where_the_stage_would_not_fit() -> None:
    stage, resolution = student(workers=8, gpus_per_worker=1, zero_stage=3, tokens_per_micro_batch=32_768)
    roomy = fit_memory(stage, resolution, gpus(8, gib=1000), CONTEXT)
    assert roomy.need is not None and roomy.fits
    assert roomy.stage.execution.activation_checkpointing is False
    tight = fit_memory(stage, resolution, gpus(8, gib=roomy.need.peak // GIB), CONTEXT)
    assert tight.stage.execution.activation_checkpointing is True
    assert tight.need is not None and tight.need.peak < roomy.need.peak
    unknown = fit_memory(stage, resolution, [Node(cpus=64, gpus=8)], CONTEXT)
    assert unknown.stage.execution.activation_checkpointing is False and unknown.fits


def test_a_stage_that_never_fits_is_refused_without_a_setting() -> None:
    stage, resolution = student(workers=1, gpus_per_worker=1)
    with pytest.raises(ResourceError) as refused:
        check_memory([stage], resolution, gpus(1, gib=4), lambda _: CONTEXT)
    assert "execution" not in refused.value.hint


def test_more_workers_are_suggested_where_the_nodes_have_room() -> None:
    stage, resolution = student(workers=1, gpus_per_worker=1)
    with pytest.raises(ResourceError) as refused:
        check_memory([stage], resolution, gpus(8, gib=40), lambda _: CONTEXT)
    assert "workers=" in refused.value.hint


def test_a_model_of_unknown_shape_is_not_refused() -> None:
    stage, resolution = student(workers=1, gpus_per_worker=1)
    unknown = SEVEN_B.model_copy(update={"shape": None})
    models = {**resolution.models, "large": unknown}
    check_memory([stage], resolution.model_copy(update={"models": models}), gpus(1, gib=1), lambda _: None)


def test_a_probe_frees_its_frozen_model_before_it_trains() -> None:
    stage, resolution = student(workers=2, zero_stage=3)
    probe = stage.model_copy(update={"spec": stage.spec.model_copy(update={"trainable": Probe()})})
    assert SEVEN_B.num_parameters is not None and SEVEN_B.shape is not None
    need = footprint(probe, SEVEN_B.num_parameters, SEVEN_B.shape, CONTEXT)
    weights = 4 * SEVEN_B.num_parameters
    assert need.phases["training"] < GIB < weights // 2 < need.phases["reading"] < need.phases["saving"]
    assert need.phases["saving"] - need.phases["training"] == weights // 2 + FILE_BYTES, "each rank has its share"
    unsharded = footprint(with_execution(probe, zero_stage=2), SEVEN_B.num_parameters, SEVEN_B.shape, CONTEXT)
    assert unsharded.phases["saving"] - unsharded.phases["training"] == weights, "rank 0 loads the model again"
    tight = fit_memory(probe, resolution, [Node(cpus=2, memory_bytes=GIB)], CONTEXT)
    assert not tight.fits and tight.stage.execution.activation_checkpointing is False


@pytest.mark.parametrize(("share", "workers"), [(1.0, 1), (0.5, 2), (0.25, 4), (2.0, 1)])
def test_plan_and_workers_divide_a_gpu_in_the_same_way(
    share: float, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    execution = Execution(gpus_per_worker=share)
    assert execution.workers_per_gpu == workers
    device = SimpleNamespace(total_memory=80 * GIB)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda _: device)
    held = device_bytes(torch.device("cuda"), execution.workers_per_gpu)
    assert held == available_bytes(execution, gpus(2)) == 80 * GIB // workers


def test_fewer_workers_or_files_are_suggested_on_cpus() -> None:
    nodes = [Node(cpus=8, memory_bytes=150 * GIB)]
    stage, resolution = student(workers=8, zero_stage="auto")
    with pytest.raises(ResourceError) as refused:
        check_memory([stage], resolution, nodes, lambda _: CONTEXT)
    fewer = int(refused.value.hint.partition("workers=")[2][0])
    assert 1 <= fewer < 8
    check_memory([with_execution(stage, workers=fewer)], resolution, nodes, lambda _: CONTEXT)
    stage, resolution = student(zero_stage="auto")
    with pytest.raises(ResourceError) as refused:
        check_memory([stage], resolution, [Node(cpus=2, memory_bytes=100 * GIB)], lambda _: CONTEXT)
    assert "nvme_folder=" in refused.value.hint and "offload_optimizer=true" in refused.value.hint


@pytest.mark.parametrize(
    ("execution", "per_parameter"),
    [
        ({"workers": 2, "offload_optimizer": True}, 16),
        ({"workers": 2, "zero_stage": 2, "offload_optimizer": True}, 8),
        ({"workers": 2, "zero_stage": 3, "offload_optimizer": True, "offload_parameters": True}, 12),
        ({"workers": 2, "gpus_per_worker": 1, "zero_stage": 2, "offload_optimizer": True}, 12),
        ({"workers": 2, "gpus_per_worker": 1, "zero_stage": 3, "offload_parameters": True}, 4),
        ({"workers": 2, "zero_stage": "auto"}, None),
    ],
)
def test_the_bytes_of_files_are_counted(execution: dict[str, Any], per_parameter: int | None, tmp_path: Path) -> None:
    stage, resolution = student(nvme_folder=tmp_path, **execution)
    nodes = [Node(cpus=4, gpus=2, memory_bytes=1000 * GIB, gpu_bytes=1000 * GIB)]
    num_bytes = fit_memory(stage, resolution, nodes, CONTEXT).file_bytes
    assert SEVEN_B.num_parameters is not None
    assert num_bytes == (None if per_parameter is None else per_parameter * SEVEN_B.num_parameters)


def test_a_folder_for_files_that_cannot_be_used_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = [Node(cpus=2, memory_bytes=1000 * GIB)]
    taken = tmp_path / "file"
    taken.touch()

    def check(folder: Path, nodes: list[Node] = nodes) -> None:
        stage, resolution = student(nvme_folder=folder, offload_optimizer=True)
        check_memory([stage], resolution, nodes, lambda _: CONTEXT)

    for folder in (taken, taken / "below"):
        with pytest.raises(StudyError, match=r"ladder\.large\.execution\.nvme_folder"):
            check(folder)
    free = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free._replace(free=70 * GIB))
    check(tmp_path / "made" / "later")
    assert not (tmp_path / "made").exists()
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: free._replace(free=50 * GIB))
    with pytest.raises(ResourceError, match=r"50\.0 GiB free"):
        check(tmp_path)
    check(tmp_path, nodes * 2)  # folders of other machines are unknown
