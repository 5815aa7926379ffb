"""Optimizer steps: learning rate, resuming, early stopping, reports, and losses that are not finite."""

import json
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training.conftest import Onlooker, Tiny
from w2s_ray.data.splits import rows_of_split
from w2s_ray.errors import TrainingError
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.stage import EarlyStopping, Optimisation
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.training import loop, losses
from w2s_ray.training.checkpoints import Checkpoints
from w2s_ray.training.loop import learning_rate_at
from w2s_ray.training.losses import soft_cross_entropy
from w2s_ray.training.models.network import Network
from w2s_ray.training.objectives import AGREEMENT, ClassObjective
from w2s_ray.training.progress import TrainState
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine


@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_the_learning_rate_warms_up_linearly_and_decays_as_a_cosine(floor: float) -> None:
    optimisation = Optimisation(learning_rate=2e-3, warmup_fraction=0.2, final_lr_fraction=floor)
    rates = [learning_rate_at(optimisation, step, 50) for step in range(51)]
    np.testing.assert_allclose(rates[:10], 2e-4 * np.arange(1, 11))
    assert rates[10] == pytest.approx(2e-3)
    assert rates[30] == pytest.approx(2e-3 * (1 + floor) / 2), "half of the decay after half of the steps"
    assert rates[50] == pytest.approx(2e-3 * floor)
    assert np.all(np.diff(rates[10:]) < 0)


def test_without_warm_up_the_first_step_has_the_full_rate() -> None:
    assert learning_rate_at(Optimisation(learning_rate=1e-3, warmup_fraction=0), 0, 10) == pytest.approx(1e-3)


def floor_of(tiny: Tiny, **execution: object) -> PlannedStage:
    return tiny.chain(**execution).stages[0]


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_stopped_stage_resumes_and_ends_as_if_it_had_not_stopped(
    tiny: Tiny, alone: Workers, zero_stage: int, tmp_path: Path
) -> None:
    stage = floor_of(tiny, zero_stage=zero_stage)
    stopped = run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker(stop_at=3))
    assert stopped.stopped and tiny.store.find(stage.identity) is None
    onlooker = Onlooker()
    run_stage(stage, store=tiny.store, workers=alone, observer=onlooker)
    trained = [point.step for point in onlooker.points if point.activity == "training"]
    assert min(trained) == 4, "it must resume after the third step"
    saved = {point.saved_step for point in onlooker.points if point.activity == "training"}
    assert saved == {3}, "and reports the step that another attempt would resume from"
    other = ArtifactStore(tmp_path / "other")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "data").symlink_to(tiny.store.root / "data")
    run_stage(stage, store=other, workers=alone, observer=Onlooker())
    test = stage.test_prediction
    assert test is not None
    resumed, whole = tiny.store.read_predictions(test.identity), other.read_predictions(test.identity)
    np.testing.assert_allclose(np.log(resumed.probs_NC), np.log(whole.probs_NC), atol=1e-6)
    record = tiny.store.find(stage.identity)
    assert record is not None
    steps = [
        json.loads(line)["step"] for line in (tiny.store.verify(record) / "metrics.jsonl").read_text().splitlines()
    ]
    assert steps == list(range(1, 8))


def by_another_run(tiny: Tiny, stage: PlannedStage) -> None:
    """Start and finish the stage, as another run that gets its lease does."""
    folder = tiny.store.begin("stage", stage.spec.slug, stage.identity)
    (folder / "model").mkdir()
    (folder / "model" / "weights").write_text("the other run's")
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 1.0}\n')
    tiny.store.commit(
        kind="stage",
        slug=stage.spec.slug,
        spec=stage.spec,
        identity=stage.identity,
        parents=(),
        metrics={},
        attempt=tiny.store.last_attempt(stage.spec.slug, stage.identity),
    )


