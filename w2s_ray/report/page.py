"""The report: one self-contained HTML page, its figures and its numbers, in the study's folder.

<store>/studies/<name>/report/
report.html                     figures, style and study file inside; nothing is loaded from elsewhere
accuracy.png accuracy.svg       pgr.png pgr.svg       across.png across.svg, of several tasks
results.json                    the summary
results.csv                     a row per stage of a chain
"""

import json
from dataclasses import dataclass
from pathlib import Path

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from w2s_ray.errors import W2SError
from w2s_ray.report import wording
from w2s_ray.report.arm_findings import ArmSummary
from w2s_ray.report.details import details_of
from w2s_ray.report.drawing import COLOURS, Drawn
from w2s_ray.report.evidence import gather
from w2s_ray.report.figures import accuracy_figure, across_figure, pgr_figure
from w2s_ray.report.findings import Summary
from w2s_ray.report.results import to_frame
from w2s_ray.report.summary import summary_of
from w2s_ray.report.table import to_json
from w2s_ray.spec.chain import Resolution
from w2s_ray.spec.identity import short
from w2s_ray.spec.load import STUDY_NAME, load_study
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import write_file, writing

REPORT = "report"
PAGE_NAME = "report.html"
_CLIMBING = ("floor", "chain")
"""The arms that a climb is made of."""


@dataclass(frozen=True)
class Rung:
    """A level's place in a climb, as the diagram shows it."""

    level: str
    learns_from: str
    """Whose labels it learns from."""
    split: str
    """The examples."""
    accuracies: tuple[tuple[str, str], ...]
    """Name and accuracy of each arm of the climb at this level; only where the study has one task."""


def write_report(study: Study, resolution: Resolution, store: ArtifactStore) -> Path:
    """Write the study's report into its folder in the store and return the page's path.

    Raises:
        DataError: when a stage was judged on other examples than the task's test set.
        StoreError: when an artifact is damaged or the folder cannot be written.
    """
    evidence = gather(study, resolution, store)
    summary = summary_of(study, evidence)
    folder = store.study_folder(study.name) / REPORT
    with writing(folder):
        folder.mkdir(exist_ok=True)
    figures = {
        "accuracy": accuracy_figure(summary),
        "pgr": pgr_figure(summary),
        "across": across_figure(summary),
    }
    for name, drawn in figures.items():
        if drawn is not None:
            write_file(folder / f"{name}.png", drawn.png)
            write_file(folder / f"{name}.svg", drawn.svg.encode())
    write_file(folder / "results.json", (json.dumps(to_json(summary), indent=2, ensure_ascii=False) + "\n").encode())
    write_file(folder / "results.csv", to_frame(study, evidence).to_csv(index=False).encode())
    page = render_page(summary, figures, study_text(study, store))
    write_file(folder / PAGE_NAME, page.encode())
    return folder / PAGE_NAME


def render_page(summary: Summary, figures: dict[str, Drawn | None], study_yaml: str) -> str:
    """Return the page."""
    environment = Environment(
        loader=PackageLoader("w2s_ray.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    svgs = {name: Markup(drawn.svg) if drawn is not None else None for name, drawn in figures.items()}
    return environment.get_template("page.html").render(
        summary=summary,
        tasks={task: [arm for arm in summary.arms if arm.task == task] for task in summary.tasks},
        details=details_of(summary),
        climbs=[climb(summary, path) for path in summary.paths],
        figures=svgs,
        study_yaml=study_yaml,
        words=wording,
        short=short,
        colours=COLOURS,
    )


def climb(summary: Summary, path: tuple[str, ...]) -> list[Rung]:
    """Return a climb's rungs, weakest first."""
    rungs = []
    for place, level in enumerate(path):
        learns_from = f"labels of {path[place - 1]}" if place else "ground truth"
        split = f"on T{summary.ladder.index(level)}" if place else "on S"
        arms = [arm for arm in summary.arms if arm.level == level and _on_climb(arm, path[: place + 1])]
        shown = tuple((_name(arm, arms), wording.number(wording.value_of(arm.accuracy))) for arm in arms)
        rungs.append(Rung(level, learns_from, split, shown if len(summary.tasks) == 1 else ()))
    return rungs


def study_text(study: Study, store: ArtifactStore) -> str:
    """Return the study file as it was run; where that is another study by now, this one's own keys."""
    path = store.study_folder(study.name) / STUDY_NAME
    try:
        if load_study(path) == study:
            return path.read_text(encoding="utf-8")
    except (W2SError, OSError):
        pass
    plain = study.model_dump(mode="json", exclude_unset=True)
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


def _on_climb(arm: ArmSummary, part: tuple[str, ...]) -> bool:
    return any(kind in _CLIMBING for kind in arm.kinds) and part in arm.paths


def _name(arm: ArmSummary, beside: list[ArmSummary]) -> str:
    """How an arm is called inside its rung: by its methods, where several stand there."""
    return ", ".join(arm.methods) if len(beside) > 1 else next(kind for kind in arm.kinds if kind in _CLIMBING)
