"""Studies whose results are decreed."""

from collections.abc import Callable
from pathlib import Path

import pytest
from synthetic import SyntheticStudy, make

from w2s_ray.spec.chain import PlannedStage

FLOOR, CEILING = 0.6, 0.8


@pytest.fixture
def synthetic(tmp_path: Path) -> Callable[..., SyntheticStudy]:
    """Make a study in a new store; keywords are the study file's keys."""

    def build(**keys: object) -> SyntheticStudy:
        return make(tmp_path / "store", **keys)  # type: ignore[arg-type]

    return build


@pytest.fixture
def skill() -> Callable[[PlannedStage], float]:
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
def finished(synthetic: Callable[..., SyntheticStudy], skill: Callable[[PlannedStage], float]) -> SyntheticStudy:
    """A finished study of two methods with every arm but `self`."""
    made = synthetic(
        methods={
            "naive": {"arms": ["chain", "direct", "ceiling"]},
            "confident": {"losses": {"large": {"kind": "confidence"}}},
        }
    )
    made.finish(skill)
    return made
