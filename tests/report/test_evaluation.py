"""PGRs, intervals, seeds, baselines and strata, against values that are known analytically."""

from collections.abc import Callable

import numpy as np
import pytest
from synthetic import Skill, SyntheticStudy, arm_of, value

from w2s_ray.report.summary import summary_of
from w2s_ray.report.tables import detail_tables
from w2s_ray.report.text import seed_mark, seeds_line, with_bounds
from w2s_ray.spec.chain import PlannedStage


def test_the_pgr_of_a_student_half_way_up_is_one_half(finished: SyntheticStudy) -> None:
    summary = finished.summary()
    student = arm_of(summary, "large", "chain · naive")
    assert student.pgr is not None and student.gap is not None
    assert student.pgr.value == pytest.approx((0.7 - 0.6) / (0.8 - 0.6), abs=0.01)
    assert student.pgr.low < student.pgr.value < student.pgr.high
    assert student.gap.value == pytest.approx(0.2, abs=0.002)
    assert student.accuracy is not None and student.floor is not None and student.ceiling is not None
    assert (student.floor.value, student.ceiling.value) == pytest.approx((0.6, 0.8), abs=0.001)
    # Of the link: the previous student has .65, so (.70 − .65) / (.80 − .65).
    assert value(student.pgr_link) == pytest.approx(1 / 3, abs=0.01)


def test_a_negative_pgr_is_shown(finished: SyntheticStudy) -> None:
    student = arm_of(finished.summary(), "large", "chain · confident")
    assert value(student.pgr) == pytest.approx(-0.25, abs=0.01)
    assert student.pgr.high < 0


def test_trap_15_pgr_without_a_sure_gap_is_undefined_and_counted(
    synthetic: Callable[..., SyntheticStudy], skill: Skill
) -> None:
    study = synthetic()
    study.finish(lambda stage: 0.615 if (stage.arm, stage.level) == ("ceiling", "medium") else skill(stage))
    summary = study.summary()
    medium = arm_of(summary, "medium", "chain")
    assert medium.accuracy is not None and medium.pgr is None
    assert medium.pgr_undefined is not None and "not above 0.02" in medium.pgr_undefined
    assert (summary.num_undefined, summary.num_students) == (1, 2)
    assert arm_of(summary, "large", "chain").pgr is not None


def test_pgr_over_seeds_is_a_ratio_of_means_and_few_seeds_are_marked(synthetic: Callable[..., SyntheticStudy]) -> None:
    """The PGRs are .9, .3, .5, .5 and .5; their mean would be .54."""
    gains, gaps = (0.09, 0.09, 0.1, 0.1, 0.1), (0.1, 0.3, 0.2, 0.2, 0.2)
    study = synthetic(seeds=[0, 1, 2, 3, 4], chains=[["small", "large"]])

    def skill(stage: PlannedStage) -> float:
        seed = stage.spec.train[0].split.split_seed
        return 0.6 + {"floor": 0.0, "chain": gains[seed], "ceiling": gaps[seed]}[stage.arm]

    study.finish(skill)
    student = arm_of(study.summary(), "large", "chain")
    assert student.seeds == (0, 1, 2, 3, 4) and student.few_seeds
    assert value(student.pgr) == pytest.approx(0.48, abs=0.01)


@pytest.mark.parametrize(("num_seeds", "are_few"), [(10, True), (11, False)])
def test_up_to_ten_seeds_are_few(
    synthetic: Callable[..., SyntheticStudy], skill: Skill, num_seeds: int, are_few: bool
) -> None:
    study = synthetic(seeds=list(range(num_seeds)), chains=[["small", "large"]])
    study.finish(skill)
    assert {arm.few_seeds for arm in study.summary().arms} == {are_few}


