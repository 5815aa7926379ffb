"""The corpus of the installed packages: parsed once for all tests of this room."""

from pathlib import Path

import pytest

from w2s_ray.tasks import corpus
from w2s_ray.tasks.code_continuation import CodeContinuation
from w2s_ray.tasks.task import TaskData

SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.fixture(scope="session")
def functions() -> tuple[corpus.Function, ...]:
    return corpus.corpus()


@pytest.fixture(scope="session")
def continuation(functions: tuple[corpus.Function, ...]) -> TaskData:
    return _continuation(functions, hard=False)


@pytest.fixture(scope="session")
def hard_continuation(functions: tuple[corpus.Function, ...]) -> TaskData:
    return _continuation(functions, hard=True)


@pytest.fixture
def shared_sst2() -> Path:
    path = SHARED / "sst2" / "train.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    return path


def _continuation(functions: tuple[corpus.Function, ...], hard: bool) -> TaskData:
    """The task on functions that were parsed already."""
    task_pool = tuple(function for function in functions if function.pool == "task")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(corpus, "task_functions", lambda: task_pool)
        return CodeContinuation(hard).read()
