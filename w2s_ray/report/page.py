"""The report's files, in the study's folder of the store.

<store>/studies/<name>/report/
report.html                 one page with figures, style and study file inside; it loads nothing
accuracy.png accuracy.svg   pgr.png pgr.svg   across.png across.svg (for several tasks)
results.json                the summary (findings.py)
results.csv                 a row per student, over its seeds (results.py)
stages.csv                  a row per stage of a chain
"""

import json
from dataclasses import dataclass
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from w2s_ray.errors import W2SError
from w2s_ray.report import text
from w2s_ray.report.evidence import gather
from w2s_ray.report.figures import (
    COLOURS,
    RenderedFigure,
    accuracy_figure,
    across_figure,
    has_untrained,
    pgr_figure,
)
from w2s_ray.report.findings import ArmSummary, Estimate, Summary
from w2s_ray.report.legend import arm_lines, column_lines, mark_lines
from w2s_ray.report.results import stages_frame, students_frame
from w2s_ray.report.summary import summary_of
from w2s_ray.report.tables import TableView, comparisons_table, detail_tables, headline_tables, stages_table
from w2s_ray.report.verdict import last_across, last_student
from w2s_ray.spec.chain import Resolution
from w2s_ray.spec.load import STUDY_NAME, load_study
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import write_file, writing

REPORT = "report"
PAGE_NAME = "report.html"
_IN_DIAGRAM = ("floor", "chain")


@dataclass(frozen=True)
class Tile:
    """One of the numbers at the top of the page."""

    title: str
    value: str
    small: str = ""


@dataclass(frozen=True)
class Rung:
    """A level's place in the diagram of a chain."""

    level: str
    learns_from: str
    """Whose labels."""
    split: str
    accuracies: tuple[tuple[str, str], ...]
    """Name and accuracy of each of the chain's arms at this level; empty for a study of several tasks."""


def write_report(study: Study, resolution: Resolution, store: ArtifactStore) -> Path:
    """Write the study's report and return the page's path.

    Raises:
        DataError: if a stage was evaluated on other examples than the task's test set.
        StoreError: if an artifact is damaged or the folder cannot be written.
    """
    evidence = gather(study, resolution, store)
    summary = summary_of(study, evidence)
    folder = store.study_folder(study.name) / REPORT
    with writing(folder):
        folder.mkdir(exist_ok=True)
    made = {"accuracy": accuracy_figure(summary), "pgr": pgr_figure(summary), "across": across_figure(summary)}
    figures = {name: figure for name, figure in made.items() if figure is not None}
    for name, figure in figures.items():
        write_file(folder / f"{name}.png", figure.png)
        write_file(folder / f"{name}.svg", figure.svg.encode())
    results = json.dumps(summary.model_dump(mode="json"), indent=2, ensure_ascii=False) + "\n"
    write_file(folder / "results.json", results.encode())
    write_file(folder / "results.csv", students_frame(study, evidence, summary).to_csv(index=False).encode())
    write_file(folder / "stages.csv", stages_frame(study, evidence).to_csv(index=False).encode())
    write_file(folder / PAGE_NAME, render_page(summary, figures, study_text(study, store)).encode())
    return folder / PAGE_NAME


def render_page(summary: Summary, figures: dict[str, RenderedFigure], study_yaml: str) -> str:
    """Return the page as HTML."""
    environment = Environment(
        loader=PackageLoader("w2s_ray.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    headline = headline_tables(summary)
    details: dict[str, list[TableView]] = {}
    for table in (*detail_tables(summary), comparisons_table(summary)):
        if table.rows:
            details.setdefault(table.title, []).append(table)
    return environment.get_template("page.html").render(
        summary=summary,
        headline=headline,
        tiles=tiles(summary),
        meanings={**column_lines(headline), **mark_lines(summary, headline)},
        arm_meanings=arm_lines(summary),
        has_untrained=has_untrained(summary),
        details=details,
        stages=stages_table(summary),
        chains=[chain_diagram(summary, path) for path in summary.paths],
        figures={name: Markup(figure.svg) for name, figure in figures.items()},
        study_yaml=study_yaml,
        text=text,
        column_lines=column_lines,
        colours=COLOURS,
    )


def tiles(summary: Summary) -> list[Tile]:
    """Return the numbers at the top of the page: the PGR of the last student first."""
    if len(summary.tasks) != 1:
        row = last_across(summary.arms, summary.across)
        return [] if row is None else [_pgr_tile(f"pooled PGR, {row.level}", row.pooled, row.label)]
    last = last_student(summary.arms)
    made = [] if last is None else [_pgr_tile(f"PGR, {last.level}", last.pgr, last.label)]
    if last is not None:
        shown = {f"floor, {last.paths[0][0]}": last.floor, f"ceiling, {last.level}": last.ceiling, "gap": last.gap}
        made += [Tile(title, text.number(value.value), text.bounds(value)) for title, value in shown.items() if value]
    made.append(Tile("students", str(summary.num_students), f"{summary.num_undefined} with an undefined PGR"))
    detectable = [pair.minimum_detectable for pair in summary.comparisons]
    if detectable:
        made.append(Tile("detectable PGR difference", text.number(max(detectable), 2), "between any two arms"))
    return made


def _pgr_tile(title: str, pgr: Estimate | None, label: str) -> Tile:
    return Tile(title, text.number(text.value_of(pgr), 2) if pgr else "undefined", f"{text.bounds(pgr, 2)} {label}")


def chain_diagram(summary: Summary, path: tuple[str, ...]) -> list[Rung]:
    """Return the levels of a chain, weakest first."""
    rungs = []
    for place, level in enumerate(path):
        learns_from = f"labels of {path[place - 1]}" if place else "ground truth"
        split = f"on T{summary.ladder.index(level)}" if place else "on S"
        route = path[: place + 1]
        arms = [
            arm
            for arm in summary.arms
            if arm.level == level and not set(_IN_DIAGRAM).isdisjoint(arm.kinds) and route in arm.paths
        ]
        names = [_name_in_diagram(arm, is_only=len(arms) == 1) for arm in arms]
        accuracies = [text.number(text.value_of(arm.accuracy)) for arm in arms]
        shown = tuple(zip(names, accuracies, strict=True)) if len(summary.tasks) == 1 else ()
        rungs.append(Rung(level, learns_from, split, shown))
    return rungs


def _name_in_diagram(arm: ArmSummary, *, is_only: bool) -> str:
    return next(kind for kind in arm.kinds if kind in _IN_DIAGRAM) if is_only else ", ".join(arm.methods)


def study_text(study: Study, store: ArtifactStore) -> str:
    """Return the study file as it was run, or this study's own keys where that file is another study by now."""
    path = store.study_folder(study.name) / STUDY_NAME
    try:
        if load_study(path).model_dump() == study.model_dump():
            return path.read_text(encoding="utf-8")
    except (W2SError, OSError):
        pass
    plain = study.model_dump(mode="json", exclude_unset=True)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)
