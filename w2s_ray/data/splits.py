"""Which examples are S, T1 … Tn, V0 … Vn and test: a pure function of the examples and a `SplitSpec`.

The test set is chosen by the hash of the group alone, so it does not depend on seeds, ladders, models or tokenizers.
The remaining groups are assigned whole to the slots of a ladder's levels, in the order of hash(split_seed, group). In a
slot, bundles are ordered by hash(split_seed, bundle), and examples of a bundle by hash(split_seed, id). A smaller split
is a prefix of a larger one. Related examples share a group and are never in two splits; a pool example whose group also
occurs in a test file is left out.
"""

import functools
import hashlib
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from w2s_ray.data.prepare import PreparedTask
from w2s_ray.errors import DataError
from w2s_ray.science import BoolArray, IntArray
from w2s_ray.spec.labels import SplitSpec
from w2s_ray.tasks.task import TEST

TRAIN_SHARE = 0.8
"""Share of the pool in all training slots together; the validation slots have the rest."""


def slot_names(num_levels: int) -> tuple[str, ...]:
    """Return the slots of a ladder: S, T1 … and V0, V1 …, one of each kind per level."""
    train = ("S", *(f"T{level}" for level in range(1, num_levels)))
    return (*train, *(f"V{level}" for level in range(num_levels)))


def rows_of_split(prepared: PreparedTask, split: SplitSpec) -> IntArray:
    """Return the rows of a split (int64), a prefix of every larger split of the same slot.

    Balanced splits, and every test set, alternate between the classes, so N examples have N / C of each, and the first
    classes one more if N / C is not whole.

    Raises:
        DataError: when there are too few examples.
    """
    rows = _candidates(prepared, split)
    balance = split.balance or split.is_test
    if balance and prepared.is_classified:
        rows = _alternating(rows, prepared.labels(rows), prepared.num_classes)
    if len(rows) < split.num_examples:
        kind = "balanced " if balance and prepared.is_classified else ""
        raise DataError(
            f"{split.name} needs {split.num_examples} {kind}examples, there are {len(rows)}",
            "ask for fewer examples, use a shorter ladder, or add data"
            if split.num_levels > 2
            else "ask for fewer examples, or add data",
        )
    return rows[: split.num_examples]


def groups_of(prepared: PreparedTask, rows_N: IntArray) -> IntArray:
    """Return a number for the group of each row; related examples have the same."""
    _, group_of_row = _groups(prepared)
    return group_of_row[rows_N]


def num_outside_groups(prepared: PreparedTask, split: SplitSpec) -> int:
    """Return how many examples of a split every one of them has outside its own group, at least."""
    rows = rows_of_split(prepared, split)
    return len(rows) - int(np.bincount(groups_of(prepared, rows)).max())


def num_test(prepared: PreparedTask, test_examples: int | None = None) -> int:
    """Return the size of the balanced test set: `test_examples`, or as many as possible for None.

    Raises:
        DataError: when there are fewer.
    """
    if prepared.kind == "text":
        return 0
    counts = _class_counts(prepared, _test_order(prepared))
    available = _balanced_size(counts)
    if test_examples is not None and test_examples > available:
        raise DataError(
            f"test_examples = {test_examples}, there are {_described(prepared, counts)}: {available} when balanced",
            f"set test_examples to at most {available}, raise test_fraction, or name a larger test file",
        )
    if available < prepared.num_classes:
        raise DataError(
            f"the test set would have {_described(prepared, counts)}, and it needs every class",
            "raise test_fraction, or name a test file that has every class",
        )
    return available if test_examples is None else test_examples


def num_documents(prepared: PreparedTask) -> tuple[int, int]:
    """Return the numbers of documents for training and held out; (0, 0) for a task with labels."""
    if prepared.kind != "text":
        return 0, 0
    return len(_documents(prepared, held_out=False)), len(_documents(prepared, held_out=True))


class TooFewExamples(DataError):
    """A task has too few examples."""

    largest: Mapping[str, int] = {}
    """The sizes that fit for every seed, by split (S, T, V, test)."""
    num_levels: int | None = None
    """Levels of the longest ladder with which the task has enough examples; None if there is no such ladder."""


