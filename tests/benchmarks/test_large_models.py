"""The page on large models is true: its studies plan, every stage fits, and its table is what the script prints."""

from pathlib import Path

import pytest

import large_models
from large_models import PAGE, cluster, fits, studies, table
from w2s_ray.spec.load import parse_study

STUDIES = list(studies(PAGE))


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
    large_models.write_page(copy, text)
    assert copy.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8"), (
        "run benchmarks/large_models.py --write"
    )


def test_smaller_gpus_need_other_settings() -> None:
    (raw,) = (raw for gpus, raw in STUDIES if gpus == 64)
    strongest = list(fits(parse_study(raw), cluster(64, 40.0, 2000.0)))[-1]
    assert strongest.fits and strongest.stage.execution.offload_optimizer
