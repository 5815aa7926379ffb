"""Tasks by name: from a `TaskSpec` (`builtin:`, `hub:` or `files:` in a study) to its task."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass

from w2s_ray.errors import DataError
from w2s_ray.spec.stage import DEFAULT_CUE
from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks import nlp
from w2s_ray.tasks.chess import recipes as chess_tasks
from w2s_ray.tasks.dataset import Recipe
from w2s_ray.tasks.embedded import code_domain
from w2s_ray.tasks.embedded.code_continuation import CLASS_NAMES, CodeContinuation
from w2s_ray.tasks.embedded.python_source import PythonSource
from w2s_ray.tasks.examples import PAIR_CLASSES
from w2s_ray.tasks.hh_rlhf import HH_RLHF
from w2s_ray.tasks.own import own_task
from w2s_ray.tasks.task import Kind, Task, TaskInfo

TaskFactory = Callable[[TaskSpec], Task]


@dataclass(frozen=True)
class Embedded:
    """A task made from installed packages; it reads no files."""

    info: TaskInfo
    factory: Callable[[], Task]

    def open(self, spec: TaskSpec) -> Task:
        """Return the task.

        Raises:
            DataError: when the study names files, a revision, a form or a sample for it.
        """
        for key in ("files", "revision", "form", "sample"):
            if getattr(spec, key) is not None:
                raise DataError(
                    f"builtin: {self.info.name} is made from installed packages, so {key}: {getattr(spec, key)} has no "
                    "meaning",
                    f"remove `{key}:`, or name a known data set (`w2s tasks`)",
                )
        return self.factory()


def _embedded(
    name: str, kind: Kind, classes: tuple[str, ...], protocol: str, factory: Callable[[], Task], cue: str = DEFAULT_CUE
) -> Embedded:
    return Embedded(
        TaskInfo(
            name=name,
            kind=kind,
            cue=cue,
            class_names=classes,
            pool="pretraining files" if kind == "text" else "task files",
            test="held-out files" if kind == "text" else None,
            num_rows=None,
            licence="the packages' own",
            source="installed Python packages",
            citation="w2s_ray",
            protocol=protocol,
        ),
        factory,
    )


_EMBEDDED = (
    _embedded(
        "code_continuation",
        "classes",
        CLASS_NAMES,
        "does this line follow? the wrong one is from another package",
        CodeContinuation,
        CodeContinuation.cue,
    ),
    _embedded(
        "code_continuation_hard",
        "classes",
        CLASS_NAMES,
        "does this line follow? the wrong one is from the same file",
        lambda: CodeContinuation(hard=True),
        CodeContinuation.cue,
    ),
    _embedded(
        "code_continuation_pairs",
        "pairs",
        PAIR_CLASSES,
        "which of two lines follows? the wrong one is from another package",
        lambda: CodeContinuation(kind="pairs"),
    ),
    _embedded(
        "code_continuation_pairs_hard",
        "pairs",
        PAIR_CLASSES,
        "which of two lines follows? the wrong one is from the same file",
        lambda: CodeContinuation(hard=True, kind="pairs"),
    ),
    _embedded(
        "code_domain",
        "classes",
        code_domain.CLASS_NAMES,
        "is this code from torch, transformers or deepspeed, or from elsewhere?",
        code_domain.CodeDomain,
        code_domain.CUE,
    ),
    _embedded("python_source", "text", ("text",), "functions as text, for pretraining", PythonSource),
)

_known: dict[str, Embedded | Recipe | TaskFactory] = {
    **{task.info.name: task for task in _EMBEDDED},
    **{recipe.name: recipe for recipe in (*nlp.RECIPES, HH_RLHF, *chess_tasks.RECIPES)},
}


def register_task(name: str, task: Recipe | TaskFactory) -> None:
    """Register a task of your own, so that studies can name it as `builtin: name`.

    `task` is a recipe, or a function that makes the task from the study's `TaskSpec`. A task is prepared in the process
    that runs the study: register it there, before `run_study`.

    Raises:
        DataError: when another task has that name.
    """
    if _known.setdefault(name, task) is not task:
        raise DataError(f"another task is registered as {name!r}", "choose another name")


def known_tasks() -> tuple[TaskInfo, ...]:
    """Return the descriptions of embedded tasks and known data sets, including recipes from `register_task`."""
    return tuple(task.info for task in _known.values() if isinstance(task, Embedded | Recipe))


def cue_of(spec: TaskSpec) -> str:
    """Return what asks a language model for the class of one of the task's texts.

    Raises:
        DataError: like `open_task`.
    """
    return getattr(open_task(spec), "cue", DEFAULT_CUE)


def open_task(spec: TaskSpec) -> Task:
    """Return the task that `spec` describes, without reading its rows.

    Raises:
        DataError: when `builtin` is not a registered task, or `spec` has keys that it does not read.
    """
    if spec.builtin is None:
        return own_task(spec)
    if spec.builtin not in _known:
        near = difflib.get_close_matches(spec.builtin, _known, n=1, cutoff=0.5)
        hint = f"did you mean {near[0]!r}?" if near else "`w2s tasks` lists the tasks"
        raise DataError(f"builtin: {spec.builtin!r} is not a registered task", hint)
    task = _known[spec.builtin]
    if not isinstance(task, Embedded | Recipe):
        if spec.form is not None:
            raise DataError(
                f"builtin: {spec.builtin} is a function and has no other form, so form: {spec.form} cannot be made",
                "remove `form:`, or register a recipe that has `pairs`",
            )
        return task(spec)
    if spec.own_keys:
        raise DataError(
            f"builtin: {spec.builtin} has its own format, so {', '.join(spec.own_keys)} cannot be set",
            "remove those keys, or name the data with `hub:` or `files:` alone",
        )
    return task.open(spec)
