"""A summary for the terminal: each task's headline table, what holds over all tasks, and what to know of it."""

from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from w2s_ray.report.arm_findings import ArmSummary
from w2s_ray.report.details import details_of
from w2s_ray.report.findings import (
    AcrossTasks,
    DeclaredComparison,
    LearningCurve,
    Pretrained,
    ReferenceRow,
    SearchSummary,
    Summary,
)
from w2s_ray.report.grid import WIDE_COLUMNS, add_arms, grid
from w2s_ray.report.wording import (
    BASELINES,
    candidate_status,
    contest,
    detectable_lines,
    duration,
    failure_lines,
    marked_label,
    num_seeds,
    number,
    ours,
    p_text,
    pooled_share,
    reasons,
    scope,
    search_line,
    seed_mark,
    seeds_line,
    setting,
    shown_candidates,
    theirs,
    undecided_lines,
    undefined_line,
    undefined_share,
    value_of,
    whole,
    with_bounds,
)

_WIDE_DETAILS, _NARROW_DETAILS = 10, 6
"""Columns of a table behind the headline."""
_MOST_TASKS = 3
"""Tasks whose tables behind the headline a terminal shows."""


def render(summary: Summary, *, width: int | None = None) -> Group:
    """Return the study's headline results for a rich console of `width` columns; all columns where it is not given."""
    wide = width is None or width >= WIDE_COLUMNS
    parts: list[RenderableType] = [_task_table(summary, task, wide) for task in summary.tasks]
    if summary.across:
        parts.append(_across_table(summary.across))
    if summary.declared:
        parts.append(_declared_table(summary.declared))
    if summary.references:
        parts.append(_references_table(summary.references))
    if summary.steps:
        parts.append(_steps_table(summary))
    if summary.search is not None:
        parts.append(_candidates_table(summary.search))
        parts.append(Text(search_line(summary.search), style="dim"))
    if summary.pretrained:
        parts.append(_pretraining_table(summary.pretrained))
    return Group(*parts, *_notes(summary))


def render_details(summary: Summary, *, width: int | None = None) -> Group:
    """Return the tables behind the headline, with as many columns as the width has room for.

    Of a study of many tasks only the page has them all.
    """
    if len(summary.tasks) > _MOST_TASKS:
        return Group(Text("links, calibration, strata and costs of each task: w2s report --format html", style="dim"))
    most = _WIDE_DETAILS if width is None or width >= WIDE_COLUMNS else _NARROW_DETAILS
    parts: list[RenderableType] = []
    for detail in details_of(summary):
        for task, rows in detail.tasks.items():
            table = grid(f"{task}: {detail.title}", ("model", "arm"), rows.columns[:most])
            add_arms(table, ((arm, cells[:most]) for arm, cells in rows.arms))
            parts.append(table)
    if summary.curves:
        parts.append(_curves_table(summary.curves))
    return Group(*parts)


def to_json(summary: Summary) -> dict[str, Any]:
    """Return the summary as plain values; its keys are stable within a `schema_version`."""
    return summary.model_dump(mode="json")


def _notes(summary: Summary) -> list[Text]:
    """What to know of the figures."""
    notes = [Text(scope(summary), style="dim")]
    notes += [Text(line, style="dim") for line in [seeds_line(summary), *detectable_lines(summary)] if line]
    undefined = undefined_line(summary)
    if undefined is not None:
        notes.append(Text(undefined, style="yellow"))
        notes += [Text(f"  {line}", style="dim") for line in reasons(summary)]
    notes += [Text(f"not decided: {line}", style="yellow") for line in undecided_lines(summary)]
    notes += [Text(line, style="red") for line in failure_lines(summary)]
    return notes + [Text(f"warning: {line}", style="yellow") for line in summary.warnings]


def _task_table(summary: Summary, task: str, wide: bool) -> Table:
    arms = [arm for arm in summary.arms if arm.task == task]
    full = wide and any(arm.full_ceiling is not None for arm in arms)
    columns = ["accuracy", "floor", "ceiling", "PGR", *(["PGR of full"] if full else [])]
    table = grid(
        f"{summary.study}: {task}",
        ("model", "arm"),
        [*columns, *(["link", "agrees", "labels"] if wide else ["agrees"])],
    )
    for name, found in summary.tasks[task].baselines.items():
        table.add_row("", BASELINES[name], with_bounds(found), style="dim", end_section=name == "length")
    add_arms(table, ((arm, _cells(arm, wide, full)) for arm in arms))
    return table


