"""`w2s report`: the results of a study, from the store alone."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from w2s_ray.cli.opening import open_for_reading
from w2s_ray.cli.terminal import terminal

if TYPE_CHECKING:
    from w2s_ray.report.findings import Summary

Format = Literal["table", "json", "html"]


def report(path: Path, store_folder: Path, overrides: Sequence[str], format_: Format) -> None:
    """Print the results as a table or as JSON, or write the page and its figures."""
    study, store = open_for_reading(path, store_folder, overrides, "report")
    from w2s_ray.planning.resolve import locked
    from w2s_ray.report.page import write_report
    from w2s_ray.report.summary import summarise

    resolution = locked(study, store)
    if format_ == "html":
        page = write_report(study, resolution, store)
        for file in sorted(page.parent.iterdir()):
            terminal.out.print(str(file), markup=False, soft_wrap=True)
        return
    summary = summarise(study, resolution, store)
    if format_ == "json":
        terminal.out.print(json.dumps(summary.model_dump(mode="json"), indent=2), markup=False, soft_wrap=True)
    else:
        from w2s_ray.report.terminal import render_details

        print_summary(summary)
        terminal.out.print(render_details(summary, width=terminal.out.width))


def print_summary(summary: "Summary") -> None:
    """Print the headline results as tables that fit the terminal."""
    from w2s_ray.report.terminal import render

    terminal.out.print(render(summary, width=terminal.out.width))
