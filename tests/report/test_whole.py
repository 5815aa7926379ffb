"""Everything at once: a study of three tasks and every kind of arm, in the terminal and on the page."""

import io
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from rich.console import Console, RenderableType
from synthetic import SyntheticStudy, make

from w2s_ray.report.details import details_of
from w2s_ray.report.figures import accuracy_figure, across_figure, pgr_figure
from w2s_ray.report.findings import Summary
from w2s_ray.report.page import write_report
from w2s_ray.report.summary import summarise
from w2s_ray.report.table import render, render_details
from w2s_ray.spec.chain import PlannedStage

SKILLS = {"floor": 0.6, "member": 0.59, "zero_shot": 0.52, "chain": 0.66, "direct": 0.64, "truth_chain": 0.7}
REPORT = {
    "bootstrap_samples": 200,
    "compare": [["confidence", "naive"], {"first": "naive/zero_shot", "second": "naive", "by": "accuracy"}],
    "references": [
        {"source": "Burns <et> al. 2023", "setting": "22 tasks", "values": {"naive": 0.25, "confidence": "nearly 0.80"}}
    ],
}
METHODS = {
    "naive": {"arms": ["chain", "direct", "ceiling", "zero_shot", "truth_chain"]},
    "confidence": {"losses": {"large": {"kind": "confidence"}}},
    "probe": {"trainable": {"large": {"kind": "probe"}}},
    "texts": {"generative": {"large": {"epochs": 1}}},
    "ensemble": {"arms": ["chain"], "supervisors": {"num": 2}},
}


def skill(stage: PlannedStage) -> float:
    if stage.task == "flat":
        return 0.6
    found = SKILLS.get(stage.arm, 0.76 if stage.level == "medium" else 0.8)
    return found + (0.03 if stage.spec.loss.kind == "confidence" else 0.0)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> SyntheticStudy:
    folder = tmp_path_factory.mktemp("whole") / "store"
    study = make(folder, tasks=("sst2", "sciq", "flat"), methods=METHODS, report=REPORT, num=1200)
    study.finish(skill)
    return study


@pytest.fixture(scope="module")
def summary(whole: SyntheticStudy) -> Summary:
    return summarise(whole.study, whole.resolution, whole.store)


@pytest.fixture(scope="module")
def page(whole: SyntheticStudy) -> Path:
    return write_report(whole.study, whole.resolution, whole.store)


def printed(shown: RenderableType, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(shown)
    return console.export_text()


def test_the_headline_has_baselines_all_tasks_declared_tests_and_references(summary: Summary) -> None:
    text = printed(render(summary, width=160), 160)
    for wanted in (
        "the majority alone",
        "text length alone",
        "PGR of full",
        "over all tasks",
        "declared comparisons; p by Holm over 2",
        "confidence/chain",
        "beside the literature",
        "nearly 0.80",
        "training on text alone",
        "member",
        "truth_chain",
        "zero_shot",
    ):
        assert wanted in text, wanted
    (row,) = (line for line in text.splitlines() if line.lstrip().startswith("large   chain · naive"))
    assert "1 of 3" in row


@pytest.mark.parametrize("width", [100, 160])
def test_every_table_fits_its_terminal(summary: Summary, width: int) -> None:
    text = printed(render_details(summary, width=width), width)
    assert max(map(len, text.splitlines())) <= width
    for title in ("sst2: Links", "flat: Calibration", "sciq: Accuracy by stratum", "sst2: What it took"):
        assert title in text
    assert ("φ" in text) == (width == 160)


def test_the_cells_of_every_table_are_as_many_as_its_columns(summary: Summary) -> None:
    details = details_of(summary)
    assert [detail.title.split(":")[0] for detail in details] == [
        "Links", "Calibration", "Accuracy by stratum", "What it took",
    ]  # fmt: skip
    for detail in details:
        for rows in detail.tasks.values():
            assert {len(cells) for _, cells in rows.arms} == {len(rows.columns)}, detail.title


def test_the_tables_of_many_tasks_are_left_to_the_page(summary: Summary) -> None:
    many = summary.model_copy(update={"tasks": {f"task{n}": summary.tasks["sst2"] for n in range(4)}})
    text = printed(render_details(many, width=160), 160)
    assert "--format html" in text and "Links" not in text


def test_figures_of_many_tasks_are_the_one_over_all(summary: Summary) -> None:
    assert across_figure(summary) is not None and accuracy_figure(summary) is not None
    names = [f"task{n}" for n in range(7)]
    arms = tuple(arm.model_copy(update={"task": name}) for name in names for arm in summary.arms if arm.task == "sst2")
    many = summary.model_copy(update={"tasks": dict.fromkeys(names, summary.tasks["sst2"]), "arms": arms})
    assert accuracy_figure(many) is None and pgr_figure(many) is None and across_figure(many) is not None


def test_one_task_has_no_figure_over_all(finished: SyntheticStudy) -> None:
    assert across_figure(summarise(finished.study, finished.resolution, finished.store)) is None


def test_the_page_shows_all_of_it_and_nothing_of_the_study_becomes_markup(page: Path, summary: Summary) -> None:
    text = page.read_text()
    for wanted in (
        "Over all tasks",
        "Declared comparisons",
        "Beside the literature",
        "Links: what is taken over",
        "Exploratory differences between arms",
        "Training on text alone",
        "text length alone",
        "Burns &lt;et&gt; al. 2023",
        "ceiling agrees",
    ):
        assert wanted in text, wanted
    assert "<et>" not in text
    assert (page.parent / "across.png").read_bytes().startswith(b"\x89PNG")
    for arm in summary.arms:
        assert arm.label in text


def test_every_row_of_the_page_has_a_cell_for_each_column(page: Path) -> None:
    rows = Tables()
    rows.feed(page.read_text())
    assert len(rows.found) > 10
    for columns, cells in rows.found:
        assert set(cells) <= {columns}, f"{cells} cells under {columns} columns"


class Tables(HTMLParser):
    """Counts the columns of each results table and the cells of each of its rows, spans included."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[int, list[int]]] = []
        self._head, self._cells, self._inside = 0, 0, False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._inside, self._head = ("class", "results") in attrs, 0
            if self._inside:
                self.found.append((0, []))
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
            self.found[-1] = (self._head, self.found[-1][1])
        if tag == "tr" and self._cells:
            self.found[-1][1].append(self._cells)
        if tag == "table":
            self._inside = False


def test_an_undecided_comparison_says_why(synthetic: Callable[..., SyntheticStudy]) -> None:
    report = {"compare": [["confidence", "naive"]], "bootstrap_samples": 100}
    methods = {name: METHODS[name] for name in ("naive", "confidence")}
    study = synthetic(tasks=("flat",), methods=methods, report=report, num=800)
    study.finish(skill)
    found = summarise(study.study, study.resolution, study.store)
    line = "not decided: confidence/chain (small→medium→large) − naive/chain (small→medium→large): ceiling − floor"
    assert line in printed(render(found), 200)
    assert "not decided" in write_report(study.study, study.resolution, study.store).read_text()
