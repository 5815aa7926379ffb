"""From text to published models: pretraining is a stage like any other, and publishing rounds its weights to bf16."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from tests.training.conftest import Onlooker
from tools import publish_ladder as publishing
from w2s_ray.data.prepare import prepare_task
from w2s_ray.errors import StoreError
from w2s_ray.spec.chain import PlannedStage, Resolution, ResolvedModel, ResolvedTask
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.load import load_study
from w2s_ray.store.artifacts import SNAPSHOTS, ArtifactStore
from w2s_ray.tasks.task import SCHEMA, Kind, TaskData
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers

NUM_DOCUMENTS, NUM_HELD_OUT = 120, 10


class Counting:
    """Documents that count upwards, so that the next token is predictable."""

    kind: Kind = "text"

    def fingerprint(self) -> str:
        return "counting"

    def read(self) -> TaskData:
        rows = [
            {
                "id": f"d{number}",
                "text": " ".join(str(count) for count in range(number % 7, number % 7 + 40)),
                "label": 0,
                "group": f"g{number}",
                "origin": "pool" if number < NUM_DOCUMENTS else "test",
            }
            for number in range(NUM_DOCUMENTS + NUM_HELD_OUT)
        ]
        return TaskData(pa.Table.from_pylist(rows, schema=SCHEMA), ("text",))


RAW = {
    "name": "pretrain_tiny",
    "tasks": {"text": {"builtin": "python_source"}},
    "ladder": {
        name: {
            "model": f"w2s:{name}",
            "architecture": {"hidden_size": hidden, "num_layers": 1, "num_heads": 2, "intermediate_size": 2 * hidden},
        }
        for name, hidden in (("small", 16), ("large", 32))
    },
    "optimisation": {"learning_rate": 1e-2, "examples_per_step": 8, "epochs": 2, "context_tokens": 32},
    "methods": {"pretrain": {"objective": "next_token"}},
    "chains": [["small"], ["large"]],
}


class Tiny:
    """The study on disk, its store and its two stages."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "pretrain_tiny.yaml"
        self.file.write_text(yaml.safe_dump(RAW))
        self.store = ArtifactStore(folder / "store")
        self.store.prepare()
        prepared = prepare_task(self.store, "text", Counting(), 0.2)
        task = ResolvedTask(
            fingerprint=prepared.fingerprint,
            num_classes=1,
            num_test=0,
            num_documents=NUM_DOCUMENTS,
            num_held_out=NUM_HELD_OUT,
        )
        models = {name: ResolvedModel(revision="tiny", num_parameters=1) for name in RAW["ladder"]}
        self.resolution = Resolution(tasks={"text": task}, models=models)

    @property
    def stages(self) -> list[PlannedStage]:
        return [chain.stages[0] for chain in compile_study(load_study(self.file), self.resolution)]

    def losses(self, stage: PlannedStage) -> list[float]:
        folder = self.store.folder(stage.spec.slug, stage.identity)
        return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def tiny(tmp_path: Path) -> Tiny:
    return Tiny(tmp_path)


def test_pretraining_learns_resumes_and_reports_its_held_out_loss(tiny: Tiny, alone: Workers, tmp_path: Path) -> None:
    stage = tiny.stages[1]
    assert run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker(stop_at=5)).stopped
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    (tmp_path / "other").mkdir()
    other = Tiny(tmp_path / "other")
    run_stage(stage, store=other.store, workers=alone, observer=Onlooker())
    losses = tiny.losses(stage)
    np.testing.assert_allclose(losses, other.losses(stage), rtol=1e-5)
    assert losses[0] > 7 and losses[-1] < 0.6 * losses[0], "it starts at log(vocabulary) and learns to count"
    record = tiny.store.find(stage.identity)
    assert record is not None
    assert record.metrics["held_out_loss"] == pytest.approx(losses[-1], rel=0.25)
    model = AutoModelForCausalLM.from_pretrained(tiny.store.verify(record) / "model", dtype=torch.float32)
    assert model.config.tie_word_embeddings and model.config.hidden_size == 32


def test_snapshots_are_kept_at_the_named_shares_also_after_a_resume(tiny: Tiny, alone: Workers, tmp_path: Path) -> None:
    stage = tiny.stages[1]
    settings = stage.spec.optimisation.model_copy(update={"keep_at": (0.1, 0.6)})
    stage = stage.model_copy(update={"spec": stage.spec.model_copy(update={"optimisation": settings})})
    assert run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker(stop_at=8)).stopped
    run_stage(stage, store=tiny.store, workers=alone, observer=Onlooker())
    (tmp_path / "other").mkdir()
    other = Tiny(tmp_path / "other")
    run_stage(stage, store=other.store, workers=alone, observer=Onlooker())
    name, weights = "model.layers.0.mlp.up_proj.weight", {}
    for store in (tiny.store, other.store):
        record = store.find(stage.identity)
        assert record is not None
        folder = store.verify(record)
        assert sorted(path.name for path in (folder / SNAPSHOTS).iterdir()) == ["0.1", "0.6"]
        weights[store] = [
            AutoModelForCausalLM.from_pretrained(folder / name_).state_dict()[name]
            for name_ in ("ages/0.1", "ages/0.6", "model")
        ]
    for resumed, whole in zip(*weights.values(), strict=True):
        torch.testing.assert_close(resumed, whole)
    first, second, last = weights[tiny.store]
    assert not torch.allclose(first, second) and not torch.allclose(second, last)


def test_a_complete_ladder_is_published_in_bf16_with_a_model_card(
    tiny: Tiny, alone: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publishing, "resolve", lambda *_: tiny.resolution)  # the real text takes a minute to prepare
    ladder = tmp_path / "ladder"
    ladder.mkdir()
    small, large = tiny.stages
    run_stage(small, store=tiny.store, workers=alone, observer=Onlooker())
    with pytest.raises(StoreError, match="large is not trained"):
        publishing.publish(tiny.file, tiny.store, ladder)
    run_stage(large, store=tiny.store, workers=alone, observer=Onlooker())
    publishing.publish(tiny.file, tiny.store, ladder)
    for stage in (small, large):
        record = tiny.store.find(stage.identity)
        assert record is not None
        trained = load_file(tiny.store.verify(record) / "model" / "model.safetensors")
        published = load_file(ladder / stage.level / "model.safetensors")
        assert {tensor.dtype for tensor in published.values()} == {torch.bfloat16}
        for name, tensor in trained.items():
            torch.testing.assert_close(published[name].float(), tensor, rtol=2**-8, atol=0)
        assert stage.identity[:12] in (ladder / "MODEL_CARD.md").read_text()
