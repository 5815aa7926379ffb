"""Distinct arms, the ceiling of each student's own setting, and oracles."""

from collections.abc import Callable
from typing import Any

import pytest
from synthetic import Skill, SyntheticStudy, arm_of, value

from w2s_ray.report.arms import is_oracle
from w2s_ray.report.findings import ArmSummary
from w2s_ray.report.page import chain_diagram
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.labels import GroundTruth
from w2s_ray.spec.search import SearchSpec
from w2s_ray.spec.stage import EarlyStopping, StageSource

PROBE = {"kind": "probe"}


FIRST = {"learning_rate": 1e-3, "epochs": 1}


def student(study: SyntheticStudy, method: str, arm: str = "chain") -> ArmSummary:
    """The large student of a method."""
    large = [student for student in study.summary().arms if (student.level, student.arm) == ("large", arm)]
    (student,) = (student for student in large if method in student.methods)
    return student


def by_setting(stage: PlannedStage) -> float:
    """Ceilings: probe .7, random start .64, after its texts .9, all weights .8; students half-way up; the floor .6."""
    if stage.arm in ("floor", "zero_shot"):
        return 0.6 if stage.arm == "floor" else 0.5
    start = stage.spec.starts_from
    ceiling = {"probe": 0.7}.get(stage.spec.trainable.label, 0.8)
    if isinstance(start, StageSource):
        ceiling = 0.9
    elif start.random:
        ceiling = 0.64
    return ceiling if stage.arm in ("ceiling", "full_ceiling") else (0.6 + ceiling) / 2


@pytest.fixture
def settings(synthetic: Callable[..., SyntheticStudy]) -> SyntheticStudy:
    study = synthetic(
        chains=[["small", "large"]],
        report={"min_gap": 0.0, "bootstrap_samples": 200},
        methods={
            "plain": {"arms": ["chain", "ceiling", "zero_shot"]},
            "confident": {"arms": ["chain"], "losses": {"large": {"kind": "confidence"}}},
            "probe": {"trainable": {"large": PROBE}},
            "texts": {"generative": {"large": FIRST}},
            "random": {"random": ["large"]},
        },
    )
    study.finish(by_setting)
    return study


def test_each_distinct_arm_is_listed_once(finished: SyntheticStudy) -> None:
    summary = finished.summary()
    assert [(a.level, a.label) for a in summary.arms] == [
        ("small", "floor"),
        ("medium", "chain = direct"),
        ("medium", "ceiling"),
        ("large", "chain · naive"),
        ("large", "chain · confident"),
        ("large", "direct"),
        ("large", "ceiling"),
    ]
    medium = arm_of(summary, "medium", "chain = direct")
    assert medium.methods == ("naive", "confident") and medium.also == ("direct",)
    assert summary.num_stages == summary.num_stages_finished == len(finished.stages) == 7
    assert summary.num_students == 4


def test_two_chains_share_floor_ceiling_and_direct_and_differ_in_label(
    synthetic: Callable[..., SyntheticStudy], skill: Skill
) -> None:
    arms = {"naive": {"arms": ["chain", "direct", "ceiling"]}}
    study = synthetic(chains=[["small", "large"], ["small", "medium", "large"]], methods=arms)
    study.finish(skill)
    summary = study.summary()
    assert [a.label for a in summary.arms if a.level == "large"] == [
        "chain = direct · small→large",
        "chain · small→medium→large",
        "ceiling",
    ]
    assert arm_of(summary, "large", "chain = direct · small→large").paths == (("small", "large"),)


def test_the_order_of_methods_does_not_change_what_is_shown(synthetic: Callable[..., SyntheticStudy]) -> None:
    """`direct` and `full_ceiling` are the first names here of a chain's student and of a ceiling."""
    study = synthetic(
        chains=[["small", "large"], ["small", "medium", "large"]],
        methods={
            "probe": {"arms": ["direct", "ceiling"], "trainable": {"large": {"kind": "probe"}}},
            "one": {"arms": ["direct"]},
            "two": {"arms": ["chain", "ceiling"]},
        },
        search={"space": {"splits.train_examples": [50, 100]}},
    )
    study.finish(lambda stage: {"floor": 0.6, "ceiling": 0.8, "full_ceiling": 0.8}.get(stage.arm, 0.7))
    summary = study.summary()
    firsts = {arm.kinds for arm in summary.arms}
    assert ("direct", "chain") in firsts and ("full_ceiling", "ceiling") in firsts
    assert {step.num_intermediates for step in summary.steps} == {0, 1}
    curves = [curve for curve in summary.curves if "probe" not in curve.setting]
    sizes = {curve.level: [size for size, _ in curve.points] for curve in curves}
    assert sizes == {"medium": [50, 100], "large": [50, 100]}
    last = chain_diagram(summary, ("small", "large"))[-1]
    assert last.level == "large" and last.accuracies
    assert all(arm.pgr_link == arm.pgr for arm in summary.arms if arm.kinds == ("direct", "chain"))


