"""Own data of every kind: classes, pairs, answers, text."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from w2s_ray.data.prepare import prepare
from w2s_ray.errors import DataError
from w2s_ray.spec.study import TaskSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.tasks.examples import Example, Format
from w2s_ray.tasks.gather import gather
from w2s_ray.tasks.registry import open_task
from w2s_ray.tasks.sources import Source
from w2s_ray.tasks.task import POOL, TaskData

ROWS = [{"review": f"review {number}", "stars": number % 2} for number in range(3)]


def json_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path, **spec: Any) -> TaskData:
    return open_task(TaskSpec(**{"files": str(path), "text": "review", "label": "stars", **spec})).read()


def test_the_order_of_own_pairs_does_not_show_the_better_text(tmp_path: Path) -> None:
    rows = [{"prompt": f"Say {n}!", "good": f"{n}, gladly", "bad": f"no {n}"} for n in range(200)]
    path = json_lines(tmp_path / "a.jsonl", rows)
    spec = TaskSpec(files=str(path), text="prompt", chosen="good", rejected="bad")
    task = open_task(spec)
    data = task.read()
    assert (task.kind, data.class_names) == ("pairs", ("first", "second"))
    for row in data.table.to_pylist():
        better = (row["text"], row["other"])[row["label"]]
        assert better.endswith("gladly") and row["prompt"].startswith("Say ") and row["prompt"].endswith("!\n")
        assert better.startswith(row["prompt"]) and better.removeprefix(row["prompt"]).partition(",")[0].isdecimal()
    assert 70 < sum(data.table["label"].to_pylist()) < 130
    again = open_task(spec.model_copy(update={"files": str(json_lines(tmp_path / "b.jsonl", rows[::-1]))})).read()
    assert {tuple(row.values()) for row in again.table.to_pylist()} == {
        tuple(row.values()) for row in data.table.to_pylist()
    }


def test_equal_and_contradicting_own_pairs_are_left_out(tmp_path: Path) -> None:
    rows = [{"good": f"a{n}", "bad": f"b{n}"} for n in range(100)]
    bad = [{"good": "same", "bad": "same"}, {"good": "b7", "bad": "a7"}]
    path = json_lines(tmp_path / "a.jsonl", [*rows, *bad])
    data = open_task(TaskSpec(files=str(path), chosen="good", rejected="bad")).read()
    assert data.table.num_rows == 99
    assert [(entry.reason, entry.first_rows) for entry in data.left_out] == [
        ("two equal answers", (101,)),
        ("the same text has different labels", (8, 102)),
    ]


def test_own_pairs_without_text_have_an_empty_prompt(tmp_path: Path) -> None:
    rows = [{"good": f"a{n}", "bad": f"b{n}"} for n in range(9)]
    data = open_task(TaskSpec(files=str(json_lines(tmp_path / "a.jsonl", rows)), chosen="good", rejected="bad")).read()
    assert data.table["prompt"].to_pylist() == [""] * 9


@pytest.mark.parametrize(
    ("prompt", "text", "other", "reason"),
    [
        ("Say:", "Say: a", "Tell: b", "a text that does not begin with its prompt"),
        ("Say:", "Say: a", "Say: ", "an empty completion"),
        ("Say:", "Say:", "Say: a", "an empty completion"),
        ("Say:", "Say: a", "Say: a", "two equal answers"),
    ],
)
def test_pairs_without_two_completions_are_counted_as_faults(prompt: str, text: str, other: str, reason: str) -> None:
    rows = [{"text": f"Say: {n}", "other": f"Say: {n + 1}", "prompt": "Say:"} for n in range(40)]
    rows[6] = {"text": text, "other": other, "prompt": prompt}

    def examples(row: Mapping[str, Any]) -> list[Example]:
        return [Example(row["text"], row["text"], "first", row["other"], row["prompt"])]

    format_ = Format("pairs", ("text", "other"), examples, ("first", "second"))
    data = gather(format_, [Source("rows", rows, POOL)], 0.05)
    assert data.table.num_rows == 39
    assert [(entry.reason, entry.first_rows, entry.is_fault) for entry in data.left_out] == [(reason, (7,), True)]


def test_own_answers_are_written_after_their_text(tmp_path: Path) -> None:
    rows = [{"q": "2 + 2 =", "a": 4}, {"q": "1 + 1 =", "a": " two "}, {"q": "1 + 1 =", "a": "two"}]
    task = open_task(TaskSpec(files=str(json_lines(tmp_path / "a.jsonl", rows)), text="q", answer="a"))
    data = task.read()
    assert (task.kind, data.class_names) == ("answers", ("answer",))
    table = data.table.to_pydict()
    assert list(zip(table["text"], table["other"], strict=True)) == [("2 + 2 =", "4"), ("1 + 1 =", "two")]
    assert table["label"] == [0, 0]


def test_answers_of_several_lines_and_contradicting_answers_are_left_out(tmp_path: Path) -> None:
    rows = [{"q": f"{number} + 1 =", "a": number + 1} for number in range(9)]
    rows += [{"q": "write a loop", "a": "for x in y:\n    print(x)"}, {"q": "1 + 1 =", "a": "two"}]
    file = str(json_lines(tmp_path / "a.jsonl", rows))
    data = open_task(TaskSpec(files=file, text="q", answer="a", max_skipped=0.3)).read()
    assert "1 + 1 =" not in data.table.to_pydict()["text"] and len(data.table) == 8
    reasons = " ".join(map(str, data.left_out))
    assert "an answer of several lines" in reasons and "different answers (rows 2, 11)" in reasons


def test_white_space_does_not_make_a_class_or_a_pair(tmp_path: Path) -> None:
    rows = [{"t": f"text {n}", "l": ("pos", "pos ", "neg")[n % 3]} for n in range(9)]
    task = open_task(TaskSpec(files=str(json_lines(tmp_path / "a.jsonl", rows)), text="t", label="l"))
    assert task.read().class_names == ("neg", "pos")
    pairs = [{"good": f"yes {n}", "bad": f"no {n}"} for n in range(9)] + [{"good": "same ", "bad": "same"}]
    spec = TaskSpec(files=str(json_lines(tmp_path / "b.jsonl", pairs)), chosen="good", rejected="bad", max_skipped=0.2)
    assert len(open_task(spec).read().table) == 9


def test_own_text_alone_is_for_pretraining(tmp_path: Path) -> None:
    task = open_task(TaskSpec(files=str(json_lines(tmp_path / "a.jsonl", ROWS)), text="review"))
    data = task.read()
    assert (task.kind, data.class_names, data.table.num_rows) == ("text", ("text",), 3)
    assert data.table["label"].to_pylist() == [0, 0, 0]


def test_own_classes_may_be_more_than_two(tmp_path: Path) -> None:
    rows = [{"review": f"text {n}", "stars": ("bad", "fair", "good")[n % 3]} for n in range(9)]
    data = read(json_lines(tmp_path / "a.jsonl", rows), classes=("good", "fair", "bad"))
    assert data.class_names == ("good", "fair", "bad")
    assert data.table["label"].to_pylist() == [2, 1, 0] * 3


def test_a_folder_of_own_files_is_read_whole(tmp_path: Path) -> None:
    for at, row in enumerate(ROWS):
        json_lines(tmp_path / f"part{at}.jsonl", [row])
    (tmp_path / "README.md").write_text("not data")
    assert read(tmp_path).table.num_rows == 3
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no data files"):
        read(tmp_path / "empty")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"text": "q", "label": "y", "answer": "a"}, "not label, answer"),
        ({"chosen": "good"}, "both `chosen:` and `rejected:`"),
        ({"label": "y"}, "own data needs `text:`"),
        ({"text": "q", "answer": "a", "classes": ("x", "y")}, "`classes:` needs `label:`"),
        ({"builtin": "sst2", "text": "q"}, "exactly one of builtin, hub, files"),
    ],
)
def test_columns_that_define_no_task_are_refused_when_the_study_is_read(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TaskSpec(files="rows.jsonl", **spec)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"builtin": "sst2", "test_files": "t.jsonl"}, "test_files needs `files:`"),
        ({"hub": "me/x", "text": "t", "label": "y", "test_files": "t.jsonl"}, "test_files needs `files:`"),
        ({"builtin": "cola", "split": "validation"}, "split needs `hub:`"),
        ({"files": "a.csv", "text": "t", "label": "y", "test_split": "test"}, "test_split needs `hub:`"),
        ({"files": "a.csv", "text": "t", "label": "y", "subset": "en"}, "subset needs `hub:`"),
        ({"files": "a.csv", "text": "t", "label": "y", "revision": "main"}, "revision is for data on the hub"),
        ({"files": "a.csv", "text": "t", "label": "y", "form": "pairs"}, "form is for known tasks"),
    ],
)
def test_keys_of_another_source_are_refused(spec: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TaskSpec(**spec)


def test_a_known_task_accepts_no_columns() -> None:
    with pytest.raises(DataError, match="label, classes"):
        open_task(TaskSpec(builtin="sst2", label="label", classes=("0", "1")))


@pytest.mark.parametrize("key", ["files", "revision"])
def test_an_embedded_task_reads_no_files_and_has_no_revisions(key: str) -> None:
    with pytest.raises(DataError, match=f"{key}: main"):
        open_task(TaskSpec.model_validate({"builtin": "code_continuation", key: "main"}))


def test_lists_and_mappings_are_not_text_and_are_counted(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"prompt": f"q{n}", "good": f"yes {n}", "bad": f"no {n}"} for n in range(20)]
    rows[3]["good"] = [{"role": "assistant", "content": "yes"}]
    rows[7]["prompt"] = {"a": 1}
    rows[9]["bad"] = 9
    path = json_lines(tmp_path / "chat.jsonl", rows)
    data = open_task(TaskSpec(files=str(path), text="prompt", chosen="good", rejected="bad", max_skipped=0.2)).read()
    assert {(entry.reason, entry.first_rows) for entry in data.left_out} == {
        ("good is a list and not text", (4,)),
        ("prompt is a mapping and not text", (8,)),
    }
    assert data.table.num_rows == 18, "a number is read as text"


def test_rows_allowed_by_one_study_are_refused_by_a_stricter_one(tmp_path: Path) -> None:
    rows = [{"review": f"review {number}" if number else "", "stars": number % 2} for number in range(40)]
    spec = TaskSpec(files=str(json_lines(tmp_path / "rows.jsonl", rows)), text="review", label="stars")
    store = ArtifactStore(tmp_path / "store")
    store.prepare()
    prepare(store, "reviews", spec)
    with pytest.raises(DataError, match="1 of 40 rows"):
        prepare(store, "reviews", spec.model_copy(update={"max_skipped": 0.0}))
