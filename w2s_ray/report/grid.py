"""Tables for the terminal, all of one look."""

from collections.abc import Iterable, Sequence

from rich import box
from rich.table import Table

from w2s_ray.report.arm_findings import ArmSummary
from w2s_ray.report.wording import by_level, marked_label, seed_mark

WIDE_COLUMNS = 125
"""From this width on every column is shown."""


def grid(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    """Return an empty table whose columns stand left or right."""
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


def add_arms(table: Table, rows: Iterable[tuple[ArmSummary, Sequence[str]]]) -> None:
    """Add a row for each arm, level by level: the level's name once, the arm's label, and its cells."""
    cells = [(arm, list(own)) for arm, own in rows]
    by_arm = {id(arm): own for arm, own in cells}
    for level, arms in by_level(arm for arm, _ in cells):
        for arm in arms:
            name = level if arm is arms[0] else ""
            table.add_row(name, marked_label(arm) + seed_mark(arm), *by_arm[id(arm)], end_section=arm is arms[-1])
