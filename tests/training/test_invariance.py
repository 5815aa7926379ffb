"""Execution never changes a result: workers, ZeRO stage, micro-batches give the same losses (design: identity).

Cases that repeat another one's way of execution for another loss or objective are soaks.
"""

import itertools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tests.training.conftest import Moods, Pairings, Prompted, Replies, Tiny, make_tiny
from tests.training.processes import run_cases
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.losses import LOSSES as ALL_LOSSES
from w2s_ray.spec.losses import ConfidenceLoss, EntropyLoss, HardLoss, KLLoss, Loss, NaiveLoss, ProductLoss, WindowLoss
from w2s_ray.spec.study import Arm

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
class Run:
    """How a stage is executed."""

    workers: int
    zero_stage: int
    tokens: int
    limits: str = ""
    """A key of `tests.training.conftest.LIMITS`; empty for limits by size, which shard no tiny model."""
    checkpointing: bool = False
    attention: str = "auto"

    def __str__(self) -> str:
        recomputed = "-recomputed" if self.checkpointing else ""
        packed = f"-{self.attention}" if self.attention != "auto" else ""
        return f"{self.workers}x{self.zero_stage}-{self.tokens}{recomputed}{packed}@{self.limits}"

    def of(self, stage: PlannedStage) -> PlannedStage:
        """The stage, executed in this way; it predicts nothing."""
        changes = {
            "zero_stage": self.zero_stage,
            "tokens_per_micro_batch": self.tokens,
            "activation_checkpointing": self.checkpointing,
            "attention": self.attention,
        }
        return stage.model_copy(update={"execution": stage.execution.model_copy(update=changes), "predicts": ()})


REFERENCE = Run(1, 0, ROOMY)
ALL_RUNS = [
    Run(1, 0, TIGHT),
    Run(1, 0, TIGHT, checkpointing=True),
    Run(1, 3, TIGHT, "ahead"),
    *(Run(2, zero, ROOMY) for zero in (0, 1, 2, 3)),
    *(Run(2, zero, TIGHT, "ahead") for zero in (1, 2)),
    *(Run(2, 3, ROOMY, "ahead", checkpointing) for checkpointing in (False, True)),
    Run(2, 3, ROOMY, "bare", True),
]
LONG_RUNS = [
    *(Run(2, zero, TIGHT) for zero in (1, 2, 3)),
    Run(2, 3, ROOMY, "bare"),
    *(Run(2, zero, ROOMY, "", True) for zero in (1, 2, 3)),
]
SOME_RUNS = [Run(1, 0, TIGHT), Run(2, 3, TIGHT, "ahead")]
"""Enough for losses that differ from the first only in their formula."""
OFFLOADED = (2, 3)
"""ZeRO stages tested with an offloaded optimizer."""
ROUNDING = 1e-7
"""Rounding of numbers near 1 in fp32; a divergence near 0 is the difference of such numbers."""
KINDS = ("pairs", "answers", "text", "lora")
SCORES: dict[str, object] = {
    "likelihood": {"kind": "likelihood", "beta": 2.0},
    "dpo": {"kind": "likelihood", "beta": 0.3, "normalise": False, "reference": True},
    "calibrated": {"kind": "likelihood", "calibrate": True},
}
"""Scores of pairs, by label."""
SHARDED, RECOMPUTED = SOME_RUNS[1], Run(2, 3, ROOMY, "ahead", checkpointing=True)
PACKED, SHARDED_PACKED = (
    Run(1, 0, ROOMY, attention="varlen"),
    Run(2, 3, TIGHT, "ahead", checkpointing=True, attention="varlen"),
)
FEATURES = 5
"""A micro-batch of five features, each as long as one token; a step of a probe has several."""
RUNS = [
    *((LABELS[0], run) for run in ALL_RUNS),
    *((label, Run(1, 0, TIGHT)) for label in LABELS[1:]),
    *((label, SHARDED) for label in (LABELS[1], LABELS[3], LABELS[5])),
    *((label, run) for label in (*KINDS, "likelihood", "dpo") for run in SOME_RUNS),
    *((label, Run(1, 0, TIGHT)) for label in ("calibrated", "names")),
    ("lora", RECOMPUTED),
    ("lora", Run(2, 2, TIGHT, "ahead")),
    *((label, PACKED) for label in (*LABELS[:2], *KINDS, *SCORES, "names")),
    *((label, SHARDED_PACKED) for label in (LABELS[0], "pairs")),
    (LABELS[0], Run(2, 2, TIGHT, attention="varlen")),
    *(("probe", run) for run in (Run(1, 0, FEATURES), Run(2, 0, FEATURES), Run(2, 3, FEATURES))),
    *((label, Run(2, 3, ROOMY, "bare")) for label in ("probe", "probe of pairs")),
    ("probe of pairs", Run(1, 0, FEATURES)),
]
SOAKS = [
    *((LABELS[0], run) for run in LONG_RUNS),
    *((label, SHARDED) for label in (LABELS[2], LABELS[4], *LABELS[6:], "calibrated", "names")),
    *((label, Run(2, 1, TIGHT)) for label in (*KINDS, "likelihood")),
    *((label, RECOMPUTED) for label in ("pairs", "answers", "text", "likelihood")),
    ("likelihood", Run(2, 2, TIGHT, "ahead")),
    ("lora", Run(2, 0, TIGHT)),
    *((label, SHARDED_PACKED) for label in ("text", "likelihood")),
    *(("probe", run) for run in (Run(2, 1, FEATURES), Run(2, 2, FEATURES), Run(2, 3, ROOMY, "ahead"))),
]


