import ast
import collections
from importlib import metadata

import pytest

from w2s_ray.errors import DataError
from w2s_ray.tasks.embedded import corpus
from w2s_ray.tasks.embedded.python_source import PythonSource
from w2s_ray.tasks.task import POOL, SCHEMA, TEST

Functions = tuple[corpus.Function, ...]

SOURCE = '''
import os

class Reader:
    @property
    def total(self):
        """Say how many."""
        count = 0  # so far

        for name in self.names:
            text = "no # comment"
            if text:
                count += len(name)
        return count

async def fetch(url,
                retries=3):
    def inner():
        "An inner docstring."
        return url
    for attempt in range(retries):
        result = await inner()
    return os.path.join(
        result)

def short():
    return 1
'''


def test_functions_come_without_docstrings_comments_blank_lines_and_decorators() -> None:
    total, fetch = corpus.functions_of(SOURCE)
    assert total[0].split("\n") == [
        "def total(self):",
        "    count = 0",
        "    for name in self.names:",
        '        text = "no # comment"',
        "        if text:",
        "            count += len(name)",
        "    return count",
    ]
    assert "docstring" not in fetch[0] and fetch[0].startswith("async def fetch(url,\n")
    ast.parse(total[0])
    ast.parse(fetch[0])


def test_cuts_are_lines_with_a_whole_statement_or_the_head_of_a_block() -> None:
    _, (text, cuts) = corpus.functions_of(SOURCE)
    lines = text.split("\n")
    assert [lines[at].strip() for at in cuts] == [
        "def inner():",
        "return url",
        "for attempt in range(retries):",
        "result = await inner()",
    ]


def test_a_shape_does_not_depend_on_names_and_constants() -> None:
    text = 'def load(path):\n    with open(path, "rb") as file:\n        return file.read(4)'
    renamed = "def fetch(where):\n  with open(where, 'r') as f:\n      return f.peek(1_000)"
    assert corpus.shape_of(text) == corpus.shape_of(renamed)
    assert corpus.shape_of(text) != corpus.shape_of(text.replace("return", "yield"))


def test_no_file_is_in_two_pools(functions: Functions) -> None:
    pools = collections.defaultdict(set)
    for function in functions:
        pools[function.file].add(function.pool)
    assert {len(members) for members in pools.values()} == {1}
    assert {pool for members in pools.values() for pool in members} == {"task", "held_out", "pretraining"}


def test_no_two_functions_have_one_shape(functions: Functions) -> None:
    counts = collections.Counter(corpus.shape_of(function.text) for function in functions)
    assert max(counts.values()) == 1


def test_no_file_shares_consecutive_lines_with_another(functions: Functions) -> None:
    file_of: dict[str, str] = {}
    for function in functions:
        lines = [line.strip() for line in function.text.split("\n")]
        for at in range(len(lines) - corpus.WINDOW_LINES + 1):
            window = "\n".join(lines[at : at + corpus.WINDOW_LINES])
            assert file_of.setdefault(window, function.file) == function.file


def test_there_is_enough_text_for_pretraining(functions: Functions) -> None:
    chars = collections.Counter[str]()
    for function in functions:
        chars[function.pool] += len(function.text)
    assert chars["pretraining"] > 15_000_000
    assert chars["task"] > 10_000_000
    assert chars["held_out"] > 200_000


def test_generated_and_vendored_files_tests_and_build_records_are_not_read() -> None:
    paths = {source.path for source in corpus.sources()}
    assert "torch/nn/modules/linear.py" in paths
    assert not {"torch/version.py", "numpy/version.py", "numpy/__config__.py", "matplotlib/_version.py"} & paths
    assert not [path for path in paths if path.endswith("_pb2.py") or "/tests/" in path or "/_vendor/" in path]


def test_the_local_version_of_a_wheel_is_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = PythonSource().fingerprint()
    version = metadata.version("torch").partition("+")[0]
    real = metadata.distribution

    class Wheel:
        def __init__(self, name: str) -> None:
            self.version = f"{version}+cu130" if name == "torch" else real(name).version

    monkeypatch.setattr(metadata, "distribution", Wheel)
    assert corpus.versions()["torch"] == version
    assert PythonSource().fingerprint() == plain


def test_a_package_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "PACKAGES", ("torch", "no-such-package-here"))
    with pytest.raises(DataError, match="no-such-package-here is not installed"):
        PythonSource().fingerprint()


def test_pretraining_text_has_no_file_of_the_labelled_tasks(functions: Functions) -> None:
    task = PythonSource()
    data = task.read()
    assert task.kind == "text" and data.table.schema == SCHEMA
    rows = data.table.to_pylist()
    task_files = {function.file for function in functions if function.pool == "task"}
    assert not task_files & {row["group"] for row in rows}
    assert len({row["id"] for row in rows}) == len(rows)
    assert {row["label"] for row in rows} == {0}
    files = {origin: {row["group"] for row in rows if row["origin"] == origin} for origin in (POOL, TEST)}
    assert files[TEST] and not files[POOL] & files[TEST]
