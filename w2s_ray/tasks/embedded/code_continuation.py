"""The builtin tasks `code_continuation`, `code_continuation_pairs` and their `_hard` forms: HellaSwag for source code.

An example shows the first lines of a function and one more line: does it really follow? The answer depends on how
likely the line is under a language model, so the label tests what pretraining teaches.

A *cut* divides a function into a *prefix* and the *line* that follows it. The prefix starts at the `def`, or later if
that exceeds its limit. Cuts come in pairs, a and b, and each pair gives four examples: (prefix a, line a) and (prefix
b, line b) are true, (prefix a, line b) and (prefix b, line a) are false. No prefix and no line occurs in two cuts. Each
prefix and each line is therefore true once and false once: a model that sees only one of them has an accuracy of
exactly one half. The four are a bundle: with three of them in a split, the line alone would predict the label.

    code_continuation        a and b are from files of different packages, and a line keeps its own indentation:
                             syntax, names and meaning are all informative; the group is the pair of files
    code_continuation_hard   a and b are different functions of one file, both cuts change the indentation in the same
                             direction, and a line gets the indentation of the true one: only names and meaning are
                             informative; the group is the file

    code_continuation_pairs, code_continuation_pairs_hard
                             the same cuts as preferences: a prefix, and which of the two lines follows it? Each pair of
                             cuts gives two examples, (prefix a: line a or b?) and (prefix b: line a or b?), in which
                             the lines have the same order, decided by a hash. So the lines alone, or their order, give
                             an accuracy of one half. The two are a bundle

Only the corpus's task files are used, which pretraining never reads.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Literal, NamedTuple

import pyarrow as pa

from w2s_ray.spec.identity import identity, seeded_hash
from w2s_ray.tasks.embedded import corpus
from w2s_ray.tasks.embedded.published import EmbeddedTask
from w2s_ray.tasks.embedded.python_source import function_id
from w2s_ray.tasks.examples import PAIR_CLASSES, hash_choice
from w2s_ray.tasks.task import POOL, SCHEMA, Kind

RECIPE = 3
"""Increase when this module would make different examples from the same corpus."""

CLASS_NAMES = ("elsewhere", "follows")
CUTS_PER_FUNCTION = 3
MIN_PREFIX_LINES = 2
PREFIX_CHARS = (30, 140)
LINE_CHARS = (10, 60)
"""Shortest and longest; an example has about 45 tokens of the built-in ladder's tokenizer."""
MIN_NAMES = 2
"""Distinct names, not counting keywords and common builtins, that a line must have to be used."""

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
        function: the function.
        prefix: the function's lines before the cut, as many as fit.
        line: the line that follows, without its indentation.
        indentation: the spaces before that line.
        direction: 1 if it is indented more than the line before, 0 if equally, -1 if less.
    """

    function: corpus.Function
    prefix: str
    line: str
    indentation: int
    direction: int


Pair = tuple[Cut, Cut]


class CodeContinuation(EmbeddedTask):
    """The tasks `code_continuation`, `code_continuation_hard`, `code_continuation_pairs` and `…_pairs_hard`."""

    recipe = RECIPE
    cue = "# Is the last line from elsewhere, or is it the one that follows? Answer:"

    def __init__(self, *, hard: bool = False, kind: Literal["classes", "pairs"] = "classes") -> None:
        self.kind: Kind = kind
        self.name = "code_continuation" + ("_pairs" if kind == "pairs" else "") + ("_hard" if hard else "")
        self.class_names = PAIR_CLASSES if kind == "pairs" else CLASS_NAMES
        self._hard = hard
        self._pairs: Callable[[Iterable[Cut]], Iterator[Pair]] = pairs_within_files if hard else pairs_across_packages

    def examples(self) -> pa.Table:
        """Return the examples of each pair of cuts, a bundle; the group is the pair's file or files.

        Raises:
            DataError: when a package is not installed.
        """
        versions = corpus.versions()
        examples_of = self._comparisons if self.kind == "pairs" else self._continuations
        rows = []
        for pair in self._pairs(cuts_of(corpus.task_functions())):
            shared = {
                "group": " ".join(sorted({cut.function.file for cut in pair})),
                "bundle": identity("bundle", [[cut.function.file, cut.prefix, cut.line] for cut in pair]),
                "origin": POOL,
            }
            for start, example in examples_of(pair):
                content = [example[column] for column in ("text", "other") if column in example]
                rows.append({"id": function_id(start.function, versions, self.name, *content), **example, **shared})
        return pa.Table.from_pylist(rows, schema=SCHEMA)

    def _continuations(self, pair: Pair) -> Iterator[tuple[Cut, dict[str, object]]]:
        for start in pair:
            for end in pair:
                yield start, {"text": self._text(start, end), "label": int(start is end)}

    def _comparisons(self, pair: Pair) -> Iterator[tuple[Cut, dict[str, object]]]:
        """Yield both prefixes with the same two lines in the same order, so that the bundle has each class once."""
        content = [part for cut in pair for part in (cut.prefix, cut.line)]
        first, second = pair if hash_choice(2, "code_continuation order", *content) else pair[::-1]
        for start in pair:
            texts = {"text": self._text(start, first), "other": self._text(start, second)}
            yield start, {**texts, "prompt": f"{start.prefix}\n", "label": int(start is second)}

    def _text(self, start: Cut, end: Cut) -> str:
        indentation = start.indentation if self._hard else end.indentation
        return f"{start.prefix}\n{' ' * indentation}{end.line}\n"


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
    """Return whether a line (without indentation) has enough names to be recognised."""
    if not LINE_CHARS[0] <= len(line) <= LINE_CHARS[1] or line.startswith(_SKIPPED_HEADS):
        return False
    return len(set(_NAME.findall(line)) - _PLAIN_WORDS) >= MIN_NAMES


def pairs_within_files(cuts: Iterable[Cut]) -> Iterator[Pair]:
    """Pair cuts of different functions of one file with the same direction."""
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
    """Pair each file with one of another package that has about as many cuts, then pair their cuts."""
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
    """Return every cut within the limits: first those that show the function from its `def`, then by hash."""
    lines = function.text.split("\n")
    cuts = []
    for at in function.cuts:
        line = lines[at].lstrip()
        if not is_informative(line):
            continue
        start = _window_start(function, lines, at)
        if at - start < MIN_PREFIX_LINES:
            continue
        indentations = [_indentation(shown) for shown in lines[start : at + 1]]
        margin = min(indentations)
        prefix = "\n".join(shown[margin:] for shown in lines[start:at])
        if len(prefix) >= PREFIX_CHARS[0]:
            direction = (indentations[-1] > indentations[-2]) - (indentations[-1] < indentations[-2])
            cuts.append((start > 0, Cut(function, prefix, line, indentations[-1] - margin, direction)))
    return [cut for _, cut in sorted(cuts, key=lambda item: (item[0], _order(item[1])))]


def _window_start(function: corpus.Function, lines: list[str], end: int) -> int:
    """Return the index of the prefix's first line: the `def`, or else the first statement that fits."""
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
