import json
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from w2s_ray import hub
from w2s_ray.data.prepare import prepare_task
from w2s_ray.errors import DataError
from w2s_ray.hub import HubRepo
from w2s_ray.spec.study import TaskSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.tasks.hh_rlhf import HH_RLHF, SUBSETS, first_human_turn, shared_turns
from w2s_ray.tasks.registry import open_task
from w2s_ray.tasks.task import POOL, TEST, TaskData

PROMPT = "\n\nHuman: How do I keep {thing} fresh?\n\nAssistant:"
Rows = list[dict[str, Any]]


def rows(num: int) -> Rows:
    """Pairs of the real shape: two dialogs that begin alike; every third has two turns."""
    made = []
    for number in range(num):
        prompt = PROMPT.format(thing=f"bread {number}")
        if number % 3 == 0:
            prompt += " In a box.\n\nHuman: Which?\n\nAssistant:"
        made.append({"chosen": f"{prompt} Number {number}, dry and dark.", "rejected": f"{prompt} No idea."})
    return made


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def read(path: Path, **spec: Any) -> TaskData:
    return open_task(TaskSpec(builtin="hh_rlhf", files=str(path), **spec)).read()


def test_trap_11_hh_rlhf_is_read_as_pairs_and_never_as_single_answers(tmp_path: Path) -> None:
    given = rows(40)
    data = read(write(tmp_path / "a.jsonl", given))
    assert HH_RLHF.format.kind == "pairs" and data.class_names == ("first", "second")
    assert data.table.num_rows == len(given), "one example for both answers together"
    for row, example in zip(given, data.table.to_pylist(), strict=True):
        shown = (example["text"], example["other"])
        assert shown[example["label"]] == row["chosen"].strip()
        assert shown[1 - example["label"]] == row["rejected"].strip()


