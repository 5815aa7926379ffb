"""Which examples are S, T1 … Tn, V0 … Vn and test: a pure function of the examples and a `SplitSpec`.

The test set is drawn by the hash of the group alone, so no seed, ladder, model or tokenizer moves it. The remaining
groups go whole into the slots of a ladder's levels, in the order of hash(split_seed, group). Within its slot a bundle
has its place by hash(split_seed, bundle), and an example its place in the bundle by hash(split_seed, id). A smaller
split is a prefix of a larger one. Related examples share a group, so they never stand on two sides; a pool example
whose group also occurs in a test file is left out.
"""

import functools
import hashlib
from collections.abc import Iterable, Sequence

import numpy as np
import pyarrow.compute as pc

from w2s_ray.data.prepare import PreparedTask
from w2s_ray.errors import DataError
from w2s_ray.spec.labels import SplitSpec
from w2s_ray.tasks.task import TEST

TRAIN_SHARE = 0.8
"""Share of the pool that the training slots hold together; the validation slots hold the rest."""


def slot_names(num_levels: int) -> tuple[str, ...]:
    """Return the slots of a ladder: S, T1 … and V0, V1 …; as many for training as for validation."""
    train = ("S", *(f"T{level}" for level in range(1, num_levels)))
    return (*train, *(f"V{level}" for level in range(num_levels)))


def draw(prepared: PreparedTask, split: SplitSpec) -> np.ndarray:
    """Return the rows of a split (int64), in an order that is a prefix of every larger draw's.

    Balanced splits, and every test set, take turns between the classes, so N examples hold N / C of each, the first
    classes one more.

    Raises:
        DataError: when there are too few examples.
    """
    rows = _candidates(prepared, split)
    balance = split.balance or split.is_test
    if balance and prepared.is_classified:
        rows = _taking_turns(rows, prepared.labels(rows), prepared.num_classes)
    if len(rows) < split.num_examples:
        kind = "balanced " if balance and prepared.is_classified else ""
        raise DataError(
            f"{split.name} asks for {split.num_examples} {kind}examples, there are {len(rows)}",
            "no example serves twice",
            "ask for fewer examples, use a shorter ladder, or add data",
        )
    return rows[: split.num_examples]


def num_test(prepared: PreparedTask, test_examples: int | None = None) -> int:
    """Return the size of the balanced test set: `test_examples`, or all that there are.

    Raises:
        DataError: when there are fewer than asked for.
    """
    if prepared.kind == "text":
        return 0
    counts = _class_counts(prepared, _test_order(prepared))
    available = _balanced_size(counts)
    if test_examples is not None and test_examples > available:
        raise DataError(
            f"test_examples = {test_examples}, there are {_described(prepared, counts)}: {available} when balanced",
            "the test set is balanced and no example serves twice",
            f"set test_examples to at most {available}, raise test_fraction, or name a larger test file",
        )
    if available < prepared.num_classes:
        raise DataError(
            f"the test set would hold {_described(prepared, counts)}",
            "the test set is balanced and has every class",
            "raise test_fraction, or name a test file that has every class",
        )
    return available if test_examples is None else test_examples


def num_documents(prepared: PreparedTask) -> tuple[int, int]:
    """Return how many documents are for training and how many are held out; (0, 0) for a task with labels."""
    if prepared.kind != "text":
        return 0, 0
    return len(_documents(prepared, held_out=False)), len(_documents(prepared, held_out=True))


def check_sizes(
    prepared: PreparedTask,
    *,
    num_levels: int,
    train_examples: int,
    validation_examples: int,
    test_examples: int | None,
    seeds: Sequence[int],
    balance: bool,
) -> None:
    """Prove before anything runs that every split of every seed can be drawn.

    Raises:
        DataError: with the counts wanted and there, the longest ladder that fits, and what to change.
    """
    if prepared.kind == "text":
        _check_documents(prepared)
        return
    num_test(prepared, test_examples)
    sizes = (train_examples, validation_examples)
    lack = _first_lack(prepared, num_levels, sizes, seeds, balance)
    if lack is None:
        return
    slot, seed, wanted, counts = lack
    shorter = range(num_levels - 1, 1, -1)
    longest = next((n for n in shorter if _first_lack(prepared, n, sizes, seeds, balance) is None), None)
    fits = f"the longest ladder that fits has {longest} levels" if longest else "no ladder of two levels or more fits"
    train, validation = _largest_sizes(prepared, num_levels, seeds, balance)
    smaller = f"set splits.train_examples to at most {train} and splits.validation_examples to at most {validation}, "
    kind = "balanced examples" if balance else "examples"
    raise DataError(
        f"{slot} (seed {seed}) needs {wanted} {kind}, there are {_described(prepared, counts)}; {fits}",
        f"the {num_levels} levels of the ladder share no examples, and related examples stay together",
        f"{smaller if train and validation else ''}shorten the ladder, or add data",
    )


def _candidates(prepared: PreparedTask, split: SplitSpec) -> np.ndarray:
    """Every row that may serve in the split, in its order."""
    assert split.task == prepared.fingerprint, "the split is of another task"
    if split.is_test:
        return _test_order(prepared)
    if split.name in ("text", "held_out"):
        if prepared.kind != "text":
            raise DataError(
                f"the split {split.name} of a task with labels",
                "next_token learns from tasks without labels: labelled examples would include the test set",
                "give the method the objective `labels`, or name a task without labels",
            )
        return _documents(prepared, held_out=split.name == "held_out")
    return _slot_orders(prepared, split.num_levels, split.split_seed)[split.name]


