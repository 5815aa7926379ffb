import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from w2s_ray.data.prepare import PreparedTask
from w2s_ray.data.splits import check_sizes, num_documents, num_test, rows_of_split, slot_names
from w2s_ray.errors import DataError
from w2s_ray.spec.labels import SplitSpec

Rows = list[dict[str, Any]]
Toy = Callable[..., PreparedTask]
RowsOf = Callable[..., Rows]
Split = Callable[..., SplitSpec]


def ids(prepared: PreparedTask, split: SplitSpec) -> list[str]:
    return prepared.ids(rows_of_split(prepared, split))


def groups(prepared: PreparedTask, rows: np.ndarray) -> set[str]:
    return set(prepared.table()["group"].take(rows).to_pylist())


def every_slot(prepared: PreparedTask, split: Split, **changes: object) -> dict[str, np.ndarray]:
    """All splits of a ladder of three, and the test set, by name."""
    sizes = {name: 50 if name.startswith("V") else 200 for name in slot_names(3)}
    drawn = {name: rows_of_split(prepared, split(prepared, name, size, **changes)) for name, size in sizes.items()}
    return drawn | {"test": rows_of_split(prepared, split(prepared, "test", num_test(prepared)))}


@pytest.mark.parametrize("split_seed", [0, 1, 12345])
@pytest.mark.parametrize("balance", [True, False])
def test_no_two_splits_share_an_example_or_a_group(
    split_seed: int, balance: bool, prepared: PreparedTask, split: Split
) -> None:
    drawn = every_slot(prepared, split, split_seed=split_seed, balance=balance)
    for first, second in itertools.combinations(drawn.values(), 2):
        assert not set(first) & set(second)
        assert not groups(prepared, first) & groups(prepared, second)
    assert all(len(set(rows)) == len(rows) for rows in drawn.values())


