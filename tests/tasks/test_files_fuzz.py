"""2,000 random small files and 500 random folders: each is read with every row and file accounted for, or refused.

There is no traceback, and a refusal names the file.
"""

import bz2
import csv
import gzip
import io
import json
import os
import random
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from w2s_ray.errors import DataError
from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks.registry import open_task
from w2s_ray.tasks.rows import RowFile
from w2s_ray.tasks.task import TaskData
from w2s_ray.tasks.text_files import text_of_file

pytestmark = pytest.mark.soak

NUM_FILES = 2000
NUM_PARTS = 8
"""Tests that share the files, so that a failure names its seed soon."""
Rows = list[dict[str, Any]]
PIECES = [
    *"abcxyz ,;|\t\"'{}[]:\\",
    "\n",
    "\r\n",
    "\r",
    "é",
    "日",
    "\u2028",
    "\ufeff",
    "\x00",
    "😀",
    "word",
    "  ",
    '""',
    "sep=;",
]
BEGINNINGS = [b"PAR1", b"\x1f\x8b", b"PK\x03\x04", b"\xff\xfe", b"\xef\xbb\xbf", b"\x00\x05\x16\x07"]
LABELS = ["pos", "neg", "Pos", "neg ", "1", "1.0", "01", "", "other", "true", "NaN", "no"]
JOINS: list[dict[Any, Any] | None] = [None, None, None, {"pos": ["Pos", True]}, {0: [1.0, "01"], "neg": False}]
STEMS = [
    *("train", "test", "TrainData", "testset", "my_test", "holdout", "dev", "validation", "train-00000-of-00002"),
    *("a", "latest", "mytest", "eval", "b copy", "X_test", "data.v2", "tést", ".hidden", "~$a", "._a", "[1]"),
]
BESIDE = ["README.md", "x.xlsx", "part-00000", "dataset_info.json", ".DS_Store", "_SUCCESS", "a.csv.lock", "notes.txt"]


def random_text(rng: random.Random, pieces: list[str]) -> str:
    return "".join(rng.choices(pieces, k=rng.randint(0, 12)))


def random_rows(rng: random.Random, pieces: list[str]) -> Rows:
    labels = rng.sample(LABELS, rng.choice([1, 2, 3, 3, 4]))
    rows = []
    for number in range(rng.choice([0, 1, 4, 12, 20, 40])):
        text = f"{number} {random_text(rng, pieces)}" if rng.random() < 0.9 else random_text(rng, pieces)
        rows.append({"text": text, "label": rng.choice(labels), "extra": random_text(rng, pieces)})
    return rows


def as_csv(rng: random.Random, rows: Rows) -> tuple[str, str]:
    delimiter, kind = rng.choice([(",", "csv"), (";", "csv"), ("|", "csv"), ("\t", "csv"), ("\t", "tsv"), (",", "tsv")])
    out = io.StringIO()
    quoting = rng.choice([csv.QUOTE_MINIMAL, csv.QUOTE_ALL])
    writer = csv.writer(out, delimiter=delimiter, quoting=quoting)  # with \r\n it quotes both
    writer.writerow(["text", "label", "extra"])
    writer.writerows(row.values() for row in rows)
    text = out.getvalue()
    is_plain = all(mark not in value for row in rows for value in row.values() for mark in "\n\r")
    return (re.sub("\r?\n", lambda _: rng.choice(["\n", "\r\n", "\r"]), text) if is_plain else text), kind


def as_joined(rng: random.Random, rows: Rows) -> tuple[str, str]:
    """Delimited text as a careless program writes it: without quoting."""
    delimiter, kind = rng.choice([(",", "csv"), (";", "csv"), ("\t", "tsv")])
    extra = [["text", "label", "extra"], ["text", "label", "label"], ["", "text", "label"], ["text", "label", "n", "n"]]
    header = rng.choice(extra)
    end = rng.choice(["\n", "\n", f"{delimiter}\n", "\r", "\r\r\n", " \n", "\n\n"])
    between = rng.choice([delimiter, delimiter, f"{delimiter} "])
    begin = rng.choice(["", "", "", "# by me\n", "\n", "sep=;\n", "   \n"])
    lines = [header, *(list(row.values()) for row in rows)]
    return begin + "".join(between.join(values) + end for values in lines), kind


