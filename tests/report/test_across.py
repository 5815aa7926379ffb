"""Over all tasks: medians, pooled PGRs, declared comparisons and references, against values worked out by hand.

Three tasks with floors of .6. On `easy` the ceiling is .8 and the naive student .65, on `harder` .9 and .75; on `flat`
there is no gap and the student loses .03. So the PGRs are .25, .5 and none, and pooled they are
(.05 + .15 − .03) / (.2 + .3 + 0) = .34; without the flat task it would be .4.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from synthetic import CEILING, THREE_METHODS, SyntheticStudy, skill_by_task, value

from w2s_ray.report.findings import AcrossTasks, DeclaredComparison, Summary
from w2s_ray.report.summary import summary_of
from w2s_ray.report.text import contest, num_seeds, pooled_share, scope, whole
from w2s_ray.spec.chain import PlannedStage

SMALLEST_P_VALUE = 2 / 401
"""Of 400 draws."""
SEEDS = [0, 1, 2]
"""As many as a p-value needs."""


def student_of(summary: Summary, label: str) -> AcrossTasks:
    (student,) = (row for row in summary.across if row.label == label)
    return student


def test_trap_15_undefined_pgrs_are_counted_and_pooling_skips_no_task(
    three: Callable[..., Summary],
) -> None:
    student = student_of(three(), "chain · naive, same")
    assert student.pgrs["easy"] == pytest.approx(0.25, abs=0.01) and student.pgrs["harder"] == pytest.approx(
        0.5, abs=0.01
    )
    assert student.pgrs["flat"] is None and student.num_undefined == 1
    assert student.median == pytest.approx(0.375, abs=0.01)
    assert value(student.pooled) == pytest.approx(0.34, abs=0.01), "not .4"
    assert student.pooled.low < student.pooled.value < student.pooled.high
    assert student.accuracy.value == pytest.approx((0.65 + 0.75 + 0.57) / 3, abs=2e-3)


def test_one_task_has_no_table_over_all_tasks(finished: SyntheticStudy) -> None:
    assert finished.summary().across == ()


def test_a_method_for_some_tasks_is_pooled_over_those(three: Callable[..., Summary]) -> None:
    methods = {"naive": {}, "confident": {**THREE_METHODS["confident"], "tasks": ["easy", "harder"]}}
    student = student_of(three(methods=methods), "chain · confident")
    assert set(student.pgrs) == {"easy", "harder"}
    assert value(student.pooled) == pytest.approx((0.08 + 0.18) / 0.5, abs=0.01)


def test_tasks_without_a_ceiling_count_in_the_mean_accuracy_and_as_undefined(three: Callable[..., Summary]) -> None:
    """The naive student's ceilings are another method's, which serves two of the three tasks."""
    confident = {**THREE_METHODS["confident"], "arms": ["chain", "ceiling"], "tasks": ["easy", "harder"]}
    summary = three(methods={"naive": {"arms": ["chain", "self"]}, "confident": confident})
    student = student_of(summary, "chain · naive")
    assert student.accuracy.value == pytest.approx((0.65 + 0.75 + 0.57) / 3, abs=2e-3)
    assert set(student.pgrs) == set(CEILING) and student.pgrs["flat"] is None and student.num_undefined == 1
    assert value(student.pooled) == pytest.approx(0.4, abs=0.01), "of the two"
    assert student.num_pooled == 2 and pooled_share(student) == "2 of 3 tasks"
    own = student_of(summary, "self")
    assert own.pooled is None and own.pooled_undefined is not None and own.num_undefined == 3, "it has no ceiling"
    assert pooled_share(student_of(summary, "chain · confident")) == "", "all of its own tasks"


def declared(summary: Summary) -> DeclaredComparison:
    (comparison,) = summary.declared
    return comparison


def test_a_declared_comparison_is_one_test_over_all_tasks(three: Callable[..., Summary]) -> None:
    comparison = declared(three({"compare": [["confident", "naive"]]}, seeds=SEEDS))
    assert comparison.tasks == ("easy", "harder", "flat")
    assert value(comparison.accuracy) == pytest.approx(0.03, abs=2e-3)
    assert value(comparison.pgr) == pytest.approx(3 * 0.03 / 0.5, abs=0.01)
    assert comparison.p_value == comparison.p_holm == SMALLEST_P_VALUE, "nested models: better on every resample"


def test_every_contender_is_shown_with_its_arm_and_chain(three: Callable[..., Summary]) -> None:
    reference = {"source": "s", "setting": "t", "values": {"naive": 0.25, "confident (small>large)": 0.8}}
    summary = three({"compare": [["confident", "naive"]], "references": [reference]})
    comparison = declared(summary)
    assert (comparison.first, comparison.second) == ("confident/chain (small→large)", "naive/chain (small→large)")
    assert [row.contender for row in summary.references] == [comparison.second, comparison.first]


def test_holm_corrects_over_declared_comparisons_alone(three: Callable[..., Summary]) -> None:
    """Two of three differ on every resample, a student and its double on none."""
    summary = three({"compare": [["confident", "naive"], ["naive", "confident"], ["naive", "same"]]}, seeds=SEEDS)
    least = SMALLEST_P_VALUE
    assert [row.p_value for row in summary.declared] == [least, least, 1.0]
    assert [row.p_holm for row in summary.declared] == [pytest.approx(3 * least), pytest.approx(3 * least), 1.0]
    assert len(summary.comparisons) == 3 - 1, "one exploratory pair on each task that has a gap"


def test_an_undefined_pgr_leaves_a_declared_comparison_undecided_and_counted(three: Callable[..., Summary]) -> None:
    flat = {"first": "confident", "second": "naive", "tasks": ["flat"]}
    pairs = [flat, ["confident", "naive"], {**flat, "by": "accuracy"}]
    undecided, decided, by_accuracy = three({"compare": pairs}, seeds=SEEDS).declared
    assert undecided.p_value is None and undecided.p_holm is None and undecided.pgr is None
    assert undecided.undecided is not None and "not above 0.02" in undecided.undecided
    assert undecided.accuracy is not None and undecided.accuracy.low > 0, "accuracy first"
    assert decided.p_holm == pytest.approx(3 * SMALLEST_P_VALUE)
    assert by_accuracy.p_value == SMALLEST_P_VALUE and by_accuracy.undecided is None


def test_a_declared_comparison_of_unfinished_arms_is_undecided(synthetic: Callable[..., SyntheticStudy]) -> None:
    report = {"compare": [["confident", "naive"]], "bootstrap_samples": 100}
    study = synthetic(chains=[["small", "large"]], methods=THREE_METHODS, report=report)
    study.finish(lambda stage: 0.6, leave_out=lambda stage: stage.spec.loss.kind == "confidence")
    comparison = declared(study.summary())
    assert comparison.undecided == "both are not finished for any seed of any task" and comparison.tasks == ()


def test_a_declared_comparison_without_one_of_its_tasks_is_undecided(
    synthetic: Callable[..., SyntheticStudy],
) -> None:
    pair = ["confident", "naive"]
    named = [{"first": "confident", "second": "naive", "tasks": tasks} for tasks in (["easy"], ["harder", "flat"])]
    methods = {**THREE_METHODS, "same": {"arms": ["chain"], "tasks": ["easy"]}}
    study = synthetic(
        tasks=tuple(CEILING),
        chains=[["small", "large"]],
        methods=methods,
        report={"compare": [pair, *named, ["confident", "same"]], "bootstrap_samples": 200},
        seeds=SEEDS,
    )
    study.finish(skill_by_task, leave_out=lambda stage: stage.spec.loss.kind == "confidence" and stage.task == "flat")
    summary = study.summary()
    everywhere, easy, rest, served = summary.declared
    assert everywhere.undecided == "both are finished on 2 of 3 tasks" and everywhere.tasks == ("easy", "harder")
    assert everywhere.p_value is None and everywhere.p_holm is None and everywhere.accuracy is not None
    assert easy.p_holm is not None and easy.num_tasks == 1
    assert served.p_holm is not None and served.num_tasks == 1, "tasks that a method is not for do not count"
    assert rest.undecided == "both are finished on 1 of 2 tasks"
    names = [contest(row).removeprefix(f"{row.first} − {row.second}") for row in summary.declared]
    assert names == [" · 2 of 3 tasks", " · easy", " · harder, flat · 1 of 2 tasks", ""]


@pytest.mark.parametrize("num_seeds", [1, 2])
def test_fewer_than_three_seeds_have_intervals_and_no_p_value(three: Callable[..., Summary], num_seeds: int) -> None:
    comparison = declared(three({"compare": [["confident", "naive"]]}, seeds=SEEDS[:num_seeds]))
    assert comparison.accuracy is not None and comparison.accuracy.low > 0 and comparison.pgr is not None
    assert comparison.p_value is None and comparison.p_holm is None
    assert comparison.undecided is not None and f"for {num_seeds} seed" in comparison.undecided


def test_points_that_change_neither_side_are_one_comparison(
    synthetic: Callable[..., SyntheticStudy],
) -> None:
    key = "methods.confident.losses.large.alpha_max"
    study = synthetic(
        chains=[["small", "large"]],
        methods={"naive": {}, "hard": {"losses": {"large": {"kind": "hard"}}}, "confident": THREE_METHODS["confident"]},
        search={"space": {key: [0.25, 0.5, 0.75]}},
        report={"compare": [["hard", "naive"], ["confident", "naive"]], "bootstrap_samples": 400},
        seeds=SEEDS,
    )
    known = {"floor": 0.6, "ceiling": 0.8, "naive": 0.65, "hard": 0.68, "confidence": 0.71}
    study.finish(lambda stage: known.get(stage.arm, known[stage.spec.loss.kind]))
    untouched, *touched = study.summary().declared
    assert untouched.point is None and untouched.first == "hard/chain (small→large)"
    assert [row.point for row in touched] == ["alpha_max 0.25", "alpha_max 0.5", "alpha_max 0.75"]
    assert [row.p_holm for row in (untouched, *touched)] == [pytest.approx(4 * SMALLEST_P_VALUE)] * 4


def test_both_contenders_are_compared_over_the_seeds_that_both_have(synthetic: Callable[..., SyntheticStudy]) -> None:
    report = {"compare": [["confident", "naive"]], "bootstrap_samples": 100}
    study = synthetic(chains=[["small", "large"]], methods=THREE_METHODS, report=report, seeds=[0, 1])

    def by_seed(stage: PlannedStage) -> float:
        seed = stage.spec.train[0].split.split_seed
        known = {"floor": 0.6, "ceiling": 0.8, "naive": 0.65 + 0.1 * seed, "confidence": 0.7}
        return known.get(stage.arm, known[stage.spec.loss.kind])

    def second_confident(stage: PlannedStage) -> bool:
        return stage.spec.loss.kind == "confidence" and stage.spec.train[0].split.split_seed == 1

    study.finish(by_seed, leave_out=second_confident)
    comparison = declared(study.summary())
    assert value(comparison.accuracy) == pytest.approx(0.05, abs=2e-3), "seed 0 alone"
    assert comparison.seeds == {"code": (0,)} and num_seeds(comparison) == "1†"
    assert value(comparison.pgr) == pytest.approx(0.25, abs=0.01)


def test_one_group_of_test_examples_decides_nothing_and_few_are_warned_of(
    synthetic: Callable[..., SyntheticStudy],
) -> None:
    by_accuracy = {"first": "confident", "second": "naive", "by": "accuracy"}
    pairs = [["confident", "naive"], by_accuracy, {**by_accuracy, "tasks": ["harder"]}]
    report = {"compare": pairs, "bootstrap_samples": 200}
    tasks, chains = ("easy", "harder"), [["small", "large"]]
    study = synthetic(tasks=tasks, chains=chains, methods=THREE_METHODS, report=report, seeds=SEEDS)
    study.finish(skill_by_task)
    evidence = study.evidence()
    for task, num_groups in (("easy", 1), ("harder", 12)):
        test = evidence.tests[task]
        evidence.tests[task] = replace(test, groups_N=np.arange(len(test.ids)) % num_groups)
    summary = summary_of(study.study, evidence)
    by_pgr, both, harder_alone = summary.declared
    assert by_pgr.p_value is None and both.p_value is None and harder_alone.p_value is not None
    assert by_pgr.undecided == both.undecided and both.undecided is not None and "1 group" in both.undecided
    student = student_of(summary, "chain · naive, same")
    assert student.pgrs["easy"] is None and student.pgrs["harder"] is not None
    assert student.pooled_undefined is not None and "1 group" in student.pooled_undefined, "it is over both tasks"
    strata = {arm.task: list(arm.strata) for arm in summary.arms}
    assert strata == {"easy": [], "harder": ["band 0", "band 1", "band 2"]}, "one group is too few"
    easy, harder = (whole(task.num_test) for task in summary.tasks.values())
    warnings = [line.partition(" of related")[0] for line in summary.warnings if "groups" in line]
    assert [line.partition(":")[0] for line in warnings] == ["easy", "harder"]
    assert warnings[0].endswith("1 group") and warnings[1].endswith("12 groups")
    assert scope(summary).startswith(f"test examples: easy {easy} in 1 group, harder {harder} in 12 groups; 3 seeds;")


def test_a_declared_comparison_counts_the_seeds_of_its_own_difference(
    synthetic: Callable[..., SyntheticStudy],
) -> None:
    """Six seeds, two of them without a ceiling on the second task."""
    pairs = [["confident", "naive"], {"first": "confident", "second": "naive", "by": "accuracy"}]
    report = {"compare": pairs, "bootstrap_samples": 100}
    study = synthetic(
        tasks=("easy", "harder"),
        chains=[["small", "large"]],
        methods=THREE_METHODS,
        report=report,
        seeds=list(range(6)),
    )
    study.finish(
        skill_by_task,
        leave_out=lambda stage: (
            (stage.task, stage.arm) == ("harder", "ceiling") and stage.spec.train[0].split.split_seed in (3, 5)
        ),
    )
    by_pgr, by_accuracy = study.summary().declared
    assert by_pgr.seeds == {"easy": (0, 1, 2, 3, 4, 5), "harder": (0, 1, 2, 4)} and num_seeds(by_pgr) == "4†"
    assert by_accuracy.seeds["harder"] == (0, 1, 2, 3, 4, 5) and num_seeds(by_accuracy) == "6†"
