"""Stages whose model scores completions: what they predict is what the documented formula gives for their model."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel

from tests.training.conftest import Onlooker, Prompted, Tiny, make_tiny
from w2s_ray.data.splits import rows_of_split
from w2s_ray.errors import DataError, StoreError
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.store.predictions import read, write
from w2s_ray.training.stage import run_stage
from w2s_ray.training.workers import Workers

DPO = {"kind": "likelihood", "beta": 0.3, "normalise": False, "reference": True}
PMI = {"kind": "likelihood", "calibrate": True, "cue": "\nMood:"}


@pytest.fixture
def pairs(tmp_path: Path) -> Tiny:
    methods = {
        "simpo": {"arms": ["chain", "zero_shot"], "score": {"kind": "likelihood", "beta": 2.0}},
        "calibrated": {"arms": ["ceiling"], "score": {"kind": "likelihood", "calibrate": True}},
        "dpo": {
            "arms": ["chain", "zero_shot"],
            "score": DPO,
            "losses": {"large": {"kind": "confidence"}},
            "generative": {"large": {"examples_per_step": 16, "context_tokens": 32}},
        },
    }
    return make_tiny(tmp_path, Prompted(), methods=methods)


@pytest.fixture
def names(tmp_path: Path) -> Tiny:
    methods = {
        "names": {"arms": ["ceiling"], "score": PMI, "trainable": {"large": {"kind": "lora", "rank": 2}}},
        "asked": {"arms": ["ceiling"], "score": PMI, "trainable": {"large": {"kind": "prompt", "num_shots": 2}}},
    }
    return make_tiny(tmp_path, methods=methods, optimisation={"context_tokens": 64, "examples_per_step": 16})


def run(tiny: Tiny, workers: Workers, method: str, arm: str, level: str = "large") -> PlannedStage:
    """Run the stages of a method up to the last one of an arm and level, and return that one."""
    chain = tiny.chain(method)
    stage = chain.find(arm, level)  # type: ignore[arg-type]
    assert stage is not None
    needed = {stage.identity} | stage.requires
    for other in reversed(chain.stages):
        if other.products & needed:
            needed |= other.requires
    for other in chain.stages:
        if other.products & needed:
            run_stage(other, store=tiny.store, workers=workers, observer=Onlooker())
    return stage


def model_of(tiny: Tiny, stage: PlannedStage) -> PreTrainedModel:
    record = tiny.store.find(stage.identity)
    assert record is not None
    return AutoModelForCausalLM.from_pretrained(tiny.store.verify(record) / "model").eval()


@torch.no_grad()
def scores_of(
    model: PreTrainedModel, prompt: list[int], completions: list[list[int]], *, normalise: bool = True
) -> torch.Tensor:
    """The formula of docs/methods.md: the mean or sum of the log-probabilities of each completion's tokens."""
    scores = []
    for completion in completions:
        logs_TV = model(torch.tensor([prompt + completion])).logits[0].log_softmax(-1)
        tokens = range(len(prompt), len(prompt) + len(completion))
        logs = torch.stack([logs_TV[place - 1, (prompt + completion)[place]] for place in tokens])
        scores.append(logs.mean() if normalise else logs.sum())
    return torch.stack(scores)


def pairs_of(tiny: Tiny, stage: PlannedStage) -> list[tuple[list[int], list[list[int]]]]:
    """Prompt and completions of each test example: they part where a text first differs from its prompt."""
    assert stage.test_prediction is not None
    tokenizer = AutoTokenizer.from_pretrained(tiny.study.ladder[stage.level].model)
    rows_N = rows_of_split(tiny.prepared, stage.test_prediction.split)
    columns = (tiny.prepared.prompts(rows_N), tiny.prepared.texts(rows_N), tiny.prepared.others(rows_N))
    examples = []
    for texts in zip(*columns, strict=True):
        prompt, *both = (tokenizer.encode(text, add_special_tokens=False) for text in texts)
        shared = 0
        while shared < len(prompt) and all(text[shared] == prompt[shared] for text in both):
            shared += 1
        examples.append((prompt[:shared], [text[shared:] for text in both]))
    return examples


def predicted(tiny: Tiny, stage: PlannedStage) -> np.ndarray:
    assert stage.test_prediction is not None
    return tiny.store.read_predictions(stage.test_prediction.identity).probs_NC


def test_a_model_trained_by_likelihood_predicts_by_the_formula(pairs: Tiny, alone: Workers) -> None:
    stage = run(pairs, alone, "simpo", "chain")
    model = model_of(pairs, stage)
    wanted = [2.0 * scores_of(model, *example) for example in pairs_of(pairs, stage)]
    np.testing.assert_allclose(predicted(pairs, stage), torch.stack(wanted).softmax(-1), atol=1e-5)


def test_a_calibrated_model_predicts_by_the_formula(pairs: Tiny, alone: Workers) -> None:
    stage = run(pairs, alone, "calibrated", "ceiling")
    model = model_of(pairs, stage)
    nothing = [AutoTokenizer.from_pretrained(pairs.study.ladder["large"].model).eos_token_id]
    wanted = [
        scores_of(model, prompt, ends) - scores_of(model, nothing, ends) for prompt, ends in pairs_of(pairs, stage)
    ]
    np.testing.assert_allclose(predicted(pairs, stage), torch.stack(wanted).softmax(-1), atol=1e-5)


