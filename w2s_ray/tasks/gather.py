"""Rows become a task's table, and every row that does not is accounted for.

A text that occurs twice is one example, related to all that its rows were related to. Where such rows disagree on the
label or the answer, none of them is kept, because nobody knows which is right. Of a bundle as many examples of one
class are kept as of every other.
"""

import difflib
import itertools
import logging
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import pyarrow as pa

from w2s_ray.errors import DataError
from w2s_ray.spec.base import Kind
from w2s_ray.spec.identity import identity, seeded_hash
from w2s_ray.tasks.accounting import Account
from w2s_ray.tasks.examples import Example, Format, Skip
from w2s_ray.tasks.related import merged_groups
from w2s_ray.tasks.sources import Source
from w2s_ray.tasks.task import POOL, SCHEMA, TEST, TaskData
from w2s_ray.tasks.ties import tied

RECIPE = 4
"""Raised whenever this module would make other examples from the same rows."""

MAX_CLASSES = 100
"""More distinct labels than this, where nothing lists them, are taken for a mistake."""
_PLAIN_INTEGER = re.compile(r"-?\d{1,18}")
_logger = logging.getLogger(__name__)

_NOT_UNICODE = Skip("half a character, which is not Unicode")
_CONTRADICTED = Skip("the same text has different labels")
_ANSWERED_OTHERWISE = Skip("the same text has different answers")
_REPEATED = Skip("an example that is there already", is_fault=False)
_RELATED = Skip("an example that is related to one of the test set", is_fault=False)
_SURPLUS = Skip("more examples of a class than the others of its question", is_fault=False)


class Placed(NamedTuple):
    """An example and the row that it was made from."""

    example: Example
    row: int
    account: Account

    @property
    def origin(self) -> str:
        """Pool or test."""
        return self.account.source.origin

    def leave_out(self, skip: Skip) -> None:
        """Count its row."""
        self.account.leave_out(self.row, skip)


def gather(format_: Format, sources: Sequence[Source], max_skipped: float) -> TaskData:
    """Turn rows into examples by `format_`; at most the share `max_skipped` of a source's rows may be faulty.

    Raises:
        DataError: when a source is empty or lacks a column, or has too many faulty rows.
    """
    accounts = [Account(source) for source in sources]
    placed = [each for account in accounts for each in _read(account, format_, max_skipped)]
    classes = format_.class_names or _class_names(placed)
    if format_.kind in ("classes", "pairs"):
        placed = _known(placed, classes)
    placed = _single(placed, format_.kind)
    placed = _evened(placed, len(classes))
    if format_.together is not None:
        placed = _together(placed, format_)
    placed, groups = _apart(placed, format_)
    for account in accounts:
        account.check(max_skipped)
    left_out = tuple(each for account in accounts for each in account.left_out())
    for each in left_out:
        _logger.warning("%s", each)
    return TaskData(_table(placed, groups, classes), classes, left_out, judge=format_.judge)


def _read(account: Account, format_: Format, max_skipped: float) -> Iterator[Placed]:
    _check_columns(account.source, format_.columns)
    for number, row in enumerate(account.source.rows, start=1):
        account.num_rows = number
        try:
            made = list(format_.examples(row))
            for example in made:
                "".join(filter(None, (example.text, example.other, example.group, example.label, example.id))).encode()
        except Skip as skip:
            account.leave_out(number, skip)
        except UnicodeEncodeError:
            account.leave_out(number, _NOT_UNICODE)
        else:
            yield from (Placed(example, number, account) for example in made)
    account.check(max_skipped)


def _check_columns(source: Source, columns: Sequence[str]) -> None:
    known = list(dict.fromkeys(name for row in itertools.islice(source.rows, 100) for name in row))
    if not known:
        raise DataError(f"{source.name} has no rows", "a task has examples", "check the file")
    for column in columns:
        if column not in known:
            near = difflib.get_close_matches(column, known, n=1, cutoff=0.5)
            remedy = f"did you mean {near[0]!r}?" if near else f"its columns are {', '.join(map(repr, known))}"
            rule = f"the task reads the column{'s' * (len(columns) > 1)} {', '.join(columns)}"
            raise DataError(f"{source.name} has no column {column!r}", rule, remedy)


def _class_names(placed: Sequence[Placed]) -> tuple[str, ...]:
    """Return the labels that the pool has: numbers as numbers, else as text."""
    distinct = {each.example.label for each in placed if each.origin == POOL and each.example.label is not None}
    source = placed[0].account.source.name if placed else "the task"
    if len(distinct) > MAX_CLASSES:
        raise DataError(
            f"{source}: the label has {len(distinct)} distinct values",
            f"without `classes:` a label has at most {MAX_CLASSES}",
            "check `label:`, or list the values under `classes:`",
        )
    if len(distinct) < 2:
        raise DataError(
            f"{source}: every label is {min(distinct, default='')!r}",
            "a classification task has examples of two classes or more",
            "check `label:` and `classes:`",
        )
    if all(_PLAIN_INTEGER.fullmatch(label) for label in distinct):
        return tuple(sorted(distinct, key=lambda label: (int(label), label)))
    return tuple(sorted(distinct))