@pytest.mark.parametrize(
    ("method", "setting", "ceiling"),
    [
        ("plain", "", 0.8),
        ("confident", "", 0.8),
        ("probe", "probe", 0.7),
        ("texts", "after its texts", 0.9),
        ("random", "random start", 0.64),
    ],
)
def test_a_ceiling_trains_like_its_student_from_the_same_start(
    settings: SyntheticStudy, method: str, setting: str, ceiling: float
) -> None:
    large = student(settings, method)
    assert large.setting == setting
    assert value(large.ceiling) == pytest.approx(ceiling, abs=1e-3)
    assert value(large.pgr) == pytest.approx(0.5, abs=0.03)


def test_a_probe_has_a_second_pgr_against_the_ceiling_of_all_weights(settings: SyntheticStudy) -> None:
    probe = student(settings, "probe")
    assert value(probe.full_ceiling) == pytest.approx(0.8, abs=1e-3)
    assert value(probe.pgr_full) == pytest.approx((0.65 - 0.6) / (0.8 - 0.6), abs=0.02)
    assert student(settings, "plain").pgr_full is None, "it trains all weights itself"


def test_a_probes_full_ceiling_is_the_plain_methods_ceiling(settings: SyntheticStudy) -> None:
    (shared,) = (arm for arm in settings.summary().arms if arm.arm == "ceiling" and "plain" in arm.methods)
    assert shared.also == ("full_ceiling",) and set(shared.methods) == {"plain", "probe"}


def test_training_on_texts_is_listed_with_the_pretrained_levels(settings: SyntheticStudy) -> None:
    summary = settings.summary()
    assert [(level.arm, level.level) for level in summary.pretrained] == [("generative", "large")]
    assert "generative" not in {arm.arm for arm in summary.arms}
    assert student(settings, "texts").metrics["seconds_in_all"] == 30, "the floor, its texts, and itself"


def test_zero_shot_is_at_every_level_and_has_no_pgr(settings: SyntheticStudy) -> None:
    zero_shot = [arm for arm in settings.summary().arms if arm.arm == "zero_shot"]
    assert [arm.level for arm in zero_shot] == ["small", "large"]
    for arm in zero_shot:
        assert value(arm.accuracy) == pytest.approx(0.5, abs=1e-3)
        assert arm.pgr is None and not arm.is_student and arm.supervisors == ()


def test_a_method_without_a_ceiling_of_its_setting_has_no_pgr(synthetic: Callable[..., SyntheticStudy]) -> None:
    methods = {"plain": {}, "probe": {"arms": ["chain"], "trainable": {"large": PROBE}}}
    study = synthetic(chains=[["small", "large"]], methods=methods)
    study.finish(by_setting)
    probe = student(study, "probe")
    assert probe.pgr is None and probe.pgr_undefined == "the study asks for no ceiling of its setting"
    assert probe.pgr_full is not None, "all weights: the plain method's"


def test_a_student_is_compared_with_the_ceiling_of_its_methods_own_optimisation(
    synthetic: Callable[..., SyntheticStudy],
) -> None:
    """Both probes train the same weights from the same start; only their rates differ."""
    methods = {
        "naive": {},
        "slow": {"trainable": {"large": PROBE}, "optimisation": {"large": {"learning_rate": 1e-4}}},
        "fast": {"trainable": {"large": PROBE}, "optimisation": {"large": {"learning_rate": 1e-2}}},
    }
    ceilings = {1e-4: 0.65, 1e-2: 0.75, 5e-4: 0.85}

    def by_rate(stage: PlannedStage) -> float:
        if stage.arm == "floor":
            return 0.6
        ceiling = ceilings[stage.spec.optimisation.learning_rate]
        return ceiling if stage.arm in ("ceiling", "full_ceiling") else (0.6 + ceiling) / 2

    study = synthetic(chains=[["small", "large"]], methods=methods, report={"min_gap": 0.0, "bootstrap_samples": 200})
    study.finish(by_rate)
    for method, ceiling in (("slow", 0.65), ("fast", 0.75), ("naive", 0.85)):
        assert value(student(study, method).ceiling) == pytest.approx(ceiling, abs=1e-3)
        assert value(student(study, method).pgr) == pytest.approx(0.5, abs=0.03)
    assert value(student(study, "fast").full_ceiling) == value(student(study, "naive").ceiling)


def test_a_truth_chain_is_compared_with_its_own_ceiling(
    synthetic: Callable[..., SyntheticStudy],
) -> None:
    study = synthetic(methods={"plain": {"arms": ["chain", "truth_chain", "ceiling"]}})
    skills = {"floor": 0.6, "chain": 0.65, "truth_chain": 0.75, "ceiling": 0.8}
    study.finish(lambda stage: skills[stage.arm])
    truth_chain = student(study, "plain", arm="truth_chain")
    assert value(truth_chain.pgr) == pytest.approx(0.75, abs=0.02)
    assert truth_chain.supervisors == ("medium (ceiling)",)


