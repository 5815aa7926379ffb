"""Small studies whose names resolve to nothing real: enough for scheduling."""

from collections.abc import Callable
from typing import Any

from tests.tracking.null_tracker import NullTracker
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution, ResolvedModel, ResolvedTask
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.study import Study

LADDER_OF_THREE = {"s": {"model": "w2s:small"}, "m": {"model": "w2s:medium"}, "l": {"model": "w2s:large"}}


def stage_of(chain: Chain, arm: str, level: str) -> PlannedStage:
    """The chain's stage of this arm and level."""
    stage = chain.find(arm, level)  # type: ignore[arg-type]
    assert stage is not None
    return stage


def small_study(**changes: Any) -> Study:
    """A ladder of two, one student per loss: three chains that share floor and ceiling."""
    raw: dict[str, Any] = {
        "name": "small",
        "tasks": {"code": {"builtin": "code_continuation"}},
        "ladder": {"s": {"model": "w2s:small"}, "l": {"model": "w2s:large", "execution": {"zero_stage": 3}}},
        "execution": {"workers": 2},
        "methods": {
            "naive": {},
            "half": {"losses": {"l": {"kind": "confidence"}}},
            "more": {"losses": {"l": {"kind": "confidence", "alpha_max": 0.75}}},
        },
        "splits": {"train_examples": 100, "validation_examples": 20},
    }
    return parse_study({**raw, **changes})


def resolution_of(study: Study) -> Resolution:
    """The names resolved."""
    return Resolution(
        tasks={name: ResolvedTask(fingerprint="f" * 64, num_classes=2, num_test=50) for name in study.tasks},
        models={
            name: ResolvedModel(revision="r" * 64, num_parameters=1000 * 10**place)
            for place, name in enumerate(study.ladder)
        },
    )


def chains_of(study: Study) -> tuple[Chain, ...]:
    """The study's chains."""
    return compile_study(study, resolution_of(study))


def no_tracker(notify: Callable[[str], None]) -> NullTracker:
    """Make a tracker that does nothing."""
    return NullTracker()
