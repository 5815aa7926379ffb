"""What `auto` chooses: the cheapest settings in time that fit, the same in the plan and in the workers."""

from pathlib import Path
from typing import Any

import pytest

from tests.planning.test_memory import CONTEXT, SEVEN_B, gpus, student
from tests.training.conftest import Onlooker, Tiny
from w2s_ray.errors import StudyError
from w2s_ray.planning.memory import fit_memory
from w2s_ray.planning.nodes import Node
from w2s_ray.spec.execution import Execution, ExecutionSpec
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.stage import Probe, Prompt
from w2s_ray.training.memory import fit
from w2s_ray.training.memory.footprint import Footprint
from w2s_ray.training.memory.settle import settle
from w2s_ray.training.memory.usage import GIB
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers

AUTO = {"workers": 8, "gpus_per_worker": 1, "zero_stage": "auto"}


def tried(**execution: Any) -> list[Execution]:
    """All settings in their order, those of a model that never fits."""
    stage, _ = student(**execution)
    needs: list[Footprint] = []
    settings = []
    while True:
        needs.clear()
        settled, _ = settle(
            stage,
            SEVEN_B.num_parameters,
            SEVEN_B.shape,
            CONTEXT,
            lambda need: needs.append(need) or len(needs) <= len(settings),
        )
        if settled.execution in settings:
            return settings
        settings.append(settled.execution)


def summary(settings: list[Execution]) -> list[tuple[int, bool, bool]]:
    return [
        (execution.zero_stage, execution.activation_checkpointing, execution.offload_optimizer)
        for execution in settings
    ]


def test_settings_are_tried_in_the_order_of_their_cost_in_time() -> None:
    assert summary(tried(**AUTO)) == [
        *((zero, False, False) for zero in range(4)),
        *((zero, True, False) for zero in range(4)),
        *((zero, recomputes, True) for recomputes in (False, True) for zero in (2, 3)),
        (3, False, True),
        (3, True, True),
    ]
    last = tried(**AUTO)[-3:]
    assert [execution.offload_parameters for execution in last] == [False, True, True]
    assert summary(tried(workers=2, zero_stage="auto")) == [
        (zero, on, False) for on in (False, True) for zero in range(4)
    ]
    assert summary(tried(zero_stage="auto")) == [(0, False, False), (0, True, False)], "nothing to shard"


@pytest.mark.parametrize("recomputes", [True, False])
def test_keys_with_a_value_of_their_own_keep_it(recomputes: bool) -> None:
    settings = tried(**AUTO, activation_checkpointing=recomputes)
    assert {execution.activation_checkpointing for execution in settings} == {recomputes}
    assert summary(tried(workers=8, zero_stage=1)) == [(1, False, False), (1, True, False)]
    assert {execution.offload_optimizer for execution in tried(**AUTO, offload_optimizer=True)} == {True}


def test_the_first_setting_that_fits_is_taken_and_memory_falls_with_the_gpu() -> None:
    stage, resolution = student(**AUTO)
    stages = []
    for gib in (1000, 100, 80, 60, 40, 30, 24, 16):
        fitted = fit_memory(stage, resolution, gpus(8, gib=gib), CONTEXT)
        if fitted.fits:
            assert fitted.need is not None and fitted.need.peak <= gib * GIB
        stages.append(fitted.stage.execution.zero_stage)
    assert stages[0] == 0 and stages == sorted(stages) and stages[-1] == 3


def test_the_optimizer_state_is_offloaded_only_where_the_host_has_room() -> None:
    stage, resolution = student(workers=1, gpus_per_worker=1, zero_stage="auto")
    roomy = [Node(cpus=64, gpus=8, memory_bytes=500 * GIB, gpu_bytes=80 * GIB)]
    fitted = fit_memory(stage, resolution, roomy, CONTEXT)
    assert fitted.fits and fitted.stage.execution.offload_optimizer
    small = [Node(cpus=64, gpus=8, memory_bytes=64 * GIB, gpu_bytes=80 * GIB)]
    assert not fit_memory(stage, resolution, small, CONTEXT).fits


def test_where_little_is_known_everything_is_sharded() -> None:
    stage, resolution = student(**AUTO)
    nothing, need = settle(stage, SEVEN_B.num_parameters, None, CONTEXT, lambda _: True)
    assert need is None
    assert summary([nothing.execution]) == [(3, False, False)]
    elsewhere = fit_memory(stage, resolution, [Node(cpus=2)], CONTEXT)
    assert elsewhere.fits and elsewhere.stage.execution.zero_stage == 3, "the memory is unknown"