def test_a_mean_has_the_standard_deviation_of_its_seeds(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    study = synthetic(seeds=[0, 1, 2], chains=[["small", "large"]])
    study.finish(lambda stage: skill(stage) + 0.01 * (stage.spec.train[0].split.split_seed - 1))
    student = arm_of(study.summary(), "large", "chain")
    assert student.accuracy is not None and student.accuracy.sd == pytest.approx(0.01, abs=1e-3)
    assert student.gap is not None and student.gap.sd == pytest.approx(0, abs=1e-3)
    assert student.pgr is not None and student.pgr.sd == pytest.approx(0, abs=1e-2)


def test_one_seed_has_no_standard_deviation(finished: SyntheticStudy) -> None:
    student = arm_of(finished.summary(), "large", "chain · naive")
    assert student.accuracy is not None and student.accuracy.sd is None
    assert student.pgr is not None and student.pgr.sd is None


def test_a_seed_without_a_ceiling_counts_in_the_accuracy_but_not_in_the_pgr(
    synthetic: Callable[..., SyntheticStudy], skill: Skill
) -> None:
    study = synthetic(seeds=[0, 1], chains=[["small", "large"]])
    study.finish(
        lambda stage: skill(stage) - 0.1 * (stage.spec.train[0].split.split_seed == 1),
        leave_out=lambda stage: stage.arm == "ceiling" and stage.spec.train[0].split.split_seed == 1,
    )
    student = arm_of(study.summary(), "large", "chain")
    assert student.seeds == (0, 1) and student.accuracy is not None and student.floor is not None
    assert student.accuracy.value == pytest.approx(0.65, abs=0.001)
    assert student.floor.value == pytest.approx(0.6, abs=0.001), "seed 0 alone"
    assert value(student.pgr) == pytest.approx(0.5, abs=0.01)


def test_the_seeds_of_a_pgr_decide_whether_they_are_few(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    """Eleven seeds of student and floor, two of its ceiling."""
    study = synthetic(seeds=list(range(11)), chains=[["small", "large"]])
    study.finish(skill, leave_out=lambda s: s.arm == "ceiling" and s.spec.train[0].split.split_seed not in (0, 4))
    summary = study.summary()
    student = arm_of(summary, "large", "chain")
    assert len(student.seeds) == 11 and student.pgr_seeds == (0, 4) and student.few_seeds
    assert {a.label: seed_mark(a) for a in summary.arms} == {"floor": "", "chain": "†", "ceiling": "†"}
    line = seeds_line(summary)
    assert line is not None and line.startswith("with as few as 2 seeds")


def test_pooled_has_the_ceiling_of_its_level_and_self_has_none(
    synthetic: Callable[..., SyntheticStudy], skill: Skill
) -> None:
    study = synthetic(methods={"naive": {"arms": ["chain", "ceiling", "pooled", "self"]}})
    study.finish(skill)
    summary = study.summary()
    pooled = arm_of(summary, "large", "pooled")
    assert value(pooled.pgr) == pytest.approx(0.4, abs=0.01)
    own = arm_of(summary, "small", "self")
    assert own.accuracy is not None and own.pgr is None
    assert own.pgr_undefined is not None and "no ceiling" in own.pgr_undefined


def test_a_study_without_ceilings_has_no_pgr(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    study = synthetic(methods={"naive": {"arms": ["chain"]}})
    study.finish(skill)
    assert arm_of(study.summary(), "large", "chain").pgr_undefined == "the study asks for no ceiling of its setting"


def test_arms_of_a_level_are_compared_in_pairs(finished: SyntheticStudy) -> None:
    summary = finished.summary()
    pairs = {(pair.first, pair.second): pair for pair in summary.comparisons}
    assert set(pairs) == {
        ("chain · naive", "chain · confident"),
        ("chain · naive", "direct"),
        ("chain · confident", "direct"),
    }
    pair = pairs["chain · naive", "direct"]
    assert pair.difference.value == pytest.approx(0.2, abs=0.01) and pair.difference.low > 0
    assert 0 < pair.minimum_detectable < 0.25


def test_the_only_baseline_of_answers_is_the_majority(written: SyntheticStudy) -> None:
    baselines = written.summary().tasks["code"].baselines
    assert list(baselines) == ["majority"] and baselines["majority"].value == pytest.approx(1 / 40, abs=0.02)


def test_the_length_baseline_shows_when_length_predicts_the_class(finished: SyntheticStudy) -> None:
    """The toy texts of class 1 are longer, and the test set is balanced."""
    baselines = finished.summary().tasks["code"].baselines
    assert baselines["length"].value == 1.0
    assert baselines["majority"].value == pytest.approx(0.5, abs=1e-3)
    assert baselines["majority"].low < 0.5 < baselines["majority"].high


def test_accuracy_by_stratum_is_over_its_own_examples(finished: SyntheticStudy) -> None:
    summary = finished.summary()
    strata = summary.tasks["code"].strata
    assert list(strata) == ["band 0", "band 1", "band 2"] and sum(strata.values()) == summary.tasks["code"].num_test
    for arm in summary.arms:
        assert arm.accuracy is not None
        parts = [arm.strata[name].value * size for name, size in strata.items()]
        assert sum(parts) / sum(strata.values()) == pytest.approx(arm.accuracy.value)
    ceiling = arm_of(summary, "large", "ceiling")
    assert ceiling.strata["band 1"].low < ceiling.strata["band 1"].value < ceiling.strata["band 1"].high
    assert np.ptp([estimate.value for estimate in ceiling.strata.values()]) > 0


def test_a_stratum_of_one_example_has_no_estimate(finished: SyntheticStudy) -> None:
    evidence = finished.evidence()
    strata_N = evidence.tests["code"].strata_N
    strata_N[np.flatnonzero(strata_N == "band 0")[1:]] = "band 2"
    summary = summary_of(finished.study, evidence)
    (table,) = (table for table in detail_tables(summary) if table.title == "Accuracy by stratum")
    assert [column.title for column in table.columns][:3] == ["model", "arm", "band 0 (1)"]
    for arm, row in zip(summary.arms, table.rows, strict=True):
        estimates = [with_bounds(arm.strata[name], 2) for name in ("band 1", "band 2")]
        assert [str(cell) for cell in row.cells[2:]] == ["–", *estimates]
