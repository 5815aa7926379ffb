"""The figures: accuracy by model and arm, PGR by arm, and PGR over all tasks; one row per distinct arm.

Colours are Okabe and Ito's, which colour-blind readers can tell apart, and each kind of arm has its own marker. Text
and axes in the SVG are `currentColor`, so that one file fits a light and a dark page.
"""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from w2s_ray.report.findings import AcrossTasks, ArmSummary, Estimate, Summary
from w2s_ray.report.text import oracle_mark, undefined_share, value_of, with_bounds
from w2s_ray.spec.study import Arm

_LOOKS: dict[Arm, tuple[str, str]] = {
    "floor": ("#7c7c85", "s"),
    "member": ("#7c7c85", "v"),
    "ceiling": ("#7c7c85", "D"),
    "full_ceiling": ("#7c7c85", "d"),
    "zero_shot": ("#e69f00", "*"),
    "chain": ("#0072b2", "o"),
    "truth_chain": ("#56b4e9", "p"),
    "direct": ("#d55e00", "^"),
    "pooled": ("#009e73", "P"),
    "self": ("#cc79a7", "X"),
}
"""Colour and marker of each arm."""
COLOURS: dict[Arm, str] = {arm: colour for arm, (colour, _) in _LOOKS.items()}
_MOST_PANELS = 6
"""Tasks above which there is no figure with one panel per task."""
_PGR_LIMITS = (-2.0, 3.0)
"""The widest PGR axis; a value beyond it is an arrowhead at the edge, with its number next to it."""
_FAINT, _INK = "#8e8e96", "#1b1b1e"
_DASHED, _DOTTED, _SOLID = (0, (3, 2)), (0, (1, 1.2)), "-"
_WIDTH_INCHES, _ROW_INCHES, _MARGIN_INCHES = 8.4, 0.29, 0.95
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": _FAINT,
    "axes.linewidth": 0.8,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "svg.fonttype": "path",
}
T = TypeVar("T", ArmSummary, AcrossTasks)


@dataclass(frozen=True)
class RenderedFigure:
    """A figure in both file formats."""

    png: bytes
    svg: str


@dataclass(frozen=True)
class _PlotRow(Generic[T]):
    """A line of a panel: a result, or the name of the level above its results."""

    y: float
    level: str
    text: str
    result: T | None


_Panels = dict[str, list[_PlotRow[T]]]


def accuracy_figure(summary: Summary) -> RenderedFigure | None:
    """Plot the accuracy of every arm, with each level's gap from floor to ceiling shaded and its untrained model.

    None where nothing is finished, or there are too many tasks for one figure.
    """
    arms = [arm for arm in summary.arms if arm.accuracy is not None]
    label = "accuracy on the test set; shaded: from floor to ceiling"
    label += "; dotted: the untrained model" if has_untrained(summary) else ""
    return _render(_by_task(summary, arms), _plot_accuracies, label)


def has_untrained(summary: Summary) -> bool:
    """Return whether an untrained model is evaluated."""
    return any(arm.accuracy is not None and "zero_shot" in arm.kinds for arm in summary.arms)


def pgr_figure(summary: Summary) -> RenderedFigure | None:
    """Plot the PGR of every student, with a remark where it is undefined.

    None where there is no student, or there are too many tasks for one figure.
    """
    students = [arm for arm in summary.arms if arm.is_student and arm.accuracy is not None]
    return _render(_by_task(summary, students), _plot_pgrs, "performance gap recovered: 0 is the floor, 1 the ceiling")


def across_figure(summary: Summary) -> RenderedFigure | None:
    """Plot the pooled PGR of every student of several tasks, with its PGR on each; None where there is none."""

    def text(row: AcrossTasks) -> str:
        undefined = f" ({undefined_share(row)} undefined)" if row.num_undefined else ""
        return row.label + oracle_mark(row) + undefined

    label = "performance gap recovered; faint: one task each, bar: their median, large: pooled"
    return _render({"all tasks": _rows(summary.across, text)}, _plot_pooled, label)


def _by_task(summary: Summary, arms: Sequence[ArmSummary]) -> _Panels[ArmSummary]:
    tasks = summary.tasks if len(summary.tasks) <= _MOST_PANELS else ()
    text: Callable[[ArmSummary], str] = lambda arm: arm.label + oracle_mark(arm)  # noqa: E731
    return {task: _rows([arm for arm in arms if arm.task == task], text) for task in tasks}


