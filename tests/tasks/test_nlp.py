"""Each known data set, with invented rows of the shape that it has on the hub."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from w2s_ray import hub
from w2s_ray.errors import DataError
from w2s_ray.hub import HubRepo
from w2s_ray.spec.identity import identity
from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks.dataset import DatasetTask, Recipe
from w2s_ray.tasks.nlp import RECIPES
from w2s_ray.tasks.registry import cue_of, known_tasks, open_task
from w2s_ray.tasks.sources import PARQUET, parse_revision
from w2s_ray.tasks.task import SCHEMA, TaskData

Row = dict[str, Any]
Read = Callable[..., TaskData]

LONG = "The ferry left at nine. Nobody had told the cook."
ROWS: dict[str, list[Row]] = {
    "boolq": [
        {"question": "did the ferry leave", "passage": LONG, "answer": True},
        {"question": "did the cook know", "passage": LONG, "answer": False},
        {"question": "is salt a mineral", "passage": "Salt is a mineral.", "answer": True},
    ],
    "cosmos_qa": [
        {
            "id": f"q{number}",
            "context": LONG if number < 2 else "It rained all day.",
            "question": f"What will the cook do, {number} ?",
            "answer0": "None of the above choices .",
            "answer1": "He will wait .",
            "answer2": "He will swim .",
            "answer3": "He will sing .",
            "label": number,
        }
        for number in (0, 1, 3)
    ],
    "dream": [
        {
            "id": 0,
            "dialogue_id": "5-510",
            "dialogue": ["W: Is the ferry gone?", "M: It left at nine."],
            "question": question,
            "choice": ["The ferry.", "The cook.", "The rain."],
            "answer": answer,
        }
        for question, answer in (("What left?", "The ferry."), ("Who stayed?", "The cook."))
    ],
    "ethics_deontology": [
        {"label": 0, "scenario": "Could you feed the cat?", "excuse": "No because the cat is grey."},
        {"label": 1, "scenario": "Could you feed the cat?", "excuse": "No because I fed it already."},
        {"label": 1, "scenario": "I am a nurse.", "excuse": "So I should wash my hands."},
    ],
    "ethics_justice": [
        {"label": 1, "scenario": "I deserve a refund because the kettle leaks."},
        {"label": 0, "scenario": "I deserve a refund because the sky is blue."},
        {"label": 1, "scenario": "I usually walk Ann's dog but did not today because she did it."},
    ],
    "ethics_virtue": [
        {"label": int(trait == "brave"), "scenario": f"Lea went back into the fire for him. [SEP] {trait}"}
        for trait in ("lazy", "brave", "rude", "shy", "vain")
    ],
    "ethics_utilitarianism": [
        {"baseline": "I ate cake.", "less_pleasant": "I ate bread."},
        {"baseline": "I ate bread.", "less_pleasant": "I ate sand."},
        {"baseline": "I slept well.", "less_pleasant": "I slept on stones."},
    ],
    "anli_r2": [
        {"uid": f"u{label}", "premise": LONG, "hypothesis": f"Claim {label}.", "label": label, "reason": ""}
        for label in (0, 1, 2)
    ],
    "cola": [
        {"sentence": "The cook slept.", "label": 1, "idx": 0},
        {"sentence": "The cook slept the.", "label": 0, "idx": 1},
    ],
    "sst2": [
        {"idx": 0, "sentence": "a warm and funny tale of two cooks ", "label": 1},
        {"idx": 1, "sentence": "warm and funny tale ", "label": 1},
        {"idx": 2, "sentence": "a dull tale , told without wit ", "label": 0},
        {"idx": 3, "sentence": "dull tale ", "label": 0},
    ],
    "hellaswag": [
        {
            "ind": number,
            "activity_label": "Cooking",
            "ctx": f"A man cuts onions. Then he, {number}",
            "endings": ["weeps.", "flies.", "melts.", "rings."],
            "source_id": "activitynet~v_1",
            "label": "0",
        }
        for number in (1, 2)
    ],
    "mc_taco": [
        {"sentence": LONG, "question": "When did it leave?", "answer": answer, "label": label, "category": 3}
        for answer, label in (("at nine", 1), ("in 1850", 0), ("tomorrow", 0))
    ],
    "openbookqa": [
        {
            "id": "7-1",
            "question_stem": "What melts ice?",
            "choices": {"text": ["salt", "sand", "wood", "cold"], "label": ["A", "B", "C", "D"]},
            "answerKey": "A",
        },
        {
            "id": "7-2",
            "question_stem": "What sinks?",
            "choices": {"text": ["cork", "wood", "iron", "foam"], "label": ["A", "B", "C", "D"]},
            "answerKey": "C",
        },
    ],
    "paws": [
        {"id": 1, "sentence1": "Ann saw Bo .", "sentence2": "Bo saw Ann .", "label": 0},
        {"id": 2, "sentence1": "Bo saw Ann .", "sentence2": "Ann was seen by Bo .", "label": 1},
        {"id": 3, "sentence1": "It is late .", "sentence2": "Late it is .", "label": 1},
    ],
    "quail": [
        {
            "id": f"f00_{number}",
            "context": LONG,
            "question": f"What was it, {number}?",
            "answers": ["not enough information", "a ferry", "a raft", "a gull"],
            "correct_answer_id": number,
        }
        for number in (0, 1, 2)
    ],
    "piqa": [
        {"goal": "Open a jar", "sol1": "Sing to it.", "sol2": "Turn the lid.", "label": 1},
        {"goal": "Dry a plate", "sol1": "Use a towel.", "sol2": "Use a hose.", "label": 0},
    ],
    "quartz": [
        {
            "id": f"QRQA-{number}",
            "question": f"More heat makes water boil, {number}",
            "choices": {"text": ["sooner", "later"], "label": ["A", "B"]},
            "answerKey": "A",
            "para": "The more heat, the sooner water boils.",
            "para_id": "QRSent-1",
        }
        for number in (1, 2)
    ],
    "sciq": [
        {
            "question": f"What melts ice, {number}?",
            "distractor1": "sand",
            "distractor2": "wood",
            "distractor3": "cork",
            "correct_answer": "salt",
            "support": "Salt melts ice." if number < 3 else "",
        }
        for number in (1, 2, 3)
    ],
    "social_i_qa": [
        {
            "context": "Kai lent Lea a pen.",
            "question": f"How does Lea feel, {label}?",
            "answerA": "thankful",
            "answerB": "angry",
            "answerC": "asleep",
            "label": label,
        }
        for label in ("1", "2")
    ],
    "multirc": [
        {
            "paragraph": LONG,
            "question": "What left?",
            "answer": answer,
            "idx": {"paragraph": 0, "question": 0, "answer": number},
            "label": label,
        }
        for number, (answer, label) in enumerate((("A ferry", 1), ("A boat", 1), ("A cook", 0)))
    ],
    "wic": [
        {"word": "bank", "sentence1": "The bank closed.", "sentence2": "A river bank.", "label": 0},
        {"word": "bank", "sentence1": "The bank closed.", "sentence2": "A bank opened.", "label": 1},
        {"word": "pen", "sentence1": "A pen wrote.", "sentence2": "A pen broke.", "label": 1},
    ],
    "twitter_sentiment": [{"text": "so glad it is friday", "label": 1}, {"text": "my bus never came", "label": 0}],
    "amazon_polarity": [
        {"label": 1, "title": "Lasts", "content": "Bought it in May and it still works."},
        {"label": 0, "title": "", "content": "It broke at once."},
    ],
}

QUESTIONS = ("cosmos_qa", "dream", "hellaswag", "openbookqa", "piqa", "quail", "quartz", "sciq", "social_i_qa")
CHOICES = (
    *QUESTIONS,
    *("ethics_virtue", "mc_taco", "multirc"),
)
"""Tasks in which a question has several answers."""


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read rows as a known data set; by default, the rows above."""

    def read(name: str, rows: Sequence[Row] | None = None, **spec: Any) -> TaskData:
        path = tmp_path / "rows.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in (ROWS[name] if rows is None else rows)))
        return open_task(TaskSpec(builtin=name, files=str(path), **spec)).read()

    return read


