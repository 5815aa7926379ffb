"""Files as people have them: each is read as it is meant, with a notice, or refused by name."""

import gzip
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from w2s_ray.errors import DataError
from w2s_ray.spec.identity import identity
from w2s_ray.spec.load import load_study
from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks.dataset import DatasetTask
from w2s_ray.tasks.registry import open_task
from w2s_ray.tasks.rows import RowFile
from w2s_ray.tasks.task import POOL, TEST, TaskData

ROWS = [{"text": f"row number {n}", "label": ("bad", "good")[n % 2]} for n in range(40)]
Rows = Sequence[dict[str, Any]]
PINNED = {"a.csv": "98ccea023e41", "a.tsv": "52888f87df85", "a.jsonl": "a3580f736f86", "a.json": "8381c6b02139"}
PINNED_FOLDER = "c942d6267a80"
"""Of the version before this reader."""


def opened(files: Path | str | Sequence[str], **spec: Any) -> DatasetTask:
    paths = str(files) if isinstance(files, Path | str) else tuple(files)
    task = open_task(TaskSpec(**{"files": paths, "text": "text", "label": "label", **spec}))
    assert isinstance(task, DatasetTask)
    return task


def read(files: Path | str | Sequence[str], **spec: Any) -> TaskData:
    return opened(files, **spec).read()


def delimited(rows: Rows, delimiter: str = ",") -> str:
    lines = [delimiter.join(rows[0])] + [delimiter.join(map(str, row.values())) for row in rows]
    return "".join(f"{line}\n" for line in lines)


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def json_lines(path: Path, rows: Rows = ROWS) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


def texts(data: TaskData, origin: str | None = None) -> list[str]:
    return [row["text"] for row in data.table.to_pylist() if origin in (None, row["origin"])]


def table_with_a_column_twice() -> pa.Table:
    return pa.table([["a", "b"], ["bad", "good"], ["good", "bad"]], names=["text", "label", "label"])


@pytest.mark.parametrize("share", [None, 1.0])
@pytest.mark.parametrize(
    ("name", "content", "column"),
    [
        ("a.csv", "text,label,label\na,bad,good\nb,good,bad\n", "label"),
        ("a.csv", "text,label,text\na,bad,good\nb,good,bad\n", "text"),
        ("a.csv", '"text";"label";"label"\na;bad;good\nb;good;bad\n', "label"),
        ("a.tsv", "label\ttext\tlabel\na\tbad\tgood\nb\tgood\tbad\n", "label"),
        ("a.csv.gz", gzip.compress(b"text,label,label\na,bad,good\nb,good,bad\n"), "label"),
        ("a.jsonl", '{"text": "a", "label": "bad"}\n{"text": "b", "label": "bad", "label": "good"}\n', "label"),
        ("a.json", '[{"text": "a", "label": "bad"}, {"text": "b", "text": "c", "label": "good"}]', "text"),
        ("a.json", '{"data": [{"text": "b", "text": "c", "label": "good"}]}', "text"),
        ("a.json", '{"columns": ["text", "label", "label"], "data": [["a", "bad", "good"]]}', "label"),
    ],
)
def test_a_column_that_occurs_twice_is_refused_with_its_name(
    name: str, content: str | bytes, column: str, share: float | None, tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path / name, content), sample=share)
    assert repr(column) in caught.value.message and name in caught.value.message


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow"])
def test_a_table_with_a_column_twice_is_refused_with_its_name(name: str, tmp_path: Path) -> None:
    table = table_with_a_column_twice()
    if name == "a.parquet":
        pq.write_table(table, tmp_path / name)
    else:
        with pa.ipc.new_file(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    with pytest.raises(DataError, match="'label' 2 times"):
        read(tmp_path / name)


def test_columns_without_a_name_may_repeat_and_their_values_are_noticed(tmp_path: Path) -> None:
    lines = [f",{row['text']},{row['label']},," for row in ROWS]
    assert not read(write(tmp_path / "a.csv", "\n".join([",text,label,,", *lines]))).notices
    lines[4] = ",Three,good,rest,"
    (notice,) = read(write(tmp_path / "b.csv", "\n".join([",text,label,,", *lines]))).notices
    assert "1 row has a value" in notice


@pytest.mark.parametrize("share", [None, 0.5])
@pytest.mark.parametrize(("name", "delimiter"), [("a.csv", ","), ("a.tsv", "\t"), ("b.csv", ";")])
def test_a_header_in_the_middle_of_a_file_is_refused_with_its_line(
    name: str, delimiter: str, share: float | None, tmp_path: Path
) -> None:
    content = delimited(ROWS, delimiter) + delimited(
        [{**row, "text": f"more {row['text']}"} for row in ROWS], delimiter
    )
    with pytest.raises(DataError, match="line 42 is the header again"):
        read(write(tmp_path / name, content), sample=share)


def test_columns_whose_names_look_alike_are_noticed(tmp_path: Path) -> None:
    data = read(
        write(tmp_path / "a.csv", "text,label, Label\n" + "".join(f"{row['text']},{row['label']},x\n" for row in ROWS))
    )
    assert data.class_names == ("bad", "good") and "' Label'" in data.notices[0]


def test_an_unknown_delimiter_is_suspected_where_one_column_has_all_names(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path / "a.csv", delimited(ROWS, "^")))
    assert "'text^label'" in caught.value.hint and "separate" in caught.value.hint


