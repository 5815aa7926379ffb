"""What a stage starts from: pretrained weights, random weights, or a stage that read the texts of Ti."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.training.conftest import Onlooker, Pairings, Tiny, make_tiny
from w2s_ray.data.splits import rows_of_split
from w2s_ray.errors import DataError, ModelError
from w2s_ray.ladder.tokenizer import FOLDER as TOKENIZER
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import ModelSource, StageSource
from w2s_ray.training.models.loading import load_network, load_tokenizer
from w2s_ray.training.models.network import Network
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers

READING = {"learning_rate": 3e-3, "examples_per_step": 4, "epochs": 2, "context_tokens": 32}
METHODS = {
    "naive": {"arms": ["chain", "ceiling"]},
    "random": {"arms": ["chain", "ceiling"], "random": ["large"]},
    "generative": {"arms": ["chain", "ceiling"], "generative": {"large": READING}},
}


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return make_tiny(tmp_path, methods=METHODS)


def stage_of(tiny: Tiny, method: str, arm: str = "chain", **execution: object) -> PlannedStage:
    stage = tiny.chain(method, **execution).find(arm, "large")  # type: ignore[arg-type]
    assert stage is not None
    return stage


def begun(tiny: Tiny, stage: PlannedStage, folder: Path | None = None) -> Network:
    folder = folder or Path(stage.spec.starts_from.name)
    return load_network(stage.spec, folder, load_tokenizer(folder, None), Execution())


def model_of(tiny: Tiny, stage: PlannedStage) -> Path:
    record = tiny.store.find(stage.identity)
    assert record is not None
    return tiny.store.verify(record) / "model"


def test_local_models_may_move_between_runs(tiny: Tiny, alone: Workers, tmp_path: Path) -> None:
    before = tiny.chain("generative")
    floor, reading = before.stages[0], next(stage for stage in before.stages if stage.arm == "generative")
    for stage in (floor, reading):
        run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    (tmp_path / "elsewhere").mkdir()
    ladder = {}
    for name, level in tiny.study.ladder.items():
        moved = Path(level.model).rename(tmp_path / "elsewhere" / name)
        ladder[name] = level.model_copy(update={"model": str(moved)})
    there = Tiny(tiny.store, tiny.study.model_copy(update={"ladder": ladder}), tiny.prepared)
    after = there.chain("generative")
    assert [stage.identity for stage in after.stages] == [stage.identity for stage in before.stages]
    for stage in after.stages:
        result = run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
        assert result.attempts_trained == (stage.identity not in (floor.identity, reading.identity))
    student = stage_of(there, "naive")
    assert run_stage(student, store=tiny.store, workers=alone, observer=Onlooker()).attempts_trained


def test_random_weights_follow_the_seed_for_students_and_ceilings(tiny: Tiny) -> None:
    student, ceiling = stage_of(tiny, "random"), stage_of(tiny, "random", "ceiling")
    name = "hf.model.layers.0.mlp.up_proj.weight"
    weights = [begun(tiny, stage).state_dict()[name] for stage in (student, ceiling)]
    torch.testing.assert_close(*weights)
    assert not torch.allclose(weights[0], begun(tiny, stage_of(tiny, "naive")).state_dict()[name])
    other = student.model_copy(update={"spec": student.spec.model_copy(update={"init_seed": 5})})
    assert not torch.allclose(weights[0], begun(tiny, other).state_dict()[name])


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_a_student_with_random_weights_trains_and_predicts(tiny: Tiny, alone: Workers, zero_stage: int) -> None:
    stage = stage_of(tiny, "random", "ceiling", zero_stage=zero_stage)
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    assert stage.test_prediction is not None
    assert len(tiny.store.read_predictions(stage.test_prediction.identity).ids) == 60


def test_a_student_starts_from_the_model_that_read_its_texts(tiny: Tiny, alone: Workers) -> None:
    reading = stage_of(tiny, "generative", "generative")
    student, ceiling = stage_of(tiny, "generative"), stage_of(tiny, "generative", "ceiling")
    assert isinstance(student.spec.starts_from, StageSource) and student.spec.starts_from == ceiling.spec.starts_from
    assert student.spec.starts_from.stage == reading.identity and reading.identity in student.requires
    assert reading.spec.train[0].split == student.spec.train[0].split and reading.predicts == ()
    run_stage(reading, store=tiny.store, workers=alone, observer=Onlooker())
    run_stage(ceiling, store=tiny.store, workers=alone, observer=Onlooker())
    read, source = load_file(model_of(tiny, reading) / "model.safetensors"), tiny.study.ladder["large"].model
    name = "model.layers.0.mlp.up_proj.weight"
    assert not torch.allclose(read[name], load_file(Path(source) / "model.safetensors")[name])
    torch.testing.assert_close(begun(tiny, student, model_of(tiny, reading)).state_dict()[f"hf.{name}"], read[name])


def test_reading_learns_texts_without_labels(tiny: Tiny, alone: Workers) -> None:
    reading = stage_of(tiny, "generative", "generative")
    run_stage(reading, store=tiny.store, workers=alone, observer=Onlooker())
    record = tiny.store.find(reading.identity)
    assert record is not None
    tokenizer = load_tokenizer(Path(reading.spec.starts_from.name), None)
    rows = rows_of_split(tiny.prepared, reading.spec.train[0].split)
    lengths = [len(tokenizer.encode(text, add_special_tokens=False)) + 1 for text in tiny.prepared.texts(rows)]
    num_blocks = sum(lengths) // READING["context_tokens"]
    assert record.metrics["train_tokens"] == READING["epochs"] * num_blocks * READING["context_tokens"]


def test_both_texts_of_a_pair_are_read(tmp_path: Path, alone: Workers) -> None:
    pairs = make_tiny(tmp_path, Pairings(), methods=METHODS)
    reading = stage_of(pairs, "generative", "generative")
    run_stage(reading, store=pairs.store, workers=alone, observer=Onlooker())
    record = pairs.store.find(reading.identity)
    tokenizer = load_tokenizer(Path(reading.spec.starts_from.name), None)
    rows = rows_of_split(pairs.prepared, reading.spec.train[0].split)
    texts = [*pairs.prepared.texts(rows), *pairs.prepared.others(rows)]
    total = sum(len(tokenizer.encode(text, add_special_tokens=False)) + 1 for text in texts)
    assert record is not None
    assert record.metrics["train_tokens"] == READING["epochs"] * (total // 32) * 32


def test_too_few_texts_for_one_block_are_an_error(tiny: Tiny, alone: Workers) -> None:
    reading = stage_of(tiny, "generative", "generative")
    longer = reading.spec.optimisation.model_copy(update={"context_tokens": 100_000})
    reading = reading.model_copy(update={"spec": reading.spec.model_copy(update={"optimisation": longer})})
    with pytest.raises(DataError, match="fill no block"):
        run_stage(reading, store=tiny.store, workers=alone, observer=Onlooker())


def test_a_model_without_a_suitable_head_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    folder = tmp_path / "vision"
    ViTForImageClassification(ViTConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1)).save_pretrained(
        folder
    )
    source = ModelSource(name=str(folder), revision="tiny")
    spec = stage_of(tiny, "naive").spec.model_copy(update={"starts_from": source})
    with pytest.raises(ModelError, match="cannot be loaded for classification"):
        load_network(spec, folder, load_tokenizer(TOKENIZER, None), Execution())


def test_only_the_large_model_reads_before_chain_and_ceiling(tiny: Tiny) -> None:
    chain = tiny.chain("generative")
    assert [stage.arm for stage in chain.stages] == ["floor", "generative", "chain", "ceiling"]
    assert np.array_equal([stage.level for stage in chain.stages], ["small", "large", "large", "large"])
