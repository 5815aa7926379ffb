"""Which files of a folder, pattern or list are read, for which set, and what is said of the others."""

import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.tasks.own_files import ROWS, Rows, json_lines, opened, read, texts, write
from w2s_ray.errors import DataError
from w2s_ray.spec.load import load_study
from w2s_ray.tasks.task import POOL, TEST


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
    for number, name in enumerate(("latest.jsonl", "contest.jsonl", "fastest.jsonl")):
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


TEST_NAMES = [
    "TestData",
    "testset",
    "mySetTest",
    "X_test",
    "holdout",
    "held-out",
    "tst",
    "evalset",
    "TESTset",
    "testing_data",
]


@pytest.mark.parametrize("name", TEST_NAMES)
def test_every_way_to_write_test_in_a_name_is_the_test_set(name: str, tmp_path: Path) -> None:
    for number, file in enumerate(("rows", name)):
        json_lines(tmp_path / f"{file}.jsonl", [{**row, "text": f"{number} {row['text']}"} for row in ROWS])
    task = opened(tmp_path)
    assert len(texts(task.read(), TEST)) == 40
    assert task.notices == (f"the test set, by name: {name}.jsonl; `test_files:` names another",)
    (notice,) = opened([str(tmp_path / "rows.jsonl"), str(tmp_path / f"{name}.jsonl")]).notices
    assert "in spite of the name" in notice and name in notice


@pytest.mark.parametrize("name", ["dev", "ValidSet", "my_val", "validation-0", "train_test", "mytest", "testimonials"])
def test_files_of_the_pool_whose_names_say_a_split_are_named(name: str, tmp_path: Path) -> None:
    for number, file in enumerate(("rows", name)):
        json_lines(tmp_path / f"{file}.jsonl", [{**row, "text": f"{number} {row['text']}"} for row in ROWS])
    for files in (tmp_path, [str(tmp_path / "rows.jsonl"), str(tmp_path / f"{name}.jsonl")]):
        task = opened(files)
        assert len(texts(task.read(), POOL)) == 80
        (notice,) = task.notices
        assert notice.startswith("part of the pool") and f"{name}.jsonl" in notice


def test_folders_of_a_list_that_are_named_after_the_test_set_are_named(tmp_path: Path) -> None:
    for number, split in enumerate(("train", "test")):
        json_lines(tmp_path / split / "0.jsonl", [{**row, "text": f"{number} {row['text']}"} for row in ROWS])
    for end in ("", "/*", "/0.jsonl"):
        (notice,) = opened([f"{tmp_path}/train{end}", f"{tmp_path}/test{end}"]).notices
        assert "in spite of the name: test/0.jsonl" in notice
    json_lines(tmp_path / "tests" / "test-0.jsonl"), json_lines(tmp_path / "tests" / "test-1.jsonl")
    assert "test-0.jsonl, test-1.jsonl" in opened(tmp_path / "tests").notices[0]