def _known(placed: Sequence[Placed], classes: Sequence[str]) -> list[Placed]:
    """Keep the examples of known classes."""
    known = set(classes)
    for each in placed:
        if each.example.label not in known:
            each.leave_out(Skip("unknown label", each.example.label))
    return [each for each in placed if each.example.label in known]


def _single(placed: Sequence[Placed], kind: Kind) -> list[Placed]:
    """Keep the first example of each content, and none where its rows disagree on the label or the answer."""
    same: dict[tuple[str, str, str | None], list[Placed]] = {}
    for each in placed:
        other = each.example.other if kind == "pairs" else None
        same.setdefault((each.origin, each.example.text, other), []).append(each)
    kept = []
    for first, *repeats in same.values():
        said = (first.example.label, first.example.other)
        contradicted = any((each.example.label, each.example.other) != said for each in repeats)
        if not contradicted:
            further = (key for each in repeats for key in (each.example.group, *each.example.ties))
            ties = tuple(dict.fromkeys((*first.example.ties, *further)))
            kept.append(first._replace(example=first.example._replace(ties=ties)))
        for each in (first, *repeats) if contradicted else repeats:
            each.leave_out((_ANSWERED_OTHERWISE if kind == "answers" else _CONTRADICTED) if contradicted else _REPEATED)
    return kept


def _evened(placed: Sequence[Placed], num_classes: int) -> list[Placed]:
    """Keep of each bundle as many examples of a class as the rarest has, chosen by hash of their content."""
    bundles: dict[tuple[str, str], list[Placed]] = defaultdict(list)
    for each in placed:
        if each.example.bundle is not None:
            bundles[each.origin, each.example.bundle].append(each)
    kept = [each for each in placed if each.example.bundle is None]
    for members in bundles.values():
        counts = Counter(each.example.label for each in members)
        left = dict.fromkeys(counts, min(counts.values()) if len(counts) == num_classes else 0)
        for each in sorted(members, key=lambda each: seeded_hash("even", each.example.text)):
            if left[each.example.label]:
                left[each.example.label] -= 1
                kept.append(each)
            else:
                each.leave_out(_SURPLUS)
    return kept


def _together(placed: Sequence[Placed], format_: Format) -> list[Placed]:
    """Replace the examples by what the format makes of them when it sees them all."""
    assert format_.together is not None
    seen = format_.together([each.example for each in placed])
    kept = []
    for each, made in zip(placed, seen, strict=True):
        if isinstance(made, Skip):
            each.leave_out(made)
        else:
            kept.append(each._replace(example=made))
    return kept


def _apart(placed: Sequence[Placed], format_: Format) -> tuple[list[Placed], list[str]]:
    """Keep of the pool what is not related to an example of the test source; return what is kept, and its groups."""
    examples = [each.example for each in placed]
    groups = tied([(example.group, *example.ties) for example in examples])
    if format_.kind != "text":
        others = [example.other or "" for example in examples] if format_.kind == "pairs" else ()
        groups = merged_groups(groups, [example.text for example in examples], others)
    in_test = {group for each, group in zip(placed, groups, strict=True) if each.origin == TEST}
    kept = []
    for each, group in zip(placed, groups, strict=True):
        if each.origin == POOL and group in in_test:
            each.leave_out(_RELATED)
        else:
            kept.append((each, group))
    if in_test and all(each.origin == TEST for each, _ in kept):
        raise DataError(
            f"every example of {placed[0].account.source.name} is related to one of the test set",
            "who learns and who judges never share a text, a question or a `group`",
            "check `group:`, or name another test set",
        )
    return [each for each, _ in kept], [group for _, group in kept]


def _table(placed: Sequence[Placed], groups: Sequence[str], classes: Sequence[str]) -> pa.Table:
    examples = [each.example for each in placed]
    number_of = {name: number for number, name in enumerate(classes)}
    columns = {
        "id": [_id(each) for each in placed],
        "text": [example.text for example in examples],
        "other": [example.other for example in examples],
        "label": [0 if example.label is None else number_of[example.label] for example in examples],
        "group": groups,
        "bundle": [example.bundle for example in examples],
        "stratum": [each.example.stratum or each.account.source.part for each in placed],
        "origin": [each.origin for each in placed],
    }
    return pa.table(columns, schema=SCHEMA)


def _id(placed: Placed) -> str:
    example = placed.example
    if example.id is not None:
        return f"{placed.origin}-{example.id}"
    content = ["table", placed.origin, example.group, example.text]
    return identity("example", content + ([example.other] if example.other is not None else []))[:24]
