"""Labels and texts that a user would not expect are pointed out; label values are matched in each form."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.tasks.own_files import ROWS, delimited, json_lines, read, write
from w2s_ray.errors import DataError
from w2s_ray.spec.study import TaskSpec


def labelled(folder: Path, labels: list[Any], name: str = "a.csv") -> Path:
    rows = [{**row, "label": labels[n % len(labels)]} for n, row in enumerate(ROWS)]
    return json_lines(folder / name, rows) if name.endswith("l") else write(folder / name, delimited(rows))


@pytest.mark.parametrize(
    ("data", "name", "labels"),
    [
        (["0", "1"], "a.csv", "{neg: 0, pos: [1]}"),
        (["0.0", "1.0"], "a.csv", "{neg: 0.0, pos: 1.0}"),
        ([0.0, 1.0], "a.jsonl", "{neg: 0.0, pos: 1}"),
        ([0, 1], "a.jsonl", "{neg: 0.0, pos: '1'}"),
        ([0.5, 1.5], "a.jsonl", "{neg: .5, pos: 1.5}"),
        ([False, True], "a.jsonl", "{neg: no, pos: true}"),
        (["no", "yes"], "a.csv", "{neg: ['no'], pos: ['yes']}"),
        (["1", 1, 1.0, 0, "0"], "a.jsonl", "{neg: 0, pos: 1}"),
    ],
)
def test_label_values_of_every_type_are_joined_without_a_remark(
    data: list[Any], name: str, labels: str, tmp_path: Path
) -> None:
    task = read(labelled(tmp_path, data, name), labels=yaml.safe_load(labels))
    assert task.class_names == ("neg", "pos") and task.table.num_rows == 40 and not task.notices


def test_names_of_classes_may_be_numbers_and_truth(tmp_path: Path) -> None:
    path = labelled(tmp_path, ["no", "yes"])
    assert read(path, labels={0: ["no"], 1: "yes"}).class_names == ("0", "1")
    assert read(path, labels={False: ["no"], True: ["yes"]}).class_names == ("false", "true")
    assert read(labelled(tmp_path, ["0", "1"]), classes=[1, 0]).class_names == ("1", "0")
    for labels in ({1: ["a"], "1": ["b"]}, {None: ["a"]}, {"a": [None]}):
        with pytest.raises(ValueError, match="labels"):
            TaskSpec(files="a.csv", text="t", label="l", labels=labels)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        ({"neg": ["no", "nein"]}, ("'nein'", "")),
        ({"neg": ["No"], "pos": ["yes"]}, ("'No'", "'no' does")),
        ({"neg": [False], "pos": ["yes"]}, ("'false'", "without quotation marks, YAML reads no")),
        ({"no": ["No"]}, ("'No'", "'no' does")),
    ],
)
def test_listed_label_values_that_never_occur_are_named(
    labels: dict[str, Any], words: tuple[str, str], tmp_path: Path
) -> None:
    (notice,) = read(labelled(tmp_path, ["no", "yes"]), labels=labels).notices
    assert words[0] in notice and words[1] in notice


def test_classes_that_never_occur_are_refused_with_the_labels_that_are_like_them(tmp_path: Path) -> None:
    for given, classes, words in (
        (["0.0", "1.0"], [0, 1], "'0.0' does"),
        (["no", "yes"], yaml.safe_load("[no, yes]"), "YAML"),
        (["False", "True"], [True, False], "'True' does"),
    ):
        with pytest.raises(DataError) as caught:
            read(labelled(tmp_path, given), classes=classes)
        assert words in caught.value.hint


def test_truth_and_numbers_in_one_column_are_called_alike(tmp_path: Path) -> None:
    task = read(labelled(tmp_path, [True, False, 1, 0], "a.jsonl"))
    assert len(task.class_names) == 4
    (notice,) = task.notices
    assert read(labelled(tmp_path, [True, False, 1, 0], "a.jsonl"), labels=_snippet(notice)).class_names == (
        "false",
        "true",
    )


def _snippet(notice: str, key: str = "labels") -> Any:
    return yaml.safe_load(notice.partition(f"`{key}: ")[2].partition("`")[0])


@pytest.mark.parametrize(
    ("labels", "data", "classes"),
    [
        (None, ["1", "1.0", "0", "0.0", "01"], ("0", "1")),
        (None, ["pos", "Pos", "neg", "Neg\u200b", "n"], ("n", "neg", "pos")),
        ({"positive": ["pos", "+"]}, ["pos", "Pos", "POSITIVE", "neg", "Neg", "+"], ("neg", "positive")),
        ({"positive": ["Positve", "pos"]}, ["positive", "Positive", "pos", "neg", "0"], ("0", "neg", "positive")),
        ({"yes": [1.0]}, ["1", "01", "yes", "no", "No"], ("no", "yes")),
        ({"a": ["X"], "b": ["x"]}, ["X", "x", " x ", "'x'", "a", "A"], ("a", "b")),
    ],
)
def test_one_snippet_joins_all_labels_alike_and_keeps_those_of_the_study(
    labels: dict[str, Any] | None, data: list[str], classes: tuple[str, ...], tmp_path: Path
) -> None:
    rows = [{"text": f"t{n}", "label": data[n % len(data)]} for n in range(60)]
    path = json_lines(tmp_path / "a.jsonl", rows)
    (notice,) = (notice for notice in read(path, labels=labels).notices if "differ only in" in notice)
    joined = _snippet(notice)
    for name, values in (labels or {}).items():
        assert {str(value) for value in values} <= set(joined[name])
    task = read(path, labels=joined)
    assert task.class_names == classes and not any("differ only in" in notice for notice in task.notices)


def test_two_spellings_that_the_study_keeps_apart_are_not_called_alike(tmp_path: Path) -> None:
    path = labelled(tmp_path, ["x", "X"])
    assert not read(path, labels={"a": "x", "b": "X"}).notices
    assert not read(path, classes=("x", "X")).notices


def test_a_listed_value_that_never_occurs_comes_with_the_nearest_label(tmp_path: Path) -> None:
    path = labelled(tmp_path, ["positive", "Positive", "negative", "12", "0"])
    for value, near in (("Positve", "'Positive'"), ("positve", "'positive'"), ("NEGATIV", "'negative'")):
        first, *_ = read(path, labels={"p": [value]}).notices
        assert repr(value) in first and first.endswith(near)
    for value in ("2", "entirely else"):
        assert read(path, labels={"p": [value]}).notices[0].endswith("in the data")
    many = read(path, labels={"p": [f"absent {n}" for n in range(100)] + ["Positve"]}).notices
    assert len(many) < 20 and "Positive" in many[0] and any("91 more" in notice for notice in many)


def test_missing_labels_and_variants_are_advised_together(tmp_path: Path) -> None:
    data = ["a", "A", "b", "c", "d", "e", "f", "NaN", "nan"]
    path = labelled(tmp_path, data)
    missing, alike = read(path).notices
    classes = _snippet(missing, "classes")
    assert classes == ["a", "b", "c", "d", "e", "f"] and _snippet(alike) == {"a": ["A"]}
    task = read(path, classes=classes, labels=_snippet(alike), max_skipped=0.5)
    assert task.class_names == tuple(classes) and not any("differ" in notice for notice in task.notices)
    assert not read(labelled(tmp_path, ["None", "some"]), labels={"nothing": "None"}).notices


@pytest.mark.parametrize(
    ("labels", "keys"),
    [(["NaN", "pos"], {"labels": {"pos": "NaN"}}), (["neg", "Neg", "pos"], {"classes": ("neg", "pos")})],
)
def test_refusals_of_classes_begin_with_the_remarks_on_labels(
    labels: list[str], keys: dict[str, Any], tmp_path: Path
) -> None:
    with pytest.raises(DataError) as caught:
        read(labelled(tmp_path, labels), **{**keys, **({"labels": {"pos": ["NaN", "Po"]}} if "labels" in keys else {})})
    assert caught.value.hint.startswith(("the labels ", "labels: "))


@pytest.mark.parametrize("sample", [None, 0.9])
@pytest.mark.parametrize(
    ("name", "content", "quoting", "word"),
    [
        ("a.tsv", '"text"\t"label"\n"{}"\t"{}"\n', None, "`quoting: true`"),
        ("a.tsv", 'text\t"Label"\n{}\t"{}"\n', None, "`quoting: true`"),
        ("a.csv", '"text","label"\n"{}","{}"\n', False, "`quoting: true`"),
        ("a.csv", 'text, "label"\n{}, "{}"\n', None, "remove the blanks"),
        ("a.csv", 'text,"""label"""\n{},"""{}"""\n', None, "doubled"),
    ],
)
def test_a_column_that_differs_by_quotation_marks_comes_with_its_remedy(
    name: str, content: str, quoting: bool | None, word: str, sample: float | None, tmp_path: Path
) -> None:
    header, row, _ = content.split("\n")
    rows = "".join(row.format(*row_of.values()) + "\n" for row_of in ROWS)
    path = write(tmp_path / name, f"{header}\n{rows}")
    with pytest.raises(DataError) as caught:
        read(path, quoting=quoting, sample=sample)
    assert word in caught.value.hint and "did you mean" not in caught.value.hint
    if "true" in word and "Label" not in content:
        assert read(path, quoting=True).class_names == ("bad", "good")


@pytest.mark.parametrize("label", ["NaN", "null", "N/A", "None"])
def test_labels_and_texts_that_mean_a_missing_value_are_named_with_their_rows(label: str, tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", [*ROWS, {"text": "more", "label": label}])
    (notice,) = read(path).notices
    assert f"'{label}' (1 row)" in notice and '["bad", "good"]' in notice
    assert read(path, classes=("bad", "good")).table.num_rows == 40
    path = json_lines(tmp_path / "b.jsonl", [*ROWS, {"text": label, "label": "bad"}])
    (notice,) = read(path).notices
    assert f"'{label}' (1 row)" in notice


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("\u200b \u00ad", "invisible"),
        ("a\x00b", "damage"),
        ("na\ufffdve", "damage"),
        ("naÃ¯ve", "na"),
        ("a â€œb", "a "),
    ],
)
def test_invisible_and_damaged_texts_are_counted(text: str, words: str, tmp_path: Path) -> None:
    path = json_lines(tmp_path / "a.jsonl", [*ROWS, {"text": text, "label": "bad"}])
    (notice,) = read(path).notices
    assert notice.startswith("1 row with") and words in notice


def test_texts_of_pairs_and_answers_are_looked_at_too(tmp_path: Path) -> None:
    rows = [{"text": f"t{n}", "other": f"o{n}"} for n in range(20)] + [{"text": "NaN", "other": "a\ufffd"}]
    path = json_lines(tmp_path / "a.jsonl", rows)
    for keys in ({"text": None, "chosen": "text", "rejected": "other"}, {"answer": "text", "text": "other"}):
        assert any("damage" in notice for notice in read(path, label=None, **keys).notices)
    assert any("'NaN'" in notice for notice in read(path, label=None).notices)


def test_a_column_that_names_splits_and_is_not_read_is_named(tmp_path: Path) -> None:
    rows = [
        {**row, "part": ("train", "dev", "Test")[n % 3], "id": n, "kind": "xy"[n % 2]} for n, row in enumerate(ROWS)
    ]
    (notice,) = read(json_lines(tmp_path / "a.jsonl", rows)).notices
    assert "'part'" in notice and "'Test', 'dev', 'train'" in notice
