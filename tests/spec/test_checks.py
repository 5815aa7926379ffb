"""The rules across the parts of a study: which studies are refused, and which key the error names."""

from datetime import date
from typing import Any

import pytest

from tests.spec.test_arms import chain_of
from tests.spec.test_compile import chains
from tests.spec.test_load import study
from tests.spec.test_losses import study_with
from w2s_ray.errors import StudyError
from w2s_ray.spec.checks import check_classes
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.losses import (
    LOSSES,
    ConfidenceLoss,
    EntropyLoss,
    Loss,
    WindowLoss,
)

PRETRAINING = {"methods": {"reading": {"objective": "next_token"}}}
THREE = {"s": "w2s:small", "m": "w2s:medium", "l": "w2s:large"}
KNN = {"kind": "knn", "mode": "filter", "fraction": 0.9}
TWO_CLASSES = [
    ConfidenceLoss(),
    ConfidenceLoss(prior="weak"),
    ConfidenceLoss(prior="argmax", balance_labels=True),
    EntropyLoss(balance_labels=True),
    WindowLoss(),
]
ANY_CLASSES = [ConfidenceLoss(prior="argmax"), *(loss() for loss in LOSSES if not loss().two_classes_only)]


def scratch(**shape: int) -> dict[str, Any]:
    small = {"hidden_size": 8, "num_layers": 1, "num_heads": 1, "intermediate_size": 8}
    return {"model": "w2s:small", "architecture": {**small, **shape}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
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
def test_invalid_studies_are_refused_when_they_are_read(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StudyError) as refused:
        parse_study(study(**changes))
    assert message in refused.value.message


def test_an_error_has_the_source_the_value_and_a_hint() -> None:
    with pytest.raises(StudyError) as refused:
        parse_study(study(chains=[["s", "x"]]), source="mine.yaml")
    assert refused.value.message == "mine.yaml: chains names an unknown level: x"
    assert refused.value.hint == "known levels here: s, l"
    with pytest.raises(StudyError) as refused:
        parse_study(study(search={"space": {"chains": [[["l", "s"]]]}}))
    assert "search at chains" in refused.value.message and "s, l" in refused.value.hint


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"trainable": {"x": {"kind": "probe"}}}, "trainable names an unknown level: x"),
        ({"random": ["s"]}, "first supervisor"),
        ({"generative": {"s": {}}}, "first supervisor"),
        ({"generative": {"l": {"early_stopping": {}}}}, "generative.l.early_stopping"),
        ({"trainable": {"l": {"kind": "prompt"}}, "losses": {"l": {"kind": "kl"}}}, "losses.l = kl"),
        ({"tasks": ["other"]}, "unknown task: other"),
        ({"losses": {"s": {"kind": "hard"}}}, "never a student"),
        ({"trainable": {"l": {"kind": "prompt", "num_shots": 5000}}}, "num_shots = 5000 must be at most 2000"),
        ({"tasks": []}, "methods.m.tasks is empty"),
    ],
)
def test_invalid_methods_are_refused(method: dict[str, object], message: str) -> None:
    with pytest.raises(StudyError, match=message):
        chain_of(**method)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("arms", ["chain"]),
        ("losses", {"l": {"kind": "kl"}}),
        ("labels", {"l": {"transforms": [{"kind": "harden"}]}}),
        ("trainable", {"l": {"kind": "lora"}}),
        ("generative", {"m": {}}),
        ("oracle", ["l"]),
    ],
)
def test_keys_about_labels_are_refused_for_pretraining(key: str, value: object) -> None:
    with pytest.raises(StudyError, match=f"methods.m.{key} has no effect"):
        chain_of(objective="next_token", **{key: value})


@pytest.mark.parametrize(
    "method",
    [
        {"labels": {"l": {"transforms": [{"kind": "knn", "mode": "filter", "fraction": 0.9}]}}},
        {"trainable": {"l": {"kind": "prompt", "num_shots": 20}}},
    ],
)
def test_a_method_needs_enough_examples_in_each_of_its_tasks(method: dict[str, object]) -> None:
    small = {"builtin": "code_continuation", "train_examples": 16}
    raw = {
        "name": "sized",
        "tasks": {"big": {"builtin": "code_continuation"}, "little": small},
        "ladder": {"s": "w2s:small", "l": "w2s:large"},
        "methods": {"m": {**method, "tasks": ["big"]}, "plain": {}},
    }
    assert parse_study(raw).methods["m"].tasks == ("big",)
    with pytest.raises(StudyError, match=r"16, the (training )?examples of the task little"):
        parse_study({**raw, "methods": {"m": method}})


