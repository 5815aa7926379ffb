"""Tables, in the terminal and as cells: a study of three tasks with every kind of arm, and smaller ones."""

import re
from collections.abc import Callable
from typing import Any

import pytest
from conftest import METHODS
from synthetic import Skill, SyntheticStudy, printed

from w2s_ray.report.findings import Summary
from w2s_ray.report.metrics import METRICS
from w2s_ray.report.tables import detail_tables, headline_tables
from w2s_ray.report.text import contest, duration, number, ours, whole

MIXED: dict[str, Any] = {
    "methods": {
        "naive": {
            "arms": ["chain", "direct", "ceiling"],
            "labels": {"medium": {"transforms": [{"kind": "mix_ground_truth", "fraction": 0.5}]}},
        }
    }
}


@pytest.fixture
def two_tasks(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> SyntheticStudy:
    """Two tasks; on the second the medium's gap is nothing."""
    study = synthetic(tasks=("code", "harder"))
    study.finish(
        lambda stage: 0.605 if (stage.task, stage.arm, stage.level) == ("harder", "ceiling", "medium") else skill(stage)
    )
    return study


def test_the_table_has_every_arm_with_its_results(finished: SyntheticStudy) -> None:
    text = printed(finished.summary(), 125)
    for label in ("floor", "chain = direct", "chain · naive", "chain · confident", "direct", "ceiling"):
        assert label in text
    (line,) = (line for line in text.splitlines() if "chain · naive†" in line)
    assert re.search(r"\.700 \[\.\d{3}, \.\d{3}\] +\.600 +\.800 +\.50 \[\.\d\d, \.\d\d\]", line)
    assert "−.25" in text, "a negative PGR has a real minus sign"
    assert "minimum detectable difference in PGR" in text
    assert re.search("†  +with 1 seed", text)


def test_the_verdict_and_the_legend_of_the_columns_shown_are_below_the_table(finished: SyntheticStudy) -> None:
    summary = finished.summary()
    wide, narrow = (printed(summary, width).splitlines() for width in (160, 100))
    table_end = max(place for place, line in enumerate(wide) if "ceiling†" in line)
    (verdict,) = (place for place, line in enumerate(wide) if line.startswith("The large student (chain · naive)"))
    names = [line.split("  ")[0] for line in wide[verdict:]]
    assert table_end < verdict
    columns = ["accuracy", "floor", "ceiling", "PGR", "link", "agrees", "labels"]
    assert [name for name in names if name in columns] == columns
    assert [name for name in names if name in ("chain", "direct", "pooled", "[low, high]", "†", "‡")] == [
        *("chain", "direct", "[low, high]", "†")
    ], "only what is shown"
    assert not any(line.startswith(("link ", "labels ")) for line in narrow)
    legend_lines = [line for line in narrow if line.startswith(tuple(f"{name} " for name in columns))]
    assert len(legend_lines) == 5 and all(len(line) <= 100 for line in legend_lines), "one line a column"


def test_a_narrow_terminal_gets_fewer_columns_and_no_broken_lines(finished: SyntheticStudy) -> None:
    lines = printed(finished.summary(), 100).splitlines()
    assert max(map(len, lines)) <= 100
    assert any("chain · naive" in line and ".50 [" in line for line in lines)


def test_the_deviation_over_seeds_is_beside_the_mean(synthetic: Callable[..., SyntheticStudy]) -> None:
    study = synthetic(seeds=[0, 1, 2], chains=[["small", "large"]])
    seed_of = {stage.identity: seed for seed in (0, 1, 2) for stage in study.stages_of(seed)}
    study.finish(lambda s: {"floor": 0.6, "chain": 0.7, "ceiling": 0.8}[s.arm] + 0.02 * (seed_of[s.identity] - 1))
    (line,) = (line for line in printed(study.summary(), 160).splitlines() if "chain†" in line)
    assert re.search(r"\.700 \[\.\d{3}, \.\d{3}\] +\.020 +\.600 +\.800", line)
    assert " sd " not in printed(study.summary(), 100)


def test_an_undefined_pgr_is_named_and_explained(two_tasks: SyntheticStudy) -> None:
    text = printed(two_tasks.summary(), 125)
    assert "undefined" in text and "PGR is undefined for 1 of 4 students" in text
    assert "harder medium chain: ceiling − floor" in text


def test_every_table_marks_oracles_and_few_seeds(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    reference = {"source": "them", "setting": "theirs", "figure": "accuracy", "values": {"naive": 0.7}}
    study = synthetic(
        tasks=("easy", "harder"),
        chains=[["small", "large"], ["small", "medium", "large"]],
        methods={**MIXED["methods"], "plain": {"arms": ["chain", "direct", "ceiling"]}},
        report={
            "bootstrap_samples": 200,
            "compare": [["naive", "plain"], ["plain/chain", "plain/direct"]],
            "references": [reference],
        },
    )
    study.finish(skill)
    summary = study.summary()
    oracles = {(arm.task, arm.level, arm.label) for arm in summary.arms if arm.oracle}
    assert 0 < len(oracles) < sum(arm.is_student for arm in summary.arms)
    for rows in (summary.across, summary.steps):
        assert {row.oracle for row in rows} == {True, False} and all(row.few_seeds for row in rows)
    for step in summary.steps:
        assert step.oracle == ((step.task, step.level, step.label) in oracles)
    for pair in summary.comparisons:
        assert pair.oracle == any((pair.task, pair.level, name) in oracles for name in (pair.first, pair.second))
    assert [row.oracle for row in summary.declared] == [True, False] and summary.references[0].oracle
    names = [str(row.cells[1]) for table in headline_tables(summary) if not table.task for row in table.rows]
    num_oracles = sum(row.oracle for row in (*summary.across, *summary.steps))
    assert sum(name.endswith("† (oracle)") for name in names) == num_oracles
    assert contest(summary.declared[0]).endswith("(oracle)") and ours(summary.references[0]).startswith(".")
    assert "(oracle)" in ours(summary.references[0])


def test_the_results_have_baselines_declared_tests_and_references(whole_summary: Summary) -> None:
    text = printed(whole_summary, 160)
    for wanted in (
        "the majority alone",
        "text length alone",
        "PGR of full",
        "Over all tasks",
        "Declared comparisons; p by Holm over 2",
        "confidence/chain",
        "Published results",
        "nearly 0.80",
        "Training on text alone",
        "member",
        "truth_chain",
        "zero_shot",
    ):
        assert wanted in text, wanted
    (row,) = (line for line in text.splitlines() if line.lstrip().startswith("large   chain · naive"))
    assert "1 of 3" in row


@pytest.mark.parametrize("width", [100, 160])
def test_every_table_fits_its_terminal(whole_summary: Summary, width: int) -> None:
    text = printed(whole_summary, width, details=True)
    assert max(map(len, text.splitlines())) <= width
    for title in ("sst2: Links", "flat: Calibration", "sciq: Accuracy by stratum", "sst2: Cost of training"):
        assert title in text
    assert all(metric.title in text for metric in METRICS.values() if metric.group != "answers")


def test_every_row_has_a_cell_for_each_column(whole_summary: Summary) -> None:
    details = detail_tables(whole_summary)
    titles = list(dict.fromkeys(table.title.partition(" ")[0] for table in details))
    assert titles == ["Links", "Calibration", "Cost", "Accuracy"]
    for table in details:
        assert {len(row.cells) for row in table.rows} == {len(table.columns)}, table.title


def test_the_detail_tables_of_many_tasks_are_only_on_the_page(whole_summary: Summary) -> None:
    many = whole_summary.model_copy(update={"tasks": {f"task{n}": whole_summary.tasks["sst2"] for n in range(4)}})
    text = printed(many, 160, details=True)
    assert "--format html" in text and "Links" not in text


def test_an_undecided_comparison_says_why(synthetic: Callable[..., SyntheticStudy]) -> None:
    report = {"compare": [["confidence", "naive"]], "bootstrap_samples": 100}
    methods = {name: METHODS[name] for name in ("naive", "confidence")}
    study = synthetic(tasks=("flat",), methods=methods, report=report, num=800)
    study.finish(lambda stage: 0.6)
    summary = study.summary()
    line = "not decided: confidence/chain (small→medium→large) − naive/chain (small→medium→large): ceiling − floor"
    assert line in printed(summary, 200)
    assert "not decided" in study.write_report().read_text()


def test_numbers_have_one_format() -> None:
    assert [number(value) for value in (0.5, -0.25, 1.0, -0.0001, None)] == [".500", "−.250", "1.000", ".000", "–"]
    assert number(-1.234, 2) == "−1.23"
    assert [duration(value) for value in (3.21, 42.0, 600.0, 36000.0, None)] == [
        "3.2 s",
        "42 s",
        "10 min",
        "10.0 h",
        "–",
    ]
    assert whole(1234567.0) == "1,234,567"
