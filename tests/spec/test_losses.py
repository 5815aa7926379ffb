"""Losses in a study: how they are read, their labels, and errors inside them."""

from typing import Any

import pytest

from tests.scheduling.studies import small_study
from w2s_ray.errors import StudyError
from w2s_ray.spec.identity import canonical_json
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.losses import (
    LOSSES,
    ConfidenceLoss,
    EntropyLoss,
    HardLoss,
    KLLoss,
    Loss,
    NaiveLoss,
    ProductLoss,
    WindowLoss,
)
from w2s_ray.spec.points import one_changed
from w2s_ray.spec.study import Study

KINDS = ", ".join([*(loss().kind for loss in LOSSES), "own"])


def study_with(loss: Any, **changes: Any) -> Study:
    return small_study(methods={"m": {"losses": {"l": loss}}}, **changes)


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_has_a_label_that_starts_with_its_kind(loss: type[Loss]) -> None:
    assert loss().label.startswith(loss().kind)


def test_the_canonical_json_of_the_naive_loss_stays_the_same() -> None:
    assert canonical_json(NaiveLoss()) == '{"kind":"naive"}'


@pytest.mark.parametrize(
    ("asked", "loss", "label"),
    [
        ({"kind": "naive"}, NaiveLoss(), "naive"),
        ({"kind": "hard"}, HardLoss(), "hard"),
        ({"kind": "confidence"}, ConfidenceLoss(), "confidence0.5"),
        (
            {"kind": "confidence", "alpha_max": 0.75, "warmup_fraction": 0.1, "schedule": "openai", "prior": "batch"},
            ConfidenceLoss(alpha_max=0.75, warmup_fraction=0.1, schedule="openai", prior="batch"),
            "confidence0.75-warmup0.1-openai-batch",
        ),
        (
            {"kind": "confidence", "balance_labels": True},
            ConfidenceLoss(balance_labels=True),
            "confidence0.5-balanced",
        ),
        (
            {"kind": "entropy", "alpha_max": 0.25, "warmup_fraction": 0, "balance_labels": True},
            EntropyLoss(alpha_max=0.25, warmup_fraction=0.0, balance_labels=True),
            "entropy0.25-warmup0-balanced",
        ),
        ({"kind": "product"}, ProductLoss(), "product"),
        (
            {"kind": "product", "weak_power": 0.5, "student_power": 2},
            ProductLoss(weak_power=0.5, student_power=2.0),
            "product-weak0.5-student2",
        ),
        ({"kind": "window"}, WindowLoss(), "window0.15"),
        ({"kind": "window", "radius": "midweak"}, WindowLoss(radius="midweak"), "window-midweak"),
        ({"kind": "kl"}, KLLoss(), "kl"),
        ({"kind": "kl", "direction": "reverse"}, KLLoss(direction="reverse"), "kl-reverse"),
    ],
)
def test_a_loss_is_read_from_yaml_and_its_label_shows_what_differs(asked: Any, loss: Loss, label: str) -> None:
    assert study_with(asked).methods["m"].loss_of("l") == loss
    assert loss.label == label


@pytest.mark.parametrize(
    ("loss", "value", "hint"),
    [
        ({"kind": "confidence", "alpa_max": 0.5}, "unknown key methods.m.losses.l.alpa_max", "mean 'alpha_max'?"),
        ({"kind": "kl", "directon": "reverse"}, "unknown key methods.m.losses.l.directon", "mean 'direction'?"),
        ({"kind": "confidense"}, f"methods.m.losses.l.kind = 'confidense': must be one of {KINDS}", "'confidence'?"),
        ({"alpha_max": 0.5}, f"methods.m.losses.l.kind is missing: must be one of {KINDS}", ""),
        (
            {"kind": "confidence", "alpha_max": 2},
            "methods.m.losses.l.alpha_max = 2: must be less than or equal to 1",
            "",
        ),
        (
            {"kind": "window", "radius": "mid"},
            "methods.m.losses.l.radius = 'mid': must be one of a number, midweak",
            "",
        ),
        ({"kind": "window", "radius": 0.7}, "methods.m.losses.l.radius = 0.7: must be less than or equal to 0.5", ""),
        ({"kind": "product", "weak_power": 0}, "methods.m.losses.l.weak_power = 0: must be greater than 0", ""),
    ],
)
def test_a_wrong_key_inside_a_loss_is_named_as_in_the_file(loss: Any, value: str, hint: str) -> None:
    with pytest.raises(StudyError) as refused:
        study_with(loss)
    assert refused.value.message == f"the study: {value}"
    assert hint in refused.value.hint


def test_a_key_of_another_loss_is_unknown() -> None:
    with pytest.raises(StudyError, match=r"unknown key methods\.m\.losses\.l\.alpha_max(?s:.*)known keys here: kind"):
        study_with({"kind": "hard", "alpha_max": 0.5})


def losses(study: Study) -> set[Loss]:
    return {variant.methods["m"].loss_of("l") for variant in one_changed(study)}


def test_the_losses_of_a_study_include_those_of_its_search() -> None:
    study = study_with(
        {"kind": "confidence", "prior": "argmax"},
        search={"space": {"methods.m.losses.l.prior": ["half", "argmax"], "splits.train_examples": [50, 60]}},
    )
    assert losses(study) == {ConfidenceLoss(prior="argmax"), ConfidenceLoss(prior="half")}


def test_a_whole_loss_may_be_searched() -> None:
    kinds = [{"kind": "hard"}, {"kind": "kl"}]
    study = study_with({"kind": "naive"}, search={"space": {"methods.m.losses.l": kinds}})
    assert {loss.kind for loss in losses(study)} == {"naive", "hard", "kl"}


def test_a_searched_key_is_named_without_the_validators_type_names() -> None:
    raw = {
        "name": "asked",
        "tasks": {"t": {"builtin": "code_continuation"}},
        "ladder": {"s": "w2s:small", "l": "w2s:large"},
        "search": {"space": {"splits.train_examples": {"low": 1, "hgh": 3}}},
    }
    with pytest.raises(StudyError) as refused:
        parse_study(raw)
    assert "unknown key search.space.splits.train_examples.hgh" in refused.value.message
    assert "did you mean 'high'?" in refused.value.hint
