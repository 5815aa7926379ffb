"""The data frame: a row per stage of a chain, from real records, with known results."""

from collections.abc import Callable

import pandas as pd
import pytest
from synthetic import Skill, SyntheticStudy, arm_of

from w2s_ray.report.metrics import METRICS
from w2s_ray.report.results import columns


def test_each_stage_of_each_chain_has_a_row(finished: SyntheticStudy) -> None:
    frame = finished.frame()
    assert tuple(frame.columns[: len(columns())]) == columns()
    assert len(frame) == 7 + 5, "the naive chain's seven stages and the confident chain's five"
    floors = frame[frame.arm == "floor"]
    assert len(floors) == 2 and floors.stage.nunique() == 1, "a shared stage has a row in each chain"
    num = frame.num_test.iloc[0]
    assert floors.accuracy.tolist() == pytest.approx([round(0.6 * num) / num] * 2)
    chain = frame[(frame.method == "naive") & (frame.arm == "chain") & (frame.level == "large")].iloc[0]
    assert chain.accuracy == pytest.approx(0.7, abs=1e-3)
    # The supervisor is right on the first 65 %, the student on the first 70 %: they differ on 5 %, all of them errors.
    assert chain.agreement == pytest.approx(0.95, abs=1e-3)
    assert chain.agreement_supervisor_right == 1.0
    assert chain.agreement_supervisor_wrong == pytest.approx(0.30 / 0.35, abs=1e-2)
    assert chain.label_accuracy == pytest.approx(0.65)
    assert chain.ece == pytest.approx(0.1, abs=1e-3), "sure of 80 %, right in 70 %"
    assert (chain.seconds, chain.tokens_per_second, chain["train/num_steps"]) == (10.0, 4000.0, 50.0)
    assert not frame.oracle.any()


def test_a_floor_has_no_supervisor_and_no_agreement(finished: SyntheticStudy) -> None:
    frame = finished.frame()
    truth = frame[frame.arm.isin(["floor", "ceiling"])]
    assert truth[["supervisor", "agreement", "label_accuracy"]].isna().all(axis=None)


def test_unfinished_stages_are_absent(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    study = synthetic()
    assert study.frame().empty
    study.finish(skill, leave_out=lambda stage: stage.level == "large")
    frame = study.frame()
    assert set(frame.level) == {"small", "medium"}


def test_the_frame_of_answers_leaves_probabilities_out(written: SyntheticStudy) -> None:
    frame = written.frame()
    assert frame[["ece", "brier", "auroc"]].isna().all(axis=None)
    assert frame[frame.arm == "ceiling"].accuracy.tolist() == pytest.approx([0.7, 0.8], abs=1e-3)


def test_the_frame_has_the_metrics_of_the_summary(finished: SyntheticStudy) -> None:
    frame = finished.frame()
    row = frame[(frame.method == "naive") & (frame.arm == "chain") & (frame.level == "large")].iloc[0]
    metrics = arm_of(finished.summary(), "large", "chain · naive").metrics
    assert set(METRICS) == set(metrics) <= set(frame.columns)
    for name, value in metrics.items():
        assert pd.isna(row[name]) if value is None else row[name] == value, name