def num_in_pools(prepared: PreparedTask) -> dict[str, dict[str, int]]:
    """Return the examples of each class from which training and validation sets (`pool`) and test sets are drawn."""
    is_test = _is_test_row(prepared)
    pools = {"pool": np.flatnonzero(_is_pool_row(prepared)), "test": np.flatnonzero(is_test)}
    return {
        name: dict(zip(prepared.class_names, _class_counts(prepared, rows).tolist(), strict=True))
        for name, rows in pools.items()
    }


def check_sizes(
    prepared: PreparedTask,
    *,
    num_levels: int,
    train_examples: int,
    validation_examples: int,
    test_examples: int | None,
    seeds: Sequence[int],
    balance: bool,
    supervisor_examples: int | None = None,
) -> None:
    """Check, before anything runs, that there are enough examples for every split of every seed.

    Args:
        prepared: the task.
        num_levels: levels of the ladder.
        train_examples: size of every Ti, and of S if it has none of its own.
        validation_examples: size of every Vi.
        test_examples: size of the test set; all of its examples for None.
        seeds: of the study.
        balance: whether the splits are balanced by class.
        supervisor_examples: size of S.

    Raises:
        TooFewExamples: with the numbers needed and available, and the longest ladder that fits.
        DataError: when there are no documents, or the test set would not have every class.
    """
    if prepared.kind == "text":
        _check_documents(prepared)
        return
    available = num_test(prepared)
    sizes = {"S": supervisor_examples or train_examples, "T": train_examples, "V": validation_examples}
    too_small = _first_too_small(prepared, num_levels, sizes, seeds, balance)
    is_test_short = test_examples is not None and test_examples > available
    if too_small is None and not is_test_short:
        return
    largest = {**_largest_sizes(prepared, num_levels, seeds, balance), "test": available}
    messages, hints, longest = [], [], None
    if too_small is not None:
        slot, seed, wanted, counts = too_small
        kind = "balanced examples" if balance else "examples"
        short_class = _short_class(prepared, counts) if balance else ""
        longest = _longest(prepared, num_levels, sizes, seeds, balance)
        fitting = f"; the longest ladder that fits has {longest} levels"
        if longest is None:
            fitting = "; no ladder of two levels or more fits" if num_levels > 2 else ""
        available_examples = f"{_described(prepared, counts)}{short_class}"
        messages.append(f"{slot} (seed {seed}) needs {wanted} {kind}, there are {available_examples}{fitting}")
        hints += [sizes_hint(_as_keys(sizes, largest))] if all(largest.values()) else []
        hints.append(other_hint(longest))
    if is_test_short:
        counts = _class_counts(prepared, _test_order(prepared))
        messages.append(
            f"test_examples = {test_examples}, there are {available} when balanced: {_described(prepared, counts)}"
        )
        hints.append(f"set test_examples to at most {available}")
    error = TooFewExamples("; ".join((*messages, _kept_for_test(prepared))), ", ".join(hints))
    error.largest = largest
    error.num_levels = None if is_test_short else longest
    raise error


def sizes_hint(largest: Mapping[str, int]) -> str:
    """Return the advice to lower keys to the largest sizes that fit."""
    parts = [f"{key} to at most {size}" for key, size in largest.items()]
    return f"set {' and '.join(parts)}, which fits for every seed"


def other_hint(num_levels: int | None) -> str:
    """Return the advice beside smaller sizes; `num_levels` is that of the longest ladder that fits."""
    return "add data" if num_levels is None else f"shorten the ladder to {num_levels} levels, or add data"


def _as_keys(sizes: Mapping[str, int], largest: Mapping[str, int]) -> dict[str, int]:
    train = {"splits.S": largest["S"], "splits.T": largest["T"]}
    if sizes["S"] == sizes["T"]:
        train = {"splits.train_examples": min(train.values())}
    return {**train, "splits.validation_examples": largest["V"]}


