"""The report in a terminal: its tables, verdicts, legend and notes, in as many columns as there is room for."""

from collections.abc import Mapping
from dataclasses import replace

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from w2s_ray.report.findings import Summary
from w2s_ray.report.legend import column_lines, legend
from w2s_ray.report.tables import TableView, detail_tables, headline_tables
from w2s_ray.report.text import detectable_lines, notes, scope, search_line, undefined_reasons

WIDE = 125
"""Terminal columns from which every column of a table is shown."""
_MOST_COLUMNS_WIDE, _MOST_COLUMNS = 10, 6
"""Columns of a detail table besides those on the left."""
_MOST_TASKS = 3
"""Tasks above which no detail tables are shown."""


def render(summary: Summary, *, width: int | None = None) -> Group:
    """Return the results for a terminal of `width` columns; with all columns where it is not given."""
    is_wide = width is None or width >= WIDE
    tables = headline_tables(summary)
    parts: list[RenderableType] = []
    for table in tables:
        parts.append(_rich(table, is_wide))
        if table.verdict:
            parts += [Text(table.verdict, style="bold"), Text()]
    if tables:
        parts += [_meanings(legend(summary, tables, is_wide=is_wide)), Text()]
    lines = [Text(line, style="dim") for line in [scope(summary), *detectable_lines(summary)]]
    lines += [Text(search_line(summary.search), style="dim")] if summary.search is not None else []
    lines += [Text(line, style="red" if line.startswith("failed") else "yellow") for line in notes(summary)]
    lines += [Text(f"undefined: {line}", style="dim") for line in undefined_reasons(summary)]
    lines += [Text(f"warning: {line}", style="yellow") for line in summary.warnings]
    return Group(*parts, *lines)


def render_details(summary: Summary, *, width: int | None = None) -> Group:
    """Return the tables behind the results, each cut into several where it has more columns than the terminal."""
    if len(summary.tasks) > _MOST_TASKS:
        return Group(Text("metrics, strata and costs of each task: w2s report --format html", style="dim"))
    most = _MOST_COLUMNS_WIDE if width is None or width >= WIDE else _MOST_COLUMNS
    parts: list[RenderableType] = []
    for table in detail_tables(summary):
        num_left = sum(column.is_left for column in table.columns)
        for start in range(num_left, len(table.columns), most):
            places = [*range(num_left), *range(start, min(start + most, len(table.columns)))]
            title = f"{table.task}: {table.title}" if table.task else table.title
            part = replace(
                table,
                title=title + (" (continued)" if start > num_left else ""),
                columns=[table.columns[place] for place in places],
                rows=[replace(row, cells=[row.cells[place] for place in places]) for row in table.rows],
            )
            parts.append(_rich(part, is_wide=True))
    return Group(*parts, _meanings(column_lines(detail_tables(summary))))


def _meanings(entries: Mapping[str, str]) -> Table:
    """Return a line for each name, with its meaning."""
    view = Table.grid(padding=(0, 2))
    view.add_column(no_wrap=True, style="bold dim")
    view.add_column(style="dim")
    for name, about in entries.items():
        view.add_row(Text(name), Text(about))
    return view


def _rich(table: TableView, is_wide: bool) -> Table:
    view = Table(
        title=table.title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    shown = [place for place, column in enumerate(table.columns) if is_wide or not column.is_wide]
    for place in shown:
        column = table.columns[place]
        if column.is_left:
            view.add_column(column.title, overflow="fold")
        else:
            view.add_column(column.title, justify="right", no_wrap=True)
    for row, following in zip(table.rows, [*table.rows[1:], None], strict=True):
        cells = [Text(str(row.cells[place])) for place in shown if place < len(row.cells)]
        style = "dim" if row.kind == "baseline" else None
        view.add_row(*cells, style=style, end_section=following is not None and following.starts_level)
    return view