def texts(data: TaskData) -> list[str]:
    return list(data.table["text"].to_pylist())


def labels(data: TaskData) -> list[str]:
    return [data.class_names[number] for number in data.table["label"].to_pylist()]


def together(data: TaskData, column: str) -> list[list[int]]:
    """Return the sets of example indices that share a value of the column."""
    places: dict[str, list[int]] = defaultdict(list)
    for place, value in enumerate(data.table[column].to_pylist()):
        places[value].append(place)
    return sorted(places.values())


def answer_of(text: str) -> str:
    return text.rpartition("\nAnswer: ")[2].partition("\n")[0]


def test_every_task_of_the_paper_is_registered_and_tested_here() -> None:
    assert len(RECIPES) == 23
    assert {recipe.name for recipe in RECIPES} == set(ROWS)


@pytest.mark.parametrize("name", ROWS)
def test_rows_of_the_real_shape_become_examples(name: str, read: Read) -> None:
    data = read(name)
    assert data.table.schema == SCHEMA
    assert not [entry for entry in data.left_out if entry.is_fault]
    assert set(labels(data)) == set(data.class_names), "the rows above have every class"
    assert all(text == text.strip() and text for text in texts(data))
    assert len(set(data.table["id"].to_pylist())) == data.table.num_rows >= 2