TSV = [f"sentence {n}\t{row['label']}" for n, row in enumerate(ROWS)]


def with_stray_quotes(delimiter: str = "\t") -> str:
    lines = ["text\tlabel", *TSV]
    lines[10] = '"I am off , said the actor\tgood'
    lines[30] = 'and so he went"\tbad'
    return "\n".join(lines).replace("\t", delimiter) + "\n"


def test_a_quotation_mark_in_a_tsv_file_joins_no_lines(tmp_path: Path) -> None:
    data = read(write(tmp_path / "a.tsv", with_stray_quotes()))
    assert data.sources[0].num_rows == data.table.num_rows == 40
    assert '"I am off , said the actor' in texts(data) and not data.notices
    tabs = read(write(tmp_path / "tabs.csv", with_stray_quotes()))
    assert tabs.table.num_rows == 40 and "a tab" in tabs.notices[0]


@pytest.mark.parametrize(("name", "delimiter"), [("a.tsv", "\t"), ("a.csv", ","), ("b.csv", ";")])
def test_a_field_that_spans_lines_is_counted_and_named(name: str, delimiter: str, tmp_path: Path) -> None:
    content = with_stray_quotes("\t").replace(" , ", " ").replace("\t", delimiter)
    data = read(write(tmp_path / name, content), quoting=True)
    assert data.table.num_rows == 20
    assert any("1 row has a field" in notice and "from line 11 to 31" in notice for notice in data.notices)
    assert read(tmp_path / name, quoting=True, sample=1.0).notices == data.notices
    assert read(tmp_path / name, quoting=False).table.num_rows == 40


def test_the_first_rows_and_the_longest_field_of_several_lines_are_named(tmp_path: Path) -> None:
    fields = ['"' + "line\n" * (2 + (n == 7)) + f'{n}"' for n in range(9)]
    content = "text,label\nx,bad\n" + "".join(f"{field},good\n" for field in fields)
    (notice,) = read(write(tmp_path / "a.csv", content)).notices
    assert "9 rows have fields" in notice and "(row 2, 3, 4, 5, 6 …)" in notice and "from line 24 to 27" in notice


def test_a_header_that_spans_lines_is_noticed(tmp_path: Path) -> None:
    content = 'text,label,"note\nfirst row,bad,none"\n' + "".join(f"{row['text']},{row['label']},\n" for row in ROWS)
    data = read(write(tmp_path / "a.csv", content))
    assert data.table.num_rows == 40 and "the header has lines 1 to 2" in data.notices[0]