def test_a_truth_chain_is_compared_with_the_floor_of_each_path(synthetic: Callable[..., SyntheticStudy]) -> None:
    """It is one stage on both paths, because no model below its intermediate taught it."""
    study = synthetic(
        ladder={"tiny": "w2s:small", "small": "w2s:small", "medium": "w2s:medium", "large": "w2s:large"},
        chains=[["tiny", "medium", "large"], ["small", "medium", "large"]],
        methods={"plain": {"arms": ["chain", "truth_chain", "ceiling"]}},
    )
    floors = {"tiny": 0.5, "small": 0.6}
    skills = {"chain": 0.65, "truth_chain": 0.7, "ceiling": 0.8}
    study.finish(lambda stage: floors[stage.level] if stage.arm == "floor" else skills[stage.arm])
    summary = study.summary()
    by_label = {arm.label: arm for arm in summary.arms if arm.arm == "truth_chain"}
    assert list(by_label) == ["truth_chain · tiny→medium→large", "truth_chain · small→medium→large"]
    first, second = by_label.values()
    assert first.stages == second.stages
    assert value(first.floor) == pytest.approx(0.5, abs=1e-3)
    assert value(second.floor) == pytest.approx(0.6, abs=1e-3)
    assert value(first.pgr) == pytest.approx(0.2 / 0.3, abs=0.02)
    assert value(second.pgr) == pytest.approx(0.1 / 0.2, abs=0.02)
    assert [arm.label for arm in summary.arms if (arm.level, arm.arm) == ("large", "ceiling")] == ["ceiling"]


def test_relabelled_students_share_the_ceiling_and_name_the_transform(synthetic: Callable[..., SyntheticStudy]) -> None:
    methods = {
        "plain": {},
        "permuted": {"arms": ["chain"], "labels": {"large": {"transforms": [{"kind": "permute"}]}}},
        "mixed": {
            "arms": ["chain"],
            "labels": {"large": {"transforms": [{"kind": "mix_ground_truth", "fraction": 0.1}]}},
        },
    }
    study = synthetic(chains=[["small", "large"]], methods=methods)
    study.finish(by_setting)
    permuted, mixed = student(study, "permuted"), student(study, "mixed")
    assert permuted.setting == "permuted" and permuted.ceiling is not None
    assert permuted.metrics["label_accuracy"] == pytest.approx(0.5, abs=0.15), "random labels"
    assert mixed.oracle and not permuted.oracle, "it learns some ground truth"


def test_a_student_stopped_by_ground_truth_is_an_oracle(finished: SyntheticStudy) -> None:
    student = next(stage for stage in finished.stages.values() if stage.arm == "chain")
    assert student.spec.validation is not None
    truth = student.spec.validation.model_copy(update={"labels": GroundTruth()})
    stopping = student.spec.optimisation.model_copy(update={"early_stopping": EarlyStopping()})
    spec = student.spec.model_copy(update={"validation": truth, "optimisation": stopping})
    oracle = student.model_copy(update={"spec": spec})
    study = finished.study
    stages = finished.stages
    assert is_oracle(study, stages, oracle) and not is_oracle(study, stages, student)
    ceiling = next(stage for stage in finished.stages.values() if stage.arm == "ceiling")
    spec = ceiling.spec.model_copy(update={"optimisation": stopping})
    stopped = ceiling.model_copy(update={"spec": spec})
    assert not is_oracle(study, stages, stopped), "ground truth is the ceiling's own"
    search = SearchSpec.model_validate({"space": {"splits.train_examples": [1, 2]}, "choose_by": "oracle"})
    chosen = study.model_copy(update={"search": search})
    assert is_oracle(chosen, stages, student), "its settings were chosen by ground truth"


STOPPED: dict[str, Any] = {
    "optimisation": {"early_stopping": {}},
    "methods": {"naive": {"arms": ["chain", "direct", "ceiling"], "oracle": ["medium"]}},
}


MIXED: dict[str, Any] = {
    "methods": {
        "naive": {
            "arms": ["chain", "direct", "ceiling"],
            "labels": {"medium": {"transforms": [{"kind": "mix_ground_truth", "fraction": 0.5}]}},
        }
    }
}


@pytest.mark.parametrize("keys", [STOPPED, MIXED])
def test_trap_14_a_student_of_an_oracle_is_an_oracle(
    synthetic: Callable[..., SyntheticStudy], skill: Skill, keys: dict[str, Any]
) -> None:
    study = synthetic(**keys)
    study.finish(skill)
    frame = study.stages_frame()
    marked = {(row.arm, row.level) for row in frame[frame.oracle].itertuples()}
    assert marked == {("chain", "medium"), ("direct", "medium"), ("chain", "large")}, "large learns from medium"
    arms = study.summary().arms
    assert [(arm.arm, arm.level) for arm in arms if arm.oracle] == [("chain", "medium"), ("chain", "large")]


def test_a_truth_chain_is_an_oracle_and_the_chain_is_not(synthetic: Callable[..., SyntheticStudy]) -> None:
    """A probe's full ceiling comes first and is the same stage as the intermediate that learned the truth."""
    probe = {"trainable": {"medium": {"kind": "probe"}}}
    study = synthetic(methods={"probe": probe, "plain": {"arms": ["chain", "truth_chain", "ceiling"]}})
    study.finish(lambda stage: 0.7)
    frame = study.stages_frame()
    assert set(frame[frame.oracle].arm) == {"truth_chain"}