@pytest.mark.parametrize("name", ROWS)
def test_parquet_as_on_the_hub_gives_the_same_examples(name: str, read: Read, tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(ROWS[name]), tmp_path / "train-0000.parquet")
    task = open_task(TaskSpec(builtin=name, files=str(tmp_path / "train-0000.parquet")))
    assert task.read().table == read(name).table


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "boolq",
            [(f"{LONG}\n\nQuestion: did the ferry leave?", "yes"), (f"{LONG}\n\nQuestion: did the cook know?", "no")],
        ),
        ("ethics_deontology", [("Could you feed the cat?\nNo because the cat is grey.\nIs this reasonable?", "no")]),
        ("ethics_justice", [("I deserve a refund because the kettle leaks.\nIs this reason fair?", "yes")]),
        (
            "anli_r2",
            [
                (f"{LONG}\n\nHypothesis: Claim {number}.\nDoes this follow?", label)
                for number, label in enumerate(("yes", "no", "no"))
            ],
        ),
        (
            "cola",
            [
                ("The cook slept.\nIs this sentence grammatical?", "yes"),
                ("The cook slept the.\nIs this sentence grammatical?", "no"),
            ],
        ),
        ("paws", [("First: Ann saw Bo .\nSecond: Bo saw Ann .\nDo they mean the same?", "no")]),
        ("wic", [("First: The bank closed.\nSecond: A river bank.\nDoes 'bank' mean the same in both?", "no")]),
        ("sst2", [("a warm and funny tale of two cooks", "positive"), ("warm and funny tale", "positive")]),
        ("twitter_sentiment", [("so glad it is friday", "positive"), ("my bus never came", "negative")]),
        (
            "amazon_polarity",
            [("Lasts\nBought it in May and it still works.", "positive"), ("It broke at once.", "negative")],
        ),
    ],
)
def test_a_text_and_its_label(name: str, expected: list[tuple[str, str]], read: Read) -> None:
    data = read(name)
    assert list(zip(texts(data), labels(data), strict=True))[: len(expected)] == expected


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("cosmos_qa", ["He will wait .", "He will sing ."]),
        ("dream", ["The ferry.", "The cook."]),
        ("hellaswag", ["weeps.", "weeps."]),
        ("openbookqa", ["salt", "iron"]),
        ("piqa", ["Turn the lid.", "Use a towel."]),
        ("quail", ["a ferry", "a raft"]),
        ("quartz", ["sooner", "sooner"]),
        ("sciq", ["salt", "salt", "salt"]),
        ("social_i_qa", ["thankful", "angry"]),
        ("mc_taco", ["at nine"]),
    ],
)
def test_the_right_answer_is_the_one_that_the_row_names(name: str, right: list[str], read: Read) -> None:
    data = read(name)
    judged = list(zip(map(answer_of, texts(data)), labels(data), strict=True))
    assert [answer for answer, label in judged if label == "yes"] == right
    assert len(set(texts(data))) == len(judged)