def test_quoted_fields_of_a_tsv_file_are_noticed(tmp_path: Path) -> None:
    content = "text\tlabel\n" + "".join(f'"row ""{n}"""\t{row["label"]}\n' for n, row in enumerate(ROWS))
    data = read(write(tmp_path / "a.tsv", content))
    assert "40 rows have fields in double quotes" in data.notices[0] and texts(data)[0] == '"row ""0"""'
    quoted = read(tmp_path / "a.tsv", quoting=True)
    assert texts(quoted)[0] == 'row "0"' and not quoted.notices
    lines = content.replace('"row ""7"""', '"row\n7"')
    with pytest.raises(DataError, match="line 9 does not have as many fields") as caught:
        read(write(tmp_path / "b.tsv", lines))
    assert "quoting: true" in caught.value.hint


def test_the_fingerprint_changes_only_where_quotation_marks_change_the_rows(tmp_path: Path) -> None:
    def digest(content: str, quoting: bool | None) -> str:
        return RowFile(write(tmp_path / "a.tsv", content), quoting=quoting).digest()

    plain, inside = "text\tlabel\na\tb\n", 'text\tlabel\na "b" c\td\n'
    for content in (plain, inside):
        assert digest(content, None) == digest(content, True) == digest(content, False)
        assert digest(content, None).startswith("tsv ") and len(digest(content, None).split()) == 2
    stray = 'text\tlabel\n"a\tb\n'
    assert digest(stray, None) == digest(stray, False) != digest(stray, True)
    comma = RowFile(write(tmp_path / "a.csv", 'text,label\n"a",b\n'))
    assert comma.digest().split()[0] == "csv" and len(comma.digest().split()) == 2


@pytest.mark.parametrize("share", [None, 1.0])
@pytest.mark.parametrize(
    ("name", "delimiter"),
    [("a.csv", ";"), ("a.csv", "|"), ("a.csv", "\t"), ("a.tsv", ","), ("a.tsv", ";"), ("b.csv.gz", ";")],
)
def test_another_delimiter_is_found_and_noticed(name: str, delimiter: str, share: float | None, tmp_path: Path) -> None:
    rows = [{**row, "text": f"one{'' if delimiter == ',' else ','} two {row['text']}", "score": "0,5"} for row in ROWS]
    rows = rows if delimiter != "," else [{**row, "score": "1"} for row in rows]
    content = delimited(rows, delimiter).encode()
    data = read(write(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content), sample=share)
    assert data.table.num_rows == 40 and set(data.class_names) == {"bad", "good"}
    assert any("separated by" in notice for notice in data.notices)
    assert repr(delimiter) in RowFile(tmp_path / name).digest()


def test_the_delimiter_is_found_when_texts_contain_the_usual_one(tmp_path: Path) -> None:
    rows = [{"id": n, "text, full": f"a, b{', c' * (n % 3)}", "label": row["label"]} for n, row in enumerate(ROWS)]
    rows = [{**row, "text, full": f"{row['text, full']} {row['id']}"} for row in rows]
    data = read(write(tmp_path / "a.csv", delimited(rows, ";")), text="text, full")
    assert data.table.num_rows == 40
    excel = read(write(tmp_path / "b.csv", "sep=;\r\n" + delimited(ROWS, ";").replace("\n", "\r\n")))
    assert texts(excel) == [row["text"] for row in ROWS]