@pytest.mark.parametrize(("seconds", "checkpoint_seconds"), [(0.0, None), (3600.0, 0.0)])
def test_a_stage_that_another_run_has_started_stops_and_writes_nothing(
    tiny: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch, seconds: float, checkpoint_seconds: float | None
) -> None:
    monkeypatch.setattr(loop, "_SECONDS_BETWEEN_LOOKS", seconds)
    stage = floor_of(tiny, checkpoint_every_seconds=checkpoint_seconds)

    class Suspended(Onlooker):
        def should_stop(self) -> bool:
            stop = super().should_stop()
            if self._polls == 3:
                by_another_run(tiny, stage)
            return stop

    onlooker = Suspended(stop_at=3)
    result = run_stage(stage, store=tiny.store, workers=alone, observer=onlooker)
    assert result.stopped, "so the dispatcher looks for the other run's stage"
    assert [point.step for point in onlooker.points if point.activity == "training"] == [1]
    record = tiny.store.find(stage.identity)
    assert record is not None and "model/weights" in record.files
    folder = tiny.store.verify(record)
    assert not (folder / "checkpoints").exists()
    assert all(tiny.store.find(prediction.identity) is None for prediction in stage.predicts)


def test_a_stage_finished_by_another_run_is_not_overwritten(
    tiny: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage, check = floor_of(tiny), ClassObjective.validate

    def slow(objective: ClassObjective, network: Network) -> dict[str, float]:
        by_another_run(tiny, stage)
        return check(objective, network)

    monkeypatch.setattr(ClassObjective, "validate", slow)
    assert run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker()).stopped
    record = tiny.store.find(stage.identity)
    assert record is not None and record.metrics == {}
    folder = tiny.store.verify(record)
    assert (folder / "model" / "weights").read_text() == "the other run's"
    assert not (folder / "model" / "model.safetensors").exists()


