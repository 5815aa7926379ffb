"""Stages that run out of memory, and what their next attempts do."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.training.conftest import Onlooker, Tiny, make_tiny
from w2s_ray.errors import OutOfMemory, TrainingError
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.micro_batches import FOLDER
from w2s_ray.training import feed, stage
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine

MORE_THAN_THERE_IS = 2**50


class Device:
    """Allows micro-batches of this many tokens; larger ones run into an allocation that really fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tokens: int) -> None:
        self.tokens, self.largest = tokens, 0
        forward = Engine.__call__

        def limited(engine: Engine, tokens_RT: torch.Tensor, last_R: torch.Tensor) -> torch.Tensor:
            if tokens_RT.numel() > self.tokens:
                torch.empty(MORE_THAN_THERE_IS)
            self.largest = max(self.largest, tokens_RT.numel())
            return forward(engine, tokens_RT, last_R)

        monkeypatch.setattr(Engine, "__call__", limited)


def floor_of(tiny: Tiny, **execution: object) -> PlannedStage:
    return tiny.chain(**execution).stages[0]


def losses_of(store: ArtifactStore, stage: PlannedStage) -> list[float]:
    record = store.find(stage.identity)
    assert record is not None
    lines = (store.verify(record) / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


def until_it_fits(tiny: Tiny, stage: PlannedStage, workers: Workers) -> int:
    """Run a stage until it fits; return how often it ran out of memory."""
    for num_refusals in range(20):
        try:
            run_stage(stage, store=tiny.store, workers=workers, observer=Onlooker())
        except OutOfMemory:
            continue
        return num_refusals
    raise AssertionError("it never fitted")


def test_after_out_of_memory_smaller_micro_batches_give_the_same_losses(
    tiny: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    other = make_tiny(tmp_path / "other")
    undisturbed = floor_of(other)
    run_stage(undisturbed, store=other.store, workers=alone, observer=Onlooker())
    device = Device(monkeypatch, 60)
    stage = floor_of(tiny, checkpoint_every_seconds=0.0)
    assert until_it_fits(tiny, stage, alone) >= 2
    assert device.largest <= 60
    np.testing.assert_allclose(losses_of(tiny.store, stage), losses_of(other.store, undisturbed), rtol=1e-5)
    (limit,) = (tiny.store.root / FOLDER).iterdir()
    assert json.loads(limit.read_text())["tokens"] <= 60


def test_a_similar_stage_starts_with_the_size_that_fitted(
    tiny: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    Device(monkeypatch, 60)
    stage = floor_of(tiny)
    until_it_fits(tiny, stage, alone)
    again = stage.model_copy(update={"spec": stage.spec.model_copy(update={"order_seed": 7}), "predicts": ()})
    assert until_it_fits(tiny, again, alone) == 0


def test_a_single_text_that_does_not_fit_fails_with_the_devices_memory(
    tiny: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    Device(monkeypatch, 1)
    with pytest.raises(TrainingError) as failed:
        until_it_fits(tiny, floor_of(tiny), alone)
    assert not isinstance(failed.value, OutOfMemory)
    assert "GiB" in failed.value.message


def test_predictions_that_run_out_of_memory_use_smaller_micro_batches(
    tiny: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = floor_of(tiny)
    bare = trained.model_copy(update={"predicts": ()})
    run_stage(bare, store=tiny.store, workers=alone, observer=Onlooker())
    sweep = feed.Feeder.sweep
    refused: list[int] = []

    def tight(feeder: feed.Feeder[feed.Examples], examples_per_group: int = 512) -> Iterator[feed.MicroBatch]:
        for batch in sweep(feeder, examples_per_group):
            if len(batch.positions) > 3:
                refused.append(len(batch.positions))
                torch.empty(MORE_THAN_THERE_IS)
            yield batch

    monkeypatch.setattr(feed.Feeder, "sweep", tight)
    assert until_it_fits(tiny, trained, alone) == len(refused) > 1
    assert all(tiny.store.find(prediction.identity) is not None for prediction in trained.predicts)


def test_other_errors_pass_through_unchanged(tiny: Tiny, alone: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "load_network", lambda *arguments: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run_stage(floor_of(tiny), store=tiny.store, workers=alone, observer=Onlooker())