def test_one_column_of_text_has_no_delimiter(tmp_path: Path) -> None:
    lines = [f"a; b | c {'; d' * (n % 4)} {n}" for n in range(30)]
    data = open_task(TaskSpec(files=str(write(tmp_path / "a.csv", "\n".join(["text", *lines]))), text="text")).read()
    assert texts(data) == lines and not data.notices


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json"])
def test_text_with_a_byte_order_mark_is_read(name: str, encoding: str, tmp_path: Path) -> None:
    rows = [{**row, "text": f"Größe {row['text']}"} for row in ROWS]
    content = {"csv": delimited(rows), "tsv": delimited(rows, "\t"), "json": json.dumps(rows)}.get(name[2:])
    content = content or "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path = write(tmp_path / name, content.encode(encoding))
    data = read(path)
    assert texts(data) == [row["text"] for row in rows]
    assert bool(data.notices) == (encoding != "utf-8-sig")
    assert [row for _, row in RowFile(path).sample(1.0)] == RowFile(path).rows()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("text,label\nGröße,a\nb,c\n".encode("latin1"), ("0xf6 on line 2", "latin1")),
        ("text,label\nb,c\n“Quote”,a\n".encode("cp1252"), ("0x93 on line 3", "cp1252")),
        ("text,label\nab,cd\n".encode("utf-16-le"), ("UTF-16", "utf-16le")),
        ("text,label\nab,cd\n".encode("utf-16-be"), ("UTF-16", "utf-16be")),
    ],
)
def test_text_in_another_encoding_is_refused_with_the_command_that_converts_it(
    content: bytes, words: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        read(write(tmp_path / "a.csv", content))
    assert words[0] in caught.value.message and words[1] in caught.value.hint


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"PAR1....PAR1", "Parquet"),
        (gzip.compress(b"text,label\n"), "gzip"),
        (b"PK\x03\x04\x14\x00", "Excel"),
        (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "AppleDouble"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        (b"\n<!DOCTYPE html>\n<html></html>", "web page"),
        (b"\x80\x04\x95\x00\x00", "pickle"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.json", "a.jsonl"])
def test_another_kind_of_file_is_refused_as_what_it_is(name: str, content: bytes, kind: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=kind):
        read(write(tmp_path / name, content))


def saved(folder: Path, rows: Rows = ROWS, num_files: int = 1) -> Path:
    """A folder as `Dataset.save_to_disk` writes it."""
    folder.mkdir(parents=True)
    table = pa.Table.from_pylist(list(rows))
    names = [f"data-{n:05d}-of-{num_files:05d}.arrow" for n in range(num_files)]
    for n, name in enumerate(names):
        part = table.slice(n * len(rows) // num_files, len(rows) // num_files)
        with pa.OSFile(str(folder / name), "wb") as sink, pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(part)
    write(folder / "state.json", json.dumps({"_data_files": [{"filename": name} for name in names], "_split": "train"}))
    write(folder / "dataset_info.json", json.dumps({"features": {}}, indent=2))
    write(folder / "cache-0.arrow", b"not read")
    return folder


def test_a_saved_dataset_is_read_like_its_library_reads_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_list(list(ROWS)).save_to_disk(str(tmp_path / "saved"), num_shards=2)
    assert texts(read(tmp_path / "saved")) == [row["text"] for row in ROWS]
    test = [{**row, "text": f"test {row['text']}"} for row in ROWS]
    both = datasets.DatasetDict(
        train=datasets.Dataset.from_list(list(ROWS)),
        test=datasets.Dataset.from_list(test),
        validation=datasets.Dataset.from_list([{**ROWS[0], "text": "one more"}]),
    )
    both.save_to_disk(str(tmp_path / "both"))
    task = opened(tmp_path / "both")
    data = task.read()
    assert len(texts(data, POOL)) == 41 and len(texts(data, TEST)) == 40
    assert any("test set, by name" in notice for notice in task.notices)


def test_a_saved_dataset_without_one_of_its_files_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "saved", num_files=2)
    assert read(folder).table.num_rows == 40
    (folder / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(DataError, match=r"data-00001-of-00002\.arrow"):
        read(folder)


@pytest.mark.parametrize("name", ["._a.jsonl", ".~a.jsonl", "~$a.csv", ".ipynb_checkpoints/a-checkpoint.jsonl"])
def test_a_sidecar_beside_data_is_not_read(name: str, tmp_path: Path) -> None:
    json_lines(tmp_path / "a.jsonl")
    write(tmp_path / name, b"\x00\x05\x16\x07\xb0")
    for files in (tmp_path, str(tmp_path / "*"), str(tmp_path / "**" / "*")):
        task = opened(files)
        assert task.read().table.num_rows == 40
        if "/" not in name:
            assert any(name in notice for notice in task.notices)


def test_descriptions_and_unknown_files_beside_data_are_noticed(tmp_path: Path) -> None:
    json_lines(tmp_path / "a.jsonl")
    write(tmp_path / "dataset_infos.json", "{}")
    write(tmp_path / "more.xlsx", b"PK\x03\x04")
    write(tmp_path / "README.md", "read me")
    write(tmp_path / ".DS_Store", "")
    json_lines(tmp_path / "deeper" / "b.jsonl")
    task = opened(tmp_path)
    assert task.read().table.num_rows == 40
    shown = " ".join(task.notices)
    assert all(name in shown for name in ("dataset_infos.json", "more.xlsx", "deeper/")) and "README" not in shown


def test_lists_patterns_and_folders_name_the_same_files(tmp_path: Path) -> None:
    json_lines(tmp_path / "a.jsonl", ROWS[:20])
    json_lines(tmp_path / "b.jsonl", ROWS[20:])
    json_lines(tmp_path / "deep" / "er" / "c.jsonl", ROWS)
    one, other = str(tmp_path / "a.jsonl"), str(tmp_path / "b.jsonl")
    prints = {
        opened(files).fingerprint()
        for files in (
            [one, other],
            str(tmp_path / "*.jsonl"),
            tmp_path,
            [f"{tmp_path}/?.jsonl", one],
            f"{tmp_path}/[ab].jsonl",
        )
    }
    assert len(prints) == 1
    assert len(opened(f"{tmp_path}/**/*.jsonl").rows.read()) == 3
    assert opened([one]).fingerprint() == opened(one).fingerprint()
    with pytest.raises(DataError, match="no data file matches"):
        opened(f"{tmp_path}/*.csv")


def test_a_pattern_below_a_folder_whose_name_looks_like_one_finds_its_files(tmp_path: Path) -> None:
    home = tmp_path / "study[1]"
    json_lines(home / "a.jsonl", ROWS)
    raw = {"name": "x", "tasks": {"t": {"files": "*.jsonl", "text": "text", "label": "label"}}}
    (home / "study.yaml").write_text(json.dumps({**raw, "ladder": {"s": "w2s:small", "l": "w2s:large"}}))
    files = load_study(home / "study.yaml").tasks["t"].files
    assert files is not None and read(files).table.num_rows == len(ROWS)


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path: Path) -> None:
    assert read(json_lines(tmp_path / "a[1].jsonl")).table.num_rows == 40


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("train-00000-of-00001.jsonl", "test-00000-of-00001.jsonl"),
        ("train.jsonl", "test.jsonl"),
        ("reviews.jsonl", "reviews_test.jsonl"),
        ("my.train.jsonl", "my.TEST.jsonl"),
        ("train/0.jsonl", "test/0.jsonl"),
        ("en/train.jsonl", "en/eval.jsonl"),
    ],
)
def test_files_named_after_the_test_set_are_the_test_set(train: str, test: str, tmp_path: Path) -> None:
    json_lines(tmp_path / train, ROWS)
    json_lines(tmp_path / test, [{**row, "text": f"test {row['text']}"} for row in ROWS[:10]])
    for files in (tmp_path, f"{tmp_path}/**/*.jsonl"):
        task = opened(files)
        data = task.read()
        assert (len(texts(data, POOL)), len(texts(data, TEST))) == (40, 10)
        assert any("test set, by name" in notice for notice in task.notices)


