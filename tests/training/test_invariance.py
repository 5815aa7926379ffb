"""Execution never changes a result: workers, ZeRO stage, micro-batches give the same losses (design: identity)."""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

import numpy as np
import pytest

from tests.training.conftest import TINY, Moods, Pairings, Replies, Tiny, make_tiny
from tests.training.processes import run_cases
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


@dataclass(frozen=True)
class Way:
    """How a stage is executed."""

    workers: int
    zero_stage: int
    tokens: int
    limits: str = ""
    """Of `tests.training.conftest`; none are those that the model's size gives, above which no tiny model is."""
    checkpointing: bool = False

    def __str__(self) -> str:
        recomputed = "-recomputed" if self.checkpointing else ""
        return f"{self.workers}x{self.zero_stage}-{self.tokens}{recomputed}@{self.limits}"

    def of(self, stage: PlannedStage) -> PlannedStage:
        """The stage, executed this way; it predicts nothing."""
        changes = {
            "zero_stage": self.zero_stage,
            "tokens_per_micro_batch": self.tokens,
            "activation_checkpointing": self.checkpointing,
        }
        return stage.model_copy(update={"execution": stage.execution.model_copy(update=changes), "predicts": ()})


REFERENCE = Way(1, 0, ROOMY)
EVERY_WAY = [
    Way(1, 0, TIGHT),
    Way(1, 0, TIGHT, checkpointing=True),
    Way(1, 3, TIGHT, "ahead"),
    *(Way(2, zero, tokens) for zero in (0, 1, 2, 3) for tokens in (ROOMY, TIGHT) if zero or tokens == ROOMY),
    *(Way(2, zero, TIGHT, "ahead") for zero in (1, 2)),
    *(Way(2, 3, ROOMY, limits, checkpointing) for limits in TINY for checkpointing in (False, True)),
    *(Way(2, zero, ROOMY, "", True) for zero in (1, 2, 3)),
]
SOME_WAYS = [Way(1, 0, TIGHT), Way(2, 3, TIGHT, "ahead")]
"""For losses that differ from the first only in what they compute."""
OFFLOADED = (2, 3)
"""ZeRO stages under which the optimizer's state is kept in the host's memory."""
ROUNDING = 1e-7
"""Of numbers near 1 in fp32: a divergence near 0 is the difference of such numbers."""
KINDS = ("pairs", "answers", "text", "probe", "lora")
MORE_WAYS = [*SOME_WAYS, Way(2, 1, TIGHT), Way(2, 3, ROOMY, "ahead", checkpointing=True)]
WAYS = [(label, way) for place, label in enumerate(LABELS) for way in (EVERY_WAY if place < 1 else SOME_WAYS)]
WAYS += [(label, way) for label in KINDS for way in MORE_WAYS]


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


def cases(stages: dict[str, PlannedStage], workers: int) -> dict[str, str]:
    """The stages to be trained on so many workers, by label and execution."""
    wanted = [(label, way) for label, way in WAYS if way.workers == workers]
    if workers == REFERENCE.workers:
        wanted += [(label, REFERENCE) for label in stages]
    found = {f"{label}-{way}": way.of(stages[label]).model_dump_json() for label, way in wanted}
    for zero_stage in OFFLOADED if workers == 2 else ():
        first = stages[LABELS[0]]
        execution = first.execution.model_copy(update={"zero_stage": zero_stage, "offload_optimizer": True})
        stage = first.model_copy(update={"execution": execution, "predicts": ()})
        found[f"offloaded-{zero_stage}"] = stage.model_dump_json()
    return found


@pytest.fixture(scope="module")
def losses(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    folder: Path = tmp_path_factory.mktemp("invariance")
    tiny = make_tiny(folder)
    floor = tiny.chain().stages[0]
    run_cases({"floor": floor.model_dump_json()}, tiny.store.root, 1, folder, reset=False)
    (folder / "meeting1").unlink(missing_ok=True)
    stages = stages_in(folder)
    one = run_cases(cases(stages, 1), tiny.store.root, 1, folder, reset=True)
    return one | run_cases(cases(stages, 2), tiny.store.root, 2, folder, reset=True)


@pytest.mark.parametrize(("label", "way"), WAYS, ids=str)
def test_the_same_stage_gives_the_same_losses_however_it_is_executed(
    losses: dict[str, list[float]], label: str, way: Way
) -> None:
    reference = losses[f"{label}-{REFERENCE}"]
    np.testing.assert_allclose(losses[f"{label}-{way}"], reference, rtol=1e-5, atol=ROUNDING)


@pytest.mark.parametrize("zero_stage", OFFLOADED)
def test_an_optimizer_in_the_hosts_memory_takes_the_same_steps(losses: dict[str, list[float]], zero_stage: int) -> None:
    reference = losses[f"{LABELS[0]}-{REFERENCE}"]
    np.testing.assert_allclose(losses[f"offloaded-{zero_stage}"], reference, rtol=1e-5, atol=ROUNDING)


def test_every_kind_of_loss_is_held_to_this() -> None:
    assert {type(loss) for loss in LOSSES} == set(get_args(get_args(Loss)[0]))


@pytest.mark.parametrize(("one", "other"), itertools.combinations(LABELS, 2))
def test_the_losses_are_told_apart_by_this_test(losses: dict[str, list[float]], one: str, other: str) -> None:
    assert not np.allclose(losses[f"{one}-{REFERENCE}"], losses[f"{other}-{REFERENCE}"], rtol=1e-3)
