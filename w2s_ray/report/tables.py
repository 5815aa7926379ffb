"""Every table of the report, as plain cells that terminal.py and the page show alike.

Columns of metrics come from the registry in metrics.py. To add a table, add a function and put it into
`headline_tables` or `detail_tables`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from w2s_ray.report.findings import AcrossTasks, ArmSummary, Estimate, SearchSummary, Step, Summary
from w2s_ray.report.metrics import ESTIMATES, GROUPS, METRICS, Metric
from w2s_ray.report.text import (
    BASELINES,
    bounds,
    contest,
    duration,
    num_seeds,
    number,
    ours,
    p_text,
    pooled_share,
    search_line,
    seed_mark,
    undefined_share,
    untrained_mark,
    value_of,
    whole,
)
from w2s_ray.spec.identity import short
from w2s_ray.spec.study import Arm

_CANDIDATES_SHOWN = 10


@dataclass(frozen=True)
class Cell:
    """One value of a table, as terminal and page show it."""

    text: str = ""
    small: str = ""
    """After the text: an interval, or what the value covers."""
    reason: str = ""
    """Why there is no value; a tooltip on the page."""
    arm: Arm | None = None
    """The arm that a name belongs to, for its colour on the page."""
    oracle: bool = False

    def __str__(self) -> str:
        return self.text + (f" {self.small}" if self.small else "") + (" (oracle)" if self.oracle else "")


@dataclass(frozen=True)
class Column:
    """A column of a table."""

    title: str
    is_left: bool = False
    is_wide: bool = False
    """Whether a narrow terminal leaves it out."""
    about: str = ""
    """Its meaning, shown on the page."""


@dataclass(frozen=True)
class Row:
    """A row of a table; missing cells at its end are empty."""

    cells: Sequence[Cell]
    starts_level: bool = False
    """Whether a line separates it from the rows above."""
    kind: Literal["student", "reference", "baseline"] = "student"


@dataclass(frozen=True)
class TableView:
    """A table with its heading."""

    title: str
    columns: Sequence[Column]
    rows: Sequence[Row] = field(default_factory=list)
    about: str = ""
    task: str = ""
    """The task, for a table of one task."""
    verdict: str = ""
    """Two sentences that the table amounts to."""


def headline_tables(summary: Summary) -> list[TableView]:
    """Return the results: a table per task, and those over all tasks that have a row."""
    tables = [_task_table(summary, task) for task in summary.tasks]
    tables += [_across_table(summary), _declared_table(summary), _references_table(summary), _steps_table(summary)]
    if summary.search is not None:
        tables.append(_candidates_table(summary.search))
    tables.append(_pretraining_table(summary))
    return [table for table in tables if table.rows]


def detail_tables(summary: Summary) -> list[TableView]:
    """Return the tables behind the results that have a row: metrics and strata by task, and learning curves."""
    tables = [_metrics_table(summary, task, group) for group in GROUPS for task in summary.tasks]
    tables += [_strata_table(summary, task) for task in summary.tasks]
    tables.append(_curves_table(summary))
    return [table for table in tables if table.rows]


def _estimate(value: Estimate | None, digits: int = 3, *, reason: str | None = None) -> Cell:
    """Return a value with its interval; without a value a dash, or "undefined" where a reason is given."""
    if value is None:
        return Cell(number(None)) if reason is None else Cell("undefined", reason=reason)
    return Cell(number(value.value, digits), bounds(value, digits))


def _name(row: ArmSummary | AcrossTasks | Step, arm: Arm | None = None) -> Cell:
    return Cell(row.label + seed_mark(row) + untrained_mark(row), oracle=row.oracle, arm=arm)


_MODEL, _ARM = Column("model", is_left=True), Column("arm", is_left=True)


def _arm_rows(arms: Sequence[ArmSummary], cells: Sequence[Sequence[Cell]]) -> Iterator[Row]:
    """Yield a row per arm: its level where it differs from the row above, its label and these cells."""
    level = None
    for arm, own in zip(arms, cells, strict=True):
        name = Cell(arm.level if arm.level != level else "")
        kind: Literal["student", "reference"] = "student" if arm.is_student else "reference"
        yield Row([name, _name(arm, arm.arm), *own], starts_level=arm.level != level, kind=kind)
        level = arm.level


def _metric_cell(metric: Metric, arm: ArmSummary) -> Cell:
    value = arm.metrics.get(metric.name)
    match metric.shown_as:
        case "count":
            return Cell(whole(value))
        case "seconds":
            return Cell(duration(value))
        case "number":
            mark = "!" if metric.name == "label_majority_share" and arm.degenerate else ""
            return Cell(number(value, metric.digits) + mark)


def _task_table(summary: Summary, task: str) -> TableView:
    arms = [arm for arm in summary.arms if arm.task == task]
    has_full = any(arm.full_ceiling is not None for arm in arms)
    has_seeds = any(arm.accuracy is not None and arm.accuracy.sd is not None for arm in arms)
    metrics = [metric for metric in METRICS.values() if metric.headline]
    estimates = [entry for entry in ESTIMATES.values() if entry.title and (entry.name != "pgr_full" or has_full)]
    columns = [
        *(_MODEL, _ARM, Column("accuracy", about=ESTIMATES["accuracy"].about)),
        *([Column("sd", is_wide=True, about="standard deviation of the accuracy over seeds")] * has_seeds),
        *(Column(e.title, is_wide=e.name in ("pgr_full", "pgr_link"), about=e.about) for e in estimates[1:]),
        *(Column(m.title, is_wide=place > 0, about=m.about) for place, m in enumerate(metrics)),
    ]
    baselines = [
        Row([Cell(), Cell(BASELINES[name]), _estimate(accuracy)], kind="baseline")
        for name, accuracy in summary.tasks[task].baselines.items()
    ]
    cells = [
        [
            _estimate(arm.accuracy) if arm.accuracy is not None else Cell("not finished"),
            *([Cell(number(arm.accuracy.sd) if arm.accuracy is not None else "")] * has_seeds),
            Cell(number(value_of(arm.floor))),
            Cell(number(value_of(arm.ceiling))),
            _pgr(arm),
            *([Cell(number(value_of(arm.pgr_full), 2) if arm.full_ceiling is not None else "")] * has_full),
            Cell(number(value_of(arm.pgr_link), 2)),
            *(_metric_cell(metric, arm) for metric in metrics),
        ]
        for arm in arms
    ]
    rows, verdict = [*baselines, *_arm_rows(arms, cells)], summary.tasks[task].verdict
    return TableView(f"{summary.study}: {task}", columns, rows, task=task, verdict=verdict)


def _pgr(arm: ArmSummary) -> Cell:
    if not arm.is_student or arm.accuracy is None:
        return Cell()
    return _estimate(arm.pgr, 2, reason=arm.pgr_undefined or "")


def _metrics_table(summary: Summary, task: str, group: str) -> TableView:
    """Return the metrics of one group, for each arm to which they apply."""
    about = next(value for name, value in GROUPS.items() if name == group)
    own = [metric for metric in METRICS.values() if metric.group == group]
    shown = [metric for metric in own if metric.title]
    needed = [about.needs] if about.needs else [metric.name for metric in own]
    arms = [
        arm for arm in summary.arms if arm.task == task and any(arm.metrics.get(name) is not None for name in needed)
    ]
    columns = [_MODEL, _ARM, *(Column(metric.title, about=metric.about) for metric in shown)]
    rows = _arm_rows(arms, [[_metric_cell(metric, arm) for metric in shown] for arm in arms])
    return TableView(about.title, columns, list(rows), about=f"{about.about} Means over seeds.", task=task)


def _strata_table(summary: Summary, task: str) -> TableView:
    strata = summary.tasks[task].strata
    arms = [arm for arm in summary.arms if arm.task == task and arm.strata]
    columns = [_MODEL, _ARM, *(Column(f"{name} ({whole(size)})") for name, size in strata.items())]
    rows = _arm_rows(arms, [[_estimate(arm.strata.get(name), 2) for name in strata] for arm in arms])
    about = "With 95 % intervals; a stratum of one group of related examples has no estimate."
    return TableView("Accuracy by stratum", columns, list(rows), about=about, task=task)


def _across_table(summary: Summary) -> TableView:
    columns = [
        *(_MODEL, _ARM, Column("mean accuracy", about="over the finished tasks")),
        Column("median PGR", about="over the tasks where PGR is defined"),
        Column("undefined", about="tasks without a PGR"),
        Column("pooled PGR", about="Σ(student − floor) / Σ(ceiling − floor) over all tasks with both"),
    ]
    rows = []
    for row in summary.across:
        pooled = _estimate(row.pooled, 2, reason=row.pooled_undefined or "")
        if share := pooled_share(row):
            pooled = replace(pooled, small=f"{pooled.small} ({share})".strip())
        median = Cell(number(row.median, 2))
        name = _name(row, row.arm)
        rows.append(Row([Cell(row.level), name, _estimate(row.accuracy), median, Cell(undefined_share(row)), pooled]))
    about = "The median is over the tasks where PGR is defined; the others are counted next to it."
    return TableView("Over all tasks", columns, rows, about=about, verdict=summary.verdict)


def _declared_table(summary: Summary) -> TableView:
    left = [Column(title, is_left=True) for title in ("difference", "by", "seeds")]
    rows = [
        Row(
            [
                *(Cell(contest(row)), Cell("PGR" if row.by == "pgr" else row.by), Cell(num_seeds(row))),
                *(_estimate(row.accuracy), _estimate(row.pgr, 2)),
                Cell("not decided", reason=row.undecided) if row.undecided else Cell(p_text(row.p_value)),
                Cell(p_text(row.p_holm)),
            ]
        )
        for row in summary.declared
    ]
    about = (
        "Declared in the study file; each is one test over all its tasks, decided once both sides are finished on all "
        "of them. p is two-sided and needs three seeds; Holm's correction is over all declared comparisons."
    )
    columns = [
        *left,
        Column("in accuracy", about="difference of the mean accuracies over the tasks"),
        Column("in PGR", about="difference of the pooled PGRs"),
        Column("p", about="two-sided p-value of the difference that was declared"),
        Column("Holm", about=f"p corrected for {len(rows)} declared comparisons"),
    ]
    return TableView(f"Declared comparisons; p by Holm over {len(rows)}", columns, rows, about=about)


def _references_table(summary: Summary) -> TableView:
    left = [Column(title, is_left=True) for title in ("source", "setting", "method", "figure")]
    rows = []
    previous = None
    for row in summary.references:
        source = (row.source, row.setting) if (row.source, row.setting) != previous else ("", "")
        previous = (row.source, row.setting)
        theirs = row.theirs if isinstance(row.theirs, str) else number(row.theirs, 2)
        texts = (*source, row.contender, "PGR" if row.figure == "pgr" else row.figure, theirs, ours(row))
        rows.append(Row([Cell(text) for text in texts]))
    about = "Their results are of other models and data. Over several tasks: the median PGR, or the mean accuracy."
    columns = [*left, Column("theirs", about="as published, with other models and data"), Column("here")]
    return TableView("Published results", columns, rows, about=about)


def _steps_table(summary: Summary) -> TableView:
    by_way = Column("by way of", is_left=True, is_wide=True)
    columns = [
        *(_MODEL, _ARM, by_way, Column("between", about="students between the first supervisor and this one")),
        *map(Column, ("accuracy", "PGR")),
        Column("difference in PGR", about="to the shortest chain of the same method and settings"),
    ]
    several = len(summary.tasks) > 1
    rows = [
        Row(
            [
                Cell(f"{step.task} · {step.level}" if several else step.level),
                _name(step),
                Cell(" → ".join(step.path)),
                Cell(str(step.num_intermediates)),
                _estimate(step.accuracy),
                _estimate(step.pgr, 2, reason=""),
                _estimate(step.difference, 2) if step.difference is not None else Cell(),
            ]
        )
        for step in summary.steps
    ]
    about = (
        "One last student after chains of 0, 1, 2 … students in between, on the same examples. Differences are to the "
        "shortest chain of the same method and settings, which is shown first."
    )
    return TableView("Bootstrapping", columns, rows, about=about)


def _candidates_table(search: SearchSummary) -> TableView:
    """Show the best candidates, and every one that failed."""
    keys = list(search.candidates[0].settings) if search.candidates else []
    titles = ("", *(key.rpartition(".")[2] for key in keys), "status")
    columns = [Column(title, is_left=True, about=about) for title, about in zip(titles, ("", *keys, ""), strict=True)]
    columns += map(Column, ("score", *([search.minimise] if search.minimise is not None else [])))
    rows = []
    for rank, candidate in enumerate(search.candidates):
        if rank < _CANDIDATES_SHOWN or candidate.status == "failed":
            settings = [candidate.settings[key] for key in keys]
            texts = ["✓" if candidate.is_winner else ""]
            texts += [f"{value:.4g}" if isinstance(value, float) else str(value) for value in settings]
            error = f": {candidate.error.strip().splitlines()[-1]}" if candidate.error is not None else ""
            texts += [candidate.status + error, number(candidate.score)]
            texts += [whole(candidate.cost)] if search.minimise is not None else []
            rows.append(Row([Cell(text) for text in texts]))
    line = search_line(search)
    scheduler = f", scheduler {search.scheduler}" if search.scheduler is not None else ""
    about = f"{line[0].upper()}{line[1:]}. Sampler {search.sampler}{scheduler}. results.json has every candidate."
    return TableView("Search", columns, rows, about=about)


def _pretraining_table(summary: Summary) -> TableView:
    left = [Column(title, is_left=True) for title in ("task", "model", "arm")]
    columns = [*left, *map(Column, ("seeds", "steps", "tokens", "held-out loss", "time", "tok/s"))]
    rows = []
    for level in summary.pretrained:
        metrics = level.metrics
        texts = [level.task, level.level, level.arm, ", ".join(map(str, level.stages))]
        texts += [whole(metrics.get("num_steps")), whole(metrics.get("train_tokens"))]
        texts += [number(metrics.get("held_out_loss")), duration(metrics.get("train_seconds"))]
        rows.append(Row([Cell(text) for text in (*texts, whole(metrics.get("tokens_per_second")))]))
    return TableView("Training on text alone", columns, rows)


def _curves_table(summary: Summary) -> TableView:
    left = [Column(title, is_left=True) for title in ("model", "setting", "task")]
    rows = []
    for curve in summary.curves:
        names = (curve.level, curve.setting, curve.task)
        for place, (size, accuracy) in enumerate(curve.points):
            cells = [*map(Cell, names if place == 0 else ("", "", "")), Cell(whole(size)), _estimate(accuracy)]
            rows.append(Row(cells, starts_level=place == 0))
    title = "Ceilings by number of training examples"
    return TableView(title, [*left, Column("examples"), Column("accuracy")], rows)


def comparisons_table(summary: Summary) -> TableView:
    """Return the exploratory differences between arms; only on the page, because they are many."""
    several = len(summary.tasks) > 1
    rows = [
        Row(
            [
                Cell(f"{pair.task} · {pair.level}" if several else pair.level),
                Cell(f"{pair.first} − {pair.second}", oracle=pair.oracle),
                _estimate(pair.difference, 2),
                Cell("yes" if pair.excludes_zero else "no"),
                Cell(number(pair.minimum_detectable, 2)),
            ]
        )
        for pair in summary.comparisons
    ]
    about = (
        "In PGR, on the same seeds and resamples and without correction: among many pairs some exclude 0 by chance. "
        "The last column is the smallest true difference that this study would detect with a power of 80 %, which is "
        "2.8 standard errors of the paired difference."
    )
    columns = [_MODEL, Column("arms", is_left=True), *map(Column, ("difference in PGR", "excludes 0", "detectable"))]
    return TableView("Exploratory differences between arms", columns, rows, about=about)


def stages_table(summary: Summary) -> TableView:
    """Return every stage with its identity; only on the page."""
    columns = [_MODEL, _ARM, *(Column(t, is_left=True) for t in ("task", "seed", "finished", "identity"))]
    rows = []
    for arm in summary.arms:
        for seed, identity in arm.stages.items():
            finished = "yes" if seed in arm.seeds else "no"
            texts = (arm.level, arm.label, arm.task, str(seed), finished, short(identity))
            rows.append(Row([Cell(text) for text in texts]))
    return TableView("Stages", columns, rows)