def test_files_that_only_contain_the_letters_of_test_are_the_pool(tmp_path: Path) -> None:
    for number, name in enumerate(("latest.jsonl", "contest.jsonl", "train_test.jsonl")):
        json_lines(tmp_path / name, [{**row, "text": f"{number} {row['text']}"} for row in ROWS])
    task = opened(tmp_path)
    assert len(texts(task.read(), POOL)) == 120 and not task.notices


def test_test_files_that_are_listed_for_the_pool_stay_there_with_a_notice(tmp_path: Path) -> None:
    train = json_lines(tmp_path / "train.jsonl", ROWS)
    test = json_lines(tmp_path / "test.jsonl", [{**row, "text": f"test {row['text']}"} for row in ROWS])
    task = opened([str(train), str(test)])
    assert len(texts(task.read(), POOL)) == 80 and "in spite of the name: test.jsonl" in task.notices[0]
    other = json_lines(tmp_path / "more" / "other.jsonl", [{**row, "text": f"other {row['text']}"} for row in ROWS])
    task = opened(tmp_path, test_files=str(other))
    assert len(texts(task.read(), TEST)) == 40 and any("in spite of the name" in line for line in task.notices)
    assert not opened(str(train), test_files=(str(test), str(other))).notices


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
        ({"data": {"train": ROWS}}, ("keys are 'data'", "")),
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