def test_dpo_compares_with_the_model_that_the_stage_starts_from(pairs: Tiny, alone: Workers) -> None:
    stage = run(pairs, alone, "dpo", "chain")
    start = pairs.chain("dpo").find("generative", "large")
    assert start is not None
    model, before = model_of(pairs, stage), model_of(pairs, start)
    wanted = [
        0.3 * (scores_of(model, *example, normalise=False) - scores_of(before, *example, normalise=False))
        for example in pairs_of(pairs, stage)
    ]
    np.testing.assert_allclose(predicted(pairs, stage), torch.stack(wanted).softmax(-1), atol=1e-5)
    record = pairs.store.find(stage.identity)
    assert record is not None
    lines = map(json.loads, (pairs.store.verify(record) / "metrics.jsonl").read_text().splitlines())
    first = next(line["loss"] for line in lines if "loss" in line)
    assert first == pytest.approx(np.log(2), abs=1e-6), "it starts from even odds"


def test_class_names_are_scored_after_text_and_cue(names: Tiny, alone: Workers) -> None:
    stage = run(names, alone, "names", "ceiling")
    assert stage.test_prediction is not None and stage.spec.class_names == ("down", "up")
    model = model_of(names, stage)
    tokenizer = AutoTokenizer.from_pretrained(names.study.ladder["large"].model)
    ends = [tokenizer.encode(f" {name}", add_special_tokens=False) for name in ("down", "up")]
    texts = names.prepared.texts(rows_of_split(names.prepared, stage.test_prediction.split))
    alone_C = scores_of(model, tokenizer.encode("\nMood:", add_special_tokens=False), ends)
    wanted = [
        scores_of(model, tokenizer.encode(f"{text}\nMood:", add_special_tokens=False), ends) - alone_C for text in texts
    ]
    np.testing.assert_allclose(predicted(names, stage), torch.stack(wanted).softmax(-1), atol=1e-5)


def test_calibration_of_a_prompt_keeps_its_shots(names: Tiny, alone: Workers) -> None:
    from w2s_ray.training.inputs import StageInputs
    from w2s_ray.training.objectives import ClassObjective

    stage = names.chain("asked").find("ceiling", "large")
    assert stage is not None and stage.spec.shots_recipe == 2
    inputs = StageInputs(stage, names.store, alone)
    objective = ClassObjective(inputs)
    examples, num_shots_N = objective.examples, objective.num_shots_N()
    assert num_shots_N is not None and len(set(num_shots_N.tolist())) > 1
    assert examples.texts_per_example == 4 and examples.first is not None
    assert examples.first.tolist() == [
        len(row) - len(inputs.tokenizer.encode(name, add_special_tokens=False))
        for row, name in zip(examples.tokens, np.repeat([" down", " up"] * 2, len(examples)), strict=True)
    ]
    for row, num_shots in zip(examples.tokens[-len(examples) :], num_shots_N, strict=True):
        text = inputs.tokenizer.decode(row)
        assert text.count("\nMood:") == num_shots + 1 and text.endswith("\nMood: up")


def test_a_completion_longer_than_the_context_stops_a_stage_before_it_trains(pairs: Tiny, alone: Workers) -> None:
    stage = pairs.chain("simpo").stages[0]
    (prediction, *_) = stage.predicts
    short = stage.model_copy(update={"predicts": (prediction.model_copy(update={"context_tokens": 3}),)})
    with pytest.raises(DataError, match="never cut"):
        run_stage(short, store=pairs.store, workers=alone, observer=Onlooker())
    assert pairs.store.find(stage.identity) is None


def test_logarithms_of_probabilities_do_not_underflow(tmp_path: Path) -> None:
    logs_NC = np.array([[0.0, -200.0], [-1e-9, -20.0]], dtype=np.float32)
    write(tmp_path, ["a", "b"], np.exp(logs_NC), logs_NC=logs_NC)
    kept = read(tmp_path)
    assert kept.logs_NC is not None and kept.probs_NC[0, 1] == 0
    np.testing.assert_array_equal(kept.logs_NC, logs_NC)


def test_a_reference_without_logarithms_is_refused(pairs: Tiny, alone: Workers) -> None:
    floor = run(pairs, alone, "dpo", "floor", "small")
    (prediction, *_) = floor.reference_predictions
    record = pairs.store.find(prediction.identity)
    assert record is not None
    folder = pairs.store.verify(record)
    kept = read(folder)
    from w2s_ray.training.inputs import StageInputs
    from w2s_ray.training.objectives import ClassObjective

    assert ClassObjective(StageInputs(floor, pairs.store, alone)).examples.subtracted_NC is not None
    write(folder, kept.ids, kept.probs_NC)
    with pytest.raises(StoreError):
        _ = ClassObjective(StageInputs(floor, pairs.store, alone)).examples
