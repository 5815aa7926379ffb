"""What a study found: PGRs that are known analytically, each distinct arm once, nothing dropped."""

from collections.abc import Callable

import pytest
from synthetic import SyntheticStudy

from w2s_ray.report.arm_findings import ArmSummary
from w2s_ray.report.evidence import gather
from w2s_ray.report.findings import Summary
from w2s_ray.report.page import climb
from w2s_ray.report.summary import chain_figures, summarise, summary_of
from w2s_ray.report.wording import seed_mark, seeds_line
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.compile import compile_study

Skill = Callable[[PlannedStage], float]


def read(study: SyntheticStudy) -> Summary:
    return summarise(study.study, study.resolution, study.store)


def arm(summary: Summary, level: str, label: str, task: str = "code") -> ArmSummary:
    (found,) = (a for a in summary.arms if (a.task, a.level, a.label) == (task, level, label))
    return found


def test_the_pgr_of_a_student_half_way_up_is_one_half(finished: SyntheticStudy) -> None:
    summary = read(finished)
    student = arm(summary, "large", "chain · naive")
    assert student.pgr is not None and student.gap is not None
    assert student.pgr.value == pytest.approx((0.7 - 0.6) / (0.8 - 0.6), abs=0.01)
    assert student.pgr.low < student.pgr.value < student.pgr.high
    assert student.gap.value == pytest.approx(0.2, abs=0.002)
    assert student.accuracy is not None and student.floor is not None and student.ceiling is not None
    assert (student.floor.value, student.ceiling.value) == pytest.approx((0.6, 0.8), abs=0.001)
    # Of the link: the previous student has .65, so (.70 − .65) / (.80 − .65).
    assert student.pgr_link is not None and student.pgr_link.value == pytest.approx(1 / 3, abs=0.01)


def test_a_negative_pgr_is_shown(finished: SyntheticStudy) -> None:
    student = arm(read(finished), "large", "chain · confident")
    assert student.pgr is not None and student.pgr.value == pytest.approx(-0.25, abs=0.01)
    assert student.pgr.high < 0


def test_each_distinct_arm_stands_once(finished: SyntheticStudy) -> None:
    summary = read(finished)
    assert [(a.level, a.label) for a in summary.arms] == [
        ("small", "floor"),
        ("medium", "chain = direct"),
        ("medium", "ceiling"),
        ("large", "chain · naive"),
        ("large", "chain · confident"),
        ("large", "direct"),
        ("large", "ceiling"),
    ]
    medium = arm(summary, "medium", "chain = direct")
    assert medium.methods == ("naive", "confident") and medium.also == ("direct",)
    assert summary.num_stages == summary.num_stages_finished == len(finished.stages) == 7
    assert summary.num_students == 4


def test_trap_15_a_gap_that_may_be_nothing_leaves_the_pgr_undefined_and_counted(
    synthetic: Callable[..., SyntheticStudy], skill: Skill
) -> None:
    study = synthetic()
    study.finish(lambda stage: 0.615 if (stage.arm, stage.level) == ("ceiling", "medium") else skill(stage))
    summary = read(study)
    medium = arm(summary, "medium", "chain")
    assert medium.accuracy is not None and medium.pgr is None
    assert medium.pgr_undefined is not None and "not above 0.02" in medium.pgr_undefined
    assert (summary.num_undefined, summary.num_students) == (1, 2)
    assert arm(summary, "large", "chain").pgr is not None


def test_several_seeds_make_a_ratio_of_means_and_few_are_marked(synthetic: Callable[..., SyntheticStudy]) -> None:
    study = synthetic(seeds=[0, 1], chains=[["small", "large"]])
    stages = study.stages
    first = {s.identity for s in stages.values() if s.spec.train[0].split.split_seed == 0}

    def skill(stage: PlannedStage) -> float:
        seed_0 = {"floor": 0.6, "chain": 0.64, "ceiling": 0.65}  # PGR .8
        seed_1 = {"floor": 0.6, "chain": 0.7, "ceiling": 0.8}  # PGR .5
        return (seed_0 if stage.identity in first else seed_1)[stage.arm]

    study.finish(skill)
    student = arm(read(study), "large", "chain")
    assert student.seeds == (0, 1) and student.seed_conditional
    assert student.pgr is not None
    assert student.pgr.value == pytest.approx((0.67 - 0.6) / (0.725 - 0.6), abs=0.01), "not .65, the mean of the ratios"