def _cells(arm: ArmSummary, wide: bool, full: bool) -> list[str]:
    """An arm's cells after its name."""
    accuracy = with_bounds(arm.accuracy) if arm.accuracy is not None else "not finished"
    cells = [accuracy, number(value_of(arm.floor)), number(value_of(arm.ceiling)), _pgr(arm)]
    agreement = number(arm.link.agreement if arm.link is not None else None, 2)
    if not wide:
        return [*cells, agreement]
    if full:
        cells.append(number(value_of(arm.pgr_full), 2) if arm.full_ceiling is not None else "")
    labels = number(arm.link.label_accuracy if arm.link is not None else None)
    return [*cells, number(value_of(arm.pgr_link), 2), agreement, labels]


def _pgr(arm: ArmSummary) -> str:
    if arm.pgr is not None:
        return with_bounds(arm.pgr, 2)
    return "undefined" if arm.is_student and arm.accuracy is not None else ""


def _across_table(rows: tuple[AcrossTasks, ...]) -> Table:
    table = grid("over all tasks", ("model", "arm"), ("mean accuracy", "median PGR", "undefined", "pooled PGR"))
    for row in rows:
        pooled = with_bounds(row.pooled, 2) if row.pooled is not None else "undefined"
        if share := pooled_share(row):
            pooled += f" ({share})"
        table.add_row(
            row.level,
            marked_label(row) + seed_mark(row),
            with_bounds(row.accuracy),
            number(row.median, 2),
            undefined_share(row),
            pooled,
        )
    return table


def _declared_table(rows: tuple[DeclaredComparison, ...]) -> Table:
    title = f"declared comparisons; p by Holm over {len(rows)}"
    table = grid(title, ("difference", "by", "seeds"), ("in accuracy", "in PGR", "p", "Holm"))
    for row in rows:
        table.add_row(
            contest(row),
            "PGR" if row.by == "pgr" else row.by,
            num_seeds(row),
            with_bounds(row.accuracy),
            with_bounds(row.pgr, 2),
            p_text(row.p_value),
            p_text(row.p_holm),
        )
    return table


def _references_table(rows: tuple[ReferenceRow, ...]) -> Table:
    table = grid("beside the literature", ("source", "setting", "method", "figure"), ("theirs", "here"))
    for place, row in enumerate(rows):
        same = place > 0 and (rows[place - 1].source, rows[place - 1].setting) == (row.source, row.setting)
        about = ("", "") if same else (row.source, row.setting)
        figure = "PGR" if row.figure == "pgr" else row.figure
        table.add_row(*about, row.contender, figure, theirs(row), ours(row))
    return table


def _curves_table(curves: tuple[LearningCurve, ...]) -> Table:
    table = grid("ceilings by number of training examples", ("task", "model", "setting"), ("examples", "accuracy"))
    for curve in curves:
        for place, (size, accuracy) in enumerate(curve.points):
            about = ("", "", "") if place else (curve.task, curve.level, curve.setting)
            table.add_row(*about, whole(size), with_bounds(accuracy))
    return table


def _steps_table(summary: Summary) -> Table:
    columns = ("between", "accuracy", "PGR", "difference in PGR")
    table = grid("bootstrapping: one last student, on the same examples", ("model", "arm"), columns)
    many = len(summary.tasks) > 1
    for step in summary.steps:
        level = f"{step.task} · {step.level}" if many else step.level
        pgr = with_bounds(step.pgr, 2) if step.pgr is not None else "undefined"
        difference = with_bounds(step.difference, 2) if step.difference is not None else ""
        label = marked_label(step) + seed_mark(step)
        table.add_row(level, label, str(step.num_intermediates), with_bounds(step.accuracy), pgr, difference)
    return table


def _candidates_table(search: SearchSummary) -> Table:
    """The best candidates, and every one that failed."""
    keys = list(search.candidates[0].settings) if search.candidates else []
    costs = (search.minimise,) if search.minimise is not None else ()
    table = grid("search", ("", *(key.rpartition(".")[2] for key in keys), "status"), ("figure", *costs))
    for one in shown_candidates(search):
        settings = [setting(one.settings[key]) for key in keys]
        cost = (whole(one.cost),) if costs else ()
        table.add_row("✓" if one.is_winner else "", *settings, candidate_status(one), number(one.score), *cost)
    return table


def _pretraining_table(pretrained: tuple[Pretrained, ...]) -> Table:
    columns = ("seeds", "steps", "tokens", "held-out loss", "time", "tok/s")
    table = grid("training on text alone", ("task", "model", "arm"), columns)
    for each in pretrained:
        metrics = each.metrics
        table.add_row(
            each.task,
            each.level,
            each.arm,
            ", ".join(map(str, each.stages)),
            whole(metrics.get("num_steps")),
            whole(metrics.get("train_tokens")),
            number(metrics.get("held_out_loss")),
            duration(metrics.get("train_seconds")),
            whole(metrics.get("tokens_per_second")),
        )
    return table