def _rows(results: Sequence[T], text: Callable[[T], str]) -> list[_PlotRow[T]]:
    """Return a row per result, level by level, each level below its name."""
    rows: list[_PlotRow[T]] = []
    y = 0.0
    for level in dict.fromkeys(result.level for result in results):
        own = [result for result in results if result.level == level]
        rows.append(_PlotRow(y, level, level, None))
        rows += [_PlotRow(y + number, level, text(result), result) for number, result in enumerate(own, start=1)]
        y += len(own) + 1.4
    return rows


def _plot_accuracies(ax: Axes, rows: Sequence[_PlotRow[ArmSummary]]) -> None:
    for level in dict.fromkeys(row.level for row in rows):
        own = [row for row in rows if row.level == level]
        _shade_gap(ax, own)
        _mark_untrained(ax, own)
    for row in rows:
        if row.result is not None and row.result.accuracy is not None:
            _dot(ax, row.y, row.result.arm, row.result.accuracy, digits=3)
    ax.margins(x=0.05)


def _shade_gap(ax: Axes, rows: Sequence[_PlotRow[ArmSummary]]) -> None:
    """Shade a level's rows from floor to ceiling, where all its students have the same floor and ceiling."""
    gaps = {(value_of(row.result.floor), value_of(row.result.ceiling)) for row in rows if row.result is not None}
    ends = [(floor, ceiling) for floor, ceiling in gaps if floor is not None and ceiling is not None]
    if len(ends) != 1:
        return
    floor, ceiling = ends[0]
    top, bottom = _ends(rows)
    corner = (min(floor, ceiling), top)
    size = (abs(ceiling - floor), bottom - top)
    ax.add_patch(Rectangle(corner, *size, facecolor=COLOURS["chain"], alpha=0.08, linewidth=0, zorder=0))
    for end, dashes in ((floor, _DASHED), (ceiling, _SOLID)):
        _vertical(ax, end, rows, color=_FAINT, linewidth=0.9, linestyle=dashes, zorder=1)


def _mark_untrained(ax: Axes, rows: Sequence[_PlotRow[ArmSummary]]) -> None:
    """Draw a line through a level's rows at the accuracy of each of its untrained models."""
    for arm in (row.result for row in rows):
        if arm is not None and arm.accuracy is not None and "zero_shot" in arm.kinds:
            look = {"color": COLOURS["zero_shot"], "linewidth": 1.6, "linestyle": _DOTTED, "zorder": 2}
            _vertical(ax, arm.accuracy.value, rows, **look)


def _ends(rows: Sequence[_PlotRow[ArmSummary]]) -> tuple[float, float]:
    """Return where a level's rows begin and end."""
    return rows[0].y + 0.5, rows[-1].y + 0.5


def _vertical(ax: Axes, x: float, rows: Sequence[_PlotRow[ArmSummary]], **look: Any) -> None:
    """Draw a line through a level's rows."""
    ax.plot([x, x], _ends(rows), **look)


def _plot_pgrs(ax: Axes, rows: Sequence[_PlotRow[ArmSummary]]) -> None:
    students = [(row.y, row.result) for row in rows if row.result is not None]
    pgrs = [arm.pgr for _, arm in students if arm.pgr is not None]
    _set_pgr_axis(ax, [pgr.low for pgr in pgrs], [pgr.high for pgr in pgrs])
    for y, arm in students:
        if arm.pgr is not None:
            _dot(ax, y, arm.arm, arm.pgr, digits=2)
        else:
            _remark(ax, y, f"undefined: no {'ceiling to compare with' if arm.gap is None else 'sure gap'}")


def _plot_pooled(ax: Axes, rows: Sequence[_PlotRow[AcrossTasks]]) -> None:
    students = [(row.y, row.result) for row in rows if row.result is not None]
    pooled = [result.pooled for _, result in students if result.pooled is not None]
    by_task = [pgr for _, result in students for pgr in result.pgrs.values() if pgr is not None]
    _set_pgr_axis(ax, [*by_task, *(pgr.low for pgr in pooled)], [*by_task, *(pgr.high for pgr in pooled)])
    low, high = _PGR_LIMITS
    for y, result in students:
        colour = COLOURS[result.arm]
        values = [min(max(pgr, low), high) for pgr in result.pgrs.values() if pgr is not None]
        ax.plot(values, [y] * len(values), "o", color=colour, alpha=0.3, markersize=4.5, linewidth=0)
        if result.median is not None and low <= result.median <= high:
            ax.plot([result.median] * 2, [y - 0.28, y + 0.28], color=colour, linewidth=1.4)
        if result.pooled is not None:
            _dot(ax, y, result.arm, result.pooled, digits=2)
        else:
            _remark(ax, y, f"pooled: no {'sure gap' if result.num_pooled else 'ceiling to compare with'}")