def test_five_seeds_are_not_seed_conditional(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    study = synthetic(seeds=[0, 1, 2, 3, 4], chains=[["small", "large"]])
    study.finish(skill)
    assert not any(a.seed_conditional for a in read(study).arms)


def test_a_seed_whose_ceiling_lacks_stays_out_of_the_pgr_but_not_of_the_accuracy(
    synthetic: Callable[..., SyntheticStudy], skill: Skill
) -> None:
    study = synthetic(seeds=[0, 1], chains=[["small", "large"]])
    study.finish(
        lambda stage: skill(stage) - 0.1 * (stage.spec.train[0].split.split_seed == 1),
        leave_out=lambda stage: stage.arm == "ceiling" and stage.spec.train[0].split.split_seed == 1,
    )
    student = arm(read(study), "large", "chain")
    assert student.seeds == (0, 1) and student.accuracy is not None and student.floor is not None
    assert student.accuracy.value == pytest.approx(0.65, abs=0.001)
    assert student.floor.value == pytest.approx(0.6, abs=0.001), "seed 0 alone"
    assert student.pgr is not None and student.pgr.value == pytest.approx(0.5, abs=0.01)


def test_the_seeds_that_a_pgr_rests_on_decide_whether_it_is_seed_conditional(
    synthetic: Callable[..., SyntheticStudy], skill: Skill
) -> None:
    """Five seeds of student and floor, two of its ceiling."""
    study = synthetic(seeds=[0, 1, 2, 3, 4], chains=[["small", "large"]])
    study.finish(
        skill, leave_out=lambda stage: stage.arm == "ceiling" and stage.spec.train[0].split.split_seed in (1, 2, 3)
    )
    summary = read(study)
    student = arm(summary, "large", "chain")
    assert student.seeds == (0, 1, 2, 3, 4) and student.pgr_seeds == (0, 4) and student.seed_conditional
    assert {a.label: seed_mark(a) for a in summary.arms} == {"floor": "", "chain": "†", "ceiling": "†"}
    line = seeds_line(summary)
    assert line == "† seed-conditional: with as few as 2 seeds the intervals say little about other seeds"


def test_two_climbs_share_floor_ceiling_and_direct_and_tell_their_chains_apart(
    synthetic: Callable[..., SyntheticStudy], skill: Skill
) -> None:
    arms = {"naive": {"arms": ["chain", "direct", "ceiling"]}}
    study = synthetic(chains=[["small", "large"], ["small", "medium", "large"]], methods=arms)
    study.finish(skill)
    summary = read(study)
    assert [a.label for a in summary.arms if a.level == "large"] == [
        "chain = direct · small→large",
        "chain · small→medium→large",
        "ceiling",
    ]
    assert arm(summary, "large", "chain = direct · small→large").paths == (("small", "large"),)


def test_pooled_has_the_levels_ceiling_and_self_has_none(
    synthetic: Callable[..., SyntheticStudy], skill: Skill
) -> None:
    study = synthetic(methods={"naive": {"arms": ["chain", "ceiling", "pooled", "self"]}})
    study.finish(skill)
    summary = read(study)
    pooled = arm(summary, "large", "pooled")
    assert pooled.pgr is not None and pooled.pgr.value == pytest.approx(0.4, abs=0.01)
    own = arm(summary, "small", "self")
    assert own.accuracy is not None and own.pgr is None
    assert own.pgr_undefined is not None and "no ceiling" in own.pgr_undefined


def test_a_study_without_ceilings_says_so(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    study = synthetic(methods={"naive": {"arms": ["chain"]}})
    study.finish(skill)
    assert arm(read(study), "large", "chain").pgr_undefined == "the study asks for no ceiling of its setting"


def test_the_order_of_methods_does_not_decide_what_is_shown(synthetic: Callable[..., SyntheticStudy]) -> None:
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
    summary = summarise(study.study, study.resolution, study.store)
    firsts = {arm.kinds for arm in summary.arms}
    assert ("direct", "chain") in firsts and ("full_ceiling", "ceiling") in firsts
    assert {step.num_intermediates for step in summary.steps} == {0, 1}
    curves = [curve for curve in summary.curves if "probe" not in curve.setting]
    sizes = {curve.level: [size for size, _ in curve.points] for curve in curves}
    assert sizes == {"medium": [50, 100], "large": [50, 100]}
    last = climb(summary, ("small", "large"))[-1]
    assert last.level == "large" and last.accuracies
    assert all(arm.pgr_link == arm.pgr for arm in summary.arms if arm.kinds == ("direct", "chain"))


def test_arms_of_a_level_are_compared_in_pairs_with_what_could_be_detected(finished: SyntheticStudy) -> None:
    summary = read(finished)
    pairs = {(pair.first, pair.second): pair for pair in summary.comparisons}
    assert set(pairs) == {
        ("chain · naive", "chain · confident"),
        ("chain · naive", "direct"),
        ("chain · confident", "direct"),
    }
    found = pairs["chain · naive", "direct"]
    assert found.difference.value == pytest.approx(0.2, abs=0.01) and found.difference.low > 0
    assert 0 < found.minimum_detectable < 0.25


def test_trap_20_degenerate_labels_are_warned_of(
    synthetic: Callable[..., SyntheticStudy], skill: Skill, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = synthetic(chains=[["small", "large"]])
    plain = study.predictions

    def nearly_one_class(stage: PlannedStage, spec: object, accuracy: float) -> object:
        ids, probs_NC = plain(stage, spec, accuracy)  # type: ignore[arg-type]
        if stage.arm == "floor" and not spec.split.is_test:  # type: ignore[attr-defined]
            probs_NC[: int(0.95 * len(ids))] = [0.9, 0.1]
        return ids, probs_NC

    monkeypatch.setattr(study, "predictions", nearly_one_class)
    study.finish(skill)
    (warning,) = read(study).warnings
    assert "small (floor) gave to T2 (seed 0)" in warning and "98% are one class" in warning


def test_a_floor_at_chance_is_warned_of(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    study = synthetic(chains=[["small", "large"]])
    study.finish(lambda stage: 0.5 if stage.arm == "floor" else skill(stage))
    assert any("chance" in warning for warning in read(study).warnings)


def test_texts_that_did_not_fit_into_the_context_are_told(
    synthetic: Callable[..., SyntheticStudy], skill: Skill
) -> None:
    study = synthetic(chains=[["small", "large"]])
    study.cut_examples = 0.25 * study.study.splits.train_examples
    study.finish(skill)
    assert [line for line in read(study).warnings if "context" in line] == [
        f"code: 25% of the texts that {level} learned are longer than its context; it saw the ends"
        for level in ("small", "large")
    ]


@pytest.mark.parametrize(
    ("lack_bf16", "said"),
    [
        ((), []),
        (("small",), ["1 of 3 stages computed in fp32, on devices without bf16: they differ by rounding"]),
        (("small", "large"), []),
    ],
)
def test_stages_of_one_study_that_were_computed_in_unlike_precisions_are_told(
    synthetic: Callable[..., SyntheticStudy], skill: Skill, lack_bf16: tuple[str, ...], said: list[str]
) -> None:
    study = synthetic(chains=[["small", "large"]], optimisation={"precision": "bf16"})
    study.lack_bf16 = lack_bf16
    study.finish(skill)
    assert [line for line in read(study).warnings if "bf16" in line] == said


def test_text_stages_of_package_versions_that_record_other_figures_are_averaged_over_those_that_have_them(
    synthetic: Callable[..., SyntheticStudy], skill: Skill
) -> None:
    study = synthetic(seeds=[0, 1, 2], methods={"pretrain": {"objective": "next_token"}})
    study.finish(skill)
    evidence = gather(study.study, study.resolution, study.store)
    large = [identity for identity, stage in evidence.stages.items() if stage.level == "large"]
    recorded = ({"num_steps": 50.0, "of_old": 1.0}, {"num_steps": 50.0}, {"num_steps": 80.0, "of_new": 4.0})
    for identity, metrics in zip(large, recorded, strict=True):
        evidence.records[identity] = evidence.records[identity].model_copy(update={"metrics": metrics})
    (found,) = (each for each in summary_of(study.study, evidence).pretrained if each.level == "large")
    assert found.metrics == {"num_steps": 60.0, "of_old": 1.0, "of_new": 4.0}


def test_reading_twice_gives_the_same(finished: SyntheticStudy) -> None:
    assert read(finished) == read(finished)


def test_an_unfinished_study_shows_what_is_planned(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    study = synthetic()
    study.finish(skill, leave_out=lambda stage: stage.level == "large")
    summary = read(study)
    assert arm(summary, "large", "chain").accuracy is None
    assert summary.num_stages_finished < summary.num_stages
    assert summary.num_undefined == 0, "what is not finished is not undefined"
    assert summary.finished_at is not None and "numpy" in summary.versions


def test_an_oracle_is_marked(finished: SyntheticStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "w2s_ray.report.judge.is_oracle", lambda *given: given[-1].arm == "direct" and given[-1].level == "large"
    )
    summary = read(finished)
    assert [a.label for a in summary.arms if a.oracle] == ["direct"]
    assert any("oracle" in warning for warning in summary.warnings)


def test_a_chain_by_itself_has_the_accuracies_and_pgrs_of_the_report(finished: SyntheticStudy) -> None:
    chain = next(chain for chain in compile_study(finished.study, finished.resolution) if chain.method == "naive")
    figures = chain_figures(finished.study, finished.store, chain)
    assert figures["floor/small/accuracy"] == pytest.approx(0.6, abs=0.001)
    assert figures["ceiling/large/accuracy"] == pytest.approx(0.8, abs=0.001)
    assert figures["chain/large/pgr"] == pytest.approx(0.5, abs=0.01)
    assert figures["direct/medium/accuracy"] == figures["chain/medium/accuracy"]
    assert not any(name.startswith("floor") and name.endswith("pgr") for name in figures)
