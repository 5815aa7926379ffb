"""The summary of a study: references, learning curves, chains of several lengths, a search, and warnings."""

from collections.abc import Callable
from dataclasses import replace

import pytest
from synthetic import Skill, SyntheticStudy, arm_of, printed, value

from w2s_ray.report import evaluation
from w2s_ray.report.findings import Summary
from w2s_ray.report.summary import chain_metrics, summary_of
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.search import Candidate, Point, SearchResult
from w2s_ray.store.search_result import Failures, write_failures, write_search_result

KEY = "optimisation.learning_rate"


def shown(study: SyntheticStudy) -> tuple[Summary, str, str]:
    """The summary, what the terminal shows of it, and the page."""
    summary = study.summary()
    return summary, printed(summary, 160), study.write_report().read_text()


@pytest.fixture
def two_lengths(synthetic: Callable[..., SyntheticStudy]) -> SyntheticStudy:
    """The large student directly, and by way of the medium one."""
    study = synthetic(chains=[["small", "large"], ["small", "medium", "large"]], methods={"naive": {}})
    floors = {identity for identity, stage in study.stages.items() if stage.arm == "floor"}

    def by_length(stage: PlannedStage) -> float:
        if stage.arm != "chain":
            return {"floor": 0.6, "ceiling": 0.8}[stage.arm]
        return 0.7 if set(stage.supervisors) & set(floors) else 0.65

    study.finish(by_length)
    return study