def _set_pgr_axis(ax: Axes, lows: Sequence[float], highs: Sequence[float]) -> None:
    """Show at least floor and ceiling, and all values within the limits."""
    low, high = min([-0.1, *(value - 0.05 for value in lows)]), max([1.1, *(value + 0.05 for value in highs)])
    ax.set_xlim(max(low, _PGR_LIMITS[0]), min(high, _PGR_LIMITS[1]))
    for end, dashes in ((0, _DASHED), (1, _SOLID)):
        ax.axvline(end, color=_FAINT, linewidth=0.9, linestyle=dashes, zorder=1)


def _dot(ax: Axes, y: float, arm: Arm, estimate: Estimate, *, digits: int) -> None:
    """Plot a value with its interval, and write both to the right of the axes."""
    colour, marker = _LOOKS[arm]
    ax.plot([estimate.low, estimate.high], [y] * 2, color=colour, linewidth=2.2, alpha=0.7, solid_capstyle="butt")
    left, right = ax.get_xlim() if digits == 2 else (estimate.value, estimate.value)
    beyond = "<" if estimate.value < left else ">" if estimate.value > right else None
    ax.plot(
        [min(max(estimate.value, left), right)],
        [y],
        beyond or marker,
        color=colour,
        markersize=6.5,
        clip_on=False,
        zorder=3,
    )
    ax.annotate(
        with_bounds(estimate, digits),
        xy=(1, y),
        xycoords=("axes fraction", "data"),
        xytext=(10, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        annotation_clip=False,
    )


def _remark(ax: Axes, y: float, text: str) -> None:
    """Write why a row has no value."""
    ax.annotate(text, xy=(0, y), xytext=(8, 0), textcoords="offset points", va="center", style="italic", color=_FAINT)


def _render(
    panels: Mapping[str, Sequence[_PlotRow[T]]], plot: Callable[[Axes, Sequence[_PlotRow[T]]], None], x_label: str
) -> RenderedFigure | None:
    """Plot a panel under each title; None where no panel has a row."""
    panels = {title: rows for title, rows in panels.items() if rows}
    if not panels:
        return None
    heights = [_ROW_INCHES * rows[-1].y + _MARGIN_INCHES for rows in panels.values()]
    with mpl.rc_context({**_STYLE, "svg.hashsalt": x_label}):
        figure = Figure(figsize=(_WIDTH_INCHES, sum(heights)), layout=ConstrainedLayoutEngine(h_pad=0.1))
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for ax, (title, rows) in zip(axes, panels.items(), strict=True):
            ax.set_yticks([row.y for row in rows], [row.text for row in rows])
            for tick, row in zip(ax.get_yticklabels(), rows, strict=True):
                tick.set_fontweight("normal" if row.result is not None else "bold")
            ax.set_ylim(rows[-1].y + 0.7, -0.6)
            ax.spines[["top", "right", "left"]].set_visible(False)
            ax.tick_params(axis="y", length=0)
            ax.grid(axis="x", color=_FAINT, alpha=0.25, linewidth=0.6)
            ax.set_axisbelow(True)
            ax.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))
            plot(ax, rows)
            ax.set_title(title, loc="left", fontweight="bold", fontsize=10)
        axes[-1].set_xlabel(x_label)
        png, svg = io.BytesIO(), io.StringIO()
        figure.savefig(png, format="png", dpi=180, facecolor="white", metadata={"Software": None})
        figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return RenderedFigure(png.getvalue(), _for_page(svg.getvalue()))


def _for_page(svg: str) -> str:
    """Return the SVG element alone, with its text colour from the page and its width from its container."""
    svg = svg[svg.index("<svg") :].replace(_INK, "currentColor")
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    return re.sub(r'width="[^"]*" height="[^"]*"', 'width="100%"', svg, count=1)
