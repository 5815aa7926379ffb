"""Table, figures and page: they show all that was found, and the page needs nothing from elsewhere."""

import io
import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from html.parser import HTMLParser

import pandas as pd
import pytest
import yaml
from rich.console import Console
from synthetic import SyntheticStudy

from w2s_ray.report.figures import accuracy_figure, pgr_figure
from w2s_ray.report.findings import Summary
from w2s_ray.report.page import climb, study_text, write_report
from w2s_ray.report.summary import summarise
from w2s_ray.report.table import render, to_json
from w2s_ray.report.wording import duration, number, whole
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.load import parse_study

Skill = Callable[[PlannedStage], float]
PNG = b"\x89PNG"


def read(study: SyntheticStudy) -> Summary:
    return summarise(study.study, study.resolution, study.store)


def printed(summary: Summary, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(render(summary, width=width))
    return console.export_text()


@pytest.fixture
def two_tasks(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> SyntheticStudy:
    """Two tasks; on the second the medium's gap is nothing."""
    study = synthetic(tasks=("code", "harder"))
    study.finish(
        lambda stage: 0.605 if (stage.task, stage.arm, stage.level) == ("harder", "ceiling", "medium") else skill(stage)
    )
    return study


def test_the_table_has_every_arm_with_its_figures(finished: SyntheticStudy) -> None:
    text = printed(read(finished), 125)
    for label in ("floor", "chain = direct", "chain · naive", "chain · confident", "direct", "ceiling"):
        assert label in text
    (line,) = (line for line in text.splitlines() if "chain · naive" in line)
    assert re.search(r"\.700 \[\.\d{3}, \.\d{3}\] +\.600 +\.800 +\.50 \[\.\d\d, \.\d\d\]", line)
    assert "−.25" in text, "a negative PGR has a real minus sign"
    assert "minimum detectable difference in PGR" in text and "seed-conditional" in text


def test_a_narrow_terminal_gets_fewer_columns_and_no_broken_lines(finished: SyntheticStudy) -> None:
    lines = printed(read(finished), 100).splitlines()
    assert max(map(len, lines)) <= 100
    assert any("chain · naive" in line and ".50 [" in line for line in lines)


def test_an_undefined_pgr_is_named_and_explained(two_tasks: SyntheticStudy) -> None:
    text = printed(read(two_tasks), 125)
    assert "undefined" in text and "PGR is undefined for 1 of 4 students" in text
    assert "harder medium chain: ceiling − floor" in text


def test_json_keys_are_stable(finished: SyntheticStudy) -> None:
    found = to_json(read(finished))
    assert json.loads(json.dumps(found, allow_nan=False)) is not None
    assert sorted(found) == sorted(
        "schema_version study seeds ladder paths tasks arms comparisons pretrained num_students num_undefined "
        "num_stages num_stages_finished min_gap bootstrap_samples warnings versions commits finished_at "
        "steps search failures declared across curves references".split()
    )
    assert sorted(found["arms"][0]) == sorted(
        "task level arm also label methods paths loss setting oracle stages seeds pgr_seeds seed_conditional accuracy "
        "floor ceiling gap pgr pgr_undefined pgr_link pgr_link_undefined full_ceiling pgr_full pgr_full_undefined link "
        "calibration answers cost strata".split()
    )
    assert sorted(found["arms"][1]["link"]) == sorted(
        "supervisors split num_examples label_accuracy label_majority_share label_entropy_bits label_allowed_share "
        "label_distinct_share degenerate agreement agreement_supervisor_right agreement_supervisor_wrong inherited "
        "corrected new_errors error_correlation error_correlation_first ceiling_agreement".split()
    )
    assert found["schema_version"] == 2


def test_figures_are_png_and_svg_and_the_same_twice(finished: SyntheticStudy) -> None:
    for draw in (accuracy_figure, pgr_figure):
        first, second = draw(read(finished)), draw(read(finished))
        assert first is not None and second is not None and first == second
        assert first.png.startswith(PNG)
        root = ElementTree.fromstring(first.svg)
        assert root.attrib["width"] == "100%" and "currentColor" in first.svg
        assert "#1b1b1e" not in first.svg, "the ink is the page's"


def test_figures_of_an_unfinished_study_are_left_out(synthetic: Callable[..., SyntheticStudy]) -> None:
    summary = read(synthetic())
    assert accuracy_figure(summary) is None and pgr_figure(summary) is None
    assert "0 of 5 stages finished" in printed(summary, 125)


def test_a_pgr_far_off_the_axis_is_still_drawn(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    study = synthetic(chains=[["small", "large"]], report={"min_gap": 0.0, "bootstrap_samples": 200})
    study.finish(lambda stage: {"floor": 0.6, "ceiling": 0.63, "chain": 0.9}[stage.arm])
    summary = read(study)
    assert summary.arms[1].pgr is not None and summary.arms[1].pgr.value > 5
    assert pgr_figure(summary) is not None


def test_the_report_is_one_page_with_its_numbers_beside_it(finished: SyntheticStudy) -> None:
    page = write_report(finished.study, finished.resolution, finished.store)
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "accuracy.png", "accuracy.svg", "pgr.png", "pgr.svg", "report.html", "results.csv", "results.json",
    ]  # fmt: skip
    assert page.parent == finished.store.study_folder("demo") / "report"
    assert json.loads((page.parent / "results.json").read_text())["study"] == "demo"
    assert len(pd.read_csv(page.parent / "results.csv")) == 12
    text = page.read_text()
    for arm in read(finished).arms:
        assert arm.label in text
    assert text.count("<svg") == 2 and "bootstrap_samples: 400" in text
    write_report(finished.study, finished.resolution, finished.store)


class Elements(HTMLParser):
    """Collects what a page would load, and checks that tags close."""

    def __init__(self) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "iframe", "object"):
            self.loads.append(tag)
        self.loads += [f"{name}={value}" for name, value in attrs if name in ("src", "srcset", "href", "xlink:href")
                       and not (value or "").startswith("#")]  # fmt: skip
        if tag not in ("meta", "br", "use", "path"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.open[-1] == tag:
            self.open.pop()
        else:
            assert tag in ("use", "path", "br"), f"</{tag}> closes {self.open[-1:]}"


def test_the_page_loads_nothing_and_is_well_formed(two_tasks: SyntheticStudy) -> None:
    text = write_report(two_tasks.study, two_tasks.resolution, two_tasks.store).read_text()
    elements = Elements()
    elements.feed(text)
    assert elements.loads == [] and "@import" not in text and not re.search(r"url\((?!#)", text)
    assert elements.open == []
    assert "undefined" in text and "Why a PGR is undefined" in text


def test_pretraining_has_a_table_of_its_own(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    study = synthetic(methods={"pretrain": {"objective": "next_token"}})
    study.finish(skill)
    summary = read(study)
    assert [each.level for each in summary.pretrained] == ["small", "medium", "large"] and summary.arms == ()
    assert "training on text alone" in printed(summary, 125) and "40,000" in printed(summary, 125)
    assert "Training on text alone" in write_report(study.study, study.resolution, study.store).read_text()


def test_the_page_of_a_study_that_has_not_begun_says_so(synthetic: Callable[..., SyntheticStudy]) -> None:
    study = synthetic()
    text = write_report(study.study, study.resolution, study.store).read_text()
    assert "0 of 5 stages finished" in text and "no stage is finished" in text


def test_what_the_study_file_says_cannot_become_markup(finished: SyntheticStudy) -> None:
    path = finished.store.study_folder("demo") / "study.yaml"
    text = study_text(finished.study, finished.store)
    path.write_text("# <script>alert(1)</script>\n" + text)
    assert study_text(finished.study, finished.store) == path.read_text(), "the file as it was run, comments and all"
    page = write_report(finished.study, finished.resolution, finished.store).read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_another_study_file_in_the_folder_is_not_passed_off_as_this_one(finished: SyntheticStudy) -> None:
    (finished.store.study_folder("demo") / "study.yaml").write_text("name: other\ntasks: {}\n")
    text = study_text(finished.study, finished.store)
    assert "other" not in text
    assert parse_study(yaml.safe_load(text)) == finished.study


def test_the_diagram_names_supervisor_and_split_of_each_link(finished: SyntheticStudy) -> None:
    rungs = climb(read(finished), ("small", "medium", "large"))
    assert [(rung.level, rung.learns_from, rung.split) for rung in rungs] == [
        ("small", "ground truth", "on S"),
        ("medium", "labels of small", "on T1"),
        ("large", "labels of medium", "on T2"),
    ]
    assert rungs[2].accuracies == (("naive", ".700"), ("confident", ".550"))
    skipping = climb(read(finished), ("small", "large"))
    assert skipping[1].split == "on T2", "splits belong to levels, whichever a chain skips"


def test_numbers_are_said_the_same_everywhere() -> None:
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