def test_a_wrong_column_lists_the_columns_that_are_there(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", [{**row, "split": "x"} for row in ROWS])
    for column, near in (("lable", "did you mean 'label'?"), ("zzz", "")):
        with pytest.raises(DataError) as caught:
            read(path, label=column)
        assert near in caught.value.hint and "'text', 'label', 'split'" in caught.value.hint


def test_a_column_of_later_rows_alone_is_a_column(tmp_path: Path) -> None:
    rows = [{"text": f"first {n}"} for n in range(150)] + ROWS
    assert read(json_lines(tmp_path / "a.jsonl", rows), max_skipped=0.9).table.num_rows == 40


@pytest.mark.parametrize(
    "labels",
    [("Negative", "negative"), ("negative ", "nega tive"), ("1", "1.0"), ("０", "0"), ("no", "'no'"), ("a\u200b", "a")],
)
def test_labels_that_differ_in_form_are_noticed_and_can_be_joined(labels: tuple[str, str], tmp_path: Path) -> None:
    names = [labels[0]] * 3 + [labels[1]] * 17 + ["zz"] * 20
    path = json_lines(tmp_path / "a.jsonl", [{"text": f"row {n}", "label": name} for n, name in enumerate(names)])
    data = read(path)
    assert len(data.class_names) == 3
    (notice,) = data.notices
    assert "(17 rows)" in notice and "(3 rows)" in notice
    joined = read(path, labels=json.loads(notice.partition("labels: ")[2].partition("`")[0]))
    assert joined.class_names == tuple(sorted({labels[1].strip(), "zz"})) and not joined.notices
    assert joined.table["label"].to_pylist().count(joined.class_names.index("zz")) == 20


@pytest.mark.parametrize("labels", [("+", "-"), ("C", "C++"), ("+1", "-1"), ("a", "b"), (":)", ":("), ("1", "10")])
def test_labels_with_a_meaning_of_their_own_are_not_called_alike(labels: tuple[str, str], tmp_path: Path) -> None:
    rows = [{"text": f"row {n}", "label": labels[n % 2]} for n in range(20)]
    assert not read(json_lines(tmp_path / "a.jsonl", rows)).notices


def test_unknown_labels_that_differ_in_case_are_refused_with_the_key_that_joins_them(tmp_path: Path) -> None:
    rows = [{**row, "label": str(row["label"]).title() if n < 10 else row["label"]} for n, row in enumerate(ROWS)]
    path = json_lines(tmp_path / "a.jsonl", rows)
    with pytest.raises(DataError) as caught:
        read(path, classes=("bad", "good"))
    assert 'labels: {"bad": ["Bad"]}' in caught.value.hint
    joined = read(path, classes=("bad", "good"), labels={"bad": "Bad", "good": ["Good"]})
    assert joined.table.num_rows == 40


def test_labels_are_part_of_the_fingerprint_only_if_given(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl")
    prints = [opened(path, **keys).fingerprint() for keys in ({}, {"labels": None}, {"labels": {"bad": ["Bad"]}})]
    assert prints[0] == prints[1] != prints[2]
    numbers = TaskSpec(files="a.csv", text="t", label="l", labels={"no": [0, False], "yes": 1})
    assert numbers.labels == {"no": ("0", "false"), "yes": ("1",)}


@pytest.mark.parametrize("labels", [{"a": ["x"], "b": ["x"]}, {"a": ["b"], "b": ["c"]}, {"a": []}])
def test_a_label_value_belongs_to_one_class(labels: dict[str, list[str]]) -> None:
    with pytest.raises(ValueError, match="labels"):
        TaskSpec(files="a.csv", text="t", label="l", labels=labels)


def test_every_row_of_a_source_is_counted(tmp_path: Path) -> None:
    rows = [*ROWS, ROWS[0], {"text": "", "label": "bad"}]
    data = read(json_lines(tmp_path / "a.jsonl", rows))
    (source,) = data.sources
    assert (source.num_rows, source.num_examples) == (42, 40)
    assert source.num_rows == source.num_examples + sum(entry.num_rows for entry in data.left_out)


def test_the_fingerprints_of_files_that_were_read_before_are_pinned(tmp_path: Path) -> None:
    contents = {
        "a.csv": 'text,label\n"one, two",a\n"say ""hi""",b\n',
        "a.tsv": 'text\tlabel\none\ta\nsay "hi"\tb\n',
        "a.jsonl": '{"text": "one", "label": "a"}\n{"text": "two", "label": "b"}\n',
        "a.json": '[{"text": "one", "label": "a"}, {"text": "two", "label": "b"}]',
    }
    prints = {name: opened(write(tmp_path / name, content)).fingerprint()[:12] for name, content in contents.items()}
    assert prints == PINNED
    write(tmp_path / "both" / "a.csv", contents["a.csv"])
    write(tmp_path / "both" / "b.jsonl", contents["a.jsonl"])
    assert opened(tmp_path / "both").fingerprint()[:12] == PINNED_FOLDER
    spec = TaskSpec(files="/here/rows.jsonl", text="text", label="label")
    assert identity("task", spec).startswith("fef919bf33d3"), "keys that came later are no part of it"


@pytest.mark.parametrize("content", [ROWS, [ROWS[0]], {"data": ROWS}])
@pytest.mark.parametrize("indent", [None, 1])
def test_json_under_the_name_of_csv_is_refused_as_what_it_is(content: Any, indent: int | None, tmp_path: Path) -> None:
    for name in ("a.csv", "a.tsv"):
        with pytest.raises(DataError, match="holds JSON"):
            read(write(tmp_path / name, json.dumps(content, indent=indent)))


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_every_line_end_gives_the_same_rows(end: str, tmp_path: Path) -> None:
    for name, content in (("a.csv", delimited(ROWS)), ("a.jsonl", "".join(json.dumps(row) + "\n" for row in ROWS))):
        path = write(tmp_path / name, content.replace("\n", end))
        assert texts(read(path)) == [row["text"] for row in ROWS]
        assert [row for _, row in RowFile(path).sample(1.0)] == RowFile(path).rows()


@pytest.mark.parametrize("state", ["[]", '{"_data_files": null}', '{"_data_files": ["a.arrow"]}', "{"])
def test_a_description_that_is_none_of_a_saved_dataset_changes_nothing(state: str, tmp_path: Path) -> None:
    json_lines(tmp_path / "a.jsonl")
    write(tmp_path / "state.json", state)
    if state == "{":
        with pytest.raises(DataError, match=r"state\.json"):
            read(tmp_path)
    else:
        assert read(tmp_path).table.num_rows == 40


def test_links_that_lead_back_and_links_to_nothing_are_passed_over(tmp_path: Path) -> None:
    json_lines(tmp_path / "rows" / "a.jsonl")
    (tmp_path / "rows" / "loop").symlink_to(tmp_path / "rows")
    (tmp_path / "rows" / "gone.jsonl").symlink_to(tmp_path / "nothing.jsonl")
    for files in (tmp_path / "rows", f"{tmp_path}/rows/**/*.jsonl"):
        data = read(files)
        assert data.table.num_rows == 40 and not data.left_out


@pytest.mark.parametrize("files", ["", [], [""], 5, ["a.csv", 5], {"train": "a.csv"}])
def test_files_are_a_path_or_a_list_of_paths(files: Any) -> None:
    with pytest.raises(ValueError, match="files"):
        TaskSpec(files=files, text="text", label="label")
