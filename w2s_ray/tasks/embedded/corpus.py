"""Functions from the installed Python source of the packages that w2s_ray needs.

Every installation has this source, so the embedded tasks need no download. Files are divided into three *pools* by a
hash of package and path (not the version, so that a file stays in its pool when a package is upgraded):

    task          the only files that labelled examples are made from
    held_out      text for validating pretraining
    pretraining   all other files

Functions are *clean*: without decorators, docstrings, comments and blank lines, so that tiny models spend their tokens
on code. `corpus()` then removes near-duplicates, in the order of the pools above, so that a pretraining function never
resembles a task function: no two functions have the same *shape* (the sequence of tokens with names, strings and
numbers masked; this finds renamed and vendored copies), and no two from different files share `WINDOW_LINES`
consecutive lines. Files that are generated, vendored, tests, or different in the CPU and CUDA builds are not read.

Two processes parse, for 25 seconds in all or 10 for the task pool alone. They are plain subprocesses that stream Arrow:
forking a process that may have threads (torch, Ray) is unsafe, and spawning one imports the caller's main module again.
"""

import ast
import functools
import gc
import hashlib
import keyword
import os
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa

from w2s_ray.errors import DataError
from w2s_ray.spec.identity import identity, seeded_hash

RECIPE = 1
"""Increase when this module would make different functions from the same packages."""

PACKAGES = (
    "aiohttp",
    "click",
    "datasets",
    "deepspeed",
    "fonttools",
    "fsspec",
    "huggingface-hub",
    "jinja2",
    "matplotlib",
    "mpmath",
    "networkx",
    "numpy",
    "pandas",
    "pydantic",
    "pygments",
    "ray",
    "rich",
    "sympy",
    "torch",
    "transformers",
    "wandb",
)
"""Core dependencies with much Python source."""

POOLS = ("task", "held_out", "pretraining")
"""In the order in which near-duplicates are resolved: of two near-duplicates, the one in the earlier pool stays."""
TASK_SHARE = 0.35
"""Share of the files that labelled examples are made from."""
HELD_OUT_SHARE = 0.02
"""Share of the files kept for validating pretraining."""
SAMPLED = {"transformers/models/": 0.3}
"""Folders with many near-duplicates, and the share of their files that is read."""
MIN_LINES, MAX_LINES = 6, 150
"""A function's length in clean lines."""
MAX_LINE_CHARS = 160
"""A function with a longer line is taken for data and skipped."""
WINDOW_LINES = 4
"""Functions of different files that share this many consecutive lines are near-duplicates."""
PARSERS = 2
"""Number of processes that parse."""

