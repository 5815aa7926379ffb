"""The DeepSpeed engine: parameter groups, and sharded models, which give the results of unsharded ones."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from tests.training.conftest import LIMITS, TINY, Moods, Tiny, largest, make_tiny, sharding
from tests.training.processes import run_cases
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import EarlyStopping, Optimisation
from w2s_ray.store.artifacts import SNAPSHOTS
from w2s_ray.training.feed import Examples
from w2s_ray.training.inputs import features
from w2s_ray.training.models.network import Network, load_network, load_tokenizer
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine, _parameter_groups, count_parameters


def test_matrices_decay_and_norms_biases_and_frozen_weights_do_not() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.LayerNorm(4), nn.Linear(4, 2))
    model[2].weight.requires_grad_(False)
    decaying, others = _parameter_groups(model, 0.1)
    assert (decaying["weight_decay"], others["weight_decay"]) == (0.1, 0.0)
    assert [id(each) for each in decaying["params"]] == [id(model[0].weight)]
    assert {id(each) for each in others["params"]} == {
        id(each) for each in (model[0].bias, *model[1].parameters(), model[2].bias)
    }


def test_where_nothing_is_left_to_decay_there_is_no_empty_group() -> None:
    groups = _parameter_groups(nn.LayerNorm(4), 0.1)
    assert [group["weight_decay"] for group in groups] == [0.0]
    assert all(torch.is_tensor(each) for each in groups[0]["params"])


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
def test_every_limit_lies_below_the_size_of_the_model_it_is_for(tiny: Tiny, alone: Workers, name: str) -> None:
    with sharding(name):
        size = count_parameters(network_of(tiny, tiny.store.root.parent / "large").parameters())
    assert largest(LIMITS[name]) < size


@pytest.mark.parametrize("name", [name for name in LIMITS if name not in TINY])
def test_every_limit_lies_below_the_size_of_the_built_in_large_model(name: str) -> None:
    from w2s_ray.training.models.catalogue import LADDER
    from w2s_ray.training.models.files import num_parameters, weight_files

    assert largest(LIMITS[name]) < num_parameters(weight_files(LADDER / "large"))


@pytest.mark.parametrize(("name", "expected"), [("ahead", {"INFLIGHT"}), ("bare", set())])
def test_weights_are_released_and_fetched_ahead_only_where_the_limits_say_so(
    tiny: Tiny, alone: Workers, name: str, expected: set[str]
) -> None:
    with sharding(name):
        engine = Engine(network_of(tiny, tiny.store.root.parent / "large"), WIDE, Optimisation())
        for _ in range(3):  # DeepSpeed fetches ahead once it has recorded a whole step
            engine.backward(engine(*texts()).sum(), is_last=True)
            engine.step(1e-4)
        with torch.no_grad():
            for _ in range(2):
                engine.model(*texts())
        found = statuses(engine)
        engine.destroy()
    assert "NOT_AVAILABLE" in found and found & {"INFLIGHT"} == expected


def test_weights_are_whole_after_a_forward_pass_that_left_fetches_under_way(tiny: Tiny, alone: Workers) -> None:
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
        weights = engine.state_dict()
        engine.destroy()
    assert weights is not None
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
    for use in (lambda: None, lambda: engine.save(tmp_path, "one"), lambda: engine.restore(tmp_path, "one")):
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
    assert all(not hasattr(one, "fp32_partitioned_groups_flat") for one in optimizers)
    engine.destroy()


def test_features_are_those_of_a_model_in_one_piece(tiny: Tiny, alone: Workers) -> None:
    folder = tiny.store.root.parent / "large"
    examples = Examples(tokens=[np.arange(2, 2 + length, dtype=np.int32) for length in (3, 9, 5, 12, 7)])
    plain = features(examples, folder, 0, Execution(), alone)
    for name in TINY:
        with sharding(name):
            np.testing.assert_allclose(features(examples, folder, 0, WIDE, alone), plain, atol=1e-6)


def whole_life(tiny: Tiny, folder: Path, name: str) -> dict[str, np.ndarray]:
    """Train, stop and go on, evaluate, stop early, keep ages and predict on two workers; return all figures."""
    floor, student = tiny.chain(zero_stage=3, workers=2).stages[:2]
    settings = student.spec.optimisation.model_copy(
        update={"early_stopping": EarlyStopping(every_steps=2, patience=2), "keep_at": (0.2,), "epochs": 2.0}
    )
    student = student.model_copy(update={"spec": student.spec.model_copy(update={"optimisation": settings})})
    predicts = tuple(one.model_copy(update={"stage": student.identity}) for one in student.predicts)
    student = student.model_copy(update={"predicts": predicts})
    cases = {f"floor@{name}": floor.model_dump_json(), f"student@{name}": student.model_dump_json()}
    losses = run_cases(cases, tiny.store.root, 2, folder, reset=False, stop_at=3)
    return {"losses": np.array(losses[f"student@{name}"])} | figures_of(tiny, student)


def figures_of(tiny: Tiny, stage: PlannedStage) -> dict[str, np.ndarray]:
    record = tiny.store.find(stage.identity)
    assert record is not None
    folder = tiny.store.verify(record)
    found = {"best step": np.array(record.metrics["best_step"])}
    for place, prediction in enumerate(stage.predicts):
        found[f"prediction {place}"] = tiny.store.read_predictions(prediction.identity).probs_NC
    from safetensors.numpy import load_file

    for kept in ("model", f"{SNAPSHOTS}/0.2"):
        weights = load_file(folder / kept / "model.safetensors")
        found |= {f"{kept} {key}": weights[key] for key in sorted(weights)[:4]}
    assert json.loads((folder / "model" / "config.json").read_text())["architectures"]
    return found


def test_a_stages_whole_life_has_the_same_figures_under_any_limits(tmp_path: Path) -> None:
    plain = whole_life(make_tiny(tmp_path / "plain", Moods()), tmp_path, "")
    (tmp_path / "meeting2").unlink()
    found = whole_life(make_tiny(tmp_path / "ahead", Moods()), tmp_path, "ahead")
    assert found.keys() == plain.keys()
    for key, value in plain.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-4, atol=1e-6, err_msg=key)


@pytest.mark.soak
def test_the_built_in_large_models_whole_life_has_the_same_figures_under_limits_of_1e6_and_1e5(tmp_path: Path) -> None:
    found = {}
    for name in ("", "million", "tenth of a million"):
        ladder = {"small": "w2s:small", "large": "w2s:large"}
        tiny = make_tiny(tmp_path / f"store{name}", Moods(), ladder=ladder, optimisation={"examples_per_step": 16})
        found[name] = whole_life(tiny, tmp_path, name)
        (tmp_path / "meeting2").unlink()
    plain = found.pop("")
    for name, figures in found.items():
        # Adam amplifies rounding in the weights, so only losses and predictions are compared.
        for key in (key for key in plain if not key.startswith(("model", SNAPSHOTS))):
            np.testing.assert_allclose(figures[key], plain[key], rtol=1e-3, atol=1e-5, err_msg=f"{name}: {key}")