def _longest(
    prepared: PreparedTask, num_levels: int, sizes: Mapping[str, int], seeds: Sequence[int], balance: bool
) -> int | None:
    """Return the levels of the longest ladder that fits and is shorter, if there is one."""
    shorter = range(num_levels - 1, 1, -1)
    return next((n for n in shorter if _first_too_small(prepared, n, sizes, seeds, balance) is None), None)


def _short_class(prepared: PreparedTask, counts: IntArray) -> str:
    """Return which class is short, where one is."""
    rarest = int(counts.argmin())
    return f" (class {prepared.class_names[rarest]!r} is short)" if counts[rarest] < counts.max() else ""


def _kept_for_test(prepared: PreparedTask) -> str:
    num = len(_test_order(prepared))
    if _has_test_origin(prepared).any():
        return f"the {num} test examples come from the test file or split"
    share = f"test_fraction {prepared.test_fraction:g}"
    return f"{num} of {prepared.table().num_rows} examples are kept for the test set ({share})"


def _candidates(prepared: PreparedTask, split: SplitSpec) -> IntArray:
    """Return every row that may be in the split, in order."""
    assert split.task == prepared.fingerprint, "the split is of another task"
    if split.is_test:
        return _test_order(prepared)
    if split.name in ("text", "held_out"):
        if prepared.kind != "text":
            raise DataError(
                f"the split {split.name} needs a task without labels: labelled examples would include the test set",
                "give the method the objective `labels`, or name a task without labels",
            )
        return _documents(prepared, held_out=split.name == "held_out")
    return _slot_orders(prepared, split.num_levels, split.split_seed)[split.name]


@functools.lru_cache(maxsize=16)
def _slot_orders(prepared: PreparedTask, num_levels: int, split_seed: int) -> dict[str, IntArray]:
    """Return the rows of each slot, bundle by bundle.

    Groups are ordered by hash(split_seed, group). With the slots laid end to end, each as wide as its share of the
    rows, a group belongs to the slot that contains the middle of its rows.
    """
    groups, group_of_row = _groups(prepared)
    in_pool = _is_pool_row(prepared)
    sizes = np.bincount(group_of_row[in_pool], minlength=len(groups))
    order = np.argsort(_hashes(f"slot {split_seed}", groups), kind="stable")
    ends = np.cumsum(sizes[order])
    middle = (ends - sizes[order] / 2) / max(ends[-1], 1)
    edges = np.cumsum([TRAIN_SHARE / num_levels] * num_levels + [(1 - TRAIN_SHARE) / num_levels] * num_levels)
    slot_of_group = np.empty(len(groups), dtype=np.int64)
    slot_of_group[order] = np.searchsorted(edges[:-1], middle, side="right")
    rows = np.flatnonzero(in_pool)
    rows = _bundle_by_bundle(prepared, rows, f"example {split_seed}")
    slot_of_row = slot_of_group[group_of_row[rows]]
    return {name: rows[slot_of_row == slot] for slot, name in enumerate(slot_names(num_levels))}


@functools.lru_cache(maxsize=16)
def _test_order(prepared: PreparedTask) -> IntArray:
    """Return the rows of the test pool, in the order in which they enter the test set."""
    rows = np.flatnonzero(_is_test_row(prepared))
    return _bundle_by_bundle(prepared, rows, "test example")


def _bundle_by_bundle(prepared: PreparedTask, rows: IntArray, salt: str) -> IntArray:
    """Order rows by their bundles' hashes and, within a bundle, by their own."""
    columns = prepared.table().select(["id", "bundle"]).take(rows).to_pydict()
    return rows[np.lexsort((_hashes(salt, columns["id"]), _hashes(salt, columns["bundle"])))]


@functools.lru_cache(maxsize=16)
def _documents(prepared: PreparedTask, *, held_out: bool) -> IntArray:
    """Return the documents of an unlabelled task by hash; those held out are chosen like a test set."""
    rows = np.flatnonzero(_is_test_row(prepared) if held_out else _is_pool_row(prepared))
    return rows[np.argsort(_hashes("document", prepared.ids(rows)), kind="stable")]


