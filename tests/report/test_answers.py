"""Tasks whose students write answers, baselines, and strata."""

from collections.abc import Callable

import numpy as np
import pytest
from synthetic import SyntheticStudy

from w2s_ray.report.arm_findings import ArmSummary
from w2s_ray.report.details import details_of
from w2s_ray.report.evidence import gather
from w2s_ray.report.findings import Summary
from w2s_ray.report.results import read_results
from w2s_ray.report.summary import summarise, summary_of
from w2s_ray.report.wording import with_bounds
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.store.predictions import Answers

Skill = Callable[[PlannedStage], float]


@pytest.fixture
def written(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> SyntheticStudy:
    study = synthetic(kind="answers")
    study.finish(skill)
    return study


def read(study: SyntheticStudy) -> Summary:
    return summarise(study.study, study.resolution, study.store)


def arm(summary: Summary, level: str, kind: str) -> ArmSummary:
    (found,) = (each for each in summary.arms if (each.level, each.arm) == (level, kind))
    return found


def test_an_answer_is_right_when_it_is_the_true_one_letter_for_letter(written: SyntheticStudy) -> None:
    summary = read(written)
    large = arm(summary, "large", "chain")
    assert large.accuracy is not None and large.accuracy.value == pytest.approx(0.7, abs=1e-3)
    assert large.pgr is not None and large.pgr.value == pytest.approx(0.5, abs=0.01)
    assert large.calibration is None, "answers have no probabilities"


def test_what_the_rule_allows_and_how_much_is_distinct_is_told(written: SyntheticStudy) -> None:
    """Wrong answers are all the same, half of them forbidden: with 70 % right 85 % are allowed."""
    large = arm(read(written), "large", "chain")
    assert large.answers is not None
    assert large.answers.allowed_share == pytest.approx(0.85, abs=2e-3)
    num_test = read(written).tasks["code"].num_test
    assert large.answers.distinct_share == pytest.approx(41 / num_test)
    assert large.answers.accepted_share == pytest.approx(0.7, abs=1e-3), "without a judge only the true one will do"


def test_labels_that_were_written_are_judged_by_exact_match(written: SyntheticStudy) -> None:
    link = arm(read(written), "large", "chain").link
    assert link is not None
    assert link.label_accuracy == pytest.approx(0.65) and link.label_allowed_share == pytest.approx(0.83)
    assert link.label_distinct_share is not None and 0.2 < link.label_distinct_share <= 0.41
    assert link.inherited == pytest.approx(30 / 35, abs=5e-3), "the same wrong answer"
    assert not link.degenerate


def test_trap_20_a_supervisor_that_mostly_writes_one_answer_is_warned_of(
    synthetic: Callable[..., SyntheticStudy],
) -> None:
    study = synthetic(kind="answers", chains=[["small", "large"]])
    study.finish(lambda stage: {"floor": 0.3, "chain": 0.3, "ceiling": 0.8}[stage.arm])
    summary = read(study)
    link = arm(summary, "large", "chain").link
    assert link is not None and "70% are one answer" in link.degenerate[0]
    assert any("70% are one answer" in warning for warning in summary.warnings)
    assert not any("chance" in warning for warning in summary.warnings), "an answer has no chance level"


def test_white_space_around_an_answer_says_nothing(written: SyntheticStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    plain, before = written.store.read_answers, read(written)

    def padded(_: object, identity: str) -> Answers:
        found = plain(identity)
        return Answers(found.ids, tuple(f" {text}\n" for text in found.texts), found.is_allowed_N)

    monkeypatch.setattr(type(written.store), "read_answers", padded)
    assert read(written).arms == before.arms


def test_the_majority_answer_is_the_baseline_and_length_is_none(written: SyntheticStudy) -> None:
    baselines = read(written).tasks["code"].baselines
    assert list(baselines) == ["majority"] and baselines["majority"].value == pytest.approx(1 / 40, abs=0.02)


def test_the_frame_of_answers_leaves_probabilities_out(written: SyntheticStudy) -> None:
    frame = read_results(written.study, written.resolution, written.store)
    assert frame[["ece", "brier", "auroc"]].isna().all(axis=None)
    assert frame[frame.arm == "ceiling"].accuracy.tolist() == pytest.approx([0.7, 0.8], abs=1e-3)


def test_a_length_that_gives_the_class_away_is_seen_beside_the_results(finished: SyntheticStudy) -> None:
    """The toy texts of class 1 are longer, and the test set is balanced."""
    baselines = read(finished).tasks["code"].baselines
    assert baselines["length"].value == 1.0
    assert baselines["majority"].value == pytest.approx(0.5, abs=1e-3)
    assert baselines["majority"].low < 0.5 < baselines["majority"].high


def test_accuracy_by_stratum_is_counted_within_it(finished: SyntheticStudy) -> None:
    summary = read(finished)
    strata = summary.tasks["code"].strata
    assert list(strata) == ["band 0", "band 1", "band 2"] and sum(strata.values()) == summary.tasks["code"].num_test
    for found in summary.arms:
        assert found.accuracy is not None
        parts = [found.strata[name].value * size for name, size in strata.items()]
        assert sum(parts) / sum(strata.values()) == pytest.approx(found.accuracy.value)
    ceiling = arm(summary, "large", "ceiling")
    assert ceiling.strata["band 1"].low < ceiling.strata["band 1"].value < ceiling.strata["band 1"].high
    assert np.ptp([each.value for each in ceiling.strata.values()]) > 0


def test_a_stratum_of_one_example_has_no_figure_and_the_others_keep_theirs(finished: SyntheticStudy) -> None:
    evidence = gather(finished.study, finished.resolution, finished.store)
    strata_N = evidence.tests["code"].strata_N
    strata_N[np.flatnonzero(strata_N == "band 0")[1:]] = "band 2"
    summary = summary_of(finished.study, evidence)
    (rows,) = (each.tasks["code"] for each in details_of(summary) if each.title == "Accuracy by stratum")
    assert rows.columns[0] == "band 0 (1)" and len(rows.columns) == 3
    for found, cells in rows.arms:
        assert list(cells) == ["–", *(with_bounds(found.strata[name], 2) for name in ("band 1", "band 2"))]


def test_baselines_are_fitted_once_for_floors_that_learn_from_the_same_examples(
    synthetic: Callable[..., SyntheticStudy],
) -> None:
    study = synthetic(chains=[["small", "large"], ["medium", "large"]], methods={"naive": {}}, seeds=[0, 1])
    study.finish(lambda stage: 0.6)
    found = gather(study.study, study.resolution, study.store).baselines["code"]
    assert {name: len(correct_SN) for name, correct_SN in found.items()} == {"majority": 2, "length": 2}