def test_a_probe_has_no_activations_to_recompute() -> None:
    stage, _ = student(**AUTO)
    probe = stage.model_copy(update={"spec": stage.spec.model_copy(update={"trainable": Probe()})})
    settled, _ = settle(probe, SEVEN_B.num_parameters, SEVEN_B.shape, CONTEXT, lambda _: True)
    assert summary([settled.execution]) == [(3, False, False)]


def test_auto_is_outside_of_identities_and_of_the_groups_shape() -> None:
    plain, _ = student(workers=8)
    automatic, _ = student(workers=8, zero_stage="auto")
    assert plain.identity == automatic.identity
    assert plain.execution.group_shape == automatic.execution.group_shape
    assert ExecutionSpec().zero_stage == 0


def test_another_word_is_refused() -> None:
    raw = {"name": "n", "tasks": {"t": {"builtin": "code_continuation"}}, "ladder": {"a": "w2s:small"}}
    with pytest.raises(StudyError) as refused:
        parse_study(raw | {"execution": {"zero_stage": "automatic"}})
    assert "auto" in refused.value.message and "zero_stage" in refused.value.message


def test_a_worker_chooses_for_its_memory_and_logs_it(
    tiny: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = tiny.chain(zero_stage="auto").stages[0]
    monkeypatch.setattr(fit, "device_bytes", lambda device, num_here: 1)
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    assert "auto chose ZeRO-0, activations recomputed" in capsys.readouterr().out
    assert tiny.store.find(stage.identity) is not None


def test_several_workers_shard_what_does_not_fit(tiny: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = tiny.chain(zero_stage="auto", workers=2).stages[0]
    seen: list[Execution] = []
    monkeypatch.setattr(fit, "device_bytes", lambda device, num_here: 1)
    engine = run_stage.__globals__["Engine"]

    def watched(network: Any, execution: Execution, optimisation: Any) -> Any:
        seen.append(execution)
        return engine(network, execution, optimisation)

    monkeypatch.setitem(run_stage.__globals__, "Engine", watched)
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    assert {(execution.zero_stage, execution.activation_checkpointing) for execution in seen} == {(3, True)}


def test_cpu_workers_offload_only_into_files(tmp_path: Path) -> None:
    in_files = {"zero_stage": "auto", "nvme_folder": tmp_path}
    weights = [(3, False, True), (3, True, True)]
    assert summary(tried(**in_files)) == [
        (0, False, False),
        (0, False, True),
        (0, True, False),
        (0, True, True),
        *weights,
    ], "a CPU is slower than a disk"
    several = [(zero, recomputes, False) for recomputes in (False, True) for zero in range(4)]
    files = [(zero, recomputes, True) for recomputes in (False, True) for zero in (1, 2, 3)]
    assert summary(tried(workers=2, **in_files)) == [*several[:4], *files[:3], *several[4:], *files[3:], *weights]
    assert summary(tried(**in_files, offload_optimizer=True))[:2] == [(0, False, True), (0, True, True)]
    no_disk = tried(zero_stage="auto", offload_optimizer=True)
    assert {execution.zero_stage for execution in no_disk} == {0}, "nothing is moved"
    stage, resolution = student(workers=1, **in_files)
    nodes = [Node(cpus=2, memory_bytes=180 * GIB)]
    kept = fit_memory(stage, resolution, nodes, CONTEXT)
    assert kept.fits and not kept.stage.execution.offload_optimizer
    nodes = [Node(cpus=2, memory_bytes=110 * GIB)]
    moved = fit_memory(stage, resolution, nodes, CONTEXT)
    assert moved.fits and moved.stage.execution.offload_optimizer and not moved.stage.execution.offload_parameters
    assert "in files" in moved.stage.execution.memory_settings


def test_a_prompted_model_offloads_its_weights() -> None:
    stage, resolution = student(workers=2, gpus_per_worker=1, zero_stage="auto", tokens_per_micro_batch=1024)
    prompted = stage.model_copy(update={"spec": stage.spec.model_copy(update={"trainable": Prompt()})})
    tight = fit_memory(prompted, resolution, gpus(2, gib=24), CONTEXT)
    assert tight.fits and tight.stage.execution.offload_parameters and not tight.stage.execution.offload_optimizer
