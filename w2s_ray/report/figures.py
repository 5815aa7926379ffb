"""Two figures: accuracy by model and arm, and PGR by arm; dots with 95 % intervals, a row per distinct arm.

Colours are Okabe and Ito's, which colour-blind readers can tell apart, and each kind of arm has a marker of its own.
The SVG leaves its ink to the page (`currentColor`), so that one file serves light and dark.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from w2s_ray.report.findings import ArmSummary, Estimate, Summary
from w2s_ray.report.wording import by_level, marked_label, value_of, with_bounds

COLOURS = {
    "floor": "#7c7c85",
    "ceiling": "#7c7c85",
    "chain": "#0072b2",
    "direct": "#d55e00",
    "pooled": "#009e73",
    "self": "#cc79a7",
}
MARKERS = {"floor": "s", "ceiling": "D", "chain": "o", "direct": "^", "pooled": "P", "self": "X"}

_INK = "#1b1b1e"
"""Text and axes; in SVG it becomes the page's own ink."""
_FAINT = "#8e8e96"
_WIDTH_INCHES, _ROW_INCHES, _MARGIN_INCHES = 8.4, 0.29, 0.95
_PGR_LIMITS = (-2.0, 3.0)
"""How far the PGR axis reaches at most; what lies beyond is an arrowhead at its edge, its figures beside it."""
_DASHED, _SOLID = (0, (3, 2)), "-"
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


@dataclass(frozen=True)
class Drawn:
    """A figure in both forms."""

    png: bytes
    svg: str


@dataclass(frozen=True)
class _Row:
    """A line of a panel: an arm, or the name of the level whose arms follow."""

    place: float
    level: str
    arm: ArmSummary | None


def accuracy_figure(summary: Summary) -> Drawn | None:
    """Draw the accuracy of every arm, each level's gap from floor to ceiling shaded; None where nothing is judged."""
    judged = [arm for arm in summary.arms if arm.accuracy is not None]
    return _draw(summary, judged, _accuracies, "accuracy on the test set; shaded: from floor to ceiling")


def pgr_figure(summary: Summary) -> Drawn | None:
    """Draw the PGR of every student, the undefined ones named as such; None where there is no student."""
    students = [arm for arm in summary.arms if arm.is_student and arm.accuracy is not None]
    return _draw(summary, students, _recoveries, "performance gap recovered: 0 is the floor, 1 the ceiling")


def _draw(
    summary: Summary, arms: Sequence[ArmSummary], panel: Callable[[Axes, Sequence[_Row]], None], x_label: str
) -> Drawn | None:
    """Draw a panel for each task that has arms."""
    panels = {task: _rows([arm for arm in arms if arm.task == task]) for task in summary.tasks}
    panels = {task: rows for task, rows in panels.items() if rows}
    if not panels:
        return None
    heights = [_ROW_INCHES * rows[-1].place + _MARGIN_INCHES for rows in panels.values()]
    with mpl.rc_context({**_STYLE, "svg.hashsalt": x_label}):
        figure = Figure(figsize=(_WIDTH_INCHES, sum(heights)), layout=ConstrainedLayoutEngine(h_pad=0.1))
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for ax, (task, rows) in zip(axes, panels.items(), strict=True):
            _frame(ax, rows)
            panel(ax, rows)
            ax.set_title(task, loc="left", fontweight="bold", fontsize=10)
        axes[-1].set_xlabel(x_label)
        return Drawn(_png(figure), _svg(figure))


def _rows(arms: Sequence[ArmSummary]) -> list[_Row]:
    """The arms' rows, level by level, each level under its name."""
    rows: list[_Row] = []
    place = 0.0
    for level, own in by_level(arms):
        for arm in (None, *own):
            rows.append(_Row(place, level, arm))
            place += 1
        place += 0.4
    return rows