def test_two_events_ranked_both_ways_are_left_out(read: Read) -> None:
    rows = [{"baseline": f"good {number}", "less_pleasant": f"bad {number}"} for number in range(40)]
    data = read("ethics_utilitarianism", [*rows, {"baseline": "bad 3", "less_pleasant": "good 3"}])
    assert len(texts(data)) == 39
    assert [(entry.reason, entry.first_rows) for entry in data.left_out] == [
        ("the same text has different labels", (4, 41))
    ]


def test_the_label_is_the_place_of_the_more_pleasant_event(read: Read) -> None:
    rows = [{"baseline": f"good {number}", "less_pleasant": f"bad {number}"} for number in range(200)]
    data = read("ethics_utilitarianism", rows)
    for text, label in zip(texts(data), labels(data), strict=True):
        first = text.splitlines()[0]
        assert first.startswith("First: good") == (label == "first")
    assert 70 < labels(data).count("first") < 130


@pytest.mark.parametrize("name", CHOICES)
def test_trap_12_a_question_has_as_many_right_answers_as_wrong_ones(name: str, read: Read) -> None:
    data = read(name)
    by_bundle: dict[str, Counter[str]] = defaultdict(Counter)
    for bundle, label in zip(data.table["bundle"].to_pylist(), labels(data), strict=True):
        by_bundle[bundle][label] += 1
    assert all(counts["yes"] == counts["no"] >= 1 for counts in by_bundle.values()), by_bundle


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("boolq", [[0, 1], [2]]),
        ("cosmos_qa", [[0, 1], [2, 3]]),
        ("dream", [[0, 1, 2, 3]]),
        ("ethics_deontology", [[0, 1], [2]]),
        ("ethics_justice", [[0, 1], [2]]),
        ("ethics_virtue", [[0, 1]]),
        ("ethics_utilitarianism", [[0, 1], [2]]),
        ("anli_r2", [[0, 1, 2]]),
        ("cola", [[0], [1]]),
        ("sst2", [[0, 1], [2, 3]]),
        ("hellaswag", [[0, 1, 2, 3]]),
        ("mc_taco", [[0, 1]]),
        ("openbookqa", [[0, 1], [2, 3]]),
        ("paws", [[0, 1], [2]]),
        ("quail", [[0, 1, 2, 3]]),
        ("piqa", [[0, 1], [2, 3]]),
        ("quartz", [[0, 1, 2, 3]]),
        ("sciq", [[0, 1, 2, 3], [4, 5]]),
        ("social_i_qa", [[0, 1, 2, 3]]),
        ("multirc", [[0, 1]]),
        ("wic", [[0, 1], [2]]),
        ("twitter_sentiment", [[0], [1]]),
        ("amazon_polarity", [[0], [1]]),
    ],
)
def test_trap_10_related_rows_share_a_group(name: str, groups: list[list[int]], read: Read) -> None:
    assert together(read(name), "group") == groups


@pytest.mark.parametrize("name", CHOICES)
def test_trap_19_right_and_wrong_answers_are_written_in_the_same_form(name: str, read: Read) -> None:
    data = read(name)
    forms: dict[str, set[str]] = defaultdict(set)
    for bundle, text in zip(data.table["bundle"].to_pylist(), texts(data), strict=True):
        cue = "\nTrait: " if name == "ethics_virtue" else "\nAnswer: "
        before, marker, after = text.rpartition(cue)
        assert marker
        forms[bundle].add(f"{before}{cue}…\n{after.partition(chr(10))[2]}")
    assert all(len(item) == 1 for item in forms.values()), forms


