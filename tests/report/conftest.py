"""Studies whose results are decreed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic import Skill, SyntheticStudy, make

from w2s_ray.report.findings import Summary
from w2s_ray.spec.chain import PlannedStage

FLOOR, CEILING = 0.6, 0.8


@pytest.fixture
def synthetic(tmp_path: Path) -> Callable[..., SyntheticStudy]:
    """Make a study in a new store; keywords are the study file's keys."""

    def build(**keys: object) -> SyntheticStudy:
        return make(tmp_path / "store", **keys)  # type: ignore[arg-type]

    return build


@pytest.fixture
def skill() -> Skill:
    """A floor of .60 and ceilings of .70 and .80; students by arm, level and loss."""

    def of(stage: PlannedStage) -> float:
        known = {
            ("floor", "small"): FLOOR,
            ("ceiling", "medium"): 0.7,
            ("ceiling", "large"): CEILING,
            ("chain", "medium"): 0.65,
            ("direct", "medium"): 0.65,
            ("direct", "large"): 0.66,
            ("pooled", "medium"): 0.65,
            ("pooled", "large"): 0.68,
            ("self", "small"): 0.61,
        }
        by_loss = {"naive": 0.7, "confidence0.5": 0.55}
        return known[stage.arm, stage.level] if (stage.arm, stage.level) in known else by_loss[stage.spec.loss.label]

    return of


@pytest.fixture
def finished(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> SyntheticStudy:
    """A finished study of two methods with every arm but `self`."""
    made = synthetic(
        methods={
            "naive": {"arms": ["chain", "direct", "ceiling"]},
            "confident": {"losses": {"large": {"kind": "confidence"}}},
        }
    )
    made.finish(skill)
    return made


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
    """A finished study of three tasks and every kind of arm; on one task nothing is to be gained."""

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
