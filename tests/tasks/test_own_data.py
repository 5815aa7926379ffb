import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from w2s_ray.errors import DataError
from w2s_ray.spec.identity import identity
from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks.registry import open_task, register_task
from w2s_ray.tasks.task import POOL, SCHEMA, TEST, Kind, TaskData

ROWS = [
    {"review": " A fine film . ", "stars": 1, "film": "a"},
    {"review": "Dull\u2028 and long", "stars": 0, "film": "b"},
    {"review": 'Worth, "every" minute', "stars": 1, "film": "a"},
]


def json_lines(path: Path, rows: Sequence[Mapping[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, **spec: Any) -> TaskData:
    return open_task(TaskSpec(**{"files": str(path), "text": "review", "label": "stars", **spec})).read()


def test_every_format_gives_the_same_examples(tmp_path: Path) -> None:
    json_lines(tmp_path / "a.jsonl", ROWS)
    json_lines(tmp_path / "a.json", ROWS)
    (tmp_path / "list.json").write_text(json.dumps(ROWS))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    with pa.CompressedOutputStream(str(tmp_path / "b.jsonl.zst"), "zstd") as compressed:
        compressed.write((tmp_path / "a.jsonl").read_bytes())
    for name, delimiter in (("a.csv", ","), ("a.tsv", "\t")):
        with (tmp_path / name).open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(file, list(ROWS[0]), delimiter=delimiter)
            writer.writeheader()
            writer.writerows(ROWS)
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "a.parquet")
    quoting = {"a.tsv": True}
    tables = {path.name: read(path, quoting=quoting.get(path.name)).table for path in sorted(tmp_path.iterdir())}
    assert len(tables) == 8
    first = tables["a.jsonl"]
    assert first.schema == SCHEMA
    assert first["text"].to_pylist() == ["A fine film .", "Dull\u2028 and long", 'Worth, "every" minute']
    assert first["label"].to_pylist() == [1, 0, 1]
    assert all(table == first for table in tables.values())


def test_sst2_is_read_as_it_is(real_data: Path) -> None:
    data = open_task(TaskSpec(files=str(real_data / "sst2" / "train.jsonl.gz"), text="sentence", label="label")).read()
    assert data.class_names == ("0", "1")
    assert 60_000 < data.table.num_rows <= 67_349
    assert len(set(data.table["id"].to_pylist())) == data.table.num_rows


def test_classes_fix_the_order_of_the_labels(tmp_path: Path) -> None:
    data = read(json_lines(tmp_path / "a.jsonl", ROWS), classes=("1", "0"))
    assert data.class_names == ("1", "0")
    assert data.table["label"].to_pylist() == [0, 1, 0]


def test_numbers_are_sorted_as_numbers_and_booleans_read_as_in_json(tmp_path: Path) -> None:
    numbers = [{"review": str(n), "stars": n} for n in (10, 9, 2)]
    assert read(json_lines(tmp_path / "n.jsonl", numbers)).class_names == ("2", "9", "10")
    truths = [{"review": "yes", "stars": True}, {"review": "no", "stars": False}]
    assert read(json_lines(tmp_path / "t.jsonl", truths)).class_names == ("false", "true")


def test_doubled_braces_in_a_template_are_literal(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", [{"q": f"q{n}", "y": n % 2} for n in range(2)])
    texts = open_task(TaskSpec(files=str(path), text='{{"ask": "{q}"}} yes?', label="y")).read().table["text"]
    assert texts.to_pylist() == ['{"ask": "q0"} yes?', '{"ask": "q1"} yes?']
    for text in ("{q!r}", "{q:>9}"):
        with pytest.raises(DataError, match="only a column name"):
            open_task(TaskSpec(files=str(path), text=text, label="y"))


def test_a_template_joins_columns_and_keeps_braces_in_the_data(tmp_path: Path) -> None:
    rows = [{"q": "is {x} it?", "p": "Yes.", "y": 1}, {"q": "Why?", "p": "{0.__class__}", "y": 0}]
    path = json_lines(tmp_path / "a.jsonl", rows)
    spec = TaskSpec(files=str(path), text="{q} Passage: {p}", label="y")
    assert open_task(spec).read().table["text"].to_pylist() == [
        "is {x} it? Passage: Yes.",
        "Why? Passage: {0.__class__}",
    ]


def test_groups_come_from_a_column_or_from_equal_texts(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", ROWS)
    assert read(path, group="film").table["group"].to_pylist() == ["a", "b", "a"]
    near = [{"review": "A  fine Film .", "stars": 1}, *ROWS]
    groups = read(json_lines(tmp_path / "b.jsonl", near)).table["group"].to_pylist()
    assert groups[0] == groups[1] and len(set(groups)) == 3


def test_rows_of_a_test_file_are_marked_and_have_other_ids(tmp_path: Path) -> None:
    others = [row | {"review": f"Another: {row['review']}"} for row in ROWS]
    table = read(json_lines(tmp_path / "a.jsonl", ROWS), test_files=str(json_lines(tmp_path / "t.jsonl", others))).table
    assert table["origin"].to_pylist() == [POOL] * 3 + [TEST] * 3
    assert len(set(table["id"].to_pylist())) == 6


def test_equal_rows_are_one_example_and_contradicting_rows_are_left_out(tmp_path: Path) -> None:
    rows = [{"review": f"text {n}", "stars": n % 2} for n in range(100)]
    doubled = [*rows, rows[3], {"review": "text 4", "stars": 1}]
    table = read(json_lines(tmp_path / "a.jsonl", doubled)).table
    assert table.num_rows == 99
    assert "text 4" not in table["text"].to_pylist()


def test_equal_rows_of_two_groups_merge_the_groups(tmp_path: Path) -> None:
    rows = [{"review": text, "stars": n % 2, "film": film} for n, (text, film) in enumerate(["xa", "ya", "zb", "wc"])]
    doubled = [*rows, rows[0] | {"film": "b"}, rows[3] | {"film": "d", "stars": 0}]
    table = read(json_lines(tmp_path / "a.jsonl", doubled), group="film", max_skipped=0.5).table
    assert table["text"].to_pylist() == ["x", "y", "z"], "contradicting rows are both left out"
    assert len(set(table["group"].to_pylist())) == 1, "film a and film b share a text"


def test_a_repeated_text_has_the_first_of_its_groups_in_any_order_of_rows(tmp_path: Path) -> None:
    rows = [{"review": f"text {n % 4}", "stars": n % 2, "film": film} for n, film in enumerate("zyxwabcdefgh")]
    tables = []
    for name, order in (("a", rows), ("b", rows[::-1]), ("c", rows[5:] + rows[:5])):
        table = read(json_lines(tmp_path / f"{name}.jsonl", order), group="film").table
        tables.append(sorted(map(str, table.to_pylist())))
        groups = dict(zip(table["text"].to_pylist(), table["group"].to_pylist(), strict=True))
        assert groups == {"text 0": "a", "text 1": "b", "text 2": "c", "text 3": "d"}
    assert tables[0] == tables[1] == tables[2]


def test_strip_false_keeps_white_space_at_the_ends_of_texts(tmp_path: Path) -> None:
    rows = [{"review": f"  x = {n}\n", "stars": f" {n % 2} "} for n in range(4)]
    path = json_lines(tmp_path / "a.jsonl", rows)
    assert read(path).table["text"][1].as_py() == "x = 1"
    whole = read(path, strip=False)
    assert whole.table["text"][1].as_py() == "  x = 1\n" and whole.class_names == ("0", "1")
    assert read(path, strip=False, text="{review}# {review}").table["text"][1].as_py() == "  x = 1\n#   x = 1\n"
    blank = [*rows * 20, {"review": " \n", "stars": "1"}]
    assert "no text" in [entry.reason for entry in read(json_lines(tmp_path / "b.jsonl", blank), strip=False).left_out]


def test_strip_false_puts_nothing_between_a_prompt_and_its_completions(tmp_path: Path) -> None:
    rows = [{"code": f"def f{n}():\n", "good": f"    return {n}\n", "bad": "    break\n"} for n in range(9)]
    spec = TaskSpec(files=str(json_lines(tmp_path / "a.jsonl", rows)), text="code", chosen="good", rejected="bad")
    row = open_task(spec.model_copy(update={"strip": False})).read().table.to_pylist()[1]
    assert row["prompt"] == "def f1():\n"
    assert {row["text"], row["other"]} == {"def f1():\n    return 1\n", "def f1():\n    break\n"}
    stripped = open_task(spec).read().table.to_pylist()[1]
    assert {stripped["text"], stripped["other"]} == {"def f1():\nreturn 1", "def f1():\nbreak"}


def test_strip_is_part_of_the_fingerprint_only_if_false(tmp_path: Path) -> None:
    spec = TaskSpec(files=str(json_lines(tmp_path / "a.jsonl", ROWS)), text="review", label="stars")
    whole = spec.model_copy(update={"strip": False})
    assert open_task(whole).fingerprint() != open_task(spec).fingerprint()
    assert identity("task", whole) != identity("task", spec)
    with pytest.raises(ValidationError, match="strip is for own data"):
        TaskSpec(builtin="sst2", strip=False)


def test_equal_documents_of_different_groups_are_one(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", [{"text": f"text {n % 3}", "of": str(n)} for n in range(9)])
    table = open_task(TaskSpec(files=str(path), text="text", group="of")).read().table
    assert sorted(table["text"].to_pylist()) == ["text 0", "text 1", "text 2"]


def test_pool_rows_related_to_a_test_row_are_counted_and_left_out(tmp_path: Path) -> None:
    pool = json_lines(tmp_path / "a.jsonl", [{"review": f"text {n}", "stars": n % 2} for n in range(40)])
    test = json_lines(tmp_path / "t.jsonl", [{"review": f"Text {n}!", "stars": n % 2} for n in range(36, 44)])
    data = read(pool, test_files=str(test))
    assert [(entry.source, entry.reason, entry.first_rows, entry.is_fault) for entry in data.left_out] == [
        (str(pool), "an example that is related to one of the test set", (37, 38, 39, 40), False)
    ]
    assert data.table.num_rows == 36 + 8
    with pytest.raises(DataError, match="is related to one of the test set"):
        read(test, test_files=str(test))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"review": float("nan")}, "no text"),
        ({"stars": float("nan")}, "no label"),
        ({"film": None}, "no film"),
        ({"film": "\ud83d"}, "half a surrogate pair, which is not valid Unicode"),
        ({"stars": "\ud83d"}, "half a surrogate pair, which is not valid Unicode"),
    ],
)
def test_rows_with_missing_or_invalid_values_are_counted_and_left_out(
    tmp_path: Path, row: dict[str, Any], reason: str
) -> None:
    rows = [{"review": f"text {n}", "stars": n % 2, "film": str(n)} for n in range(40)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(item) + "\n" for item in [*rows, rows[0] | row]))
    data = read(tmp_path / "a.jsonl", group="film")
    assert (data.table.num_rows, data.class_names) == (40, ("0", "1"))
    assert [(entry.reason, entry.first_rows) for entry in data.left_out] == [(reason, (41,))]


