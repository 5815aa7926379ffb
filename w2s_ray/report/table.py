"""A summary as a table for the terminal, and as plain JSON."""

from typing import Any

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from w2s_ray.report.findings import ArmSummary, Pretrained, SearchSummary, Step, Summary
from w2s_ray.report.wording import (
    by_level,
    candidate_status,
    detectable_lines,
    duration,
    failure_lines,
    marked_label,
    number,
    reasons,
    scope,
    search_line,
    seeds_line,
    setting,
    shown_candidates,
    undefined_line,
    value_of,
    whole,
    with_bounds,
)

_STEP_COLUMNS = ("between", "accuracy", "PGR", "difference in PGR")
_WIDE_COLUMNS = 125
"""From this width on every column is shown."""


def render(summary: Summary, *, width: int | None = None) -> Group:
    """Return the study's results for a rich console of `width` columns; every column where it is not given."""
    wide = width is None or width >= _WIDE_COLUMNS
    parts: list[RenderableType] = []
    for task in summary.tasks:
        parts.append(_task_table(summary, task, wide))
    if summary.steps:
        parts.append(_steps_table(summary.steps))
    if summary.search is not None:
        parts.append(_candidates_table(summary.search))
        parts.append(Text(search_line(summary.search), style="dim"))
    if summary.pretrained:
        parts.append(_pretraining_table(summary.pretrained))
    parts.append(Text(scope(summary), style="dim"))
    parts += [Text(line, style="dim") for line in [seeds_line(summary), *detectable_lines(summary)] if line]
    undefined = undefined_line(summary)
    if undefined is not None:
        parts.append(Text(undefined, style="yellow"))
        parts += [Text(f"  {line}", style="dim") for line in reasons(summary)]
    parts += [Text(line, style="red") for line in failure_lines(summary)]
    parts += [Text(f"warning: {line}", style="yellow") for line in summary.warnings]
    return Group(*parts)


def to_json(summary: Summary) -> dict[str, Any]:
    """Return the summary as plain values; its keys are stable within a `schema_version`."""
    return summary.model_dump(mode="json")


def _table(title: str, left: tuple[str, ...], right: tuple[str, ...]) -> Table:
    """An empty table of our looks; columns stand left or right."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _task_table(summary: Summary, task: str, wide: bool) -> Table:
    columns = ("accuracy", "floor", "ceiling", "PGR")
    more = ("link", "agrees", "labels", "time", "tok/s") if wide else ("agrees",)
    table = _table(f"{summary.study}: {task}", ("model", "arm"), columns + more)
    arms = [arm for arm in summary.arms if arm.task == task]
    for level, own in by_level(arms):
        for arm in own:
            name = level if arm is own[0] else ""
            table.add_row(name, *_cells(arm, wide), end_section=arm is own[-1])
    return table


def _cells(arm: ArmSummary, wide: bool) -> list[str]:
    """An arm's cells after the model's name."""
    accuracy = with_bounds(arm.accuracy) if arm.accuracy is not None else "not finished"
    cells = [marked_label(arm), accuracy, number(value_of(arm.floor)), number(value_of(arm.ceiling)), _pgr(arm)]
    if not wide:
        return [*cells, number(arm.agreement, 2)]
    link, agreement = number(value_of(arm.pgr_link), 2), number(arm.agreement, 2)
    return [*cells, link, agreement, number(arm.label_accuracy), duration(arm.seconds), whole(arm.tokens_per_second)]


def _pgr(arm: ArmSummary) -> str:
    if arm.pgr is not None:
        return with_bounds(arm.pgr, 2)
    return "undefined" if arm.is_student and arm.accuracy is not None else ""


def _steps_table(steps: tuple[Step, ...]) -> Table:
    table = _table("bootstrapping: one last student, on the same examples", ("model", "by way of"), _STEP_COLUMNS)
    for step in steps:
        way = " → ".join(step.path)
        pgr = with_bounds(step.pgr, 2) if step.pgr is not None else "undefined"
        difference = with_bounds(step.difference, 2) if step.difference is not None else ""
        table.add_row(step.level, way, str(step.num_intermediates), with_bounds(step.accuracy), pgr, difference)
    return table


def _candidates_table(search: SearchSummary) -> Table:
    """The best candidates, and every one that failed."""
    keys = list(search.candidates[0].settings) if search.candidates else []
    costs = (search.minimise,) if search.minimise is not None else ()
    table = _table("search", ("", *(key.rpartition(".")[2] for key in keys), "status"), ("figure", *costs))
    for one in shown_candidates(search):
        settings = [setting(one.settings[key]) for key in keys]
        cost = (whole(one.cost),) if costs else ()
        table.add_row("✓" if one.is_winner else "", *settings, candidate_status(one), number(one.figure), *cost)
    return table


def _pretraining_table(pretrained: tuple[Pretrained, ...]) -> Table:
    table = _table("pretraining", ("task", "model"), ("seed", "steps", "tokens", "held-out loss", "time", "tok/s"))
    for each in pretrained:
        metrics = each.metrics
        table.add_row(
            each.task,
            each.level,
            str(each.seed),
            whole(metrics.get("num_steps")),
            whole(metrics.get("train_tokens")),
            number(metrics.get("held_out_loss")),
            duration(metrics.get("train_seconds")),
            whole(metrics.get("tokens_per_second")),
        )
    return table
