"""Known data sets through preparation and splits: the examples that a study trains and tests on."""

import gzip
import json
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from w2s_ray.data.prepare import PreparedTask, prepare
from w2s_ray.data.splits import num_test, rows_of_split, slot_names
from w2s_ray.data.tokens import tokenise
from w2s_ray.spec.stage import SplitSpec
from w2s_ray.spec.study import TaskSpec
from w2s_ray.store.artifacts import ArtifactStore

Split = Callable[..., SplitSpec]
Prepare = Callable[..., PreparedTask]
Row = dict[str, Any]


@pytest.fixture
def known(store: ArtifactStore, tmp_path: Path) -> Prepare:
    """Prepare rows as a known data set."""

    def known(name: str, rows: list[Row], **spec: Any) -> PreparedTask:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return prepare(store, name, TaskSpec(builtin=name, files=str(path), **spec))

    return known


@pytest.fixture(scope="module")
def real_store(tmp_path_factory: pytest.TempPathFactory) -> ArtifactStore:
    store = ArtifactStore(tmp_path_factory.mktemp("store"))
    store.prepare()
    return store


@pytest.fixture(scope="module")
def real(real_store: ArtifactStore) -> Prepare:
    """Prepare a data set from the folder that W2S_DATA names."""
    folder = Path(os.environ.get("W2S_DATA") or "no folder")
    if not folder.is_dir():
        pytest.skip("W2S_DATA names no folder of real data sets")

    def real(name: str, **spec: Any) -> PreparedTask:
        return prepare(real_store, name, TaskSpec(builtin=name, files=str(folder / name), **spec))

    return real


def reviews(num: int) -> list[Row]:
    """Sentences of six words or more, all phrases of each, all of the first class before all of the second."""
    rows: list[Row] = [{"sentence": "film", "label": 0}]
    for label in (0, 1):
        for number in range(num):
            words = [f"w{(number * 7 + at) % 400}x{label}{number}" for at in range(5)] + ["film"]
            spans = ((0, 6), (0, 3), (3, 6), (1, 4))
            rows += [{"sentence": " ".join(words[start:end]), "label": label} for start, end in spans]
    return [row | {"idx": at} for at, row in enumerate(rows)]


def all_splits(
    prepared: PreparedTask, split: Split, num_levels: int = 3
) -> Iterator[tuple[str, list[str], np.ndarray]]:
    """Yield name, texts and labels of every slot at its largest size, and of the test set."""
    sizes = {"test": num_test(prepared)} | dict.fromkeys(slot_names(num_levels), 4)
    for name, size in sizes.items():
        rows = rows_of_split(prepared, split(prepared, name, size, num_levels=num_levels))
        yield name, prepared.table()["text"].take(rows).to_pylist(), prepared.labels(rows)


def contained(shorter: str, longer: str) -> bool:
    return f" {shorter.casefold()} " in f" {longer.casefold()} "


def test_trap_10_no_phrase_of_a_test_sentence_is_trained_on(known: Prepare, split: Split) -> None:
    prepared = known("sst2", reviews(60))
    texts = {name: texts for name, texts, _ in all_splits(prepared, split)}
    test = texts.pop("test")
    assert len(test) > 20
    trained = [text for item in texts.values() for text in item]
    assert not [(a, b) for a in test for b in trained if contained(a, b) or contained(b, a)]


def test_trap_10_questions_on_one_passage_stay_in_one_split(known: Prepare, split: Split) -> None:
    rows = [
        {"question": f"is it so {number}", "passage": f"Passage {number // 4} of many.", "answer": number % 2 == 0}
        for number in range(400)
    ]
    where: dict[str, set[str]] = defaultdict(set)
    for name, texts, _ in all_splits(known("boolq", rows), split):
        for text in texts:
            where[text.partition("\n")[0]].add(name)
    assert len(where) > 20
    assert all(len(splits) == 1 for splits in where.values()), where


def test_trap_12_rows_sorted_by_class_are_sampled_everywhere_and_balanced(known: Prepare, split: Split) -> None:
    rows = [{"text": f"tweet {number}", "label": int(number >= 900)} for number in range(1200)]
    prepared = known("twitter_sentiment", rows)
    for name, texts, labels in all_splits(prepared, split):
        assert abs(labels.sum() - len(labels) / 2) <= 0.5, name
        if name == "test":
            numbers = [int(text.removeprefix("tweet ")) for text in texts if int(text.removeprefix("tweet ")) < 900]
            assert min(numbers) < 200 and max(numbers) > 700


