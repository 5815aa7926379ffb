import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from w2s_ray.data.prepare import PreparedTask, load_prepared, prepare, prepare_task
from w2s_ray.errors import DataError, StoreError
from w2s_ray.spec.study import TaskSpec
from w2s_ray.store.artifacts import ArtifactStore

Rows = list[dict[str, Any]]
Toy = Callable[..., PreparedTask]
RowsOf = Callable[..., Rows]


def test_a_prepared_task_returns_its_rows(toy: Toy, rows_of: RowsOf, store: ArtifactStore) -> None:
    rows = rows_of(10)
    prepared = toy(rows)
    assert prepared.table().to_pylist() == [
        {**row, "other": None, "prompt": None, "bundle": row["id"], "stratum": None} for row in rows
    ], "each by itself"
    assert prepared.ids(np.array([3, 1])) == ["e3", "e1"]
    assert prepared.labels(np.array([3, 0])).tolist() == [1, 0]
    assert load_prepared(store, prepared.fingerprint) == prepared
    assert pickle.loads(pickle.dumps(prepared)) == prepared


def pairs(rows: Rows) -> Rows:
    return [{**row, "prompt": "e text", "other": f"e text other {number}"} for number, row in enumerate(rows)]


def test_pairs_have_prompts(toy: Toy, rows_of: RowsOf) -> None:
    rows = pairs(rows_of(10))
    rows[4]["prompt"] = None
    prepared = toy(rows, kind="pairs")
    assert prepared.prompts(np.array([4, 2])) == ["", "e text"]
    assert set(toy(rows_of(10)).table()["prompt"].to_pylist()) == {None}


@pytest.mark.parametrize("column", ["text", "other"])
def test_a_pair_that_does_not_begin_with_its_prompt_is_refused(column: str, toy: Toy, rows_of: RowsOf) -> None:
    rows = pairs(rows_of(10))
    rows[3][column] = "something else"
    with pytest.raises(DataError, match="'e3' does not begin with its prompt"):
        toy(rows, kind="pairs")


def test_pairs_prepared_before_they_had_prompts_are_prepared_again(toy: Toy, rows_of: RowsOf) -> None:
    before = "c954bb358731"
    assert toy(rows_of(10)).fingerprint.startswith(before), "other kinds stay"
    assert not toy(pairs(rows_of(10)), kind="pairs").fingerprint.startswith(before)


def test_a_task_is_read_once(store: ArtifactStore, rows_of: RowsOf, toy_task: Callable[..., Any]) -> None:
    task = toy_task(rows_of(10))
    first = prepare_task(store, "toy", task, 0.2)
    assert prepare_task(store, "toy", task, 0.2) == first
    assert prepare_task(store, "another name", task, 0.2) == first
    assert task.num_reads == 1


def test_the_fingerprint_follows_the_source_and_the_test_share(toy: Toy, rows_of: RowsOf) -> None:
    rows = rows_of(10)
    fingerprints = {toy(rows).fingerprint, toy(rows, 0.3).fingerprint, toy(rows, name="changed").fingerprint}
    assert len(fingerprints) == 3


def test_loading_a_task_that_was_not_prepared_is_refused(store: ArtifactStore) -> None:
    with pytest.raises(StoreError, match="no prepared task"):
        load_prepared(store, "0" * 64)


def test_damaged_examples_are_refused(toy: Toy, rows_of: RowsOf, store: ArtifactStore) -> None:
    prepared = toy(rows_of(10))
    copy = store.root / "data" / f"copied-{prepared.fingerprint[:12]}"
    prepared.folder.rename(copy)  # a folder that this process has not checked yet
    path = copy / "examples.arrow"
    path.write_bytes(path.read_bytes().replace(b"word", b"bird"))
    with pytest.raises(StoreError, match=r"examples\.arrow"):
        load_prepared(store, prepared.fingerprint)


def test_a_folder_without_a_record_is_prepared_again(toy: Toy, rows_of: RowsOf, store: ArtifactStore) -> None:
    prepared = toy(rows_of(10))
    (prepared.folder / "record.json").unlink()
    with pytest.raises(StoreError):
        load_prepared(store, prepared.fingerprint)
    assert toy(rows_of(10)) == prepared


def test_a_duplicate_id_is_refused_by_name(toy: Toy, rows_of: RowsOf) -> None:
    with pytest.raises(DataError, match="'e0'"):
        toy(rows_of(4) + rows_of(1))


@pytest.mark.parametrize("column", ["id", "text", "label", "group"])
def test_a_missing_value_is_refused(column: str, toy: Toy, rows_of: RowsOf) -> None:
    rows = rows_of(4)
    rows[2][column] = None
    with pytest.raises(DataError, match=column):
        toy(rows)


def test_an_empty_task_is_refused(toy: Toy) -> None:
    with pytest.raises(DataError, match="no examples"):
        toy([])


def test_a_single_class_is_refused(toy: Toy, rows_of: RowsOf) -> None:
    with pytest.raises(DataError, match="'no'"):
        toy(rows_of(4, num_classes=1))


def test_a_class_without_examples_is_refused(toy: Toy, rows_of: RowsOf) -> None:
    with pytest.raises(DataError, match="'maybe'"):
        toy(rows_of(4), class_names=("no", "yes", "maybe"))


def test_text_without_labels_needs_no_classes(toy: Toy, rows_of: RowsOf) -> None:
    prepared = toy(rows_of(4, num_classes=1), kind="text", class_names=("text",))
    assert prepared.kind == "text"


def test_a_local_file_becomes_a_prepared_task(store: ArtifactStore, tmp_path: Path) -> None:
    lines = [json.dumps({"review": f"film number {number}", "liked": number % 2}) for number in range(40)]
    (tmp_path / "reviews.jsonl").write_text("\n".join(lines))
    spec = TaskSpec(files=str(tmp_path / "reviews.jsonl"), text="review", label="liked")
    prepared = prepare(store, "reviews", spec)
    assert prepared.num_classes == 2
    assert prepared.table().num_rows == 40
    assert prepare(store, "reviews", spec) == load_prepared(store, prepared.fingerprint) == prepared


@pytest.mark.parametrize(("kind", "column"), [("classes", "text"), ("pairs", "text"), ("pairs", "other")])
def test_equal_texts_are_kept_together(kind: str, column: str, toy: Toy, rows_of: RowsOf) -> None:
    rows = [row | {"other": f"other {number}"} for number, row in enumerate(rows_of(6))]
    rows[5][column] = str(rows[0]["text"]).upper()
    groups = toy(rows, kind=kind).table()["group"].to_pylist()
    assert groups[5] == groups[0]
    assert len(set(groups)) == 5