@functools.lru_cache(maxsize=16)
def _slot_orders(prepared: PreparedTask, num_levels: int, split_seed: int) -> dict[str, np.ndarray]:
    """The rows of each slot, bundle by bundle.

    Groups stand in the order of hash(split_seed, group), and a group's slot is where the middle of its rows falls when
    the slots are laid end to end, each as wide as its share of the rows.
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
def _test_order(prepared: PreparedTask) -> np.ndarray:
    """The rows of the test pool, in the order in which they enter the test set."""
    rows = np.flatnonzero(_is_test_row(prepared))
    return _bundle_by_bundle(prepared, rows, "test example")


def _bundle_by_bundle(prepared: PreparedTask, rows: np.ndarray, salt: str) -> np.ndarray:
    """Put rows into the order of their bundles' hashes and, within a bundle, of their own."""
    columns = prepared.table().select(["id", "bundle"]).take(rows).to_pydict()
    return rows[np.lexsort((_hashes(salt, columns["id"]), _hashes(salt, columns["bundle"])))]


@functools.lru_cache(maxsize=16)
def _documents(prepared: PreparedTask, *, held_out: bool) -> np.ndarray:
    """The documents of an unlabelled task, in hash order; those held out are drawn like a test set."""
    rows = np.flatnonzero(_is_test_row(prepared) if held_out else _is_pool_row(prepared))
    return rows[np.argsort(_hashes("document", prepared.ids(rows)), kind="stable")]


def _is_test_row(prepared: PreparedTask) -> np.ndarray:
    """Which rows are the test pool: those of a test file, or of the groups whose hash is low."""
    from_file = _has_test_origin(prepared)
    if from_file.any():
        return from_file
    groups, group_of_row = _groups(prepared)
    limit = np.uint64(prepared.test_fraction * 2.0**64)
    return np.asarray((_hashes("test group", groups) < limit)[group_of_row])


def _is_pool_row(prepared: PreparedTask) -> np.ndarray:
    """Which rows are of groups that have none in the test pool."""
    _, group_of_row = _groups(prepared)
    return np.asarray(~np.isin(group_of_row, group_of_row[_is_test_row(prepared)]))


def _has_test_origin(prepared: PreparedTask) -> np.ndarray:
    return np.asarray(pc.equal(prepared.table()["origin"], TEST).to_numpy())


@functools.lru_cache(maxsize=16)
def _groups(prepared: PreparedTask) -> tuple[list[str], np.ndarray]:
    """The distinct groups, and which of them each row belongs to."""
    encoded = prepared.table()["group"].combine_chunks().dictionary_encode()
    return encoded.dictionary.to_pylist(), np.asarray(encoded.indices.to_numpy(), dtype=np.int64)


def _hashes(salt: str, texts: Iterable[str]) -> np.ndarray:
    """A stable 64-bit number for each text, kept apart from other uses by `salt`."""
    prefix = f"{salt}\n".encode()
    sha256 = hashlib.sha256
    digests = b"".join([sha256(prefix + text.encode()).digest()[:8] for text in texts])
    return np.frombuffer(digests, dtype=">u8").astype(np.uint64)


def _taking_turns(rows: np.ndarray, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """One row of each class in turn, until a class has none left at its turn."""
    by_class = [rows[labels == label] for label in range(num_classes)]
    size = _balanced_size(np.array([len(each) for each in by_class]))
    turns = np.empty(size, dtype=np.int64)
    for label, each in enumerate(by_class):
        places = turns[label::num_classes]
        places[:] = each[: len(places)]
    return turns


def _balanced_size(counts: np.ndarray) -> int:
    """How many rows can be taken in turns from classes of these sizes."""
    rounds = int(counts.min())
    more = np.flatnonzero(counts == rounds)[0]  # the first class that lacks a row in the next round
    return rounds * len(counts) + int(more)


def _class_counts(prepared: PreparedTask, rows: np.ndarray) -> np.ndarray:
    return np.bincount(prepared.labels(rows), minlength=prepared.num_classes)


def _check_documents(prepared: PreparedTask) -> None:
    """Refuse an unlabelled task that has nothing to train on or nothing held out."""
    train, held_out = num_documents(prepared)
    if not train or not held_out:
        raise DataError(
            f"{train} documents for training, {held_out} held out",
            "pretraining needs both",
            "change test_fraction, the share that is held out, or name test_files",
        )


def _first_lack(
    prepared: PreparedTask, num_levels: int, sizes: tuple[int, int], seeds: Sequence[int], balance: bool
) -> tuple[str, int, int, np.ndarray] | None:
    """The first slot that is too small: its name, the seed, the examples wanted and those there by class."""
    for seed in seeds:
        for name, rows in _slot_orders(prepared, num_levels, seed).items():
            wanted = sizes[name.startswith("V")]
            counts = _class_counts(prepared, rows)
            if wanted > (_balanced_size(counts) if balance else len(rows)):
                return name, seed, wanted, counts
    return None


def _largest_sizes(prepared: PreparedTask, num_levels: int, seeds: Sequence[int], balance: bool) -> tuple[int, int]:
    """The largest training and validation sizes that every slot of every seed can give."""
    most: dict[bool, int] = {}
    for seed in seeds:
        for name, rows in _slot_orders(prepared, num_levels, seed).items():
            size = _balanced_size(_class_counts(prepared, rows)) if balance else len(rows)
            validation = name.startswith("V")
            most[validation] = min(size, most.get(validation, size))
    return most[False], most[True]


def _described(prepared: PreparedTask, counts: np.ndarray) -> str:
    named = zip(prepared.class_names, counts.tolist(), strict=True)
    return ", ".join(f"{count} of class {name!r}" for name, count in named)
