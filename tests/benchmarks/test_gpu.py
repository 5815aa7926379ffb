"""The benchmark on one GPU in its small form on a CPU, and its arithmetic; speeds are not asserted."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import gpu
import gpu_work
from pages import END, START, write_table
from w2s_ray.training.workers import Workers

PAGE = Path(__file__).parents[2] / "docs" / "gpu.md"


def test_the_small_form_measures_every_row(alone: Workers, tmp_path: Path) -> None:
    result = gpu.run_rows(alone, folder=tmp_path, is_small=True, seconds=1000.0)
    rows = [gpu_work.Row.model_validate(row) for row in result["rows"]]
    assert not [row.note for row in rows if row.note.startswith(("failed", "skipped"))]
    resumed = [row for row in rows if "resumed" in row.name]
    assert len(rows) == 11 and len(resumed) == 1
    assert "all losses are equal" in resumed[0].note
    assert all(row.tokens_per_second for row in rows if row not in resumed)
    assert [row.padding for row in rows if "varlen" in row.name] == [0.0]
    assert [row.ratio is not None for row in rows[:4]] == [False, True, True, True]
    assert all(row.mfu is None for row in rows), "a CPU has no peak"
    page = tmp_path / "gpu.md"
    page.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    write_table(page, gpu.table(result))
    written = page.read_text(encoding="utf-8")
    assert gpu.table(result) in written and "Not measured on a GPU yet." not in written


def test_rows_for_which_there_is_no_time_are_skipped_with_a_line(
    alone: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(*_: object) -> list[tuple[float, str, Callable[[], list[gpu_work.Row]]]]:
        return [(0.0, "first", lambda: [gpu_work.Row(name="first")]), (60.0, "second", lambda: 1 / 0)]

    monkeypatch.setattr(gpu, "all_rows", rows)
    result = gpu.run_rows(alone, folder=tmp_path, is_small=False, seconds=10.0)
    first, second = result["rows"]
    assert first["note"] == "" and second["note"].startswith("skipped: ")


def test_a_row_that_fails_is_noted_and_the_next_one_runs(
    alone: Workers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        gpu, "all_rows", lambda *_: [(0.0, "a", lambda: 1 / 0), (0.0, "b", lambda: [gpu_work.Row(name="b")])]
    )
    first, second = gpu.run_rows(alone, folder=tmp_path, is_small=False, seconds=10.0)["rows"]
    assert "ZeroDivisionError" in first["note"] and second["name"] == "b"


@pytest.mark.parametrize("option", ["--json", "--page"])
def test_a_file_that_cannot_be_written_is_refused_before_measuring(
    option: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu, "run_on_workers", lambda *_: 1 / 0)
    app = typer.Typer()
    app.command()(gpu.main)
    result = CliRunner().invoke(app, ["--small", option, str(tmp_path / "nope" / "file")], env={"COLUMNS": "400"})
    assert result.exit_code == 2 and option in result.output


def test_operations_follow_the_formula() -> None:
    shape = gpu_work.Shape("1B", layers=22, hidden=2048, inner=5632, heads=32, key_heads=4)
    assert shape.matrix_weights == 22 * (2 * 2048 * 2048 + 2 * 2048 * 256 + 3 * 2048 * 5632) == 968_884_224
    lengths = np.array([100, 50])
    assert shape.operations(lengths, "all") == 6 * 968_884_224 * 150 + 6 * 22 * 2048 * (100**2 + 50**2)
    assert shape.operations(lengths, "labelling") * 3 == shape.operations(lengths, "all")
    assert shape.operations(lengths, "lora") == shape.operations(lengths, "all") - 2 * 968_884_224 * 150


def test_the_page_has_a_table_or_tells_that_there_is_none() -> None:
    text = PAGE.read_text(encoding="utf-8")
    between = text.partition(START)[2].partition(END)[0].strip()
    assert between == "Not measured on a GPU yet." or "real tokens/s" in between