def as_json(rng: random.Random, rows: Rows) -> tuple[str, str]:
    ascii_, indent = rng.random() < 0.5, rng.choice([None, None, 1])
    columns = {name: [row[name] for row in rows] for name in ("text", "label", "extra")}
    shapes: list[Any] = [
        rows,
        {"data": rows},
        {"meta": {"n": 1}, "rows": rows, "authors": [{"name": "me"}]},
        columns,
        {name: {str(n): value for n, value in enumerate(values)} for name, values in columns.items()},
        {str(n): row for n, row in enumerate(rows)},
        {"columns": list(columns), "data": [list(row.values()) for row in rows]},
        {"train": rows, "test": rows},
        {"rows": [{"row_idx": n, "row": row} for n, row in enumerate(rows)], "features": [{"name": "text"}]},
        {"data": {"rows": rows, "n": len(rows)}},
        {"hits": {"hits": [{"_source": row} for row in rows]}},
        {"status": "ok", "data": columns},
        columns | {"meta": {"by": "me"}},
        [rows],
        "text",
        [list(row.values()) for row in rows],
    ]
    if rng.random() < 0.5:
        separator = rng.choice(["\n", "\n\n", " ", "\r\n", ",\n", "\r", ""])
        texts = [json.dumps(row, ensure_ascii=ascii_, indent=indent) for row in rows]
        dress: Callable[[str], str] = rng.choice(
            [
                str,
                str,
                str,
                lambda text: f'{{"id": 1, "row": {text}}}',
                lambda text: text[:-1] + ', "n": 1, "n": NaN}',
                lambda text: text[:-1] + ', "label": "x"}',
                lambda text: str(json.loads(text)),
                lambda text: f"[{text}]",
            ]
        )
        return separator.join(map(dress, texts)), rng.choice(["json", "jsonl"])
    return json.dumps(rng.choice(shapes), ensure_ascii=ascii_, indent=indent), rng.choice(["json", "jsonl", "ndjson"])


def damaged(rng: random.Random, data: bytes) -> bytes:
    """The bytes after one accident: cut, a bit changed, a part removed or repeated, zeros, or a foreign beginning."""
    if not data:
        return data
    start, stop = sorted(rng.choices(range(len(data) + 1), k=2))
    accidents: list[Callable[[], bytes]] = [
        lambda: data[:start],
        lambda: data[:start] + bytes([rng.randrange(256)]) + data[start + 1 :],
        lambda: data[:start] + data[stop:],
        lambda: data[:stop] + data[start:stop] + data[stop:],
        lambda: data[:start] + b"\0" * 8 + data[start:],
        lambda: (
            rng.choice([b"PAR1", b"\x1f\x8b", b"PK\x03\x04", b"\xff\xfe", b"\xef\xbb\xbf", b"\x00\x05\x16\x07"]) + data
        ),
        lambda: rng.randbytes(40),
    ]
    return rng.choice(accidents)()


def random_file(rng: random.Random, folder: Path) -> tuple[Path, Rows | None]:
    """Write one file; return the rows that it surely holds, or None where it is careless or damaged."""
    careless = rng.random() < 0.25
    pieces = PIECES if rng.random() < 0.6 else ["word", " ", "a", "b"]
    rows = random_rows(rng, pieces)
    kind = rng.choice(["csv", "csv", "csv", "json", "json", "json", "parquet", "arrow", "feather"])
    path = folder / "data"
    if kind in ("parquet", "arrow", "feather"):
        schema = pa.schema([(name, pa.string()) for name in ("text", "label", "extra")])
        table, path = pa.Table.from_pylist(rows, schema=schema), folder / f"data.{kind}"
        if kind == "parquet":
            pq.write_table(table, path)
        else:
            make = rng.choice([pa.ipc.new_file, pa.ipc.new_stream])
            with make(str(path), schema) as writer:
                writer.write_table(table)
        data = path.read_bytes()
    else:
        text, ending = as_json(rng, rows) if kind == "json" else (as_joined if careless else as_csv)(rng, rows)
        encoding = rng.choice(["utf-8"] * 8 + ["utf-8-sig", "utf-16", "utf-32", "utf-16-le", "latin1", "cp1252", "gbk"])
        data = text.encode(encoding, errors="replace")
        known = encoding in ("utf-8", "utf-8-sig", "utf-16", "utf-32")
        careless = (careless and kind != "json") or not known
        path = folder / f"data.{ending}"
        if rng.random() < 0.2:
            ending, compress = rng.choice([(".gz", gzip.compress), (".bz2", bz2.compress)])
            data, path = compress(data), path.with_name(path.name + ending)
    if rng.random() < 0.2:
        data, careless = damaged(rng, data), True
    path.write_bytes(data)
    return path, None if careless else rows