def _frame(ax: Axes, rows: Sequence[_Row]) -> None:
    ax.set_yticks([row.place for row in rows], [marked_label(row.arm) if row.arm else row.level for row in rows])
    for tick, row in zip(ax.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("normal" if row.arm else "bold")
    ax.set_ylim(rows[-1].place + 0.7, -0.6)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color=_FAINT, alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))


def _accuracies(ax: Axes, rows: Sequence[_Row]) -> None:
    for level in dict.fromkeys(row.level for row in rows):
        _shade_gap(ax, [row for row in rows if row.level == level])
    for row in rows:
        if row.arm is not None and row.arm.accuracy is not None:
            _dot(ax, row, row.arm, row.arm.accuracy, digits=3)
    ax.margins(x=0.05)


def _shade_gap(ax: Axes, rows: Sequence[_Row]) -> None:
    """Shade a level's rows from the floor to its ceiling."""
    known = [(value_of(row.arm.floor), value_of(row.arm.ceiling)) for row in rows if row.arm is not None]
    ends = next(((floor, ceiling) for floor, ceiling in known if floor is not None and ceiling is not None), None)
    if ends is None:
        return
    floor, ceiling = ends
    top, bottom = rows[0].place + 0.5, rows[-1].place + 0.5
    corner = (min(floor, ceiling), top)
    size = (abs(ceiling - floor), bottom - top)
    ax.add_patch(Rectangle(corner, *size, facecolor=COLOURS["chain"], alpha=0.08, linewidth=0, zorder=0))
    for end, dashes in ((floor, _DASHED), (ceiling, _SOLID)):
        ax.plot([end, end], [top, bottom], color=_FAINT, linewidth=0.9, linestyle=dashes, zorder=1)


def _recoveries(ax: Axes, rows: Sequence[_Row]) -> None:
    found = [(row, row.arm, row.arm.pgr) for row in rows if row.arm is not None]
    low = min([-0.1, *(pgr.low - 0.05 for _, _, pgr in found if pgr)])
    high = max([1.1, *(pgr.high + 0.05 for _, _, pgr in found if pgr)])
    ax.set_xlim(max(low, _PGR_LIMITS[0]), min(high, _PGR_LIMITS[1]))
    for end, dashes in ((0, _DASHED), (1, _SOLID)):
        ax.axvline(end, color=_FAINT, linewidth=0.9, linestyle=dashes, zorder=1)
    for row, arm, pgr in found:
        if pgr is not None:
            _dot(ax, row, arm, pgr, digits=2)
        else:
            ax.annotate(
                "undefined: no ceiling to compare with" if arm.gap is None else "undefined: no sure gap",
                xy=(0, row.place),
                xytext=(8, 0),
                textcoords="offset points",
                va="center",
                style="italic",
                color=_FAINT,
            )


def _dot(ax: Axes, row: _Row, arm: ArmSummary, found: Estimate, *, digits: int) -> None:
    """Draw a figure with its interval, and write it beside the axes."""
    colour = COLOURS[arm.arm]
    ax.plot([found.low, found.high], [row.place] * 2, color=colour, linewidth=2.2, alpha=0.7, solid_capstyle="butt")
    left, right = ax.get_xlim() if digits == 2 else (found.value, found.value)
    beyond = "<" if found.value < left else ">" if found.value > right else None
    ax.plot(
        [min(max(found.value, left), right)],
        [row.place],
        beyond or MARKERS[arm.arm],
        color=colour,
        markersize=6.5,
        clip_on=False,
        zorder=3,
    )
    ax.annotate(
        with_bounds(found, digits),
        xy=(1, row.place),
        xycoords=("axes fraction", "data"),
        xytext=(10, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        annotation_clip=False,
    )


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=180, facecolor="white", metadata={"Software": None})
    return buffer.getvalue()


def _svg(figure: Figure) -> str:
    """The figure as an SVG element that takes its ink from the page and its width from its place."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :].replace(_INK, "currentColor")
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    return re.sub(r'width="[^"]*" height="[^"]*"', 'width="100%"', text, count=1)