def test_a_loss_that_is_not_finite_names_step_and_examples(
    tiny: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []

    def poisoned(logits_BC: torch.Tensor, target_BC: torch.Tensor) -> torch.Tensor:
        batches.append(len(logits_BC))
        return soft_cross_entropy(logits_BC, target_BC) * (torch.nan if len(batches) == 5 else 1.0)

    monkeypatch.setattr(losses, "soft_cross_entropy", poisoned)
    stage = floor_of(tiny, tokens_per_micro_batch=128)
    with pytest.raises(TrainingError) as caught:
        run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    assert "learning_rate" in caught.value.hint and "nan at step " in caught.value.message
    named = caught.value.message.partition("examples ")[2].partition(" and ")[0].split(", ")
    assert named and set(named) <= set(tiny.prepared.ids(rows_of_split(tiny.prepared, stage.spec.train[0].split)))
    assert len(named) == min(5, batches[4]) < 16, "of one micro-batch"
    assert tiny.store.find(stage.identity) is None


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_gradients_that_are_not_finite_are_an_error_under_every_zero_stage(
    tiny: Tiny, alone: Workers, zero_stage: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def poisoned(logits_BC: torch.Tensor, target_BC: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 3:
            logits_BC.register_hook(lambda gradient: gradient * torch.nan)
        return soft_cross_entropy(logits_BC, target_BC)

    monkeypatch.setattr(losses, "soft_cross_entropy", poisoned)
    stage = floor_of(tiny, zero_stage=zero_stage)
    with pytest.raises(TrainingError, match="gradient norm"):
        run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    assert tiny.store.find(stage.identity) is None


def test_early_stopping_keeps_the_weights_that_agree_best_with_the_weak_labels(tiny: Tiny, alone: Workers) -> None:
    rule = {"every_steps": 1, "patience": 2}
    ladder = {
        name: level.model_copy(
            update={
                "optimisation": type(level.optimisation).model_validate(
                    {**level.optimisation.model_dump(), "early_stopping": rule, "epochs": 4}
                )
            }
        )
        for name, level in tiny.study.ladder.items()
    }
    patient = Tiny(tiny.store, tiny.study.model_copy(update={"ladder": ladder}), tiny.prepared)
    for stage in patient.chain().stages[:2]:
        run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
        record = tiny.store.find(stage.identity)
        assert record is not None
        lines = (tiny.store.verify(record) / "metrics.jsonl").read_text().splitlines()
        seen = {
            line["step"]: line["validation_agreement"]
            for line in map(json.loads, lines)
            if "validation_agreement" in line
        }
        best = max(seen.values())
        assert record.metrics["validation_agreement"] == pytest.approx(best)
        assert record.metrics["best_step"] == min(step for step, value in seen.items() if value == best)
        assert record.metrics["num_steps"] <= record.metrics["best_step"] + 2


def test_validation_reports_are_evenly_spaced_and_change_no_result(tiny: Tiny, alone: Workers, tmp_path: Path) -> None:
    quiet = Tiny(ArtifactStore(tmp_path / "quiet"), tiny.study, tiny.prepared)
    quiet.store.prepare()
    (quiet.store.root / "data").rmdir()
    (quiet.store.root / "data").symlink_to(tiny.store.root / "data")
    floor, student = tiny.chain().stages[:2]
    all_losses = []
    for each, num_reports in ((tiny, 3), (quiet, 0)):
        run_stage(floor, store=each.store, workers=alone, observer=Onlooker())
        onlooker = Onlooker()
        asked = student.model_copy(update={"num_reports": num_reports})
        run_stage(asked, store=each.store, workers=alone, observer=onlooker)
        reports = [point for point in onlooker.points if point.report]
        assert [(point.step, point.report) for point in reports] == [(3, 1), (5, 2), (7, 3)][:num_reports]
        for point in reports:
            assert set(point.values) == {"validation_agreement", "validation_accuracy"}
        record = each.store.find(student.identity)
        assert record is not None
        lines = map(json.loads, (each.store.verify(record) / "metrics.jsonl").read_text().splitlines())
        all_losses.append([line["loss"] for line in lines])
    assert all_losses[0] == all_losses[1]


def test_trap_5_steps_are_taken_in_training_mode_one_graph_at_a_time(
    tiny: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    graphs: list[weakref.ref[torch.Tensor]] = []
    alive: list[int] = []
    modes: list[bool] = []
    forward = Engine.__call__

    def watched(engine: Engine, tokens_BT: torch.Tensor, last_B: torch.Tensor) -> torch.Tensor:
        alive.append(sum(graph() is not None for graph in graphs))
        modes.append(engine.model.training)
        return forward(engine, tokens_BT, last_B)

    def remembered(logits_BC: torch.Tensor, target_BC: torch.Tensor) -> torch.Tensor:
        loss = soft_cross_entropy(logits_BC, target_BC)
        graphs.append(weakref.ref(loss))
        return loss

    monkeypatch.setattr(Engine, "__call__", watched)
    monkeypatch.setattr(losses, "soft_cross_entropy", remembered)
    run_stage(floor_of(tiny, tokens_per_micro_batch=64), store=tiny.store, workers=alone, observer=Onlooker())
    assert len(modes) > 20 and all(modes)
    assert max(alive) <= 1, "only the previous loss may still be alive"


@pytest.mark.parametrize(("zero_stage", "checkpoint_seconds"), [(1, 3600), (3, 0)])
def test_early_stopping_restores_the_best_weights_and_deletes_others(
    tiny: Tiny, alone: Workers, zero_stage: int, checkpoint_seconds: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreements = iter([0.5, 0.9, 0.4, 0.3, 0.9])
    monkeypatch.setattr(ClassObjective, "validate", lambda *_: {AGREEMENT: next(agreements)})
    best: dict[str, torch.Tensor] = {}
    save_best = Checkpoints.save_best

    def remember(checkpoints: Checkpoints, engine: Engine, state: TrainState) -> None:
        save_best(checkpoints, engine, state)
        weights = engine.gather(engine.saved_bytes, keeps=True)
        best.update({name: tensor.clone() for name, tensor in weights.items()})
        promised = {f"best{state.step - 1}"} if checkpoint_seconds == 0 and state.step > 1 else set()
        assert {folder.name for folder in checkpoints.folder.glob("best*")} == {f"best{state.step}"} | promised

    monkeypatch.setattr(Checkpoints, "save_best", remember)
    stage = floor_of(tiny, zero_stage=zero_stage, checkpoint_every_seconds=checkpoint_seconds)
    rule = EarlyStopping(every_steps=1, patience=2)
    settings = stage.spec.optimisation.model_copy(update={"early_stopping": rule})
    stage = stage.model_copy(update={"spec": stage.spec.model_copy(update={"optimisation": settings})})
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    record = tiny.store.find(stage.identity)
    assert record is not None and record.metrics["best_step"] == 2 and record.metrics["num_steps"] == 4
    kept = load_file(tiny.store.verify(record) / "model" / "model.safetensors")
    assert kept
    for name, tensor in kept.items():
        torch.testing.assert_close(tensor, best[f"hf.{name}"], rtol=0, atol=0)