def check(rng: random.Random, path: Path, rows: Rows | None) -> str:
    """Read one file in every way; return how it ended."""
    quoting = rng.choice([None, None, True, False])
    most, joined = rng.choice([0.05, 1.0, 1.0, 1.0]), rng.choice(JOINS)
    spec = TaskSpec(files=str(path), text="text", label="label", quoting=quoting, max_skipped=most, labels=joined)
    file = RowFile(path, ("text", "label"), quoting)
    try:
        task = open_task(spec)
        fingerprint = task.fingerprint()
        data = task.read()
    except DataError as error:
        assert path.name in str(error) and len(error.message) < 3000
        return "refused"
    assert open_task(spec).fingerprint() == fingerprint
    given = file.rows()
    check_rows(data, given)
    if file.path.suffix in (".csv", ".tsv"):
        lines = [line for line in re.split(r"\r\n|\r|\n", text_of_file(path)) if line]
        assert len(given) >= len(lines) - 1 - text_of_file(path).startswith("sep=") or any(
            "lines" in notice for notice in file.notices
        ), "lines were joined without a notice"
    assert [row for _, row in file.sample(1.0)] == given
    if rows is not None and file.path.name.partition(".")[2].startswith(("json", "ndjson")):
        assert [row["text"] for row in given] == [row["text"] for row in rows]
    elif rows is not None and file.path.suffix in (".parquet", ".arrow", ".feather"):
        assert given == rows
    elif rows is not None and quoting is not False and (quoting or "\t" not in separators(file)):
        assert [row["text"] for row in given] == [row["text"] for row in rows if any(row.values())]
    return "read"


def separators(file: RowFile) -> str:
    return "\t" if any("a tab" in notice for notice in file.notices) or ".tsv" in file.path.name else ","


def check_rows(data: TaskData, given: list[Any]) -> None:
    """Every row is an example or counted among those left out."""
    (source,) = data.sources
    assert source.num_rows == len(given)
    assert source.num_examples == data.table.num_rows
    assert source.num_rows == source.num_examples + sum(entry.num_rows for entry in data.left_out)


@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_random_files_are_read_whole_or_refused_by_name(part: int, tmp_path: Path) -> None:
    ends: dict[str, int] = {"read": 0, "refused": 0}
    for seed in range(part, NUM_FILES, NUM_PARTS):
        rng = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        path, rows = random_file(rng, folder)
        try:
            ends[check(rng, path, rows)] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {path} ({type(error).__name__}: {error})") from error
    assert min(ends.values()) > NUM_FILES // NUM_PARTS // 10, ends


NUM_FOLDERS = 500


def random_folder(rng: random.Random, folder: Path) -> dict[Path, int]:
    """Fill a folder; return its files with the ending of data and their numbers of rows, -1 for those without."""
    made: dict[Path, int] = {}
    for number in range(rng.randint(1, 5)):
        inner = folder.joinpath(*rng.choice([(), (), ("sub",), ("test",), ("train", "deep"), (".cache",)]))
        inner.mkdir(parents=True, exist_ok=True)
        ending = rng.choice(["jsonl", "csv", "JSONL", "parquet"])
        path = inner / f"{rng.choice(STEMS)}.{ending}"
        rows = [{"text": f"{number} {n} {path.stem}", "label": "ab"[n % 2]} for n in range(rng.randint(2, 9))]
        if path in made:
            continue
        made[path] = len(rows)
        if rng.random() < 0.08:
            made[path] = -1
            path.symlink_to(rng.choice([path, folder / "nothing"])) if rng.random() < 0.7 else os.mkfifo(path)
        elif ending == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), path)
        elif ending == "csv":
            path.write_text("".join(f"{row}\n" for row in ["text,label", *(",".join(row.values()) for row in rows)]))
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for name in rng.sample(BESIDE, rng.randint(0, 3)):
        (folder / name).write_text("{}")
    if rng.random() < 0.2:
        (folder / "loop").symlink_to(folder)
    return made


@pytest.mark.parametrize("part", range(NUM_PARTS))
def test_random_folders_are_read_with_every_file_accounted_for(part: int, tmp_path: Path) -> None:
    num_read = 0
    for seed in range(part, NUM_FOLDERS, NUM_PARTS):
        rng = random.Random(seed)
        folder = tmp_path / str(seed)
        folder.mkdir()
        made = random_folder(rng, folder)
        single = rng.choice(list(made))
        choices: list[Any] = [folder, f"{folder}/*", f"{folder}/**/*", [str(path) for path in made], single]
        files = rng.choice([*choices, [f"{folder}/*", str(single)]])
        files = files if isinstance(files, list) else str(files)
        try:
            task = open_task(TaskSpec(files=files, text="text", label="label", max_skipped=1.0))
            task.fingerprint()
            data = task.read()
        except DataError as error:
            assert str(seed) in str(error)
            continue
        except Exception as error:
            raise AssertionError(f"seed {seed}: {files} ({type(error).__name__}: {error})") from error
        num_read += 1
        notices = " ".join((*getattr(task, "notices", ()), *data.notices))
        read = {source.name: source.num_rows for source in data.sources}
        for path, num_rows in made.items():
            if str(path) in read:
                assert read[str(path)] == num_rows, f"seed {seed}: {path}"
            elif path.parent == folder and files == str(folder):
                assert path.name in notices, f"seed {seed}: {path} is neither read nor named"
        for source in data.sources:
            is_test = re.search(r"(?i)(?<!la)(?<!my)test|holdout|eval", Path(source.name).stem)
            assert source.origin == "test" or not is_test or "pool" in notices, f"seed {seed}: {source.name}"
    assert num_read > NUM_FOLDERS // NUM_PARTS // 3
