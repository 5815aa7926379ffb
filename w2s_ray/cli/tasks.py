"""`w2s tasks`: every known task, where it comes from, and how it is tested."""

import json
from typing import Literal

from rich.table import Table

from w2s_ray.cli.terminal import terminal
from w2s_ray.tasks.registry import known_tasks
from w2s_ray.tasks.task import TaskInfo

HEADINGS = ("task", "kind", "splits: pool → test", "rows", "licence", "source", "protocol")


def print_tasks(*, as_json: bool) -> None:
    """Print the known tasks."""
    tasks = known_tasks()
    if as_json:
        text = json.dumps([task.model_dump(mode="json") for task in tasks], indent=2)
        terminal.out.print(text, markup=False, soft_wrap=True)
        return
    table = Table(box=None, pad_edge=False)
    for heading in HEADINGS:
        justify: Literal["left", "right"] = "right" if heading == "rows" else "left"
        table.add_column(heading, no_wrap=heading == "task", justify=justify, overflow="fold")
    for task in tasks:
        table.add_row(*_row(task))
    terminal.out.print(table)
    terminal.out.print(
        "a study names one by `builtin:`; test sets are balanced by class; classes and citations: --json; "
        "own tasks: docs/tasks.md",
        markup=False,
        soft_wrap=True,
    )


def _row(task: TaskInfo) -> tuple[str, ...]:
    return (
        task.name,
        task.kind,
        f"{task.pool} → {task.test or 'drawn by group'}",
        "?" if task.num_rows is None else f"{task.num_rows:,}",
        task.licence,
        task.source,
        task.protocol,
    )
