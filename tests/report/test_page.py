"""The page: it shows all results, loads nothing, and turns nothing of the study into markup."""

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
import yaml
from markupsafe import escape
from synthetic import Skill, SyntheticStudy, printed

from w2s_ray.report.findings import SCHEMA, Summary
from w2s_ray.report.legend import legend
from w2s_ray.report.metrics import METRICS
from w2s_ray.report.page import chain_diagram, study_text, tiles
from w2s_ray.report.tables import headline_tables
from w2s_ray.spec.load import parse_study


@pytest.fixture
def two_tasks(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> SyntheticStudy:
    """Two tasks; on the second the medium's gap is nothing."""
    study = synthetic(tasks=("code", "harder"))
    study.finish(
        lambda stage: 0.605 if (stage.task, stage.arm, stage.level) == ("harder", "ceiling", "medium") else skill(stage)
    )
    return study


def test_results_json_reads_back_as_the_same_summary(finished: SyntheticStudy) -> None:
    text = (finished.write_report().parent / "results.json").read_text(encoding="utf-8")
    assert Summary.model_validate_json(text) == finished.summary()
    results = json.loads(text)
    assert results["schema_version"] == SCHEMA == 4
    assert all(set(arm["metrics"]) == set(METRICS) for arm in results["arms"])


def test_the_report_is_one_page_with_its_data_files(finished: SyntheticStudy) -> None:
    page = finished.write_report()
    assert sorted(path.name for path in page.parent.iterdir()) == [
        "accuracy.png", "accuracy.svg", "pgr.png", "pgr.svg", "report.html",
        "results.csv", "results.json", "stages.csv",
    ]  # fmt: skip
    assert page.parent == finished.store.study_folder("demo") / "report"
    assert json.loads((page.parent / "results.json").read_text())["study"] == "demo"
    assert len(pd.read_csv(page.parent / "results.csv")) == 6, "students of a chain"
    assert len(pd.read_csv(page.parent / "stages.csv")) == 12
    text = page.read_text()
    for arm in finished.summary().arms:
        assert arm.label in text
    assert text.count("<svg") == 2 and "bootstrap_samples: 400" in text
    finished.write_report()


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
    text = two_tasks.write_report().read_text()
    elements = Elements()
    elements.feed(text)
    assert elements.loads == [] and "@import" not in text and not re.search(r"url\((?!#)", text)
    assert elements.open == []
    assert "undefined" in text and "Why a PGR is undefined" in text


def test_pretraining_has_its_own_table(synthetic: Callable[..., SyntheticStudy], skill: Skill) -> None:
    study = synthetic(methods={"pretrain": {"objective": "next_token"}})
    study.finish(skill)
    summary = study.summary()
    assert [level.level for level in summary.pretrained] == ["small", "medium", "large"] and summary.arms == ()
    assert "Training on text alone" in printed(summary, 125) and "40,000" in printed(summary, 125)
    assert "Training on text alone" in study.write_report().read_text()


def test_the_page_of_a_new_study_shows_that_nothing_is_finished(synthetic: Callable[..., SyntheticStudy]) -> None:
    study = synthetic()
    text = study.write_report().read_text()
    assert "0 of 5 stages finished" in text and "no stage is finished" in text


def test_the_study_file_cannot_become_markup(own_finished: SyntheticStudy) -> None:
    path = own_finished.store.study_folder("demo") / "study.yaml"
    text = study_text(own_finished.study, own_finished.store)
    path.write_text("# <script>alert(1)</script>\n" + text)
    assert study_text(own_finished.study, own_finished.store) == path.read_text(), (
        "the file as it was run, comments and all"
    )
    page = own_finished.write_report().read_text()
    assert "<script>" not in page and "&lt;script&gt;" in page


def test_another_study_file_in_the_folder_is_not_shown_as_this_one(own_finished: SyntheticStudy) -> None:
    (own_finished.store.study_folder("demo") / "study.yaml").write_text("name: other\ntasks: {}\n")
    text = study_text(own_finished.study, own_finished.store)
    assert "other" not in text
    assert parse_study(yaml.safe_load(text)) == own_finished.study


def test_the_page_begins_with_the_verdict_and_the_pgr_of_the_last_student(finished: SyntheticStudy) -> None:
    summary, text = finished.summary(), finished.write_report().read_text()
    verdict, tile = text.index(summary.verdict), text.index("PGR, large")
    assert summary.verdict.startswith("The large student (chain · naive) recovers .50") and verdict < tile
    assert tile < text.index("floor, small") < text.index("Accuracy</h2>")
    assert [tile.value for tile in tiles(summary)[:4]] == [".50", ".600", ".800", ".200"]
    floor, ceiling = (next(arm for arm in reversed(summary.arms) if arm.arm == name) for name in ("floor", "ceiling"))
    other = ceiling.model_copy(update={"label": "probe", "accuracy": floor.accuracy})
    with_two = summary.model_copy(update={"arms": (*summary.arms, other)})
    assert tiles(with_two)[:4] == tiles(summary)[:4], "all of one student, whatever other methods have"


def test_the_page_of_several_tasks_has_a_verdict_on_all_and_on_each(whole_page: Path, whole_summary: Summary) -> None:
    text = whole_page.read_text()
    assert whole_summary.verdict.startswith("Of 3 tasks, the last student reliably recovers part of the gap on 2")
    for verdict in (whole_summary.verdict, *(task.verdict for task in whole_summary.tasks.values())):
        assert escape(verdict) in text
    assert [(tile.title, tile.value) for tile in tiles(whole_summary)] == [("pooled PGR, large", ".30")]


def test_the_page_explains_each_column_arm_and_mark(whole_page: Path, whole_summary: Summary) -> None:
    text = whole_page.read_text()
    for name, about in legend(whole_summary, headline_tables(whole_summary)).items():
        assert f"<dt>{name}</dt><dd>{escape(about)}</dd>" in text, name


def test_the_diagram_names_supervisor_and_split_of_each_link(finished: SyntheticStudy) -> None:
    rungs = chain_diagram(finished.summary(), ("small", "medium", "large"))
    assert [(rung.level, rung.learns_from, rung.split) for rung in rungs] == [
        ("small", "ground truth", "on S"),
        ("medium", "labels of small", "on T1"),
        ("large", "labels of medium", "on T2"),
    ]
    assert rungs[2].accuracies == (("naive", ".700"), ("confident", ".550"))
    skipping = chain_diagram(finished.summary(), ("small", "large"))
    assert skipping[1].split == "on T2", "splits belong to levels, whichever a chain skips"


@pytest.fixture(scope="module")
def whole_page(whole: SyntheticStudy) -> Path:
    return whole.write_report()


def test_the_page_shows_every_section_and_escapes_the_study(whole_page: Path, whole_summary: Summary) -> None:
    text = whole_page.read_text()
    for wanted in (
        "Over all tasks",
        "Declared comparisons",
        "Published results",
        "Links between student and supervisor",
        "Exploratory differences between arms",
        "Training on text alone",
        "text length alone",
        "Burns &lt;et&gt; al. 2023",
        "ceiling agrees",
    ):
        assert wanted in text, wanted
    assert "<et>" not in text
    assert (whole_page.parent / "across.png").read_bytes().startswith(b"\x89PNG")
    for arm in whole_summary.arms:
        assert arm.label in text


def test_every_row_of_the_page_has_a_cell_for_each_column(whole_page: Path) -> None:
    rows = Tables()
    rows.feed(whole_page.read_text())
    assert len(rows.tables) > 10
    for columns, cells in rows.tables:
        assert set(cells) <= {columns}, f"{cells} cells under {columns} columns"


class Tables(HTMLParser):
    """Counts the columns of each results table and the cells of each of its rows, spans included."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[tuple[int, list[int]]] = []
        self._head, self._cells, self._inside = 0, 0, False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._inside, self._head = ("class", "results") in attrs, 0
            if self._inside:
                self.tables.append((0, []))
        if tag == "th":
            self._head += 1
        if tag == "tr":
            self._cells = 0
        if tag == "td":
            self._cells += int(dict(attrs).get("colspan") or 1)

    def handle_endtag(self, tag: str) -> None:
        if not self._inside:
            return
        if tag == "thead":
            self.tables[-1] = (self._head, self.tables[-1][1])
        if tag == "tr" and self._cells:
            self.tables[-1][1].append(self._cells)
        if tag == "table":
            self._inside = False
