"""What a study file may not say, and how it is told."""

from typing import Any

import pytest

from w2s_ray.errors import StudyError
from w2s_ray.spec.identity import canonical_json
from w2s_ray.spec.load import parse_study


def study(**changes: Any) -> dict[str, Any]:
    return {
        "name": "asked",
        "tasks": {"t": {"builtin": "code_continuation"}},
        "ladder": {"s": {"model": "w2s:small"}, "l": {"model": "w2s:large"}},
        **changes,
    }


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimization": {"epochs": 2}}, "did you mean 'optimisation'?"),
        ({"executions": {"workers": 2}}, "did you mean 'execution'?"),
        ({"chains": []}, "chains is empty"),
        ({"chains": [["s", "l"], ["s", "l"]]}, "holds one twice"),
        ({"methods": {"none": {"arms": []}}}, "methods.none.arms is empty"),
        (
            {
                "ladder": {
                    "s": {"model": "w2s:small"},
                    "l": {
                        "model": "w2s:large",
                        "architecture": {"hidden_size": 8, "num_layers": 1, "num_heads": 1, "intermediate_size": 8},
                    },
                }
            },
            "ladder.l.architecture trains from scratch",
        ),
    ],
)
def test_what_cannot_run_is_refused_when_it_is_read(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(StudyError) as refused:
        parse_study(study(**changes))
    assert says in str(refused.value)


def test_keys_that_do_not_go_together_are_told_by_value_rule_and_remedy() -> None:
    with pytest.raises(StudyError) as refused:
        parse_study(study(chains=[["s", "x"]]), source="mine.yaml")
    assert refused.value.value == "mine.yaml: chains names the level 'x'"
    assert (refused.value.rule, refused.value.remedy) == ("the ladder has s, l", "known levels here: s, l")
    with pytest.raises(StudyError) as refused:
        parse_study(study(search={"space": {"chains": [[["l", "s"]]]}}))
    assert refused.value.value.startswith("search at ")
    assert "must climb" in refused.value.rule and "order its levels as the ladder does: s, l" in refused.value.remedy


@pytest.mark.parametrize("value", [float("nan"), {1: "a key that is no text"}, {1, 2}, b"bytes"])
def test_canonical_json_refuses_what_it_cannot_encode(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        canonical_json(value)
