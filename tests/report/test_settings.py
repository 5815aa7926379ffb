"""Each student is held against the ceiling of its own setting, whichever method asked for that."""

from collections.abc import Callable

import pytest
from synthetic import SyntheticStudy

from w2s_ray.report.arm_findings import ArmSummary
from w2s_ray.report.summary import summarise
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.stage import StageSource

PROBE = {"kind": "probe"}
FIRST = {"learning_rate": 1e-3, "epochs": 1}


def arms_of(study: SyntheticStudy) -> list[ArmSummary]:
    return [*summarise(study.study, study.resolution, study.store).arms]


def student(study: SyntheticStudy, method: str, arm: str = "chain", level: str = "large") -> ArmSummary:
    (found,) = (each for each in arms_of(study) if each.level == level and each.arm == arm and method in each.methods)
    return found


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
def test_a_student_has_the_ceiling_that_trains_alike_from_the_same_start(
    settings: SyntheticStudy, method: str, setting: str, ceiling: float
) -> None:
    found = student(settings, method)
    assert found.setting == setting
    assert found.ceiling is not None and found.ceiling.value == pytest.approx(ceiling, abs=1e-3)
    assert found.pgr is not None and found.pgr.value == pytest.approx(0.5, abs=0.03)


def test_a_probe_has_a_second_pgr_against_the_ceiling_of_all_weights(settings: SyntheticStudy) -> None:
    probe = student(settings, "probe")
    assert probe.full_ceiling is not None and probe.full_ceiling.value == pytest.approx(0.8, abs=1e-3)
    assert probe.pgr_full is not None and probe.pgr_full.value == pytest.approx((0.65 - 0.6) / (0.8 - 0.6), abs=0.02)
    assert student(settings, "plain").pgr_full is None, "it trains all weights itself"


def test_the_full_ceiling_of_a_probe_is_the_plain_methods_ceiling_and_stands_once(settings: SyntheticStudy) -> None:
    (shared,) = (arm for arm in arms_of(settings) if arm.arm == "ceiling" and "plain" in arm.methods)
    assert shared.also == ("full_ceiling",) and set(shared.methods) == {"plain", "probe"}


def test_training_on_texts_has_no_accuracy_and_stands_with_what_learned_text_alone(settings: SyntheticStudy) -> None:
    summary = summarise(settings.study, settings.resolution, settings.store)
    assert [(each.arm, each.level) for each in summary.pretrained] == [("generative", "large")]
    assert "generative" not in {arm.arm for arm in summary.arms}
    cost = student(settings, "texts").cost
    assert cost is not None and cost.seconds_in_all == 30, "the floor, its texts, and itself"


def test_zero_shot_stands_at_every_level_and_has_no_pgr(settings: SyntheticStudy) -> None:
    found = [arm for arm in arms_of(settings) if arm.arm == "zero_shot"]
    assert [arm.level for arm in found] == ["small", "large"]
    for arm in found:
        assert arm.accuracy is not None and arm.accuracy.value == pytest.approx(0.5, abs=1e-3)
        assert arm.pgr is None and not arm.is_student and arm.link is None


def test_a_method_without_a_ceiling_of_its_setting_says_so(synthetic: Callable[..., SyntheticStudy]) -> None:
    methods = {"plain": {}, "probe": {"arms": ["chain"], "trainable": {"large": PROBE}}}
    study = synthetic(chains=[["small", "large"]], methods=methods)
    study.finish(by_setting)
    probe = student(study, "probe")
    assert probe.pgr is None and probe.pgr_undefined == "the study asks for no ceiling of its setting"
    assert probe.pgr_full is not None, "all weights: the plain method's"


def test_a_student_of_an_intermediate_that_had_ground_truth_is_held_against_its_own_ceiling(
    synthetic: Callable[..., SyntheticStudy],
) -> None:
    study = synthetic(methods={"plain": {"arms": ["chain", "truth_chain", "ceiling"]}})
    skills = {"floor": 0.6, "chain": 0.65, "truth_chain": 0.75, "ceiling": 0.8}
    study.finish(lambda stage: skills[stage.arm])
    found = student(study, "plain", arm="truth_chain")
    assert found.pgr is not None and found.pgr.value == pytest.approx(0.75, abs=0.02)
    assert found.link is not None and found.link.supervisors == ("medium (ceiling)",)


def test_a_truth_chain_is_held_against_the_floor_of_each_path(synthetic: Callable[..., SyntheticStudy]) -> None:
    """It is one stage on both paths, because whoever stands below its intermediate taught neither of them."""
    study = synthetic(
        ladder={"tiny": "w2s:small", "small": "w2s:small", "medium": "w2s:medium", "large": "w2s:large"},
        chains=[["tiny", "medium", "large"], ["small", "medium", "large"]],
        methods={"plain": {"arms": ["chain", "truth_chain", "ceiling"]}},
    )
    floors = {"tiny": 0.5, "small": 0.6}
    skills = {"chain": 0.65, "truth_chain": 0.7, "ceiling": 0.8}
    study.finish(lambda stage: floors[stage.level] if stage.arm == "floor" else skills[stage.arm])
    summary = summarise(study.study, study.resolution, study.store)
    found = {arm.label: arm for arm in summary.arms if arm.arm == "truth_chain"}
    assert list(found) == ["truth_chain · tiny→medium→large", "truth_chain · small→medium→large"]
    first, second = found.values()
    assert first.stages == second.stages
    assert first.floor is not None and first.floor.value == pytest.approx(0.5, abs=1e-3)
    assert second.floor is not None and second.floor.value == pytest.approx(0.6, abs=1e-3)
    assert first.pgr is not None and first.pgr.value == pytest.approx(0.2 / 0.3, abs=0.02)
    assert second.pgr is not None and second.pgr.value == pytest.approx(0.1 / 0.2, abs=0.02)
    assert [arm.label for arm in summary.arms if (arm.level, arm.arm) == ("large", "ceiling")] == ["ceiling"]


def test_relabelled_students_share_the_ceiling_and_say_what_was_done(synthetic: Callable[..., SyntheticStudy]) -> None:
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
    assert permuted.link is not None and permuted.link.label_accuracy is not None
    assert permuted.link.label_accuracy == pytest.approx(0.5, abs=0.15), "labels at random, whoever gave them"
    assert mixed.oracle and not permuted.oracle, "it learns some ground truth"
