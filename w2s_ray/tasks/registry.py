"""Tasks by name: what `builtin:` in a study names, and the way from a `TaskSpec` to its task."""

import difflib
from collections.abc import Callable

from w2s_ray.errors import DataError
from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks.code_continuation import CodeContinuation
from w2s_ray.tasks.dataset import Recipe
from w2s_ray.tasks.nlp import RECIPES
from w2s_ray.tasks.own import own_task
from w2s_ray.tasks.python_source import PythonSource
from w2s_ray.tasks.task import Task

TaskFactory = Callable[[TaskSpec], Task]

_known: dict[str, Recipe | TaskFactory] = {
    "code_continuation": lambda spec: CodeContinuation(),
    "code_continuation_hard": lambda spec: CodeContinuation(hard=True),
    "python_source": lambda spec: PythonSource(),
    **{recipe.name: recipe for recipe in RECIPES},
}


def register_task(name: str, task: Recipe | TaskFactory) -> None:
    """Let studies name a task of your own as `builtin: name`.

    `task` is a recipe, or a function that makes the task from the study's `TaskSpec`. A task is prepared in the process
    that runs the study: register it there, before `run_study`.

    Raises:
        DataError: when the name is taken by another task.
    """
    if _known.setdefault(name, task) is not task:
        raise DataError(f"task {name!r} is registered already", "a name means one task", "choose another name")


def recipes() -> tuple[Recipe, ...]:
    """Return the known data sets, those of `register_task` included."""
    return tuple(task for task in _known.values() if isinstance(task, Recipe))


def open_task(spec: TaskSpec) -> Task:
    """Return the task that `spec` describes; nothing is read yet.

    Raises:
        DataError: when `builtin` names no registered task, or one that reads no files.
    """
    if spec.builtin is None:
        return own_task(spec)
    task = _known_as(spec.builtin)
    if isinstance(task, Recipe):
        return task.open(spec)
    return task(spec)


def _known_as(name: str) -> Recipe | TaskFactory:
    if name in _known:
        return _known[name]
    near = difflib.get_close_matches(name, _known, n=1, cutoff=0.5)
    remedy = f"did you mean {near[0]!r}?" if near else f"the tasks are {', '.join(sorted(_known))}"
    raise DataError(f"builtin: {name!r} is no task", "`builtin:` names a registered task", remedy)