_SKIPPED_FOLDERS = frozenset(
    "test tests testing _testing _vendor _vendored vendor vendored third_party thirdparty thirdparty_files extern "
    "generated _generated gen proto protobuf _distutils".split()
)
_SKIPPED_FILES = re.compile(r"(.*_pb2(_grpc)?|_?_?version_?_?|_version.*|__config__|.*generated.*|.*_gen|conftest)\.py")
_STRING_OR_COMMENT = re.compile(
    r'"""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'|(?P<comment>\#[^\n]*)',
    re.DOTALL,
)
_STRING = re.compile(
    r'[A-Za-z]{0,2}(?:"""(?:\\.|[^\\])*?"""|\'\'\'(?:\\.|[^\\])*?\'\'\'|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\')',
    re.DOTALL,
)
_NUMBER = re.compile(r"\b\d[\w.]*")
_NAME = re.compile(rf"\b(?!(?:{'|'.join(keyword.kwlist)})\b)[^\W\d]\w*")
_DEFINITION = (ast.FunctionDef, ast.AsyncFunctionDef)
_SCHEMA = pa.schema(
    [
        ("package", pa.string()),
        ("path", pa.string()),
        ("pool", pa.string()),
        ("text", pa.string()),
        ("shape", pa.string()),
        ("cuts", pa.list_(pa.int16())),
    ]
)


class Function(NamedTuple):
    """One function, clean and dedented.

    Attributes:
        package: name of the package.
        path: its file, relative to site-packages, with `/`.
        pool: `task`, `held_out` or `pretraining`.
        text: its lines, without a final line break.
        shape: digest of its tokens with names, strings and numbers masked.
        cuts: indexes of the lines that contain a whole statement, or the whole head of a block.
    """

    package: str
    path: str
    pool: str
    text: str
    shape: str
    cuts: tuple[int, ...]

    @property
    def file(self) -> str:
        """Package and path: the group of everything made from this function."""
        return f"{self.package}:{self.path}"


@dataclass(frozen=True)
class SourceFile:
    """A file of the corpus and its pool."""

    package: str
    path: str
    pool: str
    location: Path


def versions() -> dict[str, str]:
    """Return the public version of each package: `2.13.0` for `2.13.0+cpu`, since the source is the same.

    Raises:
        DataError: when a package is not installed.
    """
    return {name: _distribution(name).version.partition("+")[0] for name in PACKAGES}


def task_fingerprint(name: str, recipe: int) -> str:
    """Return the digest of a task made from the corpus: of its recipe, this module's and the packages' versions.

    Raises:
        DataError: when a package is not installed.
    """
    return identity("task", [name, recipe, RECIPE, versions()])


def sources() -> list[SourceFile]:
    """Return the corpus's files, by package and path.

    Raises:
        DataError: when a package is not installed, or was installed without a list of its files.
    """
    files_of_corpus = []
    for package in PACKAGES:
        files = _distribution(package).files
        if files is None:
            raise _missing(package, "has no list of its files")
        for file in sorted(files, key=lambda file: file.as_posix()):
            path = file.as_posix()
            if _wanted(file.parts) and _sampled(path):
                files_of_corpus.append(SourceFile(package, path, pool_of(package, path), Path(str(file.locate()))))
    return files_of_corpus


def pool_of(package: str, path: str) -> str:
    """Return the pool of a file: `task`, `held_out` or `pretraining`."""
    share = seeded_hash("python_source pool", package, path) / 2**63
    if share < TASK_SHARE:
        return "task"
    return "held_out" if share < TASK_SHARE + HELD_OUT_SHARE else "pretraining"


@functools.lru_cache(maxsize=1)
def corpus() -> tuple[Function, ...]:
    """Return the functions of all pools without near-duplicates, the same list in every process.

    Raises:
        DataError: when a package is not installed or parsing fails.
    """
    return tuple(distinct(_scan(POOLS)))


@functools.lru_cache(maxsize=1)
def task_functions() -> tuple[Function, ...]:
    """Return the task pool of `corpus()` without parsing the other pools' files.

    Raises:
        DataError: when a package is not installed or parsing fails.
    """
    return tuple(distinct(_scan(("task",))))


def distinct(functions: list[Function]) -> Iterator[Function]:
    """Yield one function of each set of near-duplicates: task before held_out before pretraining, then by hash."""
    shapes: set[str] = set()
    seen: dict[int, str] = {}
    for function in sorted(functions, key=lambda item: (POOLS.index(item.pool), _order(item.text), item.file)):
        windows = _windows(function.text)
        if function.shape in shapes or any(seen.get(window, function.file) != function.file for window in windows):
            continue
        shapes.add(function.shape)
        for window in windows:
            seen.setdefault(window, function.file)
        yield function


def functions_of(source: str) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield clean text and cuts of each function and method in a module's source.

    Nested functions are part of the outer one.

    Raises:
        SyntaxError, ValueError: when the source is not Python.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tree = ast.parse(source)
    lines = source.split("\n")
    for node in _definitions(tree.body):
        if (node.end_lineno or node.lineno) - node.lineno + 1 < MIN_LINES:
            continue
        text, cuts = _clean(node, lines)
        kept = text.split("\n")
        if MIN_LINES <= len(kept) <= MAX_LINES and max(map(len, kept)) <= MAX_LINE_CHARS:
            yield text, cuts


def shape_of(text: str) -> str:
    """Return the digest of the tokens of `text` with names, strings and numbers masked."""
    masked = _NAME.sub("n", _NUMBER.sub("0", _STRING.sub('"', text)))
    return hashlib.sha256(" ".join(masked.split()).encode()).hexdigest()[:24]


def _distribution(package: str) -> metadata.Distribution:
    try:
        return metadata.distribution(package)
    except metadata.PackageNotFoundError:
        raise _missing(package, "is not installed") from None


def _missing(package: str, problem: str) -> DataError:
    return DataError(
        f"package {package} {problem}; the embedded tasks are made from the source of {len(PACKAGES)} packages",
        f"pip install --force-reinstall -c constraints.txt {package}",
    )


def _wanted(parts: tuple[str, ...]) -> bool:
    if not parts[-1].endswith(".py") or ".." in parts:
        return False
    return not _SKIPPED_FOLDERS.intersection(parts) and _SKIPPED_FILES.fullmatch(parts[-1]) is None


def _sampled(path: str) -> bool:
    share = next((share for folder, share in SAMPLED.items() if path.startswith(folder)), 1.0)
    return seeded_hash("python_source sample", path) / 2**63 < share


def _order(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _windows(text: str) -> set[int]:
    lines = [line.strip() for line in text.split("\n")]
    return {hash("\n".join(lines[at : at + WINDOW_LINES])) for at in range(len(lines) - WINDOW_LINES + 1)}


def _definitions(body: list[ast.stmt]) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in body:
        if isinstance(node, _DEFINITION):
            yield node
        else:
            for block in _blocks(node):
                yield from _definitions(block)


def _blocks(node: ast.stmt) -> Iterator[list[ast.stmt]]:
    for field in ("body", "orelse", "finalbody"):
        yield getattr(node, field, [])
    for branch in (*getattr(node, "handlers", ()), *getattr(node, "cases", ())):
        yield branch.body


def _statements(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    for node in body:
        yield node
        for block in _blocks(node):
            yield from _statements(block)


def _is_docstring(node: ast.stmt) -> bool:
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)


def _clean(node: ast.FunctionDef | ast.AsyncFunctionDef, lines: list[str]) -> tuple[str, tuple[int, ...]]:
    first, last = node.lineno, node.end_lineno or node.lineno
    dropped: set[int] = set()
    whole: set[int] = set()
    for statement in _statements(node.body):
        end = statement.end_lineno or statement.lineno
        blocks = [block for block in _blocks(statement) if block]
        if _is_docstring(statement):
            dropped.update(range(statement.lineno, end + 1))
        elif statement.lineno == end or (blocks and blocks[0][0].lineno == statement.lineno + 1):
            whole.add(statement.lineno)
    code = _STRING_OR_COMMENT.sub(_without_comment, "\n".join(lines[first - 1 : last])).split("\n")
    margin = " " * node.col_offset
    kept: list[str] = []
    cuts: list[int] = []
    for number, line in enumerate(code, start=first):
        stripped = line.rstrip()
        if number in dropped or not stripped:
            continue
        if number in whole:
            cuts.append(len(kept))
        kept.append((stripped if number == first else stripped.removeprefix(margin)).expandtabs(4))
    # The first line is cut at the definition itself, which may follow `async` or a tab.
    kept[0] = kept[0].strip()
    return "\n".join(kept), tuple(cuts)


def _without_comment(match: re.Match[str]) -> str:
    return "" if match.group("comment") else match.group()


def _scan(pools: tuple[str, ...]) -> list[Function]:
    """Parse every file of these pools with `PARSERS` processes."""
    root = str(Path(__file__).parents[3])
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))}
    parsers = [
        subprocess.Popen(
            [sys.executable, "-m", __name__, str(index), *pools],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
        )
        for index in range(PARSERS)
    ]
    try:
        return [function for parser in parsers for function in _output(parser)]
    finally:
        for parser in parsers:
            parser.kill()
            parser.communicate()