def test_trap_19_openbookqa_never_shows_a_letter_for_an_answer(read: Read) -> None:
    assert set(map(answer_of, texts(read("openbookqa")))) <= {"salt", "sand", "wood", "cold", "cork", "iron", "foam"}


@pytest.mark.parametrize(("name", "phrase"), [("cosmos_qa", "None of the above"), ("quail", "not enough information")])
def test_trap_19_an_answer_without_meaning_by_itself_is_never_used(name: str, phrase: str, read: Read) -> None:
    data = read(name)
    assert not any(phrase in text for text in texts(data))
    (left_out,) = data.left_out
    assert (left_out.num_rows, left_out.first_rows, left_out.is_fault) == (1, (1,), False)


@pytest.mark.parametrize("name", ROWS)
def test_trap_21_choices_depend_on_content_and_not_on_the_order_of_rows(name: str, read: Read) -> None:
    def content(data: TaskData) -> set[tuple[Any, ...]]:
        return {tuple(row.values()) for row in data.table.to_pylist()}

    assert content(read(name)) == content(read(name, ROWS[name][::-1]))


def test_trap_10_a_question_with_two_passages_is_in_one_group(read: Read) -> None:
    first, second = ROWS["sciq"][0], ROWS["sciq"][2]
    data = read("sciq", [first, second | {"question": first["question"].upper(), "support": "Of ice and salt."}])
    assert len(set(data.table["group"].to_pylist())) == 1


def test_trap_12_a_repeated_question_is_right_as_often_as_wrong(read: Read) -> None:
    row = ROWS["sciq"][0]
    wrongs = ["sand", "wood", "cork", "iron", "foam"]
    rows = [row | {f"distractor{place}": wrong for place in (1, 2, 3)} for wrong in wrongs]
    data = read("sciq", rows)
    assert sorted(labels(data)) == ["no", "yes"]
    assert sum(entry.num_rows for entry in data.left_out) == 4 + 4


def test_trap_21_wrong_answers_come_from_all_places(read: Read) -> None:
    row = ROWS["sciq"][0]
    data = read("sciq", [row | {"question": f"What melts, {number}?", "support": ""} for number in range(600)])
    wrong = Counter(answer_of(text) for text, label in zip(texts(data), labels(data), strict=True) if label == "no")
    assert set(wrong) == {"sand", "wood", "cork"}
    assert all(150 < count < 250 for count in wrong.values()), wrong


@pytest.mark.parametrize("name", QUESTIONS)
def test_form_pairs_compares_the_answers_that_the_classes_judge(name: str, read: Read) -> None:
    classes, data = read(name), read(name, form="pairs")
    assert data.class_names == ("first", "second") and data.table.num_rows * 2 == classes.table.num_rows
    answers: dict[str, dict[str, str]] = defaultdict(dict)
    for text, label in zip(texts(classes), labels(classes), strict=True):
        answers[text.partition("\nAnswer: ")[0]][label] = answer_of(text)
    for row in data.table.to_pylist():
        ends = [row[column].removeprefix(row["prompt"]) for column in ("text", "other")]
        judged = answers[row["prompt"].removesuffix("\nAnswer:")]
        assert ends[row["label"]] == f" {judged['yes']}" and ends[1 - row["label"]] == f" {judged['no']}"
    assert len({tuple(group) for group in together(data, "group")}) == len(together(classes, "group"))


def test_hellaswag_is_read_without_the_marks_of_wikihow(read: Read) -> None:
    row = {
        "ctx": "How to cut onions [header] Choosing them [title] Look at the skin. [step] It is dry.  Then",
        "endings": ["[substeps] Peel it.", "Sing [step] to it.", "Wait.", "Leave."],
        "label": "0",
    }
    data = read("hellaswag", [row, *ROWS["hellaswag"]], form="pairs")
    prompt = "How to cut onions Choosing them. Look at the skin. It is dry. Then"
    assert data.table["prompt"][0].as_py() == prompt
    assert f"{prompt} Peel it." in (data.table["text"][0].as_py(), data.table["other"][0].as_py())
    assert not any("[" in text for text in texts(data))
    bare = read("hellaswag", [row | {"endings": ["[step]", "a", "b", "c"]}, *ROWS["hellaswag"]], max_skipped=0.5)
    assert [entry.reason for entry in bare.left_out] == ["a text of WikiHow marks alone"]


