"""Metrics against values worked out by hand from nested models, and the registry that declares them.

On the test set the floor is right on the first 60 %, the medium student on 65 %, the large one on 70 %, its ceiling on
80 %. So the large student corrects 5 of the medium's 35 points of error, repeats 30, and makes no new one.
"""

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from synthetic import Skill, SyntheticStudy, arm_of, printed, value

from w2s_ray.errors import StudyError
from w2s_ray.report import metrics as metrics_module
from w2s_ray.report.metrics import ESTIMATES, METRICS, Case, Metric, register_metric
from w2s_ray.spec.chain import PlannedStage

DOCS = Path(__file__).parents[2] / "docs" / "methods.md"


def metrics_of(study: SyntheticStudy, level: str, label: str) -> dict[str, float]:
    """The metrics that apply to an arm."""
    return {name: value for name, value in arm_of(study.summary(), level, label).metrics.items() if value is not None}


def phi(first_wrong: float, second_wrong: float, both_wrong: float) -> float:
    spread = first_wrong * (1 - first_wrong) * second_wrong * (1 - second_wrong)
    return (both_wrong - first_wrong * second_wrong) / math.sqrt(spread)


def median_confidence(case: Case) -> float | None:
    return float(np.median(case.predictions.probs_NC.max(axis=1))) if case.predictions.probs_NC is not None else None