def test_trap_12_a_question_and_its_two_answers_are_drawn_side_by_side(known: Prepare, split: Split) -> None:
    rows = [
        {"goal": f"Goal {number}", "sol1": f"Do {number}.", "sol2": f"Leave {number}.", "label": number % 2}
        for number in range(300)
    ]
    for _, texts, labels in all_splits(known("piqa", rows), split):
        by_goal: dict[str, list[int]] = defaultdict(list)
        for text, label in zip(texts, labels.tolist(), strict=True):
            by_goal[text.partition("\n")[0]].append(label)
        assert all(sorted(item) == [0, 1] for item in by_goal.values())


def test_trap_13_long_texts_are_in_every_models_test_set(
    known: Prepare, split: Split, store: ArtifactStore, tokenizer: PreTrainedTokenizerFast
) -> None:
    def row(number: int) -> Row:
        passage = f"Passage {number}. " + "word " * (900 if number % 3 else 1)
        return {"question": f"is it so {number}", "passage": passage, "answer": number % 2 == 0}

    prepared = known("boolq", [row(number) for number in range(120)])
    rows = rows_of_split(prepared, split(prepared, "test", num_test(prepared)))
    assert any(len(text) > 4000 for text in prepared.table()["text"].take(rows).to_pylist())
    tokens = tokenise(store, prepared, tokenizer, "toy")
    for context in (8, 64):
        read = tokens.rows(rows, context)
        assert len(read) == len(rows) and max(map(len, read)) == context
    end = tokenizer.decode(tokens.rows(rows, 8)[0])
    assert end.endswith("?"), "a long text keeps its end, which is the question"


def test_trap_13_the_test_set_does_not_depend_on_other_settings(known: Prepare, split: Split) -> None:
    prepared = known("sst2", reviews(60))
    size = num_test(prepared)
    first = prepared.ids(rows_of_split(prepared, split(prepared, "test", size)))
    assert first == prepared.ids(rows_of_split(prepared, split(prepared, "test", size, num_levels=2, split_seed=7)))
    assert first[:10] == prepared.ids(rows_of_split(prepared, split(prepared, "test", 10)))


def test_rows_left_out_are_kept_in_the_store(known: Prepare, store: ArtifactStore) -> None:
    rows = [*reviews(20), {"idx": 999, "sentence": "", "label": 1}]
    prepared = known("sst2", rows)
    assert prepared == known("sst2", rows)
    assert [entry.reason for entry in prepared.left_out] == ["no sentence", "a short phrase of several sentences"]


def test_real_sst2_is_grouped_by_containment_and_tested_on_thousands(real: Prepare, split: Split) -> None:
    prepared = real("sst2")
    assert prepared.class_names == ("negative", "positive")
    assert 63_000 < prepared.table().num_rows < 67_349
    test = rows_of_split(prepared, split(prepared, "test", num_test(prepared)))
    assert len(test) > 9_000 and prepared.labels(test).mean() == 0.5
    table = prepared.table().select(["text", "group"]).to_pydict()
    group_of = {text.casefold(): group for text, group in zip(table["text"], table["group"], strict=True)}
    for text, group in list(group_of.items())[::50]:
        words = text.split()
        parts = {" ".join(words[a:b]) for a in range(len(words)) for b in range(a + 1, len(words) + 1)}
        assert {group_of[part] for part in parts if part in group_of} == {group}
    faults = [entry for entry in prepared.left_out if entry.is_fault]
    assert [(entry.reason, entry.num_rows) for entry in faults] == [("the same text has different labels", 10)]


def test_real_sciq_has_its_own_test_set(real: Prepare, split: Split) -> None:
    prepared = real("sciq")
    assert num_test(prepared) == 2000
    assert not [entry for entry in prepared.left_out if entry.is_fault]
    train = rows_of_split(prepared, split(prepared, "S", 4000))
    assert prepared.labels(train).mean() == 0.5


def test_real_boolq_without_a_train_split_is_split_from_its_other_file(real: Prepare, split: Split) -> None:
    prepared = real("boolq")
    assert prepared.table().num_rows == 3270 and not prepared.left_out
    assert 400 < num_test(prepared) < 600
    groups = prepared.table()["group"]
    test = rows_of_split(prepared, split(prepared, "test", num_test(prepared)))
    others = np.concatenate([rows_of_split(prepared, split(prepared, name, 30)) for name in slot_names(3)])
    assert not set(groups.take(test).to_pylist()) & set(groups.take(others).to_pylist())


def test_the_hubs_columns_are_those_of_the_local_files(real: Prepare) -> None:
    from w2s_ray.tasks.nlp import RECIPES

    folder = Path(os.environ["W2S_DATA"])
    for name in ("sst2", "sciq", "boolq"):
        (recipe,) = [recipe for recipe in RECIPES if recipe.name == name]
        with gzip.open(folder / name / "validation.jsonl.gz", "rt") as file:
            assert set(recipe.format.columns) == set(json.loads(next(file)))
