"""The code that every data set shares, with a recipe for these tests."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from w2s_ray.errors import DataError
from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks.dataset import Recipe
from w2s_ray.tasks.examples import Example, Format, class_of, text_of
from w2s_ray.tasks.registry import known_tasks, open_task, register_task
from w2s_ray.tasks.rows import Row
from w2s_ray.tasks.task import POOL, TEST, TaskData


def weather(row: Row) -> Iterable[Example]:
    yield Example(text_of(row, "report"), str(row["day"]), class_of(row, "rain", ("dry", "wet")))


WEATHER = Recipe(
    name="weather_for_tests",
    format=Format("classes", ("report", "rain", "day"), weather, ("dry", "wet")),
    hub="nobody/weather",
    licence="none",
    citation="the tests",
    protocol="is it raining?",
    test="validation",
)


def rows(num: int, first: int = 0) -> list[dict[str, Any]]:
    return [{"report": f"report {n}", "rain": n % 2, "day": n // 2} for n in range(first, first + num)]


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(autouse=True)
def registered() -> None:
    register_task(WEATHER.name, WEATHER)


def read(files: Path, **spec: Any) -> TaskData:
    return open_task(TaskSpec(builtin=WEATHER.name, files=str(files), **spec)).read()


def test_a_recipe_reads_its_columns_from_local_files(tmp_path: Path) -> None:
    data = read(write(tmp_path / "mine.jsonl", rows(4)), test_files=str(write(tmp_path / "t.jsonl", rows(2, 10))))
    assert data.table["text"].to_pylist()[:2] == ["report 0", "report 1"]
    assert data.table["label"].to_pylist() == [0, 1, 0, 1, 0, 1]
    assert data.table["group"].to_pylist() == ["0", "0", "1", "1", "5", "5"]
    assert data.table["origin"].to_pylist() == [POOL] * 4 + [TEST] * 2
    assert WEATHER.info in known_tasks()


def test_in_a_folder_the_files_named_after_the_splits_are_read(tmp_path: Path) -> None:
    write(tmp_path / "train-0.jsonl", rows(2))
    write(tmp_path / "train-1.jsonl", rows(2, 2))
    write(tmp_path / "validation.jsonl", rows(2, 4))
    write(tmp_path / "test.jsonl", rows(2, 6))
    assert read(tmp_path).table["origin"].to_pylist() == [POOL] * 4 + [TEST] * 2


def test_a_folder_without_the_pool_split_is_read_whole_as_the_pool(tmp_path: Path) -> None:
    write(tmp_path / "validation.jsonl", rows(4))
    assert read(tmp_path).table["origin"].to_pylist() == [POOL] * 4


def test_an_unusable_row_is_left_out_and_reported_with_its_number(tmp_path: Path) -> None:
    bad = [{"report": " ", "rain": 1, "day": 9}, {"report": "x", "rain": 7, "day": 9}, {"report": "y", "day": 9}]
    data = read(write(tmp_path / "a.jsonl", [*rows(97), *bad]))
    assert data.table.num_rows == 97
    assert [(entry.reason, entry.num_rows, entry.first_rows) for entry in data.left_out] == [
        ("no report", 1, (98,)),
        ("unknown rain 7", 1, (99,)),
        ("no rain", 1, (100,)),
    ]


def test_too_many_unusable_rows_are_refused_with_their_reasons(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [*rows(8), {"report": "", "rain": 1, "day": 9}])
    with pytest.raises(DataError, match=r"1 of 9 rows are not usable, .* no report in row 9"):
        read(path)
    assert read(path, max_skipped=0.2).table.num_rows == 8


def test_a_missing_column_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", [{"reprot": "x", "rain": 1, "day": 1}])
    with pytest.raises(DataError, match="did you mean 'reprot'"):
        read(path)