def test_a_registered_metric_is_in_table_page_csv_and_json(
    finished: SyntheticStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    metric = Metric(
        "median_confidence", "calibration", "sureness", median_confidence, "the middle confidence", digits=3
    )
    monkeypatch.setitem(METRICS, metric.name, metric)
    assert metrics_of(finished, "large", "chain · naive")[metric.name] == pytest.approx(0.8)
    page = finished.write_report()
    (arm,) = (arm for arm in json.loads((page.parent / "results.json").read_text())["arms"] if arm["arm"] == "direct")
    assert arm["metrics"][metric.name] == pytest.approx(0.8)
    for name in ("results.csv", "stages.csv"):
        with (page.parent / name).open(newline="") as file:
            assert {round(float(row[metric.name]), 3) for row in csv.DictReader(file)} == {0.8}
    for width in (100, 160):
        assert "sureness" in printed(finished.summary(), width, details=True)
    assert "sureness" in page.read_text() and "the middle confidence" in page.read_text()
    assert "sureness" not in printed(finished.summary(), 160), "not among the results"


def test_an_own_metric_is_reported_with_the_digest_of_its_source(
    finished: SyntheticStudy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics_module, "_own", {})
    for name in ("sure", "never"):
        monkeypatch.setitem(METRICS, name, METRICS["ece"])
        monkeypatch.delitem(METRICS, name)
    register_metric(Metric("sure", "calibration", "sureness", median_confidence, "the middle confidence"))
    register_metric(Metric("sure", "calibration", "sureness", median_confidence, "the middle confidence, again"))
    summary = finished.summary()
    assert metrics_of(finished, "large", "chain · naive")["sure"] == pytest.approx(0.8)
    assert set(summary.own_metrics) == {"sure"} and len(summary.own_metrics["sure"]) == 12
    with pytest.raises(StudyError, match="another metric"):
        register_metric(Metric("ece", "calibration", "", median_confidence, ""))
    with pytest.raises(StudyError, match="another metric"):
        register_metric(Metric("sure", "calibration", "", not_finite, ""))
    with pytest.raises(StudyError, match="group"):
        register_metric(Metric("odd", "mine", "", median_confidence, ""))  # type: ignore[arg-type]
    register_metric(Metric("never", "calibration", "", not_finite, ""))
    with pytest.raises(StudyError, match="never"):
        finished.summary()


def not_finite(case: Case) -> float | None:
    return math.inf


def test_a_metric_must_be_finite(finished: SyntheticStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = Metric("infinite", "calibration", "infinite", lambda case: float("inf"), "")
    monkeypatch.setitem(METRICS, metric.name, metric)
    with pytest.raises(AssertionError, match="infinite"):
        finished.summary()


def test_a_headline_metric_is_in_the_first_table_too(finished: SyntheticStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    metric = Metric("median_confidence", "calibration", "sureness", median_confidence, "", headline=True)
    monkeypatch.setitem(METRICS, metric.name, metric)
    assert "sureness" in printed(finished.summary(), 160)


def test_every_metric_is_in_the_docs_as_it_is_declared() -> None:
    """On failure, add the row to a table of metrics in docs/methods.md, in the registry's order."""
    registry = {**ESTIMATES, **METRICS}
    section = DOCS.read_text(encoding="utf-8").partition("\n## Metrics\n")[2].partition("\n### ")[0]
    documented = [line for line in section.splitlines() if line.startswith("| `")]
    assert len(documented) == len(registry)
    for metric, row in zip(registry.values(), [*documented, *[""] * len(registry)], strict=False):
        about = metric.about.replace("|", "\\|")
        assert row == f"| `{metric.name}` | {metric.title + ' ' if metric.title else ''}| {about} |"


def test_errors_are_inherited_corrected_or_new(finished: SyntheticStudy) -> None:
    arm = arm_of(finished.summary(), "large", "chain · naive")
    assert (arm.supervisors, arm.trained_on, arm.num_labels) == (("medium (chain)",), "T2", 100)
    naive = metrics_of(finished, "large", "chain · naive")
    assert naive["agreement"] == pytest.approx(0.95, abs=2e-3)
    assert naive["agreement_supervisor_right"] == 1 and naive["new_errors"] == 0
    assert naive["inherited"] == naive["agreement_supervisor_wrong"] == pytest.approx(30 / 35, abs=5e-3)
    assert naive["corrected"] == pytest.approx(5 / 35, abs=5e-3)
    worse = metrics_of(finished, "large", "chain · confident")  # right on 55 %
    assert worse["inherited"] == 1 and worse["corrected"] == 0
    assert worse["new_errors"] == pytest.approx(10 / 65, abs=5e-3)


def test_errors_correlate_along_the_chain_and_with_level_0(finished: SyntheticStudy) -> None:
    large = metrics_of(finished, "large", "chain · naive")
    assert large["error_correlation"] == pytest.approx(phi(0.35, 0.30, 0.30), abs=5e-3)
    assert large["error_correlation_first"] == pytest.approx(phi(0.40, 0.30, 0.30), abs=5e-3)
    first = metrics_of(finished, "medium", "chain = direct")
    assert first["error_correlation"] == first["error_correlation_first"]


def test_the_ceilings_agreement_with_the_supervisor_is_measured(finished: SyntheticStudy) -> None:
    assert metrics_of(finished, "large", "chain · naive")["ceiling_agreement"] == pytest.approx(0.85, abs=2e-3)
    assert metrics_of(finished, "large", "direct")["ceiling_agreement"] == pytest.approx(0.80, abs=2e-3)


def test_label_metrics_are_of_the_labels_that_were_learned(finished: SyntheticStudy) -> None:
    labels = metrics_of(finished, "large", "chain · naive")
    assert labels["label_accuracy"] == pytest.approx(0.65)
    assert labels["label_majority_share"] == pytest.approx(0.5, abs=0.02)
    assert labels["label_entropy_bits"] == pytest.approx(1, abs=1e-2)
    assert not {"label_allowed_share", "label_distinct_share"} & set(labels), "these are of written labels"
    assert not arm_of(finished.summary(), "large", "chain · naive").degenerate


def test_trap_20_degenerate_labels_are_marked_at_their_link_alone(
    synthetic: Callable[..., SyntheticStudy], skill: Skill, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = synthetic()
    plain = study.predictions

    def constant_medium(stage: PlannedStage, spec: object, accuracy: float) -> tuple[list[str], np.ndarray]:
        ids, probs_NC = plain(stage, spec, accuracy)  # type: ignore[arg-type]
        return ids, np.tile([[0.9, 0.1]], (len(ids), 1)) if stage.level == "medium" else probs_NC

    monkeypatch.setattr(study, "predictions", constant_medium)
    study.finish(skill)
    assert list(arm_of(study.summary(), "large", "chain").degenerate) == [0]
    assert metrics_of(study, "large", "chain")["label_entropy_bits"] == 0
    assert not arm_of(study.summary(), "medium", "chain").degenerate


def test_several_supervisors_are_measured_by_their_combination(synthetic: Callable[..., SyntheticStudy]) -> None:
    """Of three voters right on 50, 60 and 70 % in nested order, the second decides."""
    study = synthetic(chains=[["small", "large"]], methods={"vote": {"supervisors": {"num": 3, "combine": "vote"}}})
    members = [stage.identity for stage in study.stages.values() if stage.level == "small"]
    skills = dict(zip(members, (0.5, 0.6, 0.7), strict=True))
    study.finish(lambda stage: skills.get(stage.identity, 0.8 if stage.arm == "ceiling" else 0.65))
    student = arm_of(study.summary(), "large", "chain")
    assert student.supervisors == ("small (floor)", "small (member)", "small (member)")
    metrics = metrics_of(study, "large", "chain")
    assert metrics["label_accuracy"] == pytest.approx(0.6)
    assert metrics["agreement"] == pytest.approx(0.95, abs=2e-3)
    labels = [arm.label for arm in study.summary().arms if arm.level == "small"]
    assert labels == ["floor", "member 1", "member 2"]
    assert value(student.floor) == pytest.approx(0.5, abs=1e-3), "level 0 alone"
    assert value(student.pgr_link) == pytest.approx((0.65 - 0.6) / (0.8 - 0.6), abs=0.02)


def test_total_cost_includes_the_stages_that_a_student_depends_on(finished: SyntheticStudy) -> None:
    ceiling = metrics_of(finished, "large", "ceiling")
    assert (ceiling["seconds"], ceiling["seconds_in_all"]) == (10, 10)
    assert (ceiling["tokens"], ceiling["num_parameters"]) == (40000, 1000)
    chain = metrics_of(finished, "large", "chain · naive")
    assert (chain["seconds"], chain["seconds_in_all"], chain["tokens_in_all"]) == (10, 30, 120000)
    assert metrics_of(finished, "large", "direct")["seconds_in_all"] == 20


def test_an_answer_is_right_when_it_equals_the_true_one(written: SyntheticStudy) -> None:
    large = arm_of(written.summary(), "large", "chain")
    assert value(large.accuracy) == pytest.approx(0.7, abs=1e-3)
    assert value(large.pgr) == pytest.approx(0.5, abs=0.01)
    assert not {"ece", "brier", "auroc"} & set(metrics_of(written, "large", "chain")), "answers have no probabilities"


def test_allowed_accepted_and_distinct_answers_are_counted(written: SyntheticStudy) -> None:
    """Wrong answers are all the same, half of them forbidden: with 70 % right 85 % are allowed."""
    answers = metrics_of(written, "large", "chain")
    assert answers["allowed_share"] == pytest.approx(0.85, abs=2e-3)
    assert answers["distinct_share"] == pytest.approx(41 / written.summary().tasks["code"].num_test)
    assert answers["accepted_share"] == pytest.approx(0.7, abs=1e-3), "without a judge only the true one is accepted"


def test_written_labels_are_compared_by_exact_match(written: SyntheticStudy) -> None:
    labels = metrics_of(written, "large", "chain")
    assert labels["label_accuracy"] == pytest.approx(0.65) and labels["label_allowed_share"] == pytest.approx(0.83)
    assert 0.2 < labels["label_distinct_share"] <= 0.41
    assert labels["inherited"] == pytest.approx(30 / 35, abs=5e-3), "the same wrong answer"
    assert not arm_of(written.summary(), "large", "chain").degenerate


def test_trap_20_a_supervisor_that_mostly_writes_one_answer_is_warned_of(
    synthetic: Callable[..., SyntheticStudy],
) -> None:
    study = synthetic(kind="answers", chains=[["small", "large"]])
    study.finish(lambda stage: {"floor": 0.3, "chain": 0.3, "ceiling": 0.8}[stage.arm])
    summary = study.summary()
    assert "70%" in arm_of(summary, "large", "chain").degenerate[0]
    assert any("70%" in warning for warning in summary.warnings)
    assert not any("chance" in warning for warning in summary.warnings), "an answer has no chance level"