@pytest.mark.parametrize("name", ["multirc", "wic"])
def test_super_glue_is_read_at_the_newest_commit_which_a_study_locks(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "look_up", lambda name, revision, repo_type: HubRepo("c" * 40, (), None))
    task = open_task(TaskSpec(builtin=name))
    assert isinstance(task, DatasetTask) and task.rows.revision() == f"{PARQUET}@{'c' * 40}"


def test_the_prompt_of_a_pair_is_the_question(read: Read) -> None:
    assert read("piqa", form="pairs").table["prompt"].to_pylist() == [
        "Goal: Open a jar\nAnswer:",
        "Goal: Dry a plate\nAnswer:",
    ]
    assert read("hellaswag", form="pairs").table["prompt"][0].as_py() == "A man cuts onions. Then he, 1"


@pytest.mark.parametrize("name", QUESTIONS)
def test_trap_21_pairs_depend_on_content_and_not_on_the_order_of_rows(name: str, read: Read) -> None:
    given, turned = read(name, form="pairs"), read(name, ROWS[name][::-1], form="pairs")
    assert sorted(map(str, given.table.to_pylist())) == sorted(map(str, turned.table.to_pylist()))


def test_the_order_of_a_pair_does_not_show_the_right_answer(read: Read) -> None:
    rows = [{"goal": f"Goal {n}", "sol1": f"Do {n}.", "sol2": f"Leave {n}.", "label": 0} for n in range(400)]
    assert 160 < sum(read("piqa", rows, form="pairs").table["label"].to_pylist()) < 240


@pytest.mark.parametrize("name", ["boolq", "multirc", "sst2", "code_domain", "hh_rlhf", "python_source"])
def test_tasks_without_pairs_refuse_the_form(name: str) -> None:
    with pytest.raises(DataError, match="form: pairs"):
        open_task(TaskSpec(builtin=name, form="pairs"))


def test_the_form_is_part_of_the_fingerprint_only_if_given(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS["piqa"]))
    spec = TaskSpec(builtin="piqa", files=str(path))
    pairs = open_task(spec.model_copy(update={"form": "pairs"}))
    assert pairs.kind == "pairs" and pairs.fingerprint() != open_task(spec).fingerprint()
    assert identity("task", spec) == identity("task", spec.model_copy(update={"form": None}))


@pytest.mark.parametrize(
    ("name", "cue"),
    [("sst2", "\nSentiment:"), ("twitter_sentiment", "\nSentiment:"), ("boolq", "\nAnswer:"), ("wic", "\nAnswer:")],
)
def test_a_recipe_has_a_cue(name: str, cue: str) -> None:
    assert cue_of(TaskSpec(builtin=name)) == cue
    (info,) = [info for info in known_tasks() if info.name == name]
    assert info.cue == cue


def test_tasks_from_source_code_ask_in_a_comment_and_own_data_in_the_usual_way() -> None:
    for name in ("code_domain", "code_continuation", "code_continuation_hard"):
        cue = cue_of(TaskSpec(builtin=name))
        assert cue.startswith("# ") and cue.endswith("Answer:") and "\n" not in cue
    assert cue_of(TaskSpec(files="a.csv", text="t", label="l")) == "\nAnswer:"


def test_sst2_keeps_row_indices_and_marks_sentences(read: Read) -> None:
    data = read("sst2")
    assert data.table["id"].to_pylist() == ["pool-0", "pool-1", "pool-2", "pool-3"]
    assert data.table["stratum"].to_pylist() == ["sentence", "phrase", "sentence", "phrase"]