def test_shots_need_enough_examples_in_the_splits_of_their_level() -> None:
    prompts = {level: {"kind": "prompt", "num_shots": 20} for level in ("s", "l")}
    for splits, level in (({"S": 19, "T": 30}, "s"), ({"S": 30, "T": 19}, "l")):
        with pytest.raises(StudyError, match=f"methods.m.trainable.{level}.num_shots = 20 must be at most 19"):
            chains(splits=splits, methods={"m": {"trainable": prompts}})


def test_neighbours_are_among_the_examples_of_a_student() -> None:
    method = {"m": {"labels": {"l": {"transforms": [KNN]}}}}
    assert chains(splits={"S": 10, "T": 30}, methods=method)
    with pytest.raises(StudyError, match="k = 20 must be below 10"):
        chains(splits={"S": 30, "T": 10}, methods=method)


def test_an_oracle_is_set_by_a_method_for_a_level_that_stops_early() -> None:
    with pytest.raises(StudyError, match="never stops early"):
        chain_of(oracle=["l"])
    ladder = {level: {"model": level} for level in ("s", "m", "l")}
    ladder["l"]["optimisation"] = {"early_stopping": {"by": "oracle"}}  # type: ignore[assignment]
    with pytest.raises(StudyError, match=r"methods\.<name>\.oracle"):
        chains(ladder=ladder)


def test_a_truth_chain_needs_three_levels() -> None:
    with pytest.raises(StudyError, match="truth_chain"):
        chains(chains=[["s", "l"]], methods={"m": {"arms": ["chain", "truth_chain"]}})


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"labels": {"x": {}}}, "methods.m.labels names an unknown level: x"),
        ({"labels": {"s": {}}}, "methods.m.labels names s"),
        ({"labels": {"l": {"transforms": [KNN]}}, "random": ["l"]}, "methods.m.labels.l compares features"),
        ({"labels": {"l": {}}, "trainable": {"l": {"kind": "prompt"}}}, "methods.m.labels.l has no effect"),
        ({"labels": {"l": {"transforms": [{**KNN, "k": 64}]}}}, "transforms.0.k = 64 must be below 64"),
        (
            {"labels": {"l": {"transforms": [{"kind": "keep_random", "fraction": 0.25}, KNN]}}},
            "transforms.1.k = 20 must be below 16",
        ),
        ({"labels": {"l": {"transforms": [{**KNN, "fraction": 0}]}}}, "a filter with fraction 0 keeps no example"),
        ({"labels": {"l": {"transforms": [{"kind": "keep_random"}]}}}, "either `fraction:` or `as_many_as:`"),
        (
            {"labels": {"l": {"transforms": [{"kind": "knnn", "mode": "filter", "fraction": 1}]}}},
            "transforms.0.kind = 'knnn'.* did you mean 'knn'",
        ),
        ({"supervisors": {"num": 1, "bagging": True}}, "methods.m.supervisors: "),
        ({"supervisors": {"num": 2}, "arms": ["ceiling"]}, "methods.m.supervisors has no effect"),
        ({"supervisors": {"num": 2}, "trainable": {"s": {"kind": "prompt"}}}, "methods.m.supervisors.num = 2"),
        ({"supervisors": {"num": 2}, "objective": "next_token"}, "methods.m.supervisors has no effect"),
    ],
)
def test_invalid_transforms_and_supervisors_are_refused(method: dict[str, object], message: str) -> None:
    with pytest.raises(StudyError, match=f"(?s){message}"):
        chains(methods={"m": method}, splits={"train_examples": 64, "validation_examples": 16})


@pytest.mark.parametrize("loss", TWO_CLASSES, ids=lambda loss: loss.label)
def test_a_formula_for_two_classes_is_refused_for_a_task_of_three(loss: Loss) -> None:
    check_classes(loss, 2, key="methods.m.losses.l", task="moods")
    with pytest.raises(StudyError) as refused:
        check_classes(loss, 3, key="methods.m.losses.l", task="moods")
    assert f"methods.m.losses.l = {loss.label} is for two classes, and the task moods has 3" in refused.value.message
    assert "methods.m.tasks" in refused.value.hint


@pytest.mark.parametrize("loss", ANY_CLASSES, ids=lambda loss: loss.label)
def test_a_formula_for_any_number_of_classes_is_accepted(loss: Loss) -> None:
    check_classes(loss, 3, key="methods.m.losses.l", task="moods")


def test_trap_3_a_threshold_over_one_example_is_refused() -> None:
    alone = {"optimisation": {"examples_per_step": 1}}
    with pytest.raises(StudyError, match=r"methods.m.losses.l \(confidence0.5\)"):
        study_with({"kind": "confidence"}, **alone)
    assert study_with({"kind": "confidence", "prior": "argmax"}, **alone)
    assert study_with({"kind": "entropy"}, **alone)
