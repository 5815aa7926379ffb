"""The shapes of JSON files."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.tasks.own_files import ROWS, json_lines, read, texts, write
from w2s_ray.errors import DataError
from w2s_ray.tasks.rows import RowFile

SHAPES: dict[str, Any] = {
    "list": ROWS,
    "data": {"data": ROWS},
    "with_metadata": {"version": "1.0", "citation": {"by": "me"}, "authors": [{"name": "me"}], "rows": ROWS},
    "pandas_columns": {name: {str(n): row[name] for n, row in enumerate(ROWS)} for name in ROWS[0]},
    "pandas_index": {str(n): row for n, row in enumerate(ROWS)},
    "pandas_split": {"columns": list(ROWS[0]), "index": list(range(40)), "data": [list(row.values()) for row in ROWS]},
    "pandas_table": {
        "schema": {"fields": [{"name": "index"}]},
        "data": [{"index": n, **row} for n, row in enumerate(ROWS)],
    },
    "lists": {name: [row[name] for row in ROWS] for name in ROWS[0]},
}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_json_gives_the_same_examples(shape: str, indent: int | None, tmp_path: Path) -> None:
    path = write(tmp_path / "a.json", json.dumps(SHAPES[shape], indent=indent))
    data = read(path)
    assert texts(data) == [row["text"] for row in ROWS]
    assert len(data.notices) == (shape != "list")
    assert read(path, sample=1.0).table == data.table


def test_objects_one_after_another_and_lists_named_as_lines_are_read(tmp_path: Path) -> None:
    pretty = write(tmp_path / "a.json", "\n".join(json.dumps(row, indent=2) for row in ROWS))
    lines = write(tmp_path / "b.jsonl", json.dumps(ROWS, indent=1))
    for path in (pretty, lines):
        assert texts(read(path)) == [row["text"] for row in ROWS]
    for number, row in enumerate(ROWS):
        write(tmp_path / "single" / f"{number:02d}.json", json.dumps({**row, "turns": [{"by": "me"}]}, indent=2))
    data = read(tmp_path / "single")
    assert texts(data) == [row["text"] for row in ROWS] and not data.notices


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"train": ROWS, "test": ROWS}, ("'train', 'test'", "test_files")),
        ({"data": {"train": ROWS, "test": ROWS}}, ("'data.train', 'data.test'", "test_files")),
        ({"data": {"train": ["a", "b"]}}, ("keys are 'data'", "")),
        ({"text": ["a", "b"], "label": ["bad"]}, ("'text' has 2, 'label' has 1", "")),
        ({"data": [{"sentence": "a", "mood": "b"}]}, ("no column 'text'", "'sentence', 'mood'")),
    ],
)
def test_json_without_clear_rows_is_refused_with_its_keys(content: Any, words: tuple[str, str], tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path / "a.json", json.dumps(content)))
    assert words[0] in caught.value.message and words[1] in caught.value.hint


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ('{"text": "a"}\n{oops}\n', 2),
        ('[{"text": "a"},\n{"text": \n"b"', 3),
        ('{"text": 1}\n' + "[" * 9999, 2),
        ("1" * 5000, 1),
    ],
)
def test_broken_json_is_refused_with_its_line(content: str, line: int, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"line {line} is not JSON"):
        read(write(tmp_path / "a.json", content))


SERVER = {
    "features": [{"feature_idx": 0, "name": "text", "type": {"dtype": "string"}}],
    "rows": [{"row_idx": n, "row": row, "truncated_cells": []} for n, row in enumerate(ROWS)],
    "num_rows_total": 40,
}


@pytest.mark.parametrize(
    ("value", "key"),
    [
        (SERVER, "'row'"),
        ({"hits": {"total": 40, "hits": [{"_id": str(n), "_source": row} for n, row in enumerate(ROWS)]}}, "_source"),
        ({"status": "ok", "data": {"rows": ROWS, "columns": ["text", "label"]}}, "'data.rows'"),
        ({"data": {"train": ROWS}}, "'data.train'"),
        ({"status": "ok", "data": {name: [row[name] for row in ROWS] for name in ROWS[0]}}, "'data'"),
        ({"data": {"rows": {str(n): row for n, row in enumerate(ROWS)}}}, "'data.rows'"),
    ],
)
def test_nested_and_wrapped_rows_are_read_with_the_key_that_they_are_under(
    value: Any, key: str, tmp_path: Path
) -> None:
    data = read(write(tmp_path / "a.json", json.dumps(value)))
    assert texts(data) == [row["text"] for row in ROWS] and any(key in notice for notice in data.notices)


def test_wrapped_rows_of_json_lines_are_read_in_samples_too(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", [{"id": n, "row": row} for n, row in enumerate(ROWS)])
    assert texts(read(path)) == texts(read(path, sample=1.0)) == [row["text"] for row in ROWS]
    assert any("'row'" in notice for notice in read(path, sample=1.0).notices)


def test_one_line_of_json_lines_is_a_row_whatever_its_values_are(tmp_path: Path) -> None:
    lists = {"text": ["a", "b"], "label": ["bad", "good"]}
    assert RowFile(write(tmp_path / "a.jsonl", json.dumps(lists)), ("text", "label")).rows() == [lists]
    assert len(RowFile(write(tmp_path / "a.json", json.dumps(lists)), ("text", "label")).rows()) == 2
    mixed = {"text": "a b", "tokens": ["a", "b"], "label": "bad"}
    for name in ("b.jsonl", "b.json"):
        assert RowFile(write(tmp_path / name, json.dumps(mixed)), ("text", "label")).rows() == [mixed]
    with_meta = {**lists, "meta": {"by": "me"}, "ids": [1, 2, 3]}
    assert RowFile(write(tmp_path / "c.json", json.dumps(with_meta)), ("text", "label")).rows() == [
        {"text": "a", "label": "bad"},
        {"text": "b", "label": "good"},
    ]


@pytest.mark.parametrize("share", [None, 1.0])
def test_a_repeated_key_that_is_not_read_is_a_notice(share: float | None, tmp_path: Path) -> None:
    lines = [json.dumps(row)[:-1] + ', "note": 1, "note": 2}\n' for row in ROWS]
    data = read(write(tmp_path / "a.jsonl", "".join(lines)), sample=share)
    assert data.table.num_rows == 40
    (notice,) = data.notices
    assert "'note' twice" in notice


@pytest.mark.parametrize(
    ("content", "remedy"),
    [
        ('{"text": "a"},\n{"text": "b"},\n', "comma"),
        ('[{"text": "a"},]', "comma"),
        ("{'text': 'a'}\n", "json.dumps"),
        ('{"text": None}\n', "json.dumps"),
        ('// mine\n[{"text": "a"}]', "comments"),
        ('{"text": "a"}\n\ufeff{"text": "b"}\n', "byte order mark"),
    ],
)
def test_text_that_is_almost_json_is_refused_with_what_is_wrong(content: str, remedy: str, tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path / "a.json", content))
    assert remedy in caught.value.hint and " at " in caught.value.message