def test_sst2_drops_short_shared_phrases_and_ties_sentences_by_long_ones(read: Read) -> None:
    sentences = ["dull and far too long", "never dull and far too loud", "a tale that is dull"]
    phrases = ["dull", "dull and far too", "tale that"]
    rows = [{"idx": at, "sentence": text, "label": at % 2} for at, text in enumerate([*sentences, *phrases])]
    data = read("sst2", rows)
    assert texts(data) == [*sentences, *phrases[1:]]
    assert together(data, "group") == [[0, 1, 3], [2, 4]]
    (left_out,) = data.left_out
    assert (left_out.first_rows, left_out.is_fault) == ((4,), False)


def test_amazon_reviews_need_a_text_but_no_title(read: Read) -> None:
    rows = [*ROWS["amazon_polarity"], {"label": 0, "title": "Bad", "content": " "}]
    assert [entry.reason for entry in read("amazon_polarity", rows, max_skipped=0.5).left_out] == ["no content"]


BAD = [
    ("boolq", {"answer": None}, "no answer"),
    ("boolq", {"answer": "perhaps"}, "unknown answer 'perhaps'"),
    ("boolq", {"passage": " \t"}, "no passage"),
    ("boolq", {"question": 7}, "question is int and not text"),
    ("cosmos_qa", {"label": 4}, "a right answer that is not among the answers 4"),
    ("dream", {"answer": "The moon."}, "a right answer that is not among the answers 'The moon.'"),
    ("dream", {"dialogue": "W: Hi."}, "dialogue is not a list of texts"),
    ("dream", {"choice": ["The ferry.", ""]}, "no choice"),
    ("ethics_virtue", {"scenario": "Lea went back."}, "a scenario without a trait"),
    ("ethics_utilitarianism", {"baseline": "same", "less_pleasant": "same"}, "two equal answers"),
    ("anli_r2", {"label": -1}, "unknown label -1"),
    ("sst2", {"label": -1}, "unknown label -1"),
    ("sst2", {"idx": None}, "no idx"),
    ("hellaswag", {"label": ""}, "no label"),
    ("openbookqa", {"choices": ["salt"]}, "choices are not a mapping with `text` and `label`"),
    ("openbookqa", {"answerKey": "E"}, "unknown answerKey 'E'"),
    ("piqa", {"sol1": "Turn it.", "sol2": "turn it."}, "no wrong answer that differs from the right one"),
    ("wic", {"label": 2}, "unknown label 2"),
]


@pytest.mark.parametrize(("name", "change", "reason"), BAD)
def test_a_bad_row_is_counted_and_reported(name: str, change: Row, reason: str, read: Read) -> None:
    rows = [*ROWS[name], ROWS[name][0] | change]
    data = read(name, rows, max_skipped=0.5)
    faults = [entry for entry in data.left_out if entry.is_fault]
    assert [(entry.reason, entry.num_rows, entry.first_rows) for entry in faults] == [(reason, 1, (len(rows),))]
    assert set(texts(data)) >= set(texts(read(name)))


@pytest.mark.parametrize(("name", "change", "reason"), BAD)
def test_too_many_bad_rows_are_refused(name: str, change: Row, reason: str, read: Read) -> None:
    with pytest.raises(DataError) as caught:
        read(name, [*ROWS[name], ROWS[name][0] | change])
    assert reason in caught.value.message


def test_the_page_on_tasks_names_each_of_them() -> None:
    page = (Path(__file__).parents[2] / "docs" / "tasks.md").read_text()
    assert not [recipe.name for recipe in RECIPES if f"`{recipe.name}`" not in page]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_recipe_has_a_complete_description(recipe: Recipe) -> None:
    assert recipe.hub.count("/") == 1 and recipe.branch == PARQUET
    assert recipe.commit is None or parse_revision(recipe.commit) == (None, recipe.commit)
    assert recipe.licence and recipe.citation and recipe.protocol.count("\n") == 0
    assert set(recipe.format.columns) <= set(ROWS[recipe.name][0])
