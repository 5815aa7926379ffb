"""The figures: accuracy by model and arm, PGR by arm, and PGR over all tasks; a row per distinct arm."""

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from w2s_ray.report.arm_findings import ArmSummary
from w2s_ray.report.drawing import (
    COLOURS,
    DASHED,
    FAINT,
    PGR_LIMITS,
    SOLID,
    Drawn,
    Row,
    dot,
    draw,
    pgr_axis,
    remark,
    rows_of,
)
from w2s_ray.report.findings import AcrossTasks, Summary
from w2s_ray.report.wording import by_level, marked_label, undefined_share, value_of

_MOST_PANELS = 6
"""Tasks that a figure shows one above another; of more there is the figure over all."""


def accuracy_figure(summary: Summary) -> Drawn | None:
    """Draw the accuracy of every arm, each level's gap from floor to ceiling shaded.

    None where nothing is judged, or tasks are many.
    """
    judged = [arm for arm in summary.arms if arm.accuracy is not None]
    return draw(_by_task(summary, judged), _accuracies, "accuracy on the test set; shaded: from floor to ceiling")


def pgr_figure(summary: Summary) -> Drawn | None:
    """Draw the PGR of every student, the undefined ones named as such.

    None where there is no student, or where the tasks are too many for one figure.
    """
    students = [arm for arm in summary.arms if arm.is_student and arm.accuracy is not None]
    return draw(_by_task(summary, students), _recoveries, "performance gap recovered: 0 is the floor, 1 the ceiling")


def across_figure(summary: Summary) -> Drawn | None:
    """Draw the pooled PGR of every student of several tasks over its PGR on each; None where there is none."""
    levels = list(dict.fromkeys(row.level for row in summary.across))
    groups = [(level, [row for row in summary.across if row.level == level]) for level in levels]
    label = "performance gap recovered; faint: one task each, bar: their median, large: pooled"
    return draw({"all tasks": rows_of(groups, _across_text)}, _pooled, label)


def _by_task(summary: Summary, arms: Sequence[ArmSummary]) -> dict[str, list[Row[ArmSummary]]]:
    tasks = summary.tasks if len(summary.tasks) <= _MOST_PANELS else ()
    return {task: rows_of(by_level(arm for arm in arms if arm.task == task), marked_label) for task in tasks}


def _across_text(row: AcrossTasks) -> str:
    return marked_label(row) + (f" ({undefined_share(row)} undefined)" if row.num_undefined else "")


def _accuracies(ax: Axes, rows: Sequence[Row[ArmSummary]]) -> None:
    for level in dict.fromkeys(row.level for row in rows):
        _shade_gap(ax, [row for row in rows if row.level == level])
    for row in rows:
        if row.drawn is not None and row.drawn.accuracy is not None:
            dot(ax, row.place, row.drawn.arm, row.drawn.accuracy, digits=3)
    ax.margins(x=0.05)


def _shade_gap(ax: Axes, rows: Sequence[Row[ArmSummary]]) -> None:
    """Shade a level's rows from the floor to its ceiling, where its students have one and the same."""
    known = {(value_of(row.drawn.floor), value_of(row.drawn.ceiling)) for row in rows if row.drawn is not None}
    ends = [(floor, ceiling) for floor, ceiling in known if floor is not None and ceiling is not None]
    if len(ends) != 1:
        return
    floor, ceiling = ends[0]
    top, bottom = rows[0].place + 0.5, rows[-1].place + 0.5
    corner = (min(floor, ceiling), top)
    size = (abs(ceiling - floor), bottom - top)
    ax.add_patch(Rectangle(corner, *size, facecolor=COLOURS["chain"], alpha=0.08, linewidth=0, zorder=0))
    for end, dashes in ((floor, DASHED), (ceiling, SOLID)):
        ax.plot([end, end], [top, bottom], color=FAINT, linewidth=0.9, linestyle=dashes, zorder=1)


def _recoveries(ax: Axes, rows: Sequence[Row[ArmSummary]]) -> None:
    found = [(row, row.drawn, row.drawn.pgr) for row in rows if row.drawn is not None]
    pgr_axis(ax, [pgr.low for *_, pgr in found if pgr], [pgr.high for *_, pgr in found if pgr])
    for row, arm, pgr in found:
        if pgr is not None:
            dot(ax, row.place, arm.arm, pgr, digits=2)
        else:
            no_ceiling = arm.gap is None
            remark(ax, row.place, f"undefined: no {'ceiling to compare with' if no_ceiling else 'sure gap'}")


def _pooled(ax: Axes, rows: Sequence[Row[AcrossTasks]]) -> None:
    found = [(row, row.drawn) for row in rows if row.drawn is not None]
    pooled = [each.pooled for _, each in found if each.pooled is not None]
    tasks = [pgr for _, each in found for pgr in each.pgrs.values() if pgr is not None]
    pgr_axis(ax, [*tasks, *(each.low for each in pooled)], [*tasks, *(each.high for each in pooled)])
    for row, each in found:
        colour = COLOURS[each.arm]
        values = [min(max(pgr, PGR_LIMITS[0]), PGR_LIMITS[1]) for pgr in each.pgrs.values() if pgr is not None]
        ax.plot(values, [row.place] * len(values), "o", color=colour, alpha=0.3, markersize=4.5, linewidth=0)
        if each.median is not None and PGR_LIMITS[0] <= each.median <= PGR_LIMITS[1]:
            ax.plot([each.median] * 2, [row.place - 0.28, row.place + 0.28], color=colour, linewidth=1.4)
        if each.pooled is not None:
            dot(ax, row.place, each.arm, each.pooled, digits=2)
        else:
            remark(ax, row.place, f"pooled: no {'sure gap' if each.num_pooled else 'ceiling to compare with'}")