@pytest.fixture
def searched(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> SyntheticStudy:
    """A finished search: one winner, one that was stopped, one that failed."""
    search = {"space": {KEY: [1e-3, 2e-3, 3e-3]}, "choose_by": "oracle", "seeds": [11]}
    study = synthetic(search=search, methods={"naive": {}}, seeds=[0])
    points = study.study.search.points()
    result = SearchResult(
        candidates=(
            Candidate(point=points[0], status="done", score=0.61),
            Candidate(point=points[1], status="failed", error="Traceback\n  out of room\nRuntimeError: no <b>memory"),
            Candidate(point=points[2], status="stopped", score=0.4),
        ),
        winners=(points[0],),
    )
    write_search_result(result, study.study, study.store)
    study.finish(skill)
    return study


def test_reading_twice_gives_the_same(finished: SyntheticStudy) -> None:
    assert finished.summary() == finished.summary()


def test_an_unfinished_study_shows_what_is_planned(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    study = synthetic()
    study.finish(skill, leave_out=lambda stage: stage.level == "large")
    summary = study.summary()
    assert arm_of(summary, "large", "chain").accuracy is None
    assert summary.num_stages_finished < summary.num_stages
    assert summary.num_undefined == 0, "what is not finished is not undefined"
    assert summary.finished_at is not None and "numpy" in summary.versions


def test_an_oracle_is_marked(finished: SyntheticStudy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "w2s_ray.report.evaluation.is_oracle", lambda *given: given[-1].arm == "direct" and given[-1].level == "large"
    )
    summary = finished.summary()
    assert [a.label for a in summary.arms if a.oracle] == ["direct"]
    assert any("oracle" in warning for warning in summary.warnings)


def test_one_chain_alone_has_the_accuracies_and_pgrs_of_the_report(finished: SyntheticStudy) -> None:
    chain = next(chain for chain in compile_study(finished.study, finished.resolution) if chain.method == "naive")
    figures = chain_metrics(finished.study, finished.store, chain)
    assert figures["floor/small/accuracy"] == pytest.approx(0.6, abs=0.001)
    assert figures["ceiling/large/accuracy"] == pytest.approx(0.8, abs=0.001)
    assert figures["chain/large/pgr"] == pytest.approx(0.5, abs=0.01)
    assert figures["direct/medium/accuracy"] == figures["chain/medium/accuracy"]
    assert not any(name.startswith("floor") and name.endswith("pgr") for name in figures)


def test_recorded_metrics_are_averaged_over_the_stages_that_have_them(
    synthetic: Callable[..., SyntheticStudy], skill: Skill
) -> None:
    study = synthetic(seeds=[0, 1, 2], methods={"pretrain": {"objective": "next_token"}})
    study.finish(skill)
    evidence = study.evidence()
    large = [identity for identity, stage in evidence.stages.items() if stage.level == "large"]
    recorded = ({"num_steps": 50.0, "of_old": 1.0}, {"num_steps": 50.0}, {"num_steps": 80.0, "of_new": 4.0})
    for identity, metrics in zip(large, recorded, strict=True):
        evidence.records[identity] = evidence.records[identity].model_copy(update={"metrics": metrics})
    (pretrained,) = (row for row in summary_of(study.study, evidence).pretrained if row.level == "large")
    assert pretrained.metrics == {"num_steps": 60.0, "of_old": 1.0, "of_new": 4.0}


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
    (warning,) = study.summary().warnings
    assert "small (floor) gave to T2 (seed 0)" in warning and "98% are one class" in warning


UNTRAINED = {"methods": {"naive": {"arms": ["chain", "direct", "ceiling", "zero_shot"]}}}


def test_trap_27_a_student_below_its_untrained_model_is_warned_of(
    synthetic: Callable[..., SyntheticStudy], skill: Skill
) -> None:
    """Of the untrained models the large one is right on 69 %, between its students."""
    study = synthetic(**UNTRAINED)
    untrained = {"small": 0.5, "medium": 0.55, "large": 0.69}
    study.finish(lambda stage: untrained[stage.level] if stage.arm == "zero_shot" else skill(stage))
    summary, text, page = shown(study)
    chain, direct, medium = (
        arm_of(summary, *place) for place in (("large", "chain"), ("large", "direct"), ("medium", "chain"))
    )
    assert value(direct.untrained) == value(chain.untrained) == pytest.approx(0.69, abs=1e-3)
    assert value(direct.above_untrained) == pytest.approx(0.66 - 0.69, abs=1e-3)
    assert [arm.label for arm in summary.arms if arm.is_below_untrained] == [direct.label]
    assert value(medium.above_untrained) == pytest.approx(0.1, abs=1e-3)
    (warning,) = (line for line in summary.warnings if "untrained" in line)
    assert warning.startswith("code: reliably below the untrained large, in accuracy: direct (−.030 [")
    assert "1 student is reliably below the untrained model" in summary.verdict
    for view in (text, page):
        assert "direct†‡" in view and "chain†‡" not in view and "reliably below its untrained model" in view


def test_a_student_that_may_be_as_good_as_its_untrained_model_is_not_warned_of(
    synthetic: Callable[..., SyntheticStudy], skill: Skill
) -> None:
    study = synthetic(**UNTRAINED)
    untrained = {"small": 0.5, "medium": 0.65, "large": 0.66}
    study.finish(lambda stage: untrained[stage.level] if stage.arm == "zero_shot" else skill(stage))
    summary = study.summary()
    assert value(arm_of(summary, "large", "direct").above_untrained) == 0
    assert not any("untrained" in line for line in summary.warnings)


def test_a_student_is_compared_with_an_untrained_model_asked_by_its_own_score(
    synthetic: Callable[..., SyntheticStudy],
) -> None:
    methods = {
        "naive": {"arms": ["chain"]},
        "mean": {"score": "likelihood", "arms": ["chain", "zero_shot"]},
        "dpo": {"score": {"kind": "likelihood", "reference": True}, "arms": ["chain"]},
        "sum": {"score": {"kind": "likelihood", "normalise": False}, "arms": ["chain"]},
    }
    study = synthetic(methods=methods)
    study.finish(lambda stage: 0.9 if stage.arm == "zero_shot" else 0.7)
    students = {arm.methods: arm for arm in study.summary().arms if arm.is_student and arm.level == "large"}
    assert {methods for methods, arm in students.items() if arm.is_below_untrained} == {("mean",), ("dpo",)}
    assert students[("naive",)].untrained is students[("sum",)].untrained is None


def test_a_student_with_random_weights_has_no_untrained_model(synthetic: Callable[..., SyntheticStudy]) -> None:
    study = synthetic(methods={**UNTRAINED["methods"], "scratch": {"random": ["large"]}}, chains=[["small", "large"]])
    study.finish(lambda stage: {"floor": 0.6, "zero_shot": 0.7}.get(stage.arm, 0.65))
    students = {arm.setting: arm for arm in study.summary().arms if arm.arm == "chain"}
    assert students["random start"].above_untrained is None and students[""].is_below_untrained


def test_a_floor_at_chance_is_warned_of(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    study = synthetic(chains=[["small", "large"]])
    study.finish(lambda stage: 0.5 if stage.arm == "floor" else skill(stage))
    assert any("chance" in warning for warning in study.summary().warnings)


def test_texts_longer_than_the_context_are_warned_of(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    study = synthetic(chains=[["small", "large"]])
    study.cut_examples = 0.25 * study.study.splits.train_examples
    study.finish(skill)
    lines = [line for line in study.summary().warnings if "context" in line]
    assert [line.split(" of ")[0] for line in lines] == ["code: 25%", "code: 25%"]
    assert "small" in lines[0] and "large" in lines[1]


@pytest.mark.parametrize(
    ("lack_bf16", "warnings"),
    [
        ((), []),
        (("small",), ["1 of 3 stages computed in fp32, on devices without bf16: they differ by rounding"]),
        (("small", "large"), []),
    ],
)
def test_stages_of_one_study_in_different_precisions_are_warned_of(
    synthetic: Callable[..., SyntheticStudy], skill: Skill, lack_bf16: tuple[str, ...], warnings: list[str]
) -> None:
    study = synthetic(chains=[["small", "large"]], optimisation={"precision": "bf16"})
    study.lack_bf16 = lack_bf16
    study.finish(skill)
    assert [line for line in study.summary().warnings if "bf16" in line] == warnings


def test_references_are_compared_with_the_median_pgr_or_mean_accuracy(three: Callable[..., Summary]) -> None:
    reference = {"source": "Burns et al. 2023", "setting": "22 tasks", "values": {"naive": 0.25, "confident": "~0.8"}}
    openai = {"source": "openai", "setting": "SciQ", "values": {"naive": 0.33}, "tasks": ["easy"]}
    by_accuracy = {**openai, "figure": "accuracy", "tasks": ["easy", "flat"]}
    first, second, third, last = three({"references": [reference, openai, by_accuracy]}).references
    assert (first.theirs, first.num_tasks, first.num_undefined) == (0.25, 3, 1)
    assert first.ours == pytest.approx(0.375, abs=0.01)
    assert second.theirs == "~0.8" and second.ours == pytest.approx((0.4 + 0.6) / 2, abs=0.01)
    assert third.ours == pytest.approx(0.25, abs=0.01) and third.num_tasks == 1
    assert last.ours == pytest.approx((0.65 + 0.57) / 2, abs=2e-3) and last.num_undefined == 0


def test_the_ceilings_learning_curve_is_by_number_of_examples(synthetic: Callable[..., SyntheticStudy]) -> None:
    search = {"space": {"splits.train_examples": [50, 100, 200]}}
    study = synthetic(chains=[["small", "large"]], methods={"naive": {}}, search=search)
    sizes = {50: 0.7, 100: 0.75, 200: 0.8}
    study.finish(lambda stage: sizes[stage.spec.train[0].split.num_examples] if stage.arm == "ceiling" else 0.6)
    (curve,) = study.summary().curves
    assert (curve.task, curve.level) == ("code", "large")
    assert [size for size, _ in curve.points] == [50, 100, 200]
    assert [accuracy.value for _, accuracy in curve.points] == pytest.approx([0.7, 0.75, 0.8], abs=2e-3)


def test_ceilings_with_another_optimisation_are_another_learning_curve(
    synthetic: Callable[..., SyntheticStudy],
) -> None:
    rate = "ladder.large.optimisation.learning_rate"
    search = {"space": {"splits.train_examples": [50, 100], rate: [1e-3, 1e-5]}}
    study = synthetic(chains=[["small", "large"]], methods={"naive": {}}, search=search)

    def skill(stage: PlannedStage) -> float:
        return 0.6 if stage.arm != "ceiling" else 0.9 if stage.spec.optimisation.learning_rate == 1e-3 else 0.7

    study.finish(skill)
    curves = study.summary().curves
    assert [curve.setting for curve in curves] == ["learning_rate 0.001", "learning_rate 1e-05"]
    for curve, expected in zip(curves, (0.9, 0.7), strict=True):
        assert [accuracy.value for _, accuracy in curve.points] == pytest.approx([expected, expected], abs=2e-3)


def test_one_size_makes_no_learning_curve(finished: SyntheticStudy) -> None:
    assert finished.summary().curves == ()


def test_chains_of_different_floors_are_not_compared_by_length(
    synthetic: Callable[..., SyntheticStudy],
) -> None:
    study = synthetic(chains=[["small", "medium", "large"], ["medium", "large"]], methods={"naive": {}})
    skills = {"small": 0.5, "medium": 0.7, "large": 0.75}
    study.finish(lambda stage: 0.8 if stage.arm == "ceiling" else skills[stage.level])
    summary = study.summary()
    assert summary.steps == () and summary.comparisons == ()


def test_chains_of_several_lengths_are_compared_at_their_last_student(two_lengths: SyntheticStudy) -> None:
    summary, text, page = shown(two_lengths)
    assert [(step.level, step.num_intermediates) for step in summary.steps] == [("large", 0), ("large", 1)]
    direct, longer = summary.steps
    assert direct.difference is None and longer.difference is not None
    assert direct.pgr is not None and longer.pgr is not None
    assert [step.accuracy.value for step in summary.steps] == pytest.approx([0.7, 0.65], abs=1e-3)
    assert longer.difference.value == pytest.approx(longer.pgr.value - direct.pgr.value)
    for view in (text, page):
        assert "chain · small→medium→large" in view and "chain · small→large" in view
    assert "small → medium → large" in page


def test_lengths_of_chains_are_compared_within_one_method_and_point(
    synthetic: Callable[..., SyntheticStudy],
) -> None:
    """The confidence loss is the large student's alone, so both methods have one medium student."""
    study = synthetic(
        tasks=("code", "prose"),
        chains=[["small", "large"], ["small", "medium", "large"]],
        methods={"naive": {}, "confident": {"losses": {"large": {"kind": "confidence"}}}, "same": {"arms": ["chain"]}},
        search={"space": {"splits.train_examples": [50, 100]}},
    )

    def by_length_and_size(stage: PlannedStage) -> float:
        if stage.arm != "chain":
            return {"floor": 0.6, "ceiling": 0.8}[stage.arm]
        (part,) = stage.spec.train
        longer = study.stages[stage.supervisors[0]].arm == "chain"
        return 0.64 + 0.04 * longer + 0.02 * (part.split.num_examples == 100) + 0.01 * (stage.spec.loss.kind != "naive")

    study.finish(by_length_and_size)
    summary, text, page = shown(study)
    assert [step.task for step in summary.steps] == ["code"] * 8 + ["prose"] * 8, "two methods at two points"
    for direct, longer in zip(summary.steps[::2], summary.steps[1::2], strict=True):
        assert (direct.num_intermediates, longer.num_intermediates) == (0, 1) and direct.difference is None
        assert value(longer.difference) == pytest.approx(0.2, abs=0.01)
    labels = {step.label for step in summary.steps}
    assert len(labels) == 8 and all(label in page for label in labels)
    assert "prose · large" in text and "prose · large" in page


def test_many_students_have_no_pairs_but_keep_differences_between_lengths(two_lengths: SyntheticStudy) -> None:
    with pytest.MonkeyPatch.context() as few:
        few.setattr(evaluation, "_MOST_COMPARED", 1)
        summary = two_lengths.summary()
    assert summary.comparisons == () and summary.steps[-1].difference is not None


def test_one_length_makes_no_table_of_lengths(finished: SyntheticStudy) -> None:
    summary, text, page = shown(finished)
    assert summary.steps == () and "Bootstrapping" not in text and "by way of" not in page


def test_a_search_shows_among_how_many_its_winner_was_picked(searched: SyntheticStudy) -> None:
    summary, text, page = shown(searched)
    assert summary.search is not None
    assert [candidate.status for candidate in summary.search.candidates] == ["done", "stopped", "failed"], (
        "the best first"
    )
    line = "icked 1 of 3 candidates (1 done, 1 stopped, 1 failed) by ground truth on their own validation examples"
    assert line in text and line in page and "(oracle)" in text


def test_a_candidates_error_is_shown_and_is_no_markup(searched: SyntheticStudy) -> None:
    _, text, page = shown(searched)
    assert "failed: RuntimeError: no <b>memory" in text
    assert "no &lt;b&gt;memory" in page and "<b>memory" not in page


def test_an_unfinished_search_has_no_table(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    search = {"space": {KEY: [1e-3, 2e-3]}, "choose_by": "oracle", "seeds": [11]}
    study = synthetic(search=search, methods={"naive": {}}, seeds=[0])
    assert study.summary().search is None


def test_the_result_of_another_search_is_not_used(searched: SyntheticStudy) -> None:
    search = searched.study.search
    assert search is not None
    other = searched.study.model_copy(update={"search": search.model_copy(update={"seeds": (12,)})})
    assert replace(searched, study=other).summary().search is None


def test_a_search_that_minimises_a_cost_shows_it(synthetic: Callable[..., SyntheticStudy]) -> None:
    search = {
        "space": {KEY: {"low": 1e-4, "high": 1e-2, "log": True}},
        "sampler": "nsga2",
        "num_samples": 2,
        "choose_by": "oracle",
        "minimise": "train_seconds",
        "seeds": [11],
    }
    study = synthetic(search=search, methods={"naive": {}}, seeds=[0])
    done = Candidate(point=Point(settings=((KEY, "0.005"),)), status="done", score=0.5, cost=1234.0)
    write_search_result(SearchResult(candidates=(done,), winners=(done.point,)), study.study, study.store)
    _, text, page = shown(study)
    assert "1,234" in text and "1,234" in page and "train_seconds" in page


def test_why_chains_failed_is_shown_in_terminal_and_page(own_finished: SyntheticStudy) -> None:
    write_failures(Failures(chains={"code/naive/0": "no room"}), own_finished.study, own_finished.store)
    _, text, page = shown(own_finished)
    assert "failed: code/naive/0: no room" in text and "failed: code/naive/0: no room" in page
