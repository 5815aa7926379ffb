"""Tasks by name: what `builtin:` in a study names, and the way from a `TaskSpec` to its task."""

import difflib
from collections.abc import Callable

from w2s_ray.errors import DataError
from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks.code_continuation import CodeContinuation
from w2s_ray.tasks.hub import HubTask
from w2s_ray.tasks.python_source import PythonSource
from w2s_ray.tasks.table import FilesTask
from w2s_ray.tasks.task import Task

TaskFactory = Callable[[TaskSpec], Task]

_factories: dict[str, TaskFactory] = {
    "code_continuation": lambda spec: CodeContinuation(),
    "code_continuation_hard": lambda spec: CodeContinuation(hard=True),
    "python_source": lambda spec: PythonSource(),
}


def register_task(name: str, factory: TaskFactory) -> None:
    """Let studies name a task of your own as `builtin: name`; `factory` makes it from the study's `TaskSpec`.

    A task is prepared in the process that runs the study: register it there, before `run_study`.

    Raises:
        DataError: when the name is taken by another factory.
    """
    if _factories.setdefault(name, factory) is not factory:
        raise DataError(f"task {name!r} is registered already", "a name means one task", "choose another name")


def open_task(spec: TaskSpec) -> Task:
    """Return the task that `spec` describes; nothing is read yet.

    Raises:
        DataError: when `builtin` names no registered task.
    """
    if spec.files is not None:
        return FilesTask(spec)
    if spec.hub is not None:
        return HubTask(spec)
    assert spec.builtin is not None
    if spec.builtin not in _factories:
        near = difflib.get_close_matches(spec.builtin, _factories, n=1, cutoff=0.5)
        remedy = f"did you mean {near[0]!r}?" if near else f"the tasks are {', '.join(sorted(_factories))}"
        raise DataError(f"builtin: {spec.builtin!r} is no task", "`builtin:` names a registered task", remedy)
    return _factories[spec.builtin](spec)
