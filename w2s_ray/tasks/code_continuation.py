"""The builtin tasks `code_continuation` and `code_continuation_hard`: HellaSwag for source code.

The first lines of a function, then one more line: is it the line that really follows? What answers this is how
surprising a language model finds the line, so the label is the very thing that pretraining teaches.

A *cut* divides a function into a *prefix* and the *line* that follows it. The prefix reaches back to the `def`, or as
far as its limit allows. Cuts come in pairs, a and b, and each pair gives four examples: (prefix a, line a) and (prefix
b, line b) are true, (prefix a, line b) and (prefix b, line a) false. No prefix and no line occurs in two cuts. So each
prefix and each line stands once as true and once as false: whoever sees only one of the two is right half of the time,
exactly. The four are a bundle: a split that held three of them would let a learner get by with the line alone.

    code_continuation        a and b are from files of different packages, and a line keeps its own indentation:
                             syntax, names and meaning all tell; the group is the pair of files
    code_continuation_hard   a and b are different functions of one file, both cuts go the same way (deeper, level,
                             back) and a line takes the indentation of the true one: only names and meaning tell; the
                             group is the file

Only the corpus's task files are used, which pretraining never sees.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import pyarrow as pa

from w2s_ray.spec.identity import identity, seeded_hash
from w2s_ray.tasks import corpus, manifest
from w2s_ray.tasks.python_source import function_id
from w2s_ray.tasks.task import POOL, SCHEMA, Kind, TaskData

RECIPE = 3
"""Raised whenever this module would make other examples from the same corpus."""

CLASS_NAMES = ("elsewhere", "follows")
CUTS_PER_FUNCTION = 3
MIN_PREFIX_LINES = 2
PREFIX_CHARS = (30, 140)
LINE_CHARS = (10, 60)
"""Shortest and longest; an example holds about 45 tokens of the built-in ladder's tokenizer."""
MIN_NAMES = 2
"""Distinct names, besides keywords and the like, that a line must hold to be worth asking about."""

_NAME = re.compile(r"[^\W\d]\w{2,}")
_PLAIN_WORDS = frozenset(
    "and any assert async await break class continue def del dict elif else except False finally float for from global "
    "import int isinstance lambda len list None nonlocal not NotImplementedError pass raise return self set str super "
    "True try tuple ValueError while with yield".split()
)
_SKIPPED_HEADS = ("elif ", "import ", "from ", "def ", "async def ", "class ", "@")


class Cut(NamedTuple):
    """One place where a function is cut.

    Attributes:
        function: where it is from.
        prefix: the function's lines up to the cut, as many as fit.
        line: the line that follows, without its indentation.
        indentation: the spaces before that line.
        direction: 1 where it goes deeper than the line before, 0 where it stays level, -1 where it comes back.
    """

    function: corpus.Function
    prefix: str
    line: str
    indentation: int
    direction: int


Pair = tuple[Cut, Cut]


class CodeContinuation:
    """Is this the line that follows?"""

    kind: Kind = "classes"

    def __init__(self, hard: bool = False) -> None:
        self.name = "code_continuation_hard" if hard else "code_continuation"
        self._hard = hard
        self._pairs: Callable[[Iterable[Cut]], Iterator[Pair]] = pairs_within_files if hard else pairs_across_packages

    def fingerprint(self) -> str:
        """Return the digest of the recipe and the packages' versions.

        Raises:
            DataError: when a package is not installed.
        """
        return identity("task", [self.name, RECIPE, corpus.RECIPE, corpus.versions()])

    def read(self) -> TaskData:
        """Return four examples for each pair of cuts, a bundle; the group is the pair's file or files.

        Raises:
            DataError: when a package is not installed, or its source is not what was published.
        """
        table = self.examples()
        manifest.check(self.name, table, corpus.versions())
        return TaskData(table, CLASS_NAMES)

    def examples(self) -> pa.Table:
        """Return the examples as the installed packages give them.

        Raises:
            DataError: when a package is not installed.
        """
        versions = corpus.versions()
        cuts = cuts_of(corpus.task_functions())
        rows = [row for pair in self._pairs(cuts) for row in self._examples(pair, versions)]
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def _examples(self, pair: Pair, versions: dict[str, str]) -> Iterator[dict[str, object]]:
        group = " ".join(sorted({cut.function.file for cut in pair}))
        bundle = identity("bundle", [[cut.function.file, cut.prefix, cut.line] for cut in pair])
        for start in pair:
            for end in pair:
                indentation = start.indentation if self._hard else end.indentation
                text = f"{start.prefix}\n{' ' * indentation}{end.line}\n"
                yield {
                    "id": function_id(start.function, versions, self.name, text),
                    "text": text,
                    "label": int(start is end),
                    "group": group,
                    "bundle": bundle,
                    "origin": POOL,
                }


