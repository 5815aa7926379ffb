"""What a study file may not say, and how it is told."""

from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from w2s_ray.errors import StudyError
from w2s_ray.spec.identity import canonical_json
from w2s_ray.spec.load import load_study, parse_study
from w2s_ray.spec.search import Range


def study(**changes: Any) -> dict[str, Any]:
    return {
        "name": "asked",
        "tasks": {"t": {"builtin": "code_continuation"}},
        "ladder": {"s": {"model": "w2s:small"}, "l": {"model": "w2s:large"}},
        **changes,
    }


PRETRAINING = {"methods": {"reading": {"objective": "next_token"}}}


def scratch(**shape: int) -> dict[str, Any]:
    small = {"hidden_size": 8, "num_layers": 1, "num_heads": 1, "intermediate_size": 8}
    return {"model": "w2s:small", "architecture": {**small, **shape}}


THREE = {"s": "w2s:small", "m": "w2s:medium", "l": "w2s:large"}


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"optimization": {"epochs": 2}}, "did you mean 'optimisation'?"),
        ({"executions": {"workers": 2}}, "did you mean 'execution'?"),
        ({"chains": []}, "chains is empty"),
        ({"execution": 3}, "execution = 3"),
        ({"search": {"space": {"optimisation.learning_rate": [float("nan")]}}}, "optimisation.learning_rate lists"),
        ({"search": {"space": {"optimisation.learning_rate": [date(2020, 1, 1)]}}}, "optimisation.learning_rate lists"),
        ({"chains": [["s", "l"], ["s", "l"]]}, "duplicate chains"),
        ({"methods": {"none": {"arms": []}}}, "methods.none.arms is empty"),
        (
            {"chains": [["s", "m"], ["s", "m", "l"]], "methods": {"x": {}, "l-x": {}}, "ladder": THREE},
            "t-s-m-l-x",
        ),
        (
            {
                "ladder": {"s": {"model": "w2s:small"}, "l": scratch()},
            },
            "ladder.l.architecture",
        ),
        (
            {"tasks": {"t": {"builtin": "python_source", "test_examples": 50}}, **PRETRAINING},
            "tasks.t.test_examples",
        ),
        (
            {"ladder": {"s": scratch(hidden_size=12, num_heads=4)}, **PRETRAINING},
            "hidden_size = 12 must be a multiple of 8",
        ),
        (
            {"ladder": {"s": scratch()}, "optimisation": {"context_tokens": 512}, **PRETRAINING},
            "architecture.context_tokens = 256",
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
    assert refused.value.message == "mine.yaml: chains names an unknown level: x"
    assert refused.value.hint == "known levels here: s, l"
    with pytest.raises(StudyError) as refused:
        parse_study(study(search={"space": {"chains": [[["l", "s"]]]}}))
    assert "search at chains" in refused.value.message and "s, l" in refused.value.hint


@pytest.mark.parametrize("value", [float("nan"), {1: "a key that is no text"}, {1, 2}, b"bytes"])
def test_canonical_json_refuses_what_it_cannot_encode(value: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        canonical_json(value)


def test_an_override_reaches_names_that_have_dots(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    ladder = {"pythia-1": "w2s:small", "pythia-1.4b": "w2s:medium", "pythia-2.8b": {"model": "w2s:large"}}
    methods = {"v1.5": {"losses": {"pythia-2.8b": {"kind": "confidence"}}}}
    file.write_text(yaml.safe_dump(study(ladder=ladder, methods=methods), sort_keys=False))
    changes = ["ladder.pythia-1.4b.optimisation.epochs=3", "ladder.pythia-2.8b=w2s:medium"]
    changes += ["ladder.pythia-1.optimisation.epochs=5", "methods.v1.5.losses.pythia-2.8b.alpha_max=0.25"]
    read = load_study(file, changes)
    assert [level.optimisation.epochs for level in read.ladder.values()][:2] == [5, 3]
    assert read.ladder["pythia-2.8b"].model == "w2s:medium" and list(read.ladder) == list(ladder)
    loss = read.methods["v1.5"].losses["pythia-2.8b"]
    assert loss.kind == "confidence" and loss.alpha_max == 0.25


def test_an_override_changes_one_place_where_others_have_an_anchor_in_common(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    levels = "  s: &level {model: w2s:small, optimisation: {epochs: 2}}\n  l: {<<: *level, model: w2s:large}\n"
    methods = "  one: {losses: {l: &loss {kind: confidence}}}\n  two: {losses: {l: *loss}}\n"
    file.write_text(f"name: asked\ntasks: {{t: {{builtin: code_continuation}}}}\nladder:\n{levels}methods:\n{methods}")
    read = load_study(file, ["ladder.l.optimisation.epochs=3", "methods.two.losses.l.alpha_max=0.25"])
    assert [level.optimisation.epochs for level in read.ladder.values()] == [2, 3]
    assert [method.losses["l"].model_dump()["alpha_max"] for method in read.methods.values()] == [0.5, 0.25]


def test_an_override_reaches_keys_that_are_searched(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    rate, decay = "ladder.l.optimisation.learning_rate", "optimisation.weight_decay"
    space = {rate: {"low": 1e-5, "high": 1e-3}}
    file.write_text(yaml.safe_dump(study(search={"space": space, "sampler": "random", "num_samples": 2})))
    read = load_study(file, [f"search.space.{rate}.high=0.01", f"search.space.{decay}=[0, 0.1]"])
    assert read.search is not None and list(read.search.space) == [rate, decay]
    assert read.search.space[rate] == Range(low=1e-5, high=1e-2) and read.search.space[decay] == (0, 0.1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: a\nseeds: [0]\nname: b\n", "duplicate key name in lines 1 and 3"),
        ("ladder:\n  s: w2s:small\n  s: w2s:large\n", "duplicate key s in lines 2 and 3"),
    ],
)
def test_a_key_that_stands_twice_is_refused_with_its_lines(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(StudyError) as refused:
        load_study(file)
    assert refused.value.message == f"{file}: {says}"


def test_a_level_that_says_a_part_of_a_shared_mapping_leaves_the_rest_of_it() -> None:
    shared = {"epochs": 2, "early_stopping": {"every_steps": 5, "patience": 4}}
    own = {"s": {"early_stopping": {"patience": 9}}, "l": {"early_stopping": None}}
    ladder = {name: {"model": "w2s:small", "optimisation": each} for name, each in own.items()}
    small, large = parse_study(study(ladder=ladder, optimisation=shared)).ladder.values()
    stopping = small.optimisation.early_stopping
    assert stopping is not None and (stopping.every_steps, stopping.patience) == (5, 9)
    assert large.optimisation.early_stopping is None and large.optimisation.epochs == 2


def test_a_key_with_nothing_behind_it_is_no_mapping_of_keys() -> None:
    assert parse_study(study(execution=None)) == parse_study(study())


def test_an_anchor_inside_itself_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    file.write_text("name: &a [*a]\n")
    with pytest.raises(StudyError, match="recursive"):
        load_study(file)


def test_a_merged_mapping_may_be_overruled(tmp_path: Path) -> None:
    file = tmp_path / "study.yaml"
    levels = "ladder:\n  s: &level {model: w2s:small, optimisation: {epochs: 2}}\n  l: {<<: *level, model: w2s:large}\n"
    file.write_text(f"name: asked\ntasks: {{t: {{builtin: code_continuation}}}}\n{levels}")
    level = load_study(file).ladder["l"]
    assert level.model == "w2s:large" and level.optimisation.epochs == 2
