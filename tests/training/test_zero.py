"""The DeepSpeed engine: parameter groups, and sharded models, which give the results of unsharded ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.conftest import LIMITS, TINY, Moods, Onlooker, Tiny, largest, make_tiny, sharding
from tests.training.processes import run_cases
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import EarlyStopping, Optimisation
from w2s_ray.store.artifacts import SNAPSHOTS, ArtifactStore
from w2s_ray.training.checkpoints import Checkpoints
from w2s_ray.training.engine_config import engine_config
from w2s_ray.training.feed import Examples
from w2s_ray.training.inputs import features
from w2s_ray.training.models.loading import load_network, load_tokenizer
from w2s_ray.training.models.network import Network
from w2s_ray.training.progress import TrainState
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine, _parameter_groups, count_parameters


def test_matrices_decay_and_norms_biases_and_frozen_weights_do_not() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[2].weight.requires_grad_(False)
    decaying, others = _parameter_groups(model, 0.1)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert [id(weight) for weight in decaying["params"]] == [id(model[0].weight)]
    assert {id(weight) for weight in others["params"]} == {
        id(weight) for weight in (model[0].bias, *model[1].parameters(), model[2].bias)
    }


def test_a_model_without_matrices_has_no_empty_parameter_group() -> None:
    groups = _parameter_groups(nn.LayerNorm(4), 0.1)
    assert [group["weight_decay"] for group in groups] == [0.0]
    assert all(torch.is_tensor(weight) for weight in groups[0]["params"])


WIDE = Execution(zero_stage=3)


def network_of(tiny: Tiny, folder: Path) -> Network:
    stage = tiny.chain(zero_stage=3).find("ceiling", "large")
    assert stage is not None
    return load_network(stage.spec, folder, load_tokenizer(folder, None), WIDE)


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randint(2, 100, (4, 12), generator=torch.Generator().manual_seed(0)), torch.full((4,), 11)


def statuses(engine: Engine) -> set[str]:
    return {parameter.ds_status.name for parameter in engine.model.parameters()}


@pytest.mark.parametrize("name", TINY)
def test_limits_are_below_the_size_of_the_tiny_model(tiny: Tiny, alone: Workers, name: str) -> None:
    with sharding(name):
        size = count_parameters(network_of(tiny, tiny.store.root.parent / "large").parameters())
    assert largest(LIMITS[name]) < size


@pytest.mark.parametrize("name", [name for name in LIMITS if name not in TINY])
def test_limits_are_below_the_size_of_the_built_in_large_model(name: str) -> None:
    from w2s_ray.training.models.catalogue import LADDER
    from w2s_ray.training.models.files import num_parameters, weight_files

    assert largest(LIMITS[name]) < num_parameters(weight_files(LADDER / "large"))


@pytest.mark.parametrize(("name", "expected"), [("ahead", {"INFLIGHT"}), ("bare", set())])
def test_weights_are_released_and_prefetched_according_to_the_limits(
    tiny: Tiny, alone: Workers, name: str, expected: set[str]
) -> None:
    with sharding(name):
        engine = Engine(network_of(tiny, tiny.store.root.parent / "large"), WIDE, Optimisation())
        for _ in range(3):  # DeepSpeed prefetches once it has recorded a complete step
            engine.backward(engine(*texts()).sum(), is_last=True)
            engine.step(1e-4)
        with torch.no_grad():
            for _ in range(2):
                engine.model(*texts())
        states = statuses(engine)
        engine.destroy()
    assert "NOT_AVAILABLE" in states and states & {"INFLIGHT"} == expected


def test_weights_are_complete_after_a_forward_pass_with_pending_fetches(tiny: Tiny, alone: Workers) -> None:
    plain = dict(network_of(tiny, tiny.store.root.parent / "large").hf.named_parameters())
    with sharding("ahead"):
        engine = Engine(network_of(tiny, tiny.store.root.parent / "large"), WIDE, Optimisation())
        for _ in range(3):
            engine.backward(engine(*texts()).sum() * 0, is_last=True)
            engine.step(0.0)
        with torch.no_grad():
            for _ in range(2):
                engine.model(*texts())
        assert "INFLIGHT" in statuses(engine)
        weights = engine.gather(engine.saved_bytes, keeps=True)
        engine.destroy()
    for name, parameter in plain.items():
        assert weights[f"hf.{name}"].shape == parameter.ds_shape


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_no_second_copy_of_the_weights_is_kept(tiny: Tiny, alone: Workers, zero_stage: int, tmp_path: Path) -> None:
    execution = Execution(zero_stage=zero_stage)
    stage = tiny.chain(zero_stage=zero_stage).find("ceiling", "large")
    assert stage is not None
    folder = tiny.store.root.parent / "large"
    network = load_network(stage.spec, folder, load_tokenizer(folder, None), execution)
    engine = Engine(network, execution, Optimisation())
    optimizer = engine._engine.optimizer
    if zero_stage == 3:
        masters, weights = optimizer.fp32_partitioned_groups_flat, optimizer.fp16_partitioned_groups_flat
    else:
        masters = optimizer.single_partition_of_fp32_groups
        weights = [shards[0] for shards in optimizer.parallel_partitioned_bit16_groups]
    checkpoints = Checkpoints(tmp_path, alone)
    for use in (
        lambda: None,
        lambda: checkpoints.save(engine, TrainState(step=1)),
        lambda: checkpoints.restore(engine),
    ):
        use()
        assert [master.data_ptr() for master in masters] == [weight.data_ptr() for weight in weights]
    engine.destroy()


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_a_model_that_only_predicts_has_no_optimizer(tiny: Tiny, alone: Workers, zero_stage: int) -> None:
    stage = tiny.chain(zero_stage=zero_stage).find("ceiling", "large")
    assert stage is not None
    folder = tiny.store.root.parent / "large"
    execution = Execution(zero_stage=zero_stage)
    engine = Engine(load_network(stage.spec, folder, load_tokenizer(folder, None), execution), execution, None)
    with torch.no_grad():
        assert engine.model(*texts()).shape == (4, 2)
    optimizers = [] if engine._engine is None else [engine._engine.optimizer]
    assert all(not hasattr(optimizer, "fp32_partitioned_groups_flat") for optimizer in optimizers)
    engine.destroy()


def test_features_of_a_sharded_model_equal_those_of_a_plain_one(tiny: Tiny, alone: Workers) -> None:
    folder = tiny.store.root.parent / "large"
    examples = Examples(tokens=[np.arange(2, 2 + length, dtype=np.int32) for length in (3, 9, 5, 12, 7)])
    plain = features(examples, folder, 0, Execution(), alone)
    for name in TINY:
        with sharding(name):
            np.testing.assert_allclose(features(examples, folder, 0, WIDE, alone), plain, atol=1e-6)


SHARED_KEYS = {
    "reduce_bucket_size": 3_000,
    "allgather_bucket_size": 3_000,
    "reduce_scatter": False,
    "allgather_partitions": False,
    "use_multi_rank_bucket_allreduce": False,
    "enable_sanity_checks": True,
}
ZERO_3_KEYS = {
    "sub_group_size": 2_000,
    "stage3_prefetch_bucket_size": 100,
    "stage3_param_persistence_threshold": 50,
    "stage3_max_live_parameters": 300,
    "stage3_max_reuse_distance": 100,
    "stage3_use_all_reduce_for_fetch_params": True,
    "stage3_module_granularity_threshold": 10,
    "log_trace_cache_warnings": True,
}


@pytest.mark.parametrize("zero_stage", [2, 3])
def test_raw_keys_of_deepspeed_are_merged_last_and_change_no_loss(
    tiny: Tiny, alone: Workers, zero_stage: int, tmp_path: Path
) -> None:
    raw = {"zero_optimization": SHARED_KEYS | (ZERO_3_KEYS if zero_stage == 3 else {}), "steps_per_print": 7}
    execution = Execution(zero_stage=zero_stage, deepspeed=raw)
    config = engine_config(execution, 1.0, LIMITS["ahead"])
    assert config["steps_per_print"] == 7 and config["zero_optimization"]["reduce_bucket_size"] == 3_000
    assert config["zero_optimization"]["stage"] == zero_stage
    losses = []
    for changes in ({}, {"deepspeed": execution.deepspeed}):
        stage = tiny.chain(zero_stage=zero_stage, **changes).stages[0].model_copy(update={"predicts": ()})
        onlooker = Onlooker()
        run_stage(stage, store=ArtifactStore(tiny.store.root), workers=alone, observer=onlooker)
        losses.append([point.values["loss"] for point in onlooker.points if "loss" in point.values])
        record = tiny.store.find(stage.identity)
        assert record is not None
        (tiny.store.verify(record) / "record.json").unlink()
    assert losses[0]
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-5)


def results_of_a_stage(tiny: Tiny, folder: Path, name: str) -> dict[str, np.ndarray]:
    """Train, stop, resume, validate, stop early, keep snapshots and predict on two workers; return all results."""
    floor, student = tiny.chain(zero_stage=3, workers=2).stages[:2]
    settings = student.spec.optimisation.model_copy(
        update={"early_stopping": EarlyStopping(every_steps=2, patience=2), "keep_at": (0.2,), "epochs": 2.0}
    )
    student = student.model_copy(update={"spec": student.spec.model_copy(update={"optimisation": settings})})
    predicts = tuple(spec.model_copy(update={"stage": student.identity}) for spec in student.predicts)
    student = student.model_copy(update={"predicts": predicts})
    cases = {f"floor@{name}": floor.model_dump_json(), f"student@{name}": student.model_dump_json()}
    losses = run_cases(cases, tiny.store.root, 2, folder, reset=False, stop_at=3)
    return {"losses": np.array(losses[f"student@{name}"])} | stored_results(tiny, student)


def stored_results(tiny: Tiny, stage: PlannedStage) -> dict[str, np.ndarray]:
    record = tiny.store.find(stage.identity)
    assert record is not None
    folder = tiny.store.verify(record)
    results = {"best step": np.array(record.metrics["best_step"])}
    for place, prediction in enumerate(stage.predicts):
        results[f"prediction {place}"] = tiny.store.read_predictions(prediction.identity).probs_NC
    from safetensors.numpy import load_file

    for kept in ("model", f"{SNAPSHOTS}/0.2"):
        weights = load_file(folder / kept / "model.safetensors")
        results |= {f"{kept} {key}": weights[key] for key in sorted(weights)[:4]}
    assert json.loads((folder / "model" / "config.json").read_text())["architectures"]
    return results


@pytest.mark.soak
def test_a_sharded_stage_gives_the_same_results_under_any_limits(tmp_path: Path) -> None:
    plain = results_of_a_stage(make_tiny(tmp_path / "plain", Moods()), tmp_path, "")
    (tmp_path / "meeting2").unlink()
    results = results_of_a_stage(make_tiny(tmp_path / "ahead", Moods()), tmp_path, "ahead")
    assert results.keys() == plain.keys()
    for key, value in plain.items():
        np.testing.assert_allclose(results[key], value, rtol=1e-4, atol=1e-6, err_msg=key)


@pytest.mark.soak
def test_the_large_model_gives_the_same_results_under_small_limits(tmp_path: Path) -> None:
    results = {}
    for name in ("", "million", "tenth of a million"):
        ladder = {"small": "w2s:small", "large": "w2s:large"}
        tiny = make_tiny(tmp_path / f"store{name}", Moods(), ladder=ladder, optimisation={"examples_per_step": 16})
        results[name] = results_of_a_stage(tiny, tmp_path, name)
        (tmp_path / "meeting2").unlink()
    plain = results.pop("")
    for name, others in results.items():
        # Adam amplifies rounding in the weights, so only losses and predictions are compared.
        for key in (key for key in plain if not key.startswith(("model", SNAPSHOTS))):
            np.testing.assert_allclose(others[key], plain[key], rtol=1e-3, atol=1e-5, err_msg=f"{name}: {key}")