def stage_of(tiny: Tiny, arm: Arm, method: str = "naive") -> PlannedStage:
    stage = tiny.chain(method).find(arm, "large")
    assert stage is not None
    return stage


def stages_in(folder: Path) -> dict[str, PlannedStage]:
    """A student for each loss, and a ceiling for each other objective and trainable, by label, in one store."""
    student = stage_of(make_tiny(folder), "chain")
    stages = {
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
    methods["names"] = {"arms": ["ceiling"], "score": SCORES["calibrated"]}
    moods, pairs, answers = (make_tiny(folder, task, methods=methods) for task in (Moods(), Pairings(), Replies()))
    stages |= {"pairs": stage_of(pairs, "ceiling"), "answers": stage_of(answers, "ceiling")}
    stages |= {"text": stage_of(moods, "generative", "text"), "probe of pairs": stage_of(pairs, "ceiling", "probe")}
    stages |= {name: stage_of(prompted_pairs(folder), "ceiling", name) for name in SCORES}
    return stages | {part: stage_of(moods, "ceiling", part) for part in ("probe", "lora", "names")}


def prompted_pairs(folder: Path) -> Tiny:
    methods = {name: {"arms": ["ceiling"], "score": score} for name, score in SCORES.items()}
    return make_tiny(folder, Prompted(), methods=methods)


def cases(stages: dict[str, PlannedStage], selected: list[tuple[str, Run]], workers: int) -> dict[str, str]:
    """The stages to train on this many workers, by label and execution."""
    wanted = [(label, run) for label, run in selected if run.workers == workers]
    if workers == REFERENCE.workers:
        wanted += [(label, REFERENCE) for label in stages]
    planned = {f"{label}-{run}": run.of(stages[label]).model_dump_json() for label, run in wanted}
    for zero_stage in OFFLOADED if workers == 2 else ():
        first = stages[LABELS[0]]
        execution = first.execution.model_copy(update={"zero_stage": zero_stage, "offload_optimizer": True})
        stage = first.model_copy(update={"execution": execution, "predicts": ()})
        planned[f"offloaded-{zero_stage}"] = stage.model_dump_json()
    return planned


@pytest.fixture(scope="module")
def losses(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """The losses of the stages whose tests are selected."""
    folder: Path = tmp_path_factory.mktemp("invariance")
    tiny = make_tiny(folder)
    first = {"floor": tiny.chain().stages[0], "reference": stage_of(prompted_pairs(folder), "reference", "dpo")}
    run_cases({name: stage.model_dump_json() for name, stage in first.items()}, tiny.store.root, 1, folder, reset=False)
    (folder / "meeting1").unlink(missing_ok=True)
    own = [item for item in request.session.items if item.path == request.path]
    given = [item.callspec.params for item in own if isinstance(item, pytest.Function) and hasattr(item, "callspec")]
    selected = [(params["label"], params["run"]) for params in given if "run" in params]
    stages = stages_in(folder)
    alone, two = (
        run_cases(cases(stages, selected, workers), tiny.store.root, workers, folder, reset=True) for workers in (1, 2)
    )
    return alone | two


@pytest.mark.parametrize(
    ("label", "run"), [*RUNS, *(pytest.param(*case, marks=pytest.mark.soak) for case in SOAKS)], ids=str
)
def test_execution_does_not_change_losses(losses: dict[str, list[float]], label: str, run: Run) -> None:
    reference = losses[f"{label}-{REFERENCE}"]
    np.testing.assert_allclose(losses[f"{label}-{run}"], reference, rtol=1e-5, atol=ROUNDING)


@pytest.mark.parametrize("zero_stage", OFFLOADED)
def test_an_offloaded_optimizer_gives_the_same_losses(losses: dict[str, list[float]], zero_stage: int) -> None:
    reference = losses[f"{LABELS[0]}-{REFERENCE}"]
    np.testing.assert_allclose(losses[f"offloaded-{zero_stage}"], reference, rtol=1e-5, atol=ROUNDING)


def test_every_kind_of_loss_is_tested_for_invariance() -> None:
    assert {type(loss) for loss in LOSSES} == set(ALL_LOSSES)


@pytest.mark.parametrize(("one", "other"), itertools.combinations(LABELS, 2))
def test_different_losses_give_different_values(losses: dict[str, list[float]], one: str, other: str) -> None:
    assert not np.allclose(losses[f"{one}-{REFERENCE}"], losses[f"{other}-{REFERENCE}"], rtol=1e-3)
