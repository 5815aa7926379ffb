"""Studies whose stages have chosen accuracies."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic import CEILING, THREE_METHODS, Skill, SyntheticStudy, make, skill_by_task

from w2s_ray.report.findings import Summary
from w2s_ray.spec.chain import PlannedStage


@pytest.fixture
def synthetic(tmp_path: Path) -> Callable[..., SyntheticStudy]:
    """Make a study in a new store; keywords are the study file's keys."""

    def build(**keys: object) -> SyntheticStudy:
        return make(tmp_path / "store", **keys)  # type: ignore[arg-type]

    return build


@pytest.fixture
def three(synthetic: Callable[..., SyntheticStudy]) -> Callable[..., Summary]:
    """The summary of the tasks of `CEILING`, with keys of `report:`."""

    def build(report: dict[str, Any] | None = None, **keys: Any) -> Summary:
        study = synthetic(
            tasks=tuple(CEILING),
            chains=[["small", "large"]],
            report={"bootstrap_samples": 400, **(report or {})},
            **{"methods": THREE_METHODS, **keys},
        )
        study.finish(skill_by_task)
        return study.summary()

    return build


ACCURACIES = {
    ("floor", "small"): 0.6,
    ("ceiling", "medium"): 0.7,
    ("ceiling", "large"): 0.8,
    ("chain", "medium"): 0.65,
    ("direct", "medium"): 0.65,
    ("direct", "large"): 0.66,
    ("pooled", "medium"): 0.65,
    ("pooled", "large"): 0.68,
    ("self", "small"): 0.61,
}
"""By arm and level; the large student of a chain by its loss."""


def accuracy_of(stage: PlannedStage) -> float:
    by_loss = {"naive": 0.7, "confidence0.5": 0.55}
    return ACCURACIES.get((stage.arm, stage.level)) or by_loss[stage.spec.loss.label]


@pytest.fixture
def skill() -> Skill:
    """Floors of .60 and ceilings of .70 and .80; see `ACCURACIES`."""
    return accuracy_of


def finish(folder: Path) -> SyntheticStudy:
    methods = {
        "naive": {"arms": ["chain", "direct", "ceiling"]},
        "confident": {"losses": {"large": {"kind": "confidence"}}},
    }
    study = make(folder, methods=methods)
    study.finish(accuracy_of)
    return study


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> SyntheticStudy:
    """A finished study of two methods with every arm but `self`; tests only read it, or write its report."""
    return finish(tmp_path_factory.mktemp("finished") / "store")


@pytest.fixture
def own_finished(tmp_path: Path) -> SyntheticStudy:
    """A study like `finished` whose store the test may change."""
    return finish(tmp_path / "store")


@pytest.fixture
def written(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> SyntheticStudy:
    """A finished study of a task whose students write answers."""
    study = synthetic(kind="answers")
    study.finish(skill)
    return study


SKILLS = {"floor": 0.6, "member": 0.59, "zero_shot": 0.52, "chain": 0.66, "direct": 0.64, "truth_chain": 0.7}
REPORT = {
    "bootstrap_samples": 200,
    "compare": [["confidence", "naive"], {"first": "naive/zero_shot", "second": "naive", "by": "accuracy"}],
    "references": [
        {"source": "Burns <et> al. 2023", "setting": "22 tasks", "values": {"naive": 0.25, "confidence": "nearly 0.80"}}
    ],
}
METHODS = {
    "naive": {"arms": ["chain", "direct", "ceiling", "zero_shot", "truth_chain"]},
    "confidence": {"losses": {"large": {"kind": "confidence"}}},
    "probe": {"trainable": {"large": {"kind": "probe"}}},
    "texts": {"generative": {"large": {"epochs": 1}}},
    "ensemble": {"arms": ["chain"], "supervisors": {"num": 2}},
}


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SyntheticStudy:
    """A finished study of three tasks and every kind of arm; one task has no gap."""

    def skill(stage: PlannedStage) -> float:
        if stage.task == "flat":
            return 0.6
        skill = SKILLS.get(stage.arm, 0.76 if stage.level == "medium" else 0.8)
        return skill + (0.03 if stage.spec.loss.kind == "confidence" else 0.0)

    folder = tmp_path_factory.mktemp("whole") / "store"
    study = make(folder, tasks=("sst2", "sciq", "flat"), methods=METHODS, report=REPORT, num=1200)
    study.finish(skill)
    return study


@pytest.fixture(scope="session")
def whole_summary(whole: SyntheticStudy) -> Summary:
    return whole.summary()