def test_bytes_are_not_text(tmp_path: Path) -> None:
    rows = [{"review": f"text {n}".encode(), "stars": n % 2} for n in range(4)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    with pytest.raises(DataError, match="review is bytes and not text"):
        read(tmp_path / "a.parquet")


def test_labels_that_are_equal_as_numbers_have_a_fixed_order(tmp_path: Path) -> None:
    rows = [{"review": f"text {n}", "stars": label} for n, label in enumerate(["01", "1", "001", "0"])]
    assert read(json_lines(tmp_path / "a.jsonl", rows)).class_names == ("0", "001", "01", "1")


def test_half_a_surrogate_pair_is_an_unusable_row(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    json_lines(path, [{"review": f"text {n}", "stars": n % 2} for n in range(40)])
    with path.open("a") as file:
        file.write('{"review": "cut \\ud83d here", "stars": 1}\n')
    data = read(path)
    assert data.table.num_rows == 40
    assert [(entry.reason, entry.first_rows) for entry in data.left_out] == [
        ("half a surrogate pair, which is not valid Unicode", (41,))
    ]


def test_data_that_contradicts_itself_is_refused(tmp_path: Path) -> None:
    rows = [{"review": "same", "stars": n % 2} for n in range(4)]
    with pytest.raises(DataError, match="different labels in rows 1, 2, 3, 4"):
        read(json_lines(tmp_path / "a.jsonl", rows))


@pytest.mark.parametrize(
    ("name", "content", "spec", "message"),
    [
        ("a.jsonl", None, {}, "does not exist"),
        ("a.txt", b"x", {}, "no known ending"),
        ("a.jsonl", b"", {}, "has no rows"),
        ("a.jsonl", b'{"review": "x", "stars": 1}\n{oops}\n', {}, "line 2 is not JSON"),
        ("a.jsonl", b"[1]\n", {}, "line 1 has the type list"),
        ("a.json", b"[1]\n", {}, "item 1 has the type int"),
        (
            "a.jsonl",
            b'{"review": "x", "stars": 1}\n{"review": "\xff", "stars": 1}\n',
            {},
            "0xff on line 2 is not UTF-8",
        ),
        ("a.jsonl.gz", b"not gzip", {}, "compressed with gzip"),
        ("a.jsonl.zst", b"not zstd", {}, "compressed with zstd"),
        ("a.jsonl.gz", gzip.compress(b'{"review": "x", "stars": 1}')[:-6], {}, "compressed with gzip"),
        ("a.csv", b"review,stars\nx,1\ny\n", {}, "line 3 does not have as many fields"),
        ("a.parquet", b"PAR0", {}, "is not a Parquet file"),
        ("a.csv", b"review,stars\nx,1\ny,0\n", {"text": "reviews"}, "did you mean 'review'?"),
        ("a.csv", b"review,stars\nx,1\ny,0\n", {"group": "film"}, "its columns are 'review', 'stars'"),
        ("a.csv", b"review,stars\nx,1\ny,0\n", {"text": "{review"}, "a template has"),
        ("a.csv", b"review,stars\nx,1\n ,0\n", {}, "no text in row 2"),
        ("a.csv", b"review,stars\nx,1\ny,\n", {}, "no label in row 2"),
        ("a.csv", b"review,stars\nx,1\ny,1\n", {}, "every label is '1'"),
        ("a.csv", b"review,stars\nx,1\ny,0\nz,7\n", {"classes": ("0", "1")}, "unknown label '7' in row 3"),
        ("a.csv", b"review,stars\nx,1\ny,0\n", {"classes": ("0", "0", "1")}, "lists a class twice"),
    ],
)
def test_bad_data_is_refused(
    tmp_path: Path, name: str, content: bytes | None, spec: dict[str, Any], message: str
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(path, **spec)
    assert message in str(caught.value)


def test_a_label_that_occurs_only_in_the_test_file_is_unknown(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", ROWS)
    other = json_lines(tmp_path / "b.jsonl", [{"review": "x", "stars": 5}])
    with pytest.raises(DataError, match=r"b.jsonl: 1 of 1 rows are not usable, .* unknown label '5'"):
        read(path, test_files=str(other))


def test_a_column_with_too_many_values_is_not_a_label(tmp_path: Path) -> None:
    rows = [{"review": "x", "stars": str(n)} for n in range(200)]
    with pytest.raises(DataError, match="200 distinct values"):
        read(json_lines(tmp_path / "a.jsonl", rows))


def test_the_fingerprint_depends_on_content_and_columns_but_not_on_paths(tmp_path: Path) -> None:
    def fingerprint(path: Path, **spec: Any) -> str:
        return open_task(TaskSpec(**{"files": str(path), "text": "review", "label": "stars", **spec})).fingerprint()

    first, copy = json_lines(tmp_path / "a.jsonl", ROWS), json_lines(tmp_path / "copy.jsonl", ROWS)
    other = json_lines(tmp_path / "other.jsonl", ROWS[:2])
    assert fingerprint(first) == fingerprint(copy) == fingerprint(first, test_fraction=0.5)
    prints = [
        fingerprint(first),
        fingerprint(other),
        fingerprint(first, group="film"),
        fingerprint(first, label="film"),
    ]
    assert len({*prints, fingerprint(first, test_files=str(copy))}) == 5
    with pytest.raises(DataError, match="does not exist"):
        fingerprint(tmp_path / "gone.jsonl")


def test_a_registered_task_is_named_like_a_builtin() -> None:
    class Mine:
        kind: Kind = "classes"

        def fingerprint(self) -> str:
            return "mine"

        def read(self) -> TaskData:
            raise NotImplementedError

    def factory(spec: TaskSpec) -> Mine:
        return Mine()

    register_task("mine_for_this_test", factory)
    register_task("mine_for_this_test", factory)
    assert open_task(TaskSpec(builtin="mine_for_this_test")).fingerprint() == "mine"
    with pytest.raises(DataError, match="mine_for_this_test"):
        register_task("mine_for_this_test", lambda spec: Mine())
    with pytest.raises(DataError, match="did you mean 'code_continuation'"):
        open_task(TaskSpec(builtin="code_continuatoin"))
