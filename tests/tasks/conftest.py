"""The corpus of the installed packages: parsed once for all tests of this room."""

import os
from pathlib import Path

import pytest

from w2s_ray.tasks.embedded import corpus
from w2s_ray.tasks.embedded.code_continuation import CodeContinuation
from w2s_ray.tasks.embedded.code_domain import CodeDomain
from w2s_ray.tasks.task import Task, TaskData


@pytest.fixture(scope="session")
def functions() -> tuple[corpus.Function, ...]:
    return corpus.corpus()


@pytest.fixture(scope="session")
def continuation(functions: tuple[corpus.Function, ...]) -> TaskData:
    return _read(CodeContinuation(), functions)


@pytest.fixture(scope="session")
def hard_continuation(functions: tuple[corpus.Function, ...]) -> TaskData:
    return _read(CodeContinuation(hard=True), functions)


@pytest.fixture(scope="session", params=[False, True], ids=["easy", "hard"])
def comparisons(request: pytest.FixtureRequest, functions: tuple[corpus.Function, ...]) -> TaskData:
    return _read(CodeContinuation(hard=request.param, kind="pairs"), functions)


@pytest.fixture(scope="session")
def domain(functions: tuple[corpus.Function, ...]) -> TaskData:
    return _read(CodeDomain(), functions)


@pytest.fixture
def real_data() -> Path:
    """The folder of real data sets that W2S_DATA names."""
    folder = Path(os.environ.get("W2S_DATA") or "no folder")
    if not folder.is_dir():
        pytest.skip("W2S_DATA names no folder of real data sets (sst2, sciq, boolq)")
    return folder


def _read(task: Task, functions: tuple[corpus.Function, ...]) -> TaskData:
    """Read the task from functions that are parsed already."""
    task_pool = tuple(function for function in functions if function.pool == "task")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "task_functions", lambda: task_pool)
        return task.read()
