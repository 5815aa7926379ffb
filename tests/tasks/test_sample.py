"""`sample:`, a share of the rows by hash."""

import csv
import gzip
import json
import random
import tracemalloc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from w2s_ray import hub
from w2s_ray.errors import DataError
from w2s_ray.hub import HubRepo
from w2s_ray.spec.identity import identity
from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks import rows as row_files
from w2s_ray.tasks.registry import open_task
from w2s_ray.tasks.rows import RowFile
from w2s_ray.tasks.task import TaskData

Row = dict[str, Any]
FORMATS = ("a.csv", "a.tsv", "a.csv.gz", "a.jsonl", "a.jsonl.zst", "a.json", "list.json", "a.parquet")


def rows(num: int) -> list[Row]:
    """Rows with quotes, commas and line breaks; a value on several lines is one row."""
    return [{"text": f'row {n}, "quoted"\nsecond line \u2028', "mood": ("bad", "good")[n % 2]} for n in range(num)]


def write(path: Path, rows: Sequence[Row]) -> Path:
    if path.name == "list.json":
        path.write_text(json.dumps(rows))
    elif path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
    elif ".csv" in path.name or ".tsv" in path.name:
        plain = path.with_name("plain")
        with plain.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, ["text", "mood"], delimiter="\t" if ".tsv" in path.name else ",")
            writer.writeheader()
            writer.writerows(rows)
        content = plain.read_bytes()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    else:
        lines = "".join(json.dumps(row) + "\n" for row in rows).encode()
        if path.suffix == ".zst":
            with pa.CompressedOutputStream(str(path), "zstd") as compressed:
                compressed.write(lines)
        else:
            path.write_bytes(lines)
    return path


def row_file(path: Path) -> RowFile:
    """The file, read as `write` wrote it: with fields in quotes."""
    return RowFile(path, quoting=True if path.suffix == ".tsv" else None)


def read(path: Path, share: float | None, **spec: Any) -> TaskData:
    return open_task(TaskSpec(files=str(path), text="text", label="mood", sample=share, **spec)).read()


@pytest.mark.parametrize("name", FORMATS)
def test_a_sample_has_its_share_of_the_rows_with_their_numbers(name: str, tmp_path: Path) -> None:
    path = write(tmp_path / name, rows(2000))
    numbered = list(row_file(path).sample(0.1))
    assert 140 < len(numbered) < 260
    whole = row_file(path).rows()
    assert all(whole[number - 1] == row for number, row in numbered)
    assert list(row_file(path).sample(1.0)) == list(enumerate(whole, start=1))


@pytest.mark.parametrize("name", FORMATS)
def test_a_sample_does_not_depend_on_the_order_of_rows(name: str, tmp_path: Path) -> None:
    given = rows(300)
    shuffled = random.Random(0).sample(given, len(given))
    (tmp_path / "b").mkdir()
    chosen = [row["text"] for _, row in row_file(write(tmp_path / name, given)).sample(0.2)]
    others = [row["text"] for _, row in row_file(write(tmp_path / "b" / name, shuffled)).sample(0.2)]
    assert sorted(chosen) == sorted(others) and chosen != others


def test_a_smaller_sample_is_part_of_a_larger_one(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(500))
    small, large = ({number for number, _ in row_file(path).sample(share)} for share in (0.1, 0.3))
    assert small < large


def test_rows_outside_of_the_sample_are_not_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "a.jsonl", rows(200))
    parsed: list[str] = []
    parse = row_files.parsed

    def counted(path: Path, text: str, line: int) -> Any:
        parsed.append(text)
        return parse(path, text, line)

    monkeypatch.setattr(row_files, "parsed", counted)
    assert 0 < len(list(row_file(path).sample(0.2))) == len(parsed) < 80


def test_a_sample_takes_little_memory(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv.gz", [row | {"text": f"{row['text']} {'x' * 400}"} for row in rows(20_000)])

    def peak(share: float | None) -> int:
        tracemalloc.start()
        try:
            list(row_file(path).sample(share)) if share else row_file(path).rows()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(0.01) * 4 < peak(None)


def test_rows_left_out_of_a_sample_have_their_numbers_in_the_file(tmp_path: Path) -> None:
    given = [{**row, "mood": row["mood"] if n % 10 else ""} for n, row in enumerate(rows(400), start=1)]
    (entry,) = read(write(tmp_path / "a.csv", given), 0.5, max_skipped=0.5).left_out
    assert 8 < entry.num_rows < 32 and 150 < entry.num_source_rows < 250
    assert len(entry.first_rows) == 5 and all(number % 10 == 0 for number in entry.first_rows)


def test_the_sample_is_part_of_the_fingerprint_only_if_given(tmp_path: Path) -> None:
    spec = TaskSpec(files=str(write(tmp_path / "a.csv", rows(40))), text="text", label="mood")
    shares = [spec.model_copy(update={"sample": share}) for share in (None, 0.5, 0.6)]
    assert len({open_task(part).fingerprint() for part in shares}) == 3
    assert open_task(shares[0]).fingerprint() == open_task(spec).fingerprint()
    assert identity("task", spec) == identity("task", shares[0]) != identity("task", shares[1])


def test_a_known_task_and_one_on_the_hub_are_sampled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [{"text": f"tweet {n}", "label": n % 2} for n in range(400)]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    local = open_task(TaskSpec(builtin="twitter_sentiment", files=str(path), sample=0.25)).read().table
    assert 60 < local.num_rows < 140

    def load_dataset(path: str, **options: Any) -> list[Row]:
        return [{**row, "text": f"{options['split']} {row['text']}"} for row in given]

    monkeypatch.setattr(hub, "look_up", lambda name, revision, repo_type: HubRepo("c" * 40, (), None))
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    for spec in ({"builtin": "twitter_sentiment"}, {"hub": "me/mine", "text": "text", "label": "label"}):
        task = open_task(TaskSpec.model_validate({**spec, "sample": 0.25}))
        of_pool = [origin for origin in task.read().table["origin"].to_pylist() if origin == "pool"]
        assert 60 < len(of_pool) < 140


def test_an_empty_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"sample of 0\.0001"):
        read(write(tmp_path / "a.csv", rows(4)), 0.0001)


@pytest.mark.parametrize("share", [0, 1.5, -0.1])
def test_a_sample_is_a_share(share: float) -> None:
    with pytest.raises(ValidationError):
        TaskSpec(files="a.csv", text="text", label="mood", sample=share)


def test_a_task_made_from_packages_has_no_sample() -> None:
    with pytest.raises(DataError, match=r"sample: 0\.5"):
        open_task(TaskSpec(builtin="code_domain", sample=0.5))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("text,mood\na,b,c\n", "line 2 does not have as many fields"),
        ('text,mood\n"a"x,b\n', "line 2"),
        ("text,mood\n\xe9,b\n", "0xe9 on line 2"),
    ],
)
def test_a_bad_csv_file_is_refused_with_its_line(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content.encode("latin1"))
    with pytest.raises(DataError, match=message):
        list(row_file(path).sample(1.0))


def test_a_file_that_is_not_compressed_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_text("not compressed")
    with pytest.raises(DataError, match="not compressed with gzip"):
        list(row_file(path).sample(1.0))