def test_balanced_splits_have_equally_many_of_each_class(toy: Toy, rows_of: RowsOf, split: Split) -> None:
    prepared = toy(rows_of(3000, num_classes=3), class_names=("a", "b", "c"))
    for name, size in (("S", 300), ("T2", 200), ("V1", 31), ("test", 100)):
        counts = np.bincount(prepared.labels(rows_of_split(prepared, split(prepared, name, size))), minlength=3)
        assert counts.tolist() == [size // 3 + (label < size % 3) for label in range(3)]


def test_without_balance_classes_have_their_natural_shares(toy: Toy, rows_of: RowsOf, split: Split) -> None:
    rows = rows_of(4000)
    for number, row in enumerate(rows):
        row["label"] = int(number % 10 == 0)
    labels = (prepared := toy(rows)).labels(rows_of_split(prepared, split(prepared, "T1", 600, balance=False)))
    assert 30 < labels.sum() < 90


@pytest.mark.parametrize("name", ["S", "T1", "V2", "test"])
@pytest.mark.parametrize("balance", [True, False])
def test_a_smaller_split_is_a_prefix_of_a_larger_one(
    name: str, balance: bool, prepared: PreparedTask, split: Split
) -> None:
    large = rows_of_split(prepared, split(prepared, name, 60, balance=balance))
    for size in (1, 7, 30, 59):
        np.testing.assert_array_equal(
            rows_of_split(prepared, split(prepared, name, size, balance=balance)), large[:size]
        )


def test_the_seed_changes_training_and_validation_but_not_the_test_set(prepared: PreparedTask, split: Split) -> None:
    first, second = (every_slot(prepared, split, split_seed=seed) for seed in (0, 1))
    np.testing.assert_array_equal(first.pop("test"), second.pop("test"))
    for name in first:
        assert set(first[name]) != set(second[name])


def test_the_test_set_does_not_depend_on_ladder_seed_or_balance(toy: Toy, rows_of: RowsOf, split: Split) -> None:
    prepared = toy([row | {"label": int(number % 3 == 0)} for number, row in enumerate(rows_of(2000))])
    variants = [
        split(prepared, "test", 100, num_levels=levels, split_seed=seed, balance=balance)
        for levels in (1, 2, 5)
        for seed in (0, 9)
        for balance in (True, False)
    ]
    assert len({tuple(rows_of_split(prepared, variant)) for variant in variants}) == 1


def test_more_rows_do_not_change_which_groups_are_in_the_test_set(toy: Toy, rows_of: RowsOf, split: Split) -> None:
    few, many = toy(rows_of(1000), name="few"), toy(rows_of(2000), name="many")
    small, large = (set(ids(item, split(item, "test", num_test(item) // 2 * 2))) for item in (few, many))
    surplus = {example for example in small if int(example[1:]) < 1000} - large
    assert len(surplus) <= 0.1 * len(small)  # balancing removes the surplus of a class


def test_the_test_share_is_of_groups(prepared: PreparedTask) -> None:
    assert 300 < num_test(prepared) < 450


def test_a_larger_share_extends_the_test_pool(toy: Toy, rows_of: RowsOf, split: Split) -> None:
    drawn = []
    for fraction in (0.1, 0.3):
        prepared = toy(rows_of(2000), fraction, name=str(fraction))
        drawn.append(set(ids(prepared, split(prepared, "test", num_test(prepared)))))
    assert len(drawn[0] - drawn[1]) < 0.05 * len(drawn[0])
    assert len(drawn[1]) > 2.5 * len(drawn[0])


def test_a_test_file_is_the_test_set_and_the_rest_is_for_training(toy: Toy, rows_of: RowsOf, split: Split) -> None:
    prepared = toy(rows_of(400) + rows_of(100, origin="test", prefix="t"))
    assert num_test(prepared) == 100
    assert {example[0] for example in ids(prepared, split(prepared, "test", 100))} == {"t"}
    slots = [rows_of_split(prepared, split(prepared, name, 10, balance=False)) for name in slot_names(3)]
    assert all(example.startswith("e") for rows in slots for example in prepared.ids(rows))


def test_a_pool_example_related_to_a_test_file_is_left_out(toy: Toy, rows_of: RowsOf, split: Split) -> None:
    rows = rows_of(300) + rows_of(20, origin="test", prefix="t")
    for row in rows[:40]:
        row["group"] = "tg3"  # a group of the test file
    rows[40]["text"] = "T Text 5 " + "word, " * 5  # a text of the test file
    prepared = toy(rows)
    train = rows_of_split(prepared, split(prepared, "S", 200, num_levels=1, balance=False))
    validation = rows_of_split(prepared, split(prepared, "V0", 40, num_levels=1, balance=False))
    used = prepared.ids(np.concatenate([train, validation]))
    assert not set(used) & {f"e{number}" for number in range(41)}


def test_slots_of_one_kind_are_of_one_size(prepared: PreparedTask, split: Split) -> None:
    def size(name: str) -> int:
        with pytest.raises(DataError) as caught:
            rows_of_split(prepared, split(prepared, name, 10_000, balance=False))
        return int(caught.value.message.split()[-1])

    train, validation = ([size(name) for name in slot_names(3) if name.startswith("V") == kind] for kind in (0, 1))
    assert max(train) - min(train) <= 8
    assert max(validation) - min(validation) <= 8
    assert 3.5 < np.mean(train) / np.mean(validation) < 4.5


def test_splits_are_pinned(prepared: PreparedTask, split: Split) -> None:
    """If these change, all results change: increase RECIPE in data/prepare.py and pin the new values."""
    assert ids(prepared, split(prepared, "S", 4)) == ["e1522", "e879", "e1227", "e1911"]
    assert ids(prepared, split(prepared, "T2", 4, split_seed=1)) == ["e803", "e998", "e337", "e727"]
    assert ids(prepared, split(prepared, "test", 4)) == ["e763", "e917", "e594", "e109"]


def test_splits_do_not_depend_on_the_order_of_the_rows(toy: Toy, rows_of: RowsOf, split: Split) -> None:
    rows = rows_of(1000, group_size=3)
    forward, backward = toy(rows, name="forward"), toy(rows[::-1], name="backward")
    for name in ("S", "T2", "V1", "test"):
        assert ids(forward, split(forward, name, 40)) == ids(backward, split(backward, name, 40))


def test_more_test_examples_than_there_are_is_refused(prepared: PreparedTask) -> None:
    with pytest.raises(DataError, match="test_examples = 5000") as caught:
        num_test(prepared, 5000)
    assert f"at most {num_test(prepared)}" in caught.value.hint
    assert num_test(prepared, 10) == 10


def test_a_test_set_without_one_class_is_refused(toy: Toy, rows_of: RowsOf) -> None:
    rows = rows_of(100) + [row | {"label": 0} for row in rows_of(10, origin="test", prefix="t")]
    with pytest.raises(DataError, match="0 of class 'yes'"):
        num_test(toy(rows))


def sizes(**changes: Any) -> dict[str, Any]:
    known = {"num_levels": 3, "train_examples": 380, "validation_examples": 70, "test_examples": None}
    return known | {"seeds": (0, 1, 2), "balance": True} | changes


def test_sizes_that_fit_pass_and_can_be_drawn(prepared: PreparedTask, split: Split) -> None:
    check_sizes(prepared, **sizes())
    for seed in (0, 1, 2):
        for name in slot_names(3):
            rows_of_split(prepared, split(prepared, name, 70 if name.startswith("V") else 380, split_seed=seed))


def test_too_few_examples_are_refused_with_sizes_that_fit(prepared: PreparedTask) -> None:
    with pytest.raises(DataError) as caught:
        check_sizes(prepared, **sizes(num_levels=6))
    error = caught.value
    assert "needs 380 balanced examples, there are" in error.message
    assert "of class 'no'" in error.message and "of class 'yes'" in error.message
    assert "longest ladder that fits has 3 levels" in error.message
    largest = [int(word.strip(",")) for word in error.hint.split() if word.strip(",").isdigit()]
    check_sizes(prepared, **sizes(num_levels=6, train_examples=largest[0], validation_examples=largest[1]))
    for more in ({"train_examples": largest[0] + 1}, {"validation_examples": largest[1] + 1}):
        fitting = {"train_examples": largest[0], "validation_examples": largest[1]} | more
        with pytest.raises(DataError):
            check_sizes(prepared, **sizes(num_levels=6, **fitting))


def test_a_size_above_its_slot_is_refused_with_the_largest_of_each_slot(prepared: PreparedTask) -> None:
    check_sizes(prepared, **sizes(train_examples=20, supervisor_examples=380))
    check_sizes(prepared, **sizes(train_examples=380, supervisor_examples=20))
    with pytest.raises(DataError, match=r"S \(seed 0\) needs 5000 balanced examples") as caught:
        check_sizes(prepared, **sizes(train_examples=20, supervisor_examples=5000))
    words = caught.value.hint.replace(",", "").split()
    largest = {words[place - 4]: int(words[place]) for place, word in enumerate(words) if word.isdigit()}
    assert largest.keys() == {"splits.S", "splits.T", "splits.validation_examples"}
    fitting = dict(zip(("supervisor_examples", "train_examples", "validation_examples"), largest.values(), strict=True))
    check_sizes(prepared, **sizes(**fitting))
    for key, size in fitting.items():
        with pytest.raises(DataError):
            check_sizes(prepared, **sizes(**{**fitting, key: size + 1}))


def test_when_no_ladder_fits_the_error_has_no_sizes(prepared: PreparedTask) -> None:
    with pytest.raises(DataError, match="no ladder of two levels or more fits"):
        check_sizes(prepared, **sizes(train_examples=5000))


def test_every_seed_is_checked(prepared: PreparedTask) -> None:
    largest = 0
    for size in range(380, 500):
        try:
            check_sizes(prepared, **sizes(train_examples=size, seeds=(0,)))
        except DataError:
            break
        largest = size
    with pytest.raises(DataError, match=r"seed [1-9]"):
        check_sizes(prepared, **sizes(train_examples=largest, seeds=range(30)))


def test_documents_are_split_by_origin(toy: Toy, rows_of: RowsOf, split: Split) -> None:
    rows = rows_of(50, num_classes=1) + rows_of(7, num_classes=1, origin="test", prefix="h")
    prepared = toy(rows, kind="text", class_names=("text",))
    assert num_documents(prepared) == (50, 7)
    check_sizes(prepared, **sizes())
    assert sorted(rows_of_split(prepared, split(prepared, "text", 50))) == list(range(50))
    assert {item[0] for item in ids(prepared, split(prepared, "held_out", 7))} == {"h"}
    assert num_test(prepared) == 0


def test_documents_of_one_file_are_held_out_by_group(toy: Toy, rows_of: RowsOf, split: Split) -> None:
    prepared = toy(rows_of(400, group_size=4, num_classes=1), test_fraction=0.1, kind="text", class_names=("text",))
    train, held_out = num_documents(prepared)
    assert train + held_out == 400 and 10 < held_out < 80
    drawn = [rows_of_split(prepared, split(prepared, *item)) for item in (("text", train), ("held_out", held_out))]
    assert not groups(prepared, drawn[0]) & groups(prepared, drawn[1])


def test_documents_of_a_group_that_is_held_out_are_not_learned(toy: Toy, rows_of: RowsOf) -> None:
    held_out = [row | {"id": f"h{number}", "origin": "test"} for number, row in enumerate(rows_of(2, num_classes=1))]
    prepared = toy(rows_of(50, num_classes=1) + held_out, kind="text", class_names=("text",))
    assert num_documents(prepared) == (48, 2)


def test_documents_without_a_held_out_part_are_refused(toy: Toy, rows_of: RowsOf) -> None:
    with pytest.raises(DataError, match="and 0"):
        check_sizes(toy(rows_of(3, num_classes=1), test_fraction=0.001, kind="text", class_names=("text",)), **sizes())


def test_a_task_with_labels_has_no_documents(prepared: PreparedTask, split: Split) -> None:
    with pytest.raises(DataError, match="task without labels"):
        rows_of_split(prepared, split(prepared, "text", 10))


@pytest.mark.parametrize("name", ["S", "T2", "V0", "test"])
@pytest.mark.parametrize("balance", [True, False])
def test_a_bundle_is_drawn_whole(toy: Toy, rows_of: RowsOf, split: Split, name: str, balance: bool) -> None:
    rows = rows_of(4000, group_size=40)
    for number, row in enumerate(rows):
        row |= {"bundle": f"b{number // 4}", "label": number % 2}
    prepared = toy(rows)
    drawn = rows_of_split(prepared, split(prepared, name, 80, balance=balance))
    bundles = prepared.table()["bundle"].take(drawn).to_pylist()
    assert sorted(bundles.count(item) for item in set(bundles)) == [4] * 20
    assert len(groups(prepared, drawn)) > 3, "bundles of one group are not adjacent"