def cuts_of(functions: Iterable[corpus.Function]) -> list[Cut]:
    """Return up to `CUTS_PER_FUNCTION` cuts of each function; no prefix and no line occurs twice."""
    prefixes: set[str] = set()
    lines: set[str] = set()
    chosen = []
    for function in functions:
        taken = 0
        for cut in _possible_cuts(function):
            if taken == CUTS_PER_FUNCTION:
                break
            if cut.prefix in prefixes or cut.line in lines:
                continue
            prefixes.add(cut.prefix)
            lines.add(cut.line)
            chosen.append(cut)
            taken += 1
    return chosen


def is_informative(line: str) -> bool:
    """Tell whether a line (without indentation) says enough to be recognised."""
    if not LINE_CHARS[0] <= len(line) <= LINE_CHARS[1] or line.startswith(_SKIPPED_HEADS):
        return False
    return len(set(_NAME.findall(line)) - _PLAIN_WORDS) >= MIN_NAMES


def pairs_within_files(cuts: Iterable[Cut]) -> Iterator[Pair]:
    """Pair cuts of different functions of one file that go the same way."""
    by_place: dict[tuple[str, int], list[Cut]] = defaultdict(list)
    for cut in cuts:
        by_place[cut.function.file, cut.direction].append(cut)
    for place in sorted(by_place):
        waiting: list[Cut] = []
        for cut in sorted(by_place[place], key=_order):
            partner = next((other for other in waiting if other.function.text != cut.function.text), None)
            if partner is None:
                waiting.append(cut)
            else:
                waiting.remove(partner)
                yield partner, cut


def pairs_across_packages(cuts: Iterable[Cut]) -> Iterator[Pair]:
    """Pair each file with one of another package that has about as many cuts, and then their cuts."""
    by_file: dict[str, list[Cut]] = defaultdict(list)
    for cut in cuts:
        by_file[cut.function.file].append(cut)
    for first, second in _partner_files({file: len(of_file) for file, of_file in by_file.items()}):
        yield from zip(*(sorted(by_file[file], key=_order) for file in (first, second)), strict=False)


def _partner_files(sizes: dict[str, int]) -> Iterator[tuple[str, str]]:
    waiting: list[str] = []
    for file in sorted(sizes, key=lambda file: (-sizes[file], seeded_hash("code_continuation file", file))):
        package = file.partition(":")[0]
        partner = next((other for other in waiting if other.partition(":")[0] != package), None)
        if partner is None:
            waiting.append(file)
        else:
            waiting.remove(partner)
            yield partner, file


def _possible_cuts(function: corpus.Function) -> list[Cut]:
    """Return every cut that keeps the limits: first those with the whole beginning, then in the order of a hash."""
    lines = function.text.split("\n")
    found = []
    for at in function.cuts:
        line = lines[at].lstrip()
        if not is_informative(line):
            continue
        start = _window_start(function, lines, at)
        if at - start < MIN_PREFIX_LINES:
            continue
        indentations = [_indentation(each) for each in lines[start : at + 1]]
        margin = min(indentations)
        prefix = "\n".join(each[margin:] for each in lines[start:at])
        if len(prefix) >= PREFIX_CHARS[0]:
            direction = (indentations[-1] > indentations[-2]) - (indentations[-1] < indentations[-2])
            found.append((start > 0, Cut(function, prefix, line, indentations[-1] - margin, direction)))
    return [cut for _, cut in sorted(found, key=lambda each: (each[0], _order(each[1])))]


def _window_start(function: corpus.Function, lines: list[str], end: int) -> int:
    """Return the first line of the prefix that ends before `end`: the `def`, or else the first statement that fits."""
    chars = 0
    first = end
    for start in range(end - 1, -1, -1):
        chars += len(lines[start]) + 1
        if chars > PREFIX_CHARS[1]:
            break
        if start == 0 or (start in function.cuts and not lines[start].lstrip().startswith("elif ")):
            first = start
    return first


def _indentation(line: str) -> int:
    return len(line) - len(line.lstrip())


def _order(cut: Cut) -> bytes:
    return hashlib.sha256(f"{cut.function.file}\n{cut.prefix}\n{cut.line}".encode()).digest()