def test_trap_21_which_dialog_is_first_depends_on_the_pair_alone(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", rows(400))
    backwards = write(tmp_path / "b.jsonl", reversed(rows(400)))
    ids = {row["id"]: row["label"] for row in read(path).table.to_pylist()}
    assert ids == {row["id"]: row["label"] for row in read(backwards).table.to_pylist()}
    assert 150 < sum(ids.values()) < 250, "the better one is first about half of the time"
    script = (
        "import sys; from w2s_ray.tasks.registry import open_task; from w2s_ray.spec.study import TaskSpec\n"
        "print(open_task(TaskSpec(builtin='hh_rlhf', files=sys.argv[1])).read().table['label'].to_pylist())"
    )
    other = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(list(ids.values()))


def test_the_order_of_dialogs_does_not_show_the_better_one(tmp_path: Path) -> None:
    given = rows(20)
    turned = [{"chosen": row["rejected"], "rejected": row["chosen"]} for row in given]
    one = read(write(tmp_path / "a.jsonl", given)).table.to_pylist()
    other = read(write(tmp_path / "b.jsonl", turned)).table.to_pylist()
    for before, after in zip(one, other, strict=True):
        assert {**before, "label": 1 - before["label"]} == after


def test_dialogs_that_begin_with_the_same_human_turn_are_related(tmp_path: Path) -> None:
    prompt = PROMPT.format(thing="fish")
    same = [
        {"chosen": f"{prompt} On ice.", "rejected": f"{prompt} Why?"},
        {
            "chosen": f"{prompt.upper().replace('HUMAN', 'Human').replace('ASSISTANT', 'Assistant')} On ice.",
            "rejected": f"{prompt} Eat it.",
        },
        {
            "chosen": f"{prompt} Why?\n\nHuman: Oh\n\nAssistant: Ice.",
            "rejected": f"{prompt} Why?\n\nHuman: Oh\n\nAssistant: Hm.",
        },
    ]
    groups = read(write(tmp_path / "a.jsonl", [*rows(4), *same])).table["group"].to_pylist()
    assert len(set(groups)) == 5 and len(set(groups[4:])) == 1


@pytest.mark.parametrize(
    ("dialog", "turn"),
    [
        ("\n\nHuman: Why  is\nit SO?\n\nAssistant: Because.\n\nHuman: Oh.\n\nAssistant: Yes.", "why is it so?"),
        ("\n\nHuman: Why is it so?", "why is it so?"),
        ("\n\nHuman:\n\nAssistant: Hello?", ""),
        ("\n\nAssistant: Hello?\n\nHuman: Hi", None),
        ("", None),
    ],
)
def test_the_first_human_turn_ends_at_the_first_answer(dialog: str, turn: str | None) -> None:
    assert first_human_turn(dialog) == turn


def test_the_prompt_is_the_turns_that_both_dialogs_share(tmp_path: Path) -> None:
    given = rows(40)
    for row, example in zip(given, read(write(tmp_path / "a.jsonl", given)).table.to_pylist(), strict=True):
        assert example["prompt"] + " No idea." in (example["text"], example["other"])
        assert row["chosen"].strip() in (example["text"], example["other"])
        assert example["text"].startswith(example["prompt"]) and example["other"].startswith(example["prompt"])


@pytest.mark.parametrize(
    ("first", "second", "prompt"),
    [
        ("Human: a\n\nAssistant: yes", "Human: a\n\nAssistant: yesterday", "Human: a\n\nAssistant:"),
        (
            "Human: a\n\nAssistant: b\n\nHuman: c\n\nAssistant: d",
            "Human: a\n\nAssistant: b\n\nHuman: c",
            "Human: a\n\nAssistant:",
        ),
        ("Human: a", "Human: a\n\nAssistant: b", ""),
    ],
)
def test_a_prompt_ends_where_the_last_shared_answer_begins(first: str, second: str, prompt: str) -> None:
    assert shared_turns(first, second) == shared_turns(second, first) == prompt


def test_a_dialog_that_ends_before_its_answer_is_a_fault(tmp_path: Path) -> None:
    prompt = PROMPT.format(thing="jam")
    data = read(write(tmp_path / "a.jsonl", [*rows(60), {"chosen": f"{prompt} In a jar.", "rejected": f"{prompt} "}]))
    assert [(entry.reason, entry.first_rows) for entry in data.left_out] == [("an empty completion", (61,))]


def test_bad_rows_are_counted_by_reason_and_left_out(tmp_path: Path) -> None:
    good = rows(200)
    prompt = PROMPT.format(thing="jam")
    bad = [
        {"chosen": f"{prompt} Same.", "rejected": f"{prompt} Same. "},
        {"chosen": f"{prompt} One.", "rejected": ""},
        {"chosen": None, "rejected": f"{prompt} One."},
        {"rejected": f"{prompt} One."},
        {"chosen": ["a list"], "rejected": f"{prompt} One."},
        {"chosen": "An answer by itself.", "rejected": "Another."},
        {"chosen": f"{prompt} One.", "rejected": f"{PROMPT.format(thing='tea')} Two."},
    ]
    doubled = [*good, *bad, good[0], {"chosen": good[1]["rejected"], "rejected": good[1]["chosen"]}]
    data = read(write(tmp_path / "a.jsonl", doubled))
    assert data.table.num_rows == 199
    assert {(entry.reason, entry.first_rows, entry.is_fault) for entry in data.left_out} == {
        ("two equal answers", (201,), True),
        ("no rejected", (202,), True),
        ("no chosen", (203, 204), True),
        ("chosen is list and not text", (205,), True),
        ("two dialogs that do not begin with the same human turn", (206, 207), True),
        ("the same text has different labels", (2, 209), True),
        ("a repeated example", (208,), False),
    }
    with pytest.raises(DataError, match=r"7 of 209 rows are not usable, .* two equal answers in row 201"):
        read(tmp_path / "a.jsonl", max_skipped=0.01)


def test_text_that_is_not_utf_8_is_refused_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(json.dumps(rows(1)[0]).encode() + b'\n{"chosen": "\xe9", "rejected": "x"}\n')
    with pytest.raises(DataError, match="0xe9 on line 2 is not UTF-8"):
        read(path)


def test_files_named_after_subsets_give_strata(tmp_path: Path) -> None:
    for number, subset in enumerate(SUBSETS):
        write(tmp_path / f"{subset}.jsonl", rows(8)[2 * number : 2 * number + 2])
    whole = read(tmp_path)
    assert whole.table["stratum"].to_pylist() == [subset for subset in SUBSETS for _ in range(2)]
    one = tmp_path / "helpful-base"
    one.mkdir()
    write(one / "train.jsonl", rows(2))
    assert set(read(one).table["stratum"].to_pylist()) == {"helpful-base"}
    assert set(read(write(tmp_path / "mine.jsonl", rows(2))).table["stratum"].to_pylist()) == {None}


def test_a_pair_in_two_subsets_is_one_example(tmp_path: Path) -> None:
    for subset in SUBSETS[:2]:
        write(tmp_path / f"{subset}.jsonl", rows(3))
    data = read(tmp_path)
    assert data.table.num_rows == 3
    assert [(entry.num_rows, entry.is_fault) for entry in data.left_out] == [(3, False)]


def test_the_fingerprint_includes_the_names_of_subsets(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{name}.jsonl", rows(2)) for name in ("mine", "other", "helpful-base")]
    mine, other, helpful = (open_task(TaskSpec(builtin="hh_rlhf", files=str(path))).fingerprint() for path in paths)
    assert mine == other != helpful


def test_hh_rlhf_itself_is_read_and_prepared(real_data: Path, tmp_path: Path) -> None:
    store = ArtifactStore(tmp_path / "store")
    store.prepare()
    task = open_task(TaskSpec(builtin="hh_rlhf", files=str(real_data / "hh_rlhf")))
    table = prepare_task(store, "hh_rlhf", task, 0.2).table()
    assert table.num_rows == 8505
    assert set(table["stratum"].to_pylist()) == set(SUBSETS)
    labels = table["label"].to_pylist()
    assert abs(sum(labels) / len(labels) - 0.5) < 0.02


def test_the_hubs_rows_are_read_subset_by_subset_at_a_pinned_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def load_dataset(path: str, *, data_files: dict[str, str], split: str) -> Rows:
        asked.append(data_files[split])
        return rows(4 * len(asked))[-4:]

    monkeypatch.setattr(hub, "look_up", lambda name, revision, repo_type: HubRepo(revision, (), None))
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    table = open_task(TaskSpec(builtin="hh_rlhf")).read().table
    assert asked == [
        f"hf://datasets/Anthropic/hh-rlhf@{HH_RLHF.commit}/{subset}/{split}.jsonl.gz"
        for split in ("train", "test")
        for subset in SUBSETS
    ]
    assert table["stratum"].to_pylist() == [subset for subset in (*SUBSETS, *SUBSETS) for _ in range(4)]
    assert table["origin"].to_pylist() == [POOL] * 16 + [TEST] * 16
