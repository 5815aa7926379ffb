"""`w2s tasks`: every known task with its source and test protocol."""

from w2s_ray.cli.terminal import plain_table, terminal
from w2s_ray.tasks.registry import known_tasks
from w2s_ray.tasks.task import TaskInfo

HEADINGS = ("task", "kind", "splits: pool → test", "rows", "licence", "source", "protocol")


def print_tasks(*, as_json: bool) -> None:
    """Print the known tasks."""
    tasks = known_tasks()
    if as_json:
        terminal.json(tasks)
        return
    table = plain_table(*HEADINGS, right=("rows",))
    for column in table.columns:
        column.overflow = "fold"
    table.columns[0].no_wrap = True
    for task in tasks:
        table.add_row(*_row(task))
    terminal.out.print(table)
    terminal.line(
        "a study names a task with `builtin:`; test sets are balanced by class; --json lists classes and citations; "
        "docs/tasks.md explains your own tasks"
    )


def _row(task: TaskInfo) -> tuple[str, ...]:
    return (
        task.name,
        " or ".join((task.kind, *task.forms)),
        f"{task.pool} → {task.test or 'split by group'}",
        "?" if task.num_rows is None else f"{task.num_rows:,}",
        task.licence,
        task.source,
        task.protocol,
    )
