"""The data frames: a row per student with its PGR, and a row per stage of a chain, with known results."""

from collections.abc import Callable

import pandas as pd
import pytest
from synthetic import Skill, SyntheticStudy, arm_of

from w2s_ray.report.metrics import METRICS
from w2s_ray.report.results import STUDENT_PLACE, stage_columns, student_columns


def test_each_stage_of_each_chain_has_a_row(finished: SyntheticStudy) -> None:
    frame = finished.stages_frame()
    assert tuple(frame.columns[: len(stage_columns())]) == stage_columns()
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
    frame = finished.stages_frame()
    truth = frame[frame.arm.isin(["floor", "ceiling"])]
    assert truth[["supervisor", "agreement", "label_accuracy"]].isna().all(axis=None)


def test_unfinished_stages_are_absent(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    study = synthetic()
    assert study.stages_frame().empty and study.frame().empty
    study.finish(skill, leave_out=lambda stage: stage.level == "large")
    assert set(study.stages_frame().level) == {"small", "medium"} and set(study.frame().level) == {"medium"}


def test_the_frame_of_answers_leaves_probabilities_out(written: SyntheticStudy) -> None:
    frame = written.stages_frame()
    assert frame[["ece", "brier", "auroc"]].isna().all(axis=None)
    assert frame[frame.arm == "ceiling"].accuracy.tolist() == pytest.approx([0.7, 0.8], abs=1e-3)


def test_the_frame_has_the_metrics_of_the_summary(finished: SyntheticStudy) -> None:
    metrics = arm_of(finished.summary(), "large", "chain · naive").metrics
    for frame in (finished.frame(), finished.stages_frame()):
        row = frame[(frame.method == "naive") & (frame.arm == "chain") & (frame.level == "large")].iloc[0]
        assert set(METRICS) == set(metrics) <= set(frame.columns)
        for name, value in metrics.items():
            assert pd.isna(row[name]) if value is None else row[name] == value, name


def test_each_student_of_each_chain_has_a_row_with_its_pgr(finished: SyntheticStudy) -> None:
    frame = finished.frame()
    assert tuple(frame.columns) == student_columns() and frame.columns[:5].tolist() == list(STUDENT_PLACE)
    rows = frame.set_index(["method", "arm", "level"])
    assert rows.index.is_unique and set(rows.index) == {
        *(("naive", arm, level) for arm in ("chain", "direct") for level in ("medium", "large")),
        *(("confident", "chain", level) for level in ("medium", "large")),
    }
    summary = arm_of(finished.summary(), "large", "chain · naive")
    row = rows.loc[("naive", "chain", "large")]
    assert (row.task, row.chain, row.label) == ("code", "small-medium-large", "chain · naive")
    for name in ("accuracy", "floor", "ceiling", "gap", "pgr"):
        estimate = getattr(summary, name)
        assert (row[name], row[f"{name}_low"], row[f"{name}_high"]) == (estimate.value, estimate.low, estimate.high)
    assert row.pgr == pytest.approx(0.5, abs=0.01) and (row.num_seeds, row.seeds) == (1, "0") and row.few_seeds


def test_an_undefined_pgr_is_empty_and_has_its_reason(whole: SyntheticStudy) -> None:
    frame = whole.frame()
    flat = frame[frame.task == "flat"]
    assert flat.pgr.isna().all() and flat.pgr_low.isna().all() and flat.pgr_undefined.notna().all()
    others = frame[frame.task != "flat"]
    assert others.pgr.notna().all() and others.pgr_undefined.isna().all()
    assert set(frame.oracle[frame.arm == "truth_chain"]) == {True}


def test_the_frame_of_a_search_names_the_point_of_each_student(
    synthetic: Callable[..., SyntheticStudy], skill: Skill
) -> None:
    search = {"space": {"splits.train_examples": [50, 100]}}
    study = synthetic(chains=[["small", "large"]], methods={"naive": {}}, search=search)
    study.finish(skill)
    frame = study.frame()
    assert len(frame) == frame.point.nunique() == 2
