"""Searches, chains by their length, and failures, in the table and on the page."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console
from synthetic import SyntheticStudy

from w2s_ray.report import judge
from w2s_ray.report.findings import Summary
from w2s_ray.report.page import write_report
from w2s_ray.report.summary import summarise
from w2s_ray.report.table import render
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.search import Candidate, Point, SearchResult
from w2s_ray.store.search_result import write_failures, write_search_result

Skill = Callable[[PlannedStage], float]
KEY = "optimisation.learning_rate"


def shown(study: SyntheticStudy) -> tuple[Summary, str, str]:
    """The summary, the terminal's text, and the page's."""
    summary = summarise(study.study, study.resolution, study.store)
    console = Console(width=160, record=True, file=io.StringIO())
    console.print(render(summary, width=160))
    page = write_report(study.study, study.resolution, study.store).read_text()
    return summary, console.export_text(), page


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
    """A search that is through: one winner, one that was stopped, one that failed."""
    search = {"space": {KEY: [1e-3, 2e-3, 3e-3]}, "choose_by": "oracle", "seeds": [11]}
    study = synthetic(search=search, methods={"naive": {}}, seeds=[0])
    points = study.study.search.points()
    found = SearchResult(
        candidates=(
            Candidate(point=points[0], status="done", score=0.61),
            Candidate(point=points[1], status="failed", error="Traceback\n  out of room\nRuntimeError: no <b>memory"),
            Candidate(point=points[2], status="stopped", score=0.4),
        ),
        winners=(points[0],),
    )
    write_search_result(found, study.study, study.store)
    study.finish(skill)
    return study


def test_chains_above_different_floors_are_no_bootstrapping_of_one_another(
    synthetic: Callable[..., SyntheticStudy],
) -> None:
    study = synthetic(chains=[["small", "medium", "large"], ["medium", "large"]], methods={"naive": {}})
    skills = {"small": 0.5, "medium": 0.7, "large": 0.75}
    study.finish(lambda stage: 0.8 if stage.arm == "ceiling" else skills[stage.level])
    summary = summarise(study.study, study.resolution, study.store)
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


def test_lengths_of_chains_are_compared_within_one_method_and_one_point_of_a_search(
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
        assert longer.difference is not None and longer.difference.value == pytest.approx(0.2, abs=0.01)
    labels = {step.label for step in summary.steps}
    assert len(labels) == 8 and all(label in page for label in labels)
    assert "prose · large" in text and "prose · large" in page


def test_many_students_leave_the_differences_between_lengths_there(two_lengths: SyntheticStudy) -> None:
    """Above a number of students their pairs are not told, and those of the table of lengths are no part of them."""
    with pytest.MonkeyPatch.context() as few:
        few.setattr(judge, "_MOST_COMPARED", 1)
        summary, _, _ = shown(two_lengths)
    assert summary.comparisons == () and summary.steps[-1].difference is not None


def test_one_length_makes_no_table_of_lengths(finished: SyntheticStudy) -> None:
    summary, text, page = shown(finished)
    assert summary.steps == () and "bootstrapping" not in text and "by way of" not in page


def test_a_search_says_out_of_how_many_its_winner_was_picked(searched: SyntheticStudy) -> None:
    summary, text, page = shown(searched)
    assert summary.search is not None
    assert [one.status for one in summary.search.candidates] == ["done", "stopped", "failed"], "the best first"
    line = "icked 1 of 3 candidates (1 done, 1 stopped, 1 failed) by ground truth on their own validation examples"
    assert line in text and line in page and "(oracle)" in text


def test_why_a_candidate_failed_stands_beside_it_and_is_no_markup(searched: SyntheticStudy) -> None:
    _, text, page = shown(searched)
    assert "failed: RuntimeError: no <b>memory" in text
    assert "no &lt;b&gt;memory" in page and "<b>memory" not in page


def test_before_a_search_is_through_there_is_no_table_of_it(
    synthetic: Callable[..., SyntheticStudy], skill: Skill
) -> None:
    search = {"space": {KEY: [1e-3, 2e-3]}, "choose_by": "oracle", "seeds": [11]}
    study = synthetic(search=search, methods={"naive": {}}, seeds=[0])
    assert summarise(study.study, study.resolution, study.store).search is None


def test_what_another_search_came_to_is_not_passed_off_as_this_ones(searched: SyntheticStudy) -> None:
    search = searched.study.search
    assert search is not None
    other = searched.study.model_copy(update={"search": search.model_copy(update={"seeds": (12,)})})
    assert summarise(other, searched.resolution, searched.store).search is None


def test_a_search_of_two_figures_shows_the_second(synthetic: Callable[..., SyntheticStudy]) -> None:
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


def test_chains_that_failed_say_why_in_the_table_and_on_the_page(finished: SyntheticStudy) -> None:
    write_failures({"code/naive/0": "no room"}, finished.study, finished.store)
    _, text, page = shown(finished)
    assert "failed: code/naive/0: no room" in text and "failed: code/naive/0: no room" in page
