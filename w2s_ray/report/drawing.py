"""How figures look: colours, markers, rows of named dots, and the two forms in which they are kept.

Colours are Okabe and Ito's, which colour-blind readers can tell apart, and each kind of arm has a marker of its own.
The SVG leaves its ink to the page (`currentColor`), so that one file serves light and dark.
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
from matplotlib.ticker import MaxNLocator

from w2s_ray.report.arm_findings import Estimate
from w2s_ray.report.wording import with_bounds
from w2s_ray.spec.study import Arm

COLOURS: dict[Arm, str] = {
    "floor": "#7c7c85",
    "member": "#7c7c85",
    "ceiling": "#7c7c85",
    "full_ceiling": "#7c7c85",
    "zero_shot": "#e69f00",
    "chain": "#0072b2",
    "truth_chain": "#56b4e9",
    "direct": "#d55e00",
    "pooled": "#009e73",
    "self": "#cc79a7",
}
MARKERS: dict[Arm, str] = {
    "floor": "s",
    "member": "v",
    "ceiling": "D",
    "full_ceiling": "d",
    "zero_shot": "*",
    "chain": "o",
    "truth_chain": "p",
    "direct": "^",
    "pooled": "P",
    "self": "X",
}
FAINT = "#8e8e96"
DASHED, SOLID = (0, (3, 2)), "-"
PGR_LIMITS = (-2.0, 3.0)
"""How far a PGR axis reaches at most; what lies beyond is an arrowhead at its edge, its figures beside it."""

_INK = "#1b1b1e"
"""Text and axes; in SVG it becomes the page's own ink."""
_WIDTH_INCHES, _ROW_INCHES, _MARGIN_INCHES = 8.4, 0.29, 0.95
_STYLE: dict[Any, Any] = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9,
    "text.color": _INK,
    "axes.labelcolor": _INK,
    "axes.edgecolor": FAINT,
    "axes.linewidth": 0.8,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "svg.fonttype": "path",
}
T = TypeVar("T")


@dataclass(frozen=True)
class Drawn:
    """A figure in both forms."""

    png: bytes
    svg: str


@dataclass(frozen=True)
class Row(Generic[T]):
    """A line of a panel: what is drawn there, or the name of the level whose rows follow."""

    place: float
    level: str
    text: str
    drawn: T | None


def rows_of(groups: Sequence[tuple[str, Sequence[T]]], text: Callable[[T], str]) -> list[Row[T]]:
    """Return rows level by level, each level under its name."""
    rows: list[Row[T]] = []
    place = 0.0
    for level, own in groups:
        rows.append(Row(place, level, level, None))
        rows += [Row(place + number, level, text(each), each) for number, each in enumerate(own, start=1)]
        place += len(own) + 1.4
    return rows


def draw(
    panels: Mapping[str, Sequence[Row[T]]], panel: Callable[[Axes, Sequence[Row[T]]], None], x_label: str
) -> Drawn | None:
    """Draw a panel under each title; None where no panel has a row."""
    panels = {title: rows for title, rows in panels.items() if rows}
    if not panels:
        return None
    heights = [_ROW_INCHES * rows[-1].place + _MARGIN_INCHES for rows in panels.values()]
    with mpl.rc_context({**_STYLE, "svg.hashsalt": x_label}):
        figure = Figure(figsize=(_WIDTH_INCHES, sum(heights)), layout=ConstrainedLayoutEngine(h_pad=0.1))
        axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
        for ax, (title, rows) in zip(axes, panels.items(), strict=True):
            _frame(ax, rows)
            panel(ax, rows)
            ax.set_title(title, loc="left", fontweight="bold", fontsize=10)
        axes[-1].set_xlabel(x_label)
        return Drawn(_png(figure), _svg(figure))


def pgr_axis(ax: Axes, lows: Sequence[float], highs: Sequence[float]) -> None:
    """Let the axis reach from below the floor to above the ceiling, and as far as the figures do within limits."""
    low, high = min([-0.1, *(each - 0.05 for each in lows)]), max([1.1, *(each + 0.05 for each in highs)])
    ax.set_xlim(max(low, PGR_LIMITS[0]), min(high, PGR_LIMITS[1]))
    for end, dashes in ((0, DASHED), (1, SOLID)):
        ax.axvline(end, color=FAINT, linewidth=0.9, linestyle=dashes, zorder=1)


def dot(ax: Axes, place: float, arm: Arm, found: Estimate, *, digits: int) -> None:
    """Draw a figure with its interval, and write it beside the axes."""
    colour = COLOURS[arm]
    ax.plot([found.low, found.high], [place] * 2, color=colour, linewidth=2.2, alpha=0.7, solid_capstyle="butt")
    left, right = ax.get_xlim() if digits == 2 else (found.value, found.value)
    beyond = "<" if found.value < left else ">" if found.value > right else None
    ax.plot(
        [min(max(found.value, left), right)],
        [place],
        beyond or MARKERS[arm],
        color=colour,
        markersize=6.5,
        clip_on=False,
        zorder=3,
    )
    ax.annotate(
        with_bounds(found, digits),
        xy=(1, place),
        xycoords=("axes fraction", "data"),
        xytext=(10, 0),
        textcoords="offset points",
        va="center",
        fontsize=8.5,
        annotation_clip=False,
    )


def remark(ax: Axes, place: float, text: str) -> None:
    """Write why a row has no figure."""
    ax.annotate(
        text, xy=(0, place), xytext=(8, 0), textcoords="offset points", va="center", style="italic", color=FAINT
    )


def _frame(ax: Axes, rows: Sequence[Row[T]]) -> None:
    ax.set_yticks([row.place for row in rows], [row.text for row in rows])
    for tick, row in zip(ax.get_yticklabels(), rows, strict=True):
        tick.set_fontweight("normal" if row.drawn is not None else "bold")
    ax.set_ylim(rows[-1].place + 0.7, -0.6)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    ax.grid(axis="x", color=FAINT, alpha=0.25, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.xaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 5, 10]))


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
