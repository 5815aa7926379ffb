"""The page on large models is true: its studies plan, every stage fits, and its table is what the script prints."""

from pathlib import Path

import pytest
import typer
import yaml
from typer.testing import CliRunner

import large_models
import pages
from large_models import PAGE, cluster, fits, studies, table
from w2s_ray.spec.load import parse_study

STUDIES = list(studies(PAGE))
APP = typer.Typer()
APP.command()(large_models.main)


def test_the_page_has_studies_for_1_8_and_64_gpus() -> None:
    assert [gpus for gpus, _ in STUDIES] == [1, 1, 8, 64]


@pytest.mark.parametrize(("gpus", "raw"), STUDIES, ids=lambda value: value["name"] if isinstance(value, dict) else "")
def test_every_stage_of_the_page_fits_into_the_memory_that_it_names(gpus: int, raw: dict[str, object]) -> None:
    found = list(fits(parse_study(raw), cluster(gpus, 141.0, 2000.0)))
    assert found and all(fit.fits and fit.available == 141_000_000_000 for fit in found)


def test_the_table_of_the_page_is_what_the_script_prints(tmp_path: Path) -> None:
    text = table(PAGE, 141.0, 2000.0)
    copy = tmp_path / "page.md"
    copy.write_text(PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    pages.write_table(copy, text)
    assert copy.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8"), (
        "run benchmarks/large_models.py --write"
    )


@pytest.mark.parametrize(
    ("model", "arguments", "named"),
    [
        ("w2s:small", ["study.yaml"], "w2s:small"),
        ("Qwen/Qwen2.5-7B", ["nope.yaml"], "nope.yaml"),
        ("Qwen/Qwen2.5-7B", ["study.yaml", "--write"], "--write"),
        ("", ["--gpu-gb", "-5"], "--gpu-gb"),
        ("", ["--gpus", "3"], "--gpus"),
    ],
)
def test_wrong_inputs_end_with_exit_code_2_and_name_themselves(
    model: str, arguments: list[str], named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    study = {"name": "own", "tasks": {"sst2": {"builtin": "sst2"}}, "ladder": {"a": model, "b": model}}
    Path("study.yaml").write_text(yaml.safe_dump(study))
    result = CliRunner().invoke(APP, arguments, env={"COLUMNS": "200"})
    assert result.exit_code == 2 and named in result.output


def test_a_study_of_your_own_has_its_rows(tmp_path: Path) -> None:
    (_, raw), *_ = STUDIES
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(raw))
    result = CliRunner().invoke(APP, [str(tmp_path / "study.yaml"), "--gpus", "1"])
    assert result.exit_code == 0 and result.output.strip() in table(PAGE, 141.0, 2000.0)


def test_stored_adapters_are_counted_in_fp32() -> None:
    (row,) = (row for row in table(PAGE, 141.0, 2000.0).splitlines() if row.startswith("| 1 | 72b, LoRA"))
    *_, checkpoint, saved, _ = (cell.strip() for cell in row.split("|"))
    assert float(saved) == pytest.approx(float(checkpoint) / 3, abs=0.05)


def test_smaller_gpus_need_other_settings() -> None:
    (raw,) = (raw for gpus, raw in STUDIES if gpus == 64)
    strongest = list(fits(parse_study(raw), cluster(64, 40.0, 2000.0)))[-1]
    assert strongest.fits and strongest.stage.execution.offload_optimizer