def _output(parser: "subprocess.Popen[bytes]") -> Iterator[Function]:
    """Yield a parser's functions; the other parsers continue meanwhile until their pipes are full."""
    output, errors = parser.communicate()
    if parser.returncode != 0:
        last = (errors.decode(errors="replace").strip().splitlines() or [f"exit code {parser.returncode}"])[-1]
        raise DataError(
            f"the source of the installed packages could not be parsed: {last}",
            "install the packages again: pip install --force-reinstall -c constraints.txt w2s_ray",
        )
    for row in pa.ipc.open_stream(output).read_all().to_pylist():
        yield Function(**{**row, "cuts": tuple(row["cuts"])})


def _parse_share(index: int, pools: list[str]) -> pa.Table:
    rows = []
    for source in [source for source in sources() if source.pool in pools][index::PARSERS]:
        try:
            text = source.location.read_text(encoding="utf-8")
            functions = list(functions_of(text))
        except (OSError, SyntaxError, ValueError, RecursionError):
            continue
        for clean, cuts in functions:
            rows.append(Function(source.package, source.path, source.pool, clean, shape_of(clean), cuts)._asdict())
    return pa.Table.from_pylist(rows, schema=_SCHEMA)


def _main() -> None:
    gc.disable()  # syntax trees have no cycles, and looking for them takes a third of the time
    table = _parse_share(int(sys.argv[1]), sys.argv[2:])
    with pa.ipc.new_stream(sys.stdout.buffer, table.schema) as stream:
        stream.write_table(table)


if __name__ == "__main__":
    _main()