@pytest.fixture
def unlisted(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A function that makes a folder one that cannot be listed, as without permission; root may list all."""
    scandir = os.scandir

    def deny(folder: Path) -> None:
        def denied(path: Any = ".") -> Any:
            if os.path.realpath(path) == os.path.realpath(folder):
                raise PermissionError(13, "Permission denied", str(path))
            return scandir(path)

        monkeypatch.setattr(os, "scandir", denied)
        listdir = os.listdir
        monkeypatch.setattr(os, "listdir", lambda path=".": [entry.name for entry in os.scandir(path)] or listdir(path))

    return deny


@pytest.mark.parametrize("place", ["closed", "more/closed"])
def test_a_subfolder_that_cannot_be_listed_is_named(place: str, unlisted: Any, tmp_path: Path) -> None:
    json_lines(tmp_path / place / "a.jsonl")
    json_lines(tmp_path / "open" / "a.jsonl")
    unlisted(tmp_path / place)
    for files in (tmp_path, f"{tmp_path}/**/*.jsonl", f"{tmp_path}/*/*"):
        task = opened(files)
        assert task.read().table.num_rows == 40
        assert any("closed/ (Permission denied)" in notice for notice in task.notices) or files == f"{tmp_path}/*/*"
    json_lines(tmp_path / "b.jsonl")
    assert any("closed/" in notice for notice in opened(tmp_path).notices)


def test_a_folder_that_cannot_be_listed_is_refused(unlisted: Any, tmp_path: Path) -> None:
    json_lines(tmp_path / "closed" / "a.jsonl")
    unlisted(tmp_path / "closed")
    for files in (tmp_path, tmp_path / "closed", f"{tmp_path}/*/*.jsonl", f"{tmp_path}/**/*.jsonl"):
        with pytest.raises(DataError) as caught:
            opened(files)
        assert "Permission denied" in str(caught.value)


def test_what_is_no_file_is_named_in_a_folder_and_refused_by_itself(tmp_path: Path) -> None:
    json_lines(tmp_path / "a.jsonl")
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nothing.jsonl")
    (tmp_path / "loop.csv").symlink_to(tmp_path / "loop.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    for files in (tmp_path, f"{tmp_path}/*"):
        task = opened(files)
        assert task.read().table.num_rows == 40
        shown = " ".join(task.notices)
        assert "gone.jsonl, loop.csv (a link to nothing)" in shown and "pipe.csv (no regular file)" in shown
    for name in (
        "gone.jsonl",
        "loop.csv",
        "pipe.csv",
        "a" * 300 + ".csv",
        "a\0.csv",
        "{a,b}.csv",
        "~/a.csv",
        "nothing",
    ):
        with pytest.raises(DataError) as caught:
            read(f"{tmp_path}/{name}")
        assert "ending" not in caught.value.message


def test_names_that_are_not_utf_8_are_refused_or_shown_escaped(tmp_path: Path) -> None:
    json_lines(tmp_path / "a.jsonl")
    write(tmp_path / os.fsdecode(b"b\xff.xlsx"), b"PK")
    assert any("udcff" in notice.encode().decode() for notice in opened(tmp_path).notices)
    json_lines(tmp_path / os.fsdecode(b"c\xff.jsonl"))
    with pytest.raises(DataError) as caught:
        opened(tmp_path)
    assert "not UTF-8" in str(caught.value).encode().decode()


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    for share in (None, 0.9):
        path = json_lines(tmp_path / "a.jsonl")
        task = opened(path, sample=share)
        task.fingerprint()
        json_lines(path, ROWS[:30])
        with pytest.raises(DataError, match="changed"):
            task.read()
        path.unlink()
        with pytest.raises(DataError, match="does not exist"):
            task.read()


def test_linked_folders_are_read_once_and_deep_saved_datasets_as_their_library_does(tmp_path: Path) -> None:
    saved(tmp_path / "rows" / "deep" / "er", num_files=2)
    (tmp_path / "rows" / "again").symlink_to(tmp_path / "rows" / "deep")
    elsewhere = json_lines(tmp_path / "elsewhere" / "x.jsonl", [{"text": "linked", "label": "bad"}]).parent
    (tmp_path / "rows" / "deep" / "link").symlink_to(elsewhere)
    data = read(tmp_path / "rows")
    assert sorted(texts(data)) == sorted(["linked", *(row["text"] for row in ROWS)]) and not data.left_out


def test_every_file_beside_data_that_may_hold_rows_is_named(tmp_path: Path) -> None:
    names = ["part-00000", "b.csv.bak", "c.data", "d.csv.xz", "e.txt"]
    for name in (*names, "README", "LICENSE", "_SUCCESS", ".a.jsonl.crc", "a.jsonl.lock", "study.yaml"):
        write(tmp_path / name, "text,label\na,b\n")
    with pytest.raises(DataError) as caught:
        opened(tmp_path)
    assert all(name in caught.value.message for name in ("part-00000", "c.data"))
    json_lines(tmp_path / "a.jsonl")
    (notice,) = opened(tmp_path).notices
    assert all(name in notice for name in names)


def test_files_of_a_known_task_that_are_of_no_split_of_it_are_named(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        json_lines(tmp_path / f"{split}.jsonl")
    spec = {"text": None, "label": None, "builtin": "sst2"}
    assert any("test.jsonl" in notice for notice in opened(tmp_path, **spec).notices)


def test_test_files_that_are_named_after_training_are_named(tmp_path: Path) -> None:
    rows = json_lines(tmp_path / "rows.jsonl")
    other = json_lines(tmp_path / "other" / "my_train.jsonl")
    (notice,) = opened(rows, test_files=str(other)).notices
    assert "part of the test set, in spite of the name: my_train.jsonl" in notice


def test_relative_paths_with_dots_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    json_lines(tmp_path / "data" / "a.jsonl")
    json_lines(tmp_path / "data" / "mytest.jsonl", [{**row, "text": f"my {row['text']}"} for row in ROWS])
    (tmp_path / "study").mkdir()
    monkeypatch.chdir(tmp_path / "study")
    for files in ("../data", "../data/*.jsonl", ["../data/a.jsonl", "../data/../data/mytest.jsonl"]):
        task = opened(files)
        assert task.read().table.num_rows == 80 and "mytest.jsonl" in task.notices[0]


def test_a_folder_that_a_pattern_matches_beside_files_is_named(tmp_path: Path) -> None:
    json_lines(tmp_path / "a.jsonl")
    json_lines(tmp_path / "sub" / "deep" / "b.jsonl", [{**row, "text": f"sub {row['text']}"} for row in ROWS])
    (notice,) = opened(f"{tmp_path}/*").notices
    assert "sub/" in notice and "**/*" in notice
    assert not opened(f"{tmp_path}/**/*").notices and not opened(f"{tmp_path}/**").notices
    assert not opened([f"{tmp_path}/*.jsonl", f"{tmp_path}/sub/deep/*"]).notices