def _is_test_row(prepared: PreparedTask) -> BoolArray:
    """Mark the rows of the test pool: those of a test file, or of the groups with the lowest hashes."""
    from_file = _has_test_origin(prepared)
    if from_file.any():
        return from_file
    groups, group_of_row = _groups(prepared)
    limit = np.uint64(prepared.test_fraction * 2.0**64)
    return np.asarray((_hashes("test group", groups) < limit)[group_of_row])


def _is_pool_row(prepared: PreparedTask) -> BoolArray:
    """Mark the rows of groups without rows in the test pool."""
    _, group_of_row = _groups(prepared)
    return np.asarray(~np.isin(group_of_row, group_of_row[_is_test_row(prepared)]))


def _has_test_origin(prepared: PreparedTask) -> BoolArray:
    return np.asarray(pc.equal(prepared.table()["origin"], TEST).to_numpy())


@functools.lru_cache(maxsize=16)
def _groups(prepared: PreparedTask) -> tuple[list[str], IntArray]:
    """Return the distinct groups, and the index of each row's group."""
    encoded = prepared.table()["group"].combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), np.asarray(encoded.indices.to_numpy(), dtype=np.int64)


def _hashes(salt: str, texts: Iterable[str]) -> npt.NDArray[np.uint64]:
    """Return a stable 64-bit hash of each text; `salt` separates different uses."""
    prefix = f"{salt}\n".encode()
    sha256 = hashlib.sha256
    digests = b"".join([sha256(prefix + text.encode()).digest()[:8] for text in texts])
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def _alternating(rows: IntArray, labels: IntArray, num_classes: int) -> IntArray:
    """Return one row of each class in turn, until the next class has none left."""
    by_class = [rows[labels == label] for label in range(num_classes)]
    alternating = np.empty(_balanced_size(np.array([len(of_class) for of_class in by_class])), dtype=np.int64)
    for label, of_class in enumerate(by_class):
        places = alternating[label::num_classes]
        places[:] = of_class[: len(places)]
    return alternating


def _balanced_size(counts: IntArray) -> int:
    """Return how many rows `_alternating` takes from classes of these sizes."""
    rounds = int(counts.min())
    more = np.flatnonzero(counts == rounds)[0]  # the first class without a row in the next round
    return rounds * len(counts) + int(more)


def _class_counts(prepared: PreparedTask, rows: IntArray) -> IntArray:
    return np.bincount(prepared.labels(rows), minlength=prepared.num_classes)


def _check_documents(prepared: PreparedTask) -> None:
    """Check that an unlabelled task has documents for training and held-out ones."""
    train, held_out = num_documents(prepared)
    if not train or not held_out:
        raise DataError(
            f"pretraining needs documents for training and held-out ones; there are {train} and {held_out}",
            "change test_fraction, the share that is held out, or name test_files",
        )


def _first_too_small(
    prepared: PreparedTask, num_levels: int, sizes: Mapping[str, int], seeds: Sequence[int], balance: bool
) -> tuple[str, int, int, IntArray] | None:
    """Return the first slot that is too small: its name, the seed, the number needed and the counts by class."""
    for seed in seeds:
        for name, rows in _slot_orders(prepared, num_levels, seed).items():
            wanted = sizes[name[0]]
            counts = _class_counts(prepared, rows)
            if wanted > (_balanced_size(counts) if balance else len(rows)):
                return name, seed, wanted, counts
    return None


def _largest_sizes(prepared: PreparedTask, num_levels: int, seeds: Sequence[int], balance: bool) -> dict[str, int]:
    """Return the largest sizes of S, every Ti and every Vi that fit into their slots for every seed."""
    largest: dict[str, int] = {}
    for seed in seeds:
        for name, rows in _slot_orders(prepared, num_levels, seed).items():
            size = _balanced_size(_class_counts(prepared, rows)) if balance else len(rows)
            largest[name[0]] = min(size, largest.get(name[0], size))
    return largest


def _described(prepared: PreparedTask, counts: IntArray) -> str:
    named = zip(prepared.class_names, counts.tolist(), strict=True)
    return ", ".join(f"{count} of class {name!r}" for name, count in named)
