"""Execution never changes a result: workers, ZeRO stage, micro-batches give the same losses (design: identity)."""

import itertools
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from tests.training.conftest import Moods, Pairings, Replies, Tiny, make_tiny
from tests.training.group import run_cases
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.losses import ConfidenceLoss, EntropyLoss, HardLoss, KLLoss, Loss, NaiveLoss, ProductLoss, WindowLoss
from w2s_ray.spec.method import Arm

ROOMY, TIGHT = 100_000, 64
LOSSES: tuple[Loss, ...] = (
    NaiveLoss(),
    ConfidenceLoss(alpha_max=0.75),
    HardLoss(),
    ConfidenceLoss(alpha_max=0.75, schedule="openai", prior="batch", balance_labels=True),
    EntropyLoss(),
    ProductLoss(),
    WindowLoss(radius=0.05),
    KLLoss(direction="reverse"),
)
LABELS = [loss.label for loss in LOSSES]
ONE_WORKER = [(0, ROOMY), (0, TIGHT)]
TWO_WORKERS = [(0, ROOMY), (1, ROOMY), (2, ROOMY), (3, ROOMY), (1, TIGHT), (2, TIGHT), (3, TIGHT)]
EVERY_WAY = [("1", *shape) for shape in ONE_WORKER[1:]] + [("2", *shape) for shape in TWO_WORKERS]
SOME_WAYS = [("1", 0, TIGHT), ("2", 3, TIGHT)]
"""For losses that differ from the first only in what they compute."""
OFFLOADED = (2, 3)
"""ZeRO stages under which the optimizer's state is kept in the host's memory."""
ROUNDING = 1e-7
"""Of numbers near 1 in fp32: a divergence near 0 is the difference of such numbers."""
KINDS = ("pairs", "answers", "text", "probe", "lora")
WAYS = [(label, *way) for place, label in enumerate(LABELS) for way in (EVERY_WAY if place < 1 else SOME_WAYS)]
WAYS += [(label, *way) for label in KINDS for way in (*SOME_WAYS, ("2", 1, TIGHT))]


def stage_of(tiny: Tiny, arm: Arm, method: str = "naive") -> PlannedStage:
    stage = tiny.chain(method).find(arm, "large")
    assert stage is not None
    return stage


def stages_in(folder: Path) -> dict[str, PlannedStage]:
    """A student for each loss, and a ceiling for all else that may be learnt or trained, by label; in one store."""
    student = stage_of(make_tiny(folder), "chain")
    found = {
        loss.label: student.model_copy(update={"spec": student.spec.model_copy(update={"loss": loss})})
        for loss in LOSSES
    }
    reading = {"examples_per_step": 4, "context_tokens": 32}
    methods = {
        "naive": {"arms": ["ceiling"]},
        "text": {"arms": ["ceiling"], "generative": {"large": reading}},
        "probe": {"arms": ["ceiling"], "trainable": {"large": {"kind": "probe"}}},
        "lora": {"arms": ["ceiling"], "trainable": {"large": {"kind": "lora", "rank": 2}}},
    }
    moods, pairs, answers = (make_tiny(folder, task, methods=methods) for task in (Moods(), Pairings(), Replies()))
    found |= {"pairs": stage_of(pairs, "ceiling"), "answers": stage_of(answers, "ceiling")}
    found |= {"text": stage_of(moods, "generative", "text")}
    return found | {part: stage_of(moods, "ceiling", part) for part in ("probe", "lora")}


def cases(stages: dict[str, PlannedStage], workers: str) -> dict[str, str]:
    """The stages to be trained on so many workers, by label and execution."""
    wanted = [(label, zero, tokens) for label, by, zero, tokens in WAYS if by == workers]
    if workers == "1":
        wanted += [(label, 0, ROOMY) for label in stages]
    found = {}
    for label, zero_stage, tokens in wanted:
        stage = stages[label]
        execution = stage.execution.model_copy(update={"zero_stage": zero_stage, "tokens_per_micro_batch": tokens})
        stage = stage.model_copy(update={"execution": execution, "predicts": ()})
        found[f"{label}-{zero_stage}-{tokens}"] = stage.model_dump_json()
    for zero_stage in OFFLOADED if workers == "2" else ():
        first = stages[LABELS[0]]
        execution = first.execution.model_copy(update={"zero_stage": zero_stage, "offload_optimizer": True})
        stage = first.model_copy(update={"execution": execution, "predicts": ()})
        found[f"offloaded-{zero_stage}"] = stage.model_dump_json()
    return found


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, list[float]]]:
    folder: Path = tmp_path_factory.mktemp("invariance")
    tiny = make_tiny(folder)
    floor = tiny.chain().stages[0]
    run_cases({"floor": floor.model_dump_json()}, tiny.store.root, 1, folder, reset=False)
    (folder / "meeting1").unlink(missing_ok=True)
    stages = stages_in(folder)
    one = run_cases(cases(stages, "1"), tiny.store.root, 1, folder, reset=True)
    two = run_cases(cases(stages, "2"), tiny.store.root, 2, folder, reset=True)
    return {"1": one, "2": two}


@pytest.mark.parametrize(("label", "workers", "zero_stage", "tokens"), WAYS)
def test_the_same_stage_gives_the_same_losses_however_it_is_executed(
    losses: dict[str, dict[str, list[float]]], label: str, workers: str, zero_stage: int, tokens: int
) -> None:
    reference = losses["1"][f"{label}-0-{ROOMY}"]
    found = losses[workers][f"{label}-{zero_stage}-{tokens}"]
    np.testing.assert_allclose(found, reference, rtol=1e-5, atol=ROUNDING)


@pytest.mark.parametrize("zero_stage", OFFLOADED)
def test_an_optimizer_in_the_hosts_memory_takes_the_same_steps(
    losses: dict[str, dict[str, list[float]]], zero_stage: int
) -> None:
    reference = losses["1"][f"{LABELS[0]}-0-{ROOMY}"]
    np.testing.assert_allclose(losses["2"][f"offloaded-{zero_stage}"], reference, rtol=1e-5, atol=ROUNDING)


def test_every_kind_of_loss_is_held_to_this() -> None:
    assert {type(loss) for loss in LOSSES} == set(get_args(get_args(Loss)[0]))


@pytest.mark.parametrize(("one", "other"), itertools.combinations(LABELS, 2))
def test_the_losses_are_told_apart_by_this_test(
    losses: dict[str, dict[str, list[float]]], one: str, other: str
) -> None:
    assert not np.allclose(losses["1"][f"{one}-0-{ROOMY}"], losses["1"][f"{other}-0-{ROOMY}"], rtol=1e-3)
