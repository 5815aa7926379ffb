"""Files as people have them: each is read as it is meant, with a notice, or refused by name."""

import bz2
import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from tests.tasks.own_files import ROWS, delimited, json_lines, opened, read, texts, write
from w2s_ray.errors import DataError
from w2s_ray.spec.identity import identity
from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks.registry import open_task
from w2s_ray.tasks.rows import RowFile

PINNED = {"a.csv": "98ccea023e41", "a.tsv": "52888f87df85", "a.jsonl": "a3580f736f86", "a.json": "8381c6b02139"}
PINNED_FOLDER = "c942d6267a80"
"""Of the version before this reader."""


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
    assert read(path, sample=1.0).notices == data.notices
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
    assert 'labels: {"bad": ["Bad"], "good": ["Good"]}' in caught.value.hint
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


@pytest.mark.parametrize("files", ["", [], [""], 5, ["a.csv", 5], {"train": "a.csv"}])
def test_files_are_a_path_or_a_list_of_paths(files: Any) -> None:
    with pytest.raises(ValueError, match="files"):
        TaskSpec(files=files, text="text", label="label")


@pytest.mark.parametrize("share", [None, 1.0])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.parquet", "a.arrow"])
def test_a_repeated_column_that_is_not_read_is_a_notice(name: str, share: float | None, tmp_path: Path) -> None:
    table = pa.table(
        [[f"t{n}" for n in range(8)], list("ab" * 4), list("x" * 8), list("y" * 8)], list("tl") + ["n"] * 2
    )
    path = tmp_path / name
    if name == "a.parquet":
        pq.write_table(table, path)
    elif name == "a.arrow":
        with pa.ipc.new_file(str(path), table.schema) as writer:
            writer.write_table(table)
    else:
        mark = "," if name == "a.csv" else "\t"
        cells = zip(*(column.to_pylist() for column in table.columns), strict=True)
        write(path, "".join(f"{mark.join(row)}\n" for row in [table.column_names, *cells]))
    data = read(path, text="t", label="l", sample=share)
    assert data.table.num_rows == 8 and ["'n' 2 times" in notice for notice in data.notices] == [True]


@pytest.mark.parametrize("share", [None, 1.0])
def test_mixed_line_ends_give_the_same_rows(share: float | None, tmp_path: Path) -> None:
    rows = [{"text": f'"line {n}\r\nand\nmore"' if n == 3 else f"line {n}", "label": "ab"[n % 2]} for n in range(12)]
    lines = delimited(rows).split("\n")
    for ends in (("\r", "\n"), ("\r\n", "\n"), ("\n", "\r"), ("\r", "\r"), ("\r\n", "\r", "\n")):
        content = "".join(line + ends[n % len(ends)] for n, line in enumerate(lines))
        data = read(write(tmp_path / "a.csv", content), sample=share)
        assert data.sources[0].num_rows == data.table.num_rows == 12


def test_feather_and_bzip2_are_read_and_tables_compressed_as_a_whole_are_named(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(list(ROWS))
    for compression in ("lz4", "zstd", "uncompressed"):
        pa.feather.write_feather(table, str(tmp_path / "a.feather"), compression=compression)
        assert texts(read(tmp_path / "a.feather")) == [row["text"] for row in ROWS]
    assert texts(read(write(tmp_path / "a.csv.bz2", bz2.compress(delimited(ROWS).encode())))) == texts(
        read(tmp_path / "a.feather")
    )
    with pytest.raises(DataError, match="bzip2"):
        read(write(tmp_path / "b.csv", bz2.compress(delimited(ROWS).encode())))
    for name, word in (("a.parquet.gz", "as a whole"), ("a.xlsx", "workbook"), ("a.csv.xz", "compressed")):
        with pytest.raises(DataError, match=word):
            read(write(tmp_path / name, b"x"))


def test_the_names_of_class_numbers_are_noticed_with_the_labels_that_use_them(tmp_path: Path) -> None:
    features = {"label": {"names": ["neg", "pos"], "_type": "ClassLabel"}, "text": {"dtype": "string"}}
    table = pa.table({"text": [f"t{n}" for n in range(8)], "label": [n % 2 for n in range(8)]})
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
    (notice,) = read(tmp_path / "a.parquet").notices
    assert '`labels: {"neg": 0, "pos": 1}`' in notice
    pq.write_table(table.replace_schema_metadata({"huggingface": "[1]"}), tmp_path / "b.parquet")
    assert not read(tmp_path / "b.parquet").notices


def test_fields_in_quotes_after_a_blank_are_noticed(tmp_path: Path) -> None:
    lines = "".join(f'"t {n}", "{"ab"[n % 2]}"\n' for n in range(8))
    assert any("after a blank" in notice for notice in read(write(tmp_path / "a.csv", "text,label\n" + lines)).notices)


def test_one_notice_of_several_files_is_one_line(tmp_path: Path) -> None:
    for number in range(3):
        rows = [{**row, "text": f"{number} {row['text']}"} for row in ROWS]
        write(tmp_path / f"{number}.csv", delimited(rows, ";"))
    (notice,) = read(tmp_path).notices
    assert "0.csv and 2 more: the fields are separated by a semicolon" in notice


def test_a_column_within_another_is_named_with_it(tmp_path: Path) -> None:
    pq.write_table(pa.table({"doc": [dict(row) for row in ROWS], "id": range(40)}), tmp_path / "a.parquet")
    with pytest.raises(DataError) as caught:
        read(tmp_path / "a.parquet")
    assert "within 'doc'" in caught.value.hint


def test_tabs_in_a_csv_file_are_quoted_if_only_that_gives_whole_rows(tmp_path: Path) -> None:
    rows = [{"text": f'"line {n}\nand ""more"""', "label": "ab"[n % 2]} for n in range(12)]
    data = read(write(tmp_path / "a.csv", delimited(rows, "\t")))
    assert texts(data)[0] == 'line 0\nand "more"' and data.table.num_rows == 12
    assert any("of several lines" in notice for notice in data.notices)
    with pytest.raises(DataError):
        read(write(tmp_path / "a.tsv", delimited(rows, "\t")))


@pytest.mark.parametrize("name", ["a.csv", "a.TSV", "a.csv.gz"])
def test_a_file_without_a_header_is_refused_with_its_first_line(name: str, tmp_path: Path) -> None:
    mark = "\t" if "TSV" in name else ","
    content = "".join(f"{n} {'long ' * 99}{mark}{'xy'[n % 2]}\n" for n in range(9)).encode()
    with pytest.raises(DataError) as caught:
        read(write(tmp_path / name, gzip.compress(content) if name.endswith("gz") else content))
    assert "first line" in caught.value.hint and len(caught.value.hint) < 250


@pytest.mark.parametrize("template", ["{}", "{text} {}", "{text", "{text!r}", "{text:>9}"])
def test_a_template_with_broken_braces_is_refused_before_anything_is_read(template: str) -> None:
    with pytest.raises(DataError, match="text: ") as caught:
        opened("nothing.csv", text=template)
    assert "{column}" in caught.value.hint


@pytest.mark.parametrize("content", [b"\0" * 999, b"text,label\na,b\n" + b"\0" * 4096])
def test_a_file_of_zero_bytes_is_called_damaged(content: bytes, tmp_path: Path) -> None:
    for name in ("a.csv", "a.tsv", "a.jsonl", "a.json"):
        with pytest.raises(DataError) as caught:
            read(write(tmp_path / name, content))
        assert "are zero" in caught.value.message and "damaged" in caught.value.hint
