"""One code path for every architecture: ZeRO-3 on two workers learns what one unsharded worker does, and exports it."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.training.conftest import Moods, Onlooker, Pairings, Tiny, make_tiny
from tests.training.model_folders import VOCABULARY, exported, own_tokenizer, write_model
from tests.training.processes import run_cases
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import ModelSource
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.tasks.task import Task
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers

DECODERS = ("gpt2", "gpt_neox", "llama", "mistral", "qwen2", "qwen3", "gemma2", "gemma3_text", "phi", "olmo", "olmo2")
ENCODERS = ("bert", "roberta", "deberta_v2", "modernbert")
WAYS = ("classes", "pairs", "next token", "LoRA")
Case = tuple[str, str]
"""An architecture and a way of using it."""
CASES: list[Case] = [
    (name, way) for name in (*DECODERS, *ENCODERS) for way in WAYS if name in DECODERS or way != "next token"
]
FAST = [
    *((name, WAYS[place % len(WAYS)]) for place, name in enumerate(DECODERS)),
    ("bert", "LoRA"),
    ("roberta", "classes"),
    ("deberta_v2", "pairs"),
    ("modernbert", "classes"),
]
"""One way for each architecture; the long test takes all of them."""
SHARDED = Execution(workers=2, zero_stage=3)
MOST = 1e-5
"""Largest difference between losses, relative, and between outputs."""
PAGE = Path(__file__).parents[3] / "docs" / "models.md"
METHODS: dict[str, object] = {
    "naive": {"arms": ["ceiling"]},
    "lora": {"arms": ["ceiling"], "trainable": {"large": {"kind": "lora", "rank": 2}}},
    "read": {"arms": ["ceiling"], "generative": {"large": {"context_tokens": 32, "examples_per_step": 16}}},
}


class Way(NamedTuple):
    """A planned stage of a task's study, whose model is replaced."""

    tiny: Tiny
    stage: PlannedStage

    def of(self, folder: Path, execution: Execution) -> PlannedStage:
        spec = self.stage.spec.model_copy(update={"starts_from": ModelSource(name=str(folder), revision=folder.name)})
        test = self.stage.test_prediction
        predicts = () if test is None else (test.model_copy(update={"stage": spec.identity}),)
        return self.stage.model_copy(update={"spec": spec, "predicts": predicts, "execution": execution})


def ways_in(folder: Path) -> dict[str, Way]:
    def way(task: Task, method: str, arm: str = "ceiling") -> Way:
        tiny = make_tiny(
            folder,
            task,
            methods=METHODS,
            optimisation={"context_tokens": 32, "learning_rate": 1e-3, "examples_per_step": 16},
            splits={"train_examples": 48, "validation_examples": 16},
        )
        stage = tiny.chain(method).find(arm, "large")  # type: ignore[arg-type]
        assert stage is not None
        return Way(tiny, stage)

    return {
        "classes": way(Moods(), "naive"),
        "pairs": way(Pairings(), "naive"),
        "next token": way(Moods(), "read", "generative"),
        "LoRA": way(Moods(), "lora"),
    }


def differences(cases: list[Case], folder: Path, workers: Workers) -> dict[Case, tuple[float, float]]:
    """Train each case unsharded and sharded; return the largest relative difference of losses, and that of outputs."""
    ways = ways_in(folder)
    for name in {name for name, _ in cases}:
        write_model(folder / name, name, own_tokenizer(name))
    unsharded, losses = ways["classes"].tiny.store, {}
    for name, way in cases:
        stage = ways[way].of(folder / name, Execution())
        run_stage(stage, store=unsharded, workers=workers, observer=Onlooker())
        lines = (_model(unsharded, stage).parent / "metrics.jsonl").read_text().splitlines()
        losses[name, way] = [line["loss"] for line in map(json.loads, lines) if "loss" in line]
    sharded = ArtifactStore(folder / "sharded")
    sharded.root.mkdir()
    (sharded.root / "data").symlink_to(unsharded.root / "data")
    planned = {case: ways[case[1]].of(folder / case[0], SHARDED) for case in cases}
    texts = {f"{name} {way}@bare": stage.model_dump_json() for (name, way), stage in planned.items()}
    sharded_losses = run_cases(texts, sharded.root, 2, folder, reset=False)
    made = {}
    for (name, way), expected in losses.items():
        actual = sharded_losses[f"{name} {way}@bare"]
        assert len(actual) == len(expected) >= 2
        difference = float(np.max(np.abs(np.subtract(actual, expected)) / np.abs(expected)))
        stage = planned[name, way]
        models = [_model(store, stage) for store in (sharded, unsharded)]
        if stage.test_prediction is None:
            outputs = _next_tokens(models[0]), _next_tokens(models[1])
        else:
            plain = exported((ways[way].tiny, stage), models[0], 8)
            outputs = plain, sharded.read_predictions(stage.test_prediction.identity).probs_NC
        made[name, way] = difference, float(np.max(np.abs(outputs[0] - outputs[1])))
    return made


def _model(store: ArtifactStore, stage: PlannedStage) -> Path:
    record = store.find(stage.identity)
    assert record is not None
    return store.verify(record) / "model"


def _next_tokens(folder: Path) -> np.ndarray:
    """The next tokens' probabilities after some tokens, by an exported language model."""
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    tokens_RT = torch.randint(10, VOCABULARY, (3, 24), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return np.asarray(model.eval()(input_ids=tokens_RT).logits.softmax(dim=-1))


def cells_of(found: dict[Case, tuple[float, float]]) -> dict[str, list[str]]:
    """The cells of docs/models.md by architecture; those of cases that were not tried are empty."""
    cells: dict[str, list[str]] = {}
    for name in dict.fromkeys(name for name, _ in found):
        own = [found.get((name, way)) for way in WAYS]
        known = [
            "–" if (name, way) not in CASES else "" if values is None else "yes" if max(values) <= MOST else "no"
            for way, values in zip(WAYS, own, strict=True)
        ]
        largest = max(values[0] for values in own if values is not None)
        cells[name] = [*known, "≤ 1e-5" if largest <= MOST else f"{largest:.0e}"]
    return cells


def documented() -> dict[str, list[str]]:
    """The cells of the table in docs/models.md by architecture."""
    _, _, after = PAGE.read_text(encoding="utf-8").partition("| architecture | classes | pairs |")
    rows = [line.strip("| ").split(" | ") for line in after.partition("\n\n")[0].splitlines()[2:]]
    return {name: cells for name, *cells in rows}


def test_each_architecture_learns_sharded_what_it_learns_unsharded(alone: Workers, tmp_path: Path) -> None:
    found = differences(FAST, tmp_path, alone)
    print(found)
    assert {case: values for case, values in found.items() if max(values) > MOST} == {}
    assert list(documented()) == [*DECODERS, *ENCODERS]
    for name, cells in cells_of(found).items():
        expected = [cell or shown for cell, shown in zip(cells, documented()[name], strict=True)]
        assert documented()[name] == expected


@pytest.mark.soak
def test_the_docs_have_every_architecture_in_every_way(alone: Workers, tmp_path: Path) -> None:
    found = differences(CASES, tmp_path, alone)
    header = f"| architecture | {' | '.join(WAYS)} | ZeRO-3 on 2 workers |\n| --- | --- | --- | --- | --- | --- |\n"
    made = cells_of(found)
    text = header + "".join(f"| {name} | {' | '.join(cells)} |\n" for name, cells in made.items())
    print({case: values for case, values in found.items() if max(values) > MOST / 10})
    assert made == documented(), f"docs/models.md needs this table:\n{text}"
