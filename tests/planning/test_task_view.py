"""What a plan shows of each task, and the one number where examples are too few."""

import json
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from w2s_ray.cli.plan import _view
from w2s_ray.data.tokens import plain_ids, read_around
from w2s_ray.errors import DataError
from w2s_ray.planning.nodes import Node
from w2s_ray.planning.plan import Plan, plan
from w2s_ray.planning.resolve import resolve
from w2s_ray.planning.task_view import _readers, _tokenizer
from w2s_ray.spec.chain import distinct_stages
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.training.models.catalogue import LADDER
from w2s_ray.training.models.loading import load_tokenizer

WORDS = [f"w{n}" for n in range(30)]
LABELS = ("negative", "negative", "positive")


def rows(num: int, start: int = 0) -> list[dict[str, str]]:
    """Rows of 1 to 30 words, of which every fourth has more than 22."""
    sizes = [1 + 7 * n % 30 for n in range(start, start + num)]
    return [{"text": " ".join([f"n{n}", *WORDS[:size]]), "label": LABELS[n % 3]} for n, size in enumerate(sizes, start)]


def json_lines(path: Path, given: Sequence[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return str(path)


def word_tokenizer(folder: Path, start: str = "[CLS]", end: str = "[SEP]", **names: str) -> None:
    """A tokenizer with one token for each word, and special tokens around a text; `names` as `cls_token`."""
    vocabulary = ["[PAD]", "[UNK]", start, end, *WORDS, *(f"n{n}" for n in range(2000))]
    tokenizer = Tokenizer(models.WordLevel({word: n for n, word in enumerate(vocabulary)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", start, end])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start} $A {end}", special_tokens=[(start, 2), (end, 3)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "eos_token": end, **names}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Two models that are nothing but their size and tokenizer; that of `s` has a token for each word."""
    for name in ("s", "m"):
        shutil.copytree(LADDER / "tokenizer", tmp_path / name)
        (tmp_path / name / "config.json").write_text("{}")
        save_file({"w": np.zeros(1000, np.float16)}, tmp_path / name / "model.safetensors")
    word_tokenizer(tmp_path / "s", cls_token="[CLS]")
    return tmp_path


def study_in(home: Path, tasks: dict[str, Any], /, **changes: Any) -> Study:
    raw = {
        "name": "viewed",
        "tasks": {name: {"text": "text", "label": "label", **task} for name, task in tasks.items()},
        "ladder": {name: {"model": str(home / name), "optimisation": {"context_tokens": 24}} for name in ("s", "m")},
        "splits": {"train_examples": 60, "validation_examples": 14},
    }
    return parse_study({**raw, **changes})


def planned(study: Study, store: ArtifactStore) -> Plan:
    return plan(study, resolve(study, store), store)


def test_a_plan_shows_rows_classes_cut_texts_and_examples(home: Path, store: ArtifactStore) -> None:
    given = rows(600)
    path = json_lines(home / "rows.jsonl", [*given, given[0], {"text": "", "label": "negative"}])
    view = planned(study_in(home, {"moods": {"files": path}}), store).task_views["moods"]
    assert [(source.num_rows, source.num_examples) for source in view.sources] == [(602, 600)]
    assert sum(sum(counts.values()) for counts in view.pools.values()) == view.num_examples == 600
    assert view.splits.keys() == {"S", "T1", "V0", "V1", "test"}
    assert view.splits["S"] == view.splits["T1"] == {"negative": 30, "positive": 30}
    assert view.splits["V0"] == {"negative": 7, "positive": 7}
    assert view.splits["test"]["positive"] in (view.pools["test"]["positive"], view.pools["test"]["positive"] - 1)
    words = [len(row["text"].split()) + 2 for row in given]
    assert view.cuts[0].level == "s" and view.cuts[0].num_texts == 600
    assert view.cuts[0].share == pytest.approx(sum(size > 24 for size in words) / 600)
    assert view.reader == "s" and len(view.examples) == 3
    for example in view.examples:
        match = re.fullmatch(r"'\[CLS\] (.*) \[SEP\]' \(class: (negative|positive)\)", example)
        assert match and len(match[1].split()) <= 22
        assert any(row["text"].endswith(match[1]) and row["label"] == match[2] for row in given)


def test_a_decoder_reads_no_token_that_ends_a_text(home: Path, store: ArtifactStore) -> None:
    word_tokenizer(home / "s", "<s>", "</s>")
    given = rows(600)
    study = study_in(home, {"moods": {"files": json_lines(home / "rows.jsonl", given)}})
    before = (home / "s" / "tokenizer.json").read_bytes()
    view = planned(study, store).task_views["moods"]
    sizes = [len(row["text"].split()) + 1 for row in given]
    assert view.cuts[0].share == pytest.approx(sum(size > 24 for size in sizes) / 600)
    for example in view.examples:
        match = re.fullmatch(r"'<s> (.*)' \(class: (negative|positive)\)", example)
        assert match and len(match[1].split()) <= 23 and "</s>" not in example
        assert any(row["text"].endswith(match[1]) and row["label"] == match[2] for row in given)
    assert (home / "s" / "tokenizer.json").read_bytes() == before


def test_a_view_shows_the_ids_that_a_stage_reads(home: Path, store: ArtifactStore) -> None:
    given = [{**row, "text": f"{row['text']} [SEP] <|endoftext|> w1"} for row in rows(600)]
    study = study_in(home, {"moods": {"files": json_lines(home / "rows.jsonl", given)}})
    resolution = resolve(study, store)
    stages = list(distinct_stages(compile_study(study, resolution)).values())
    texts = [row["text"] for row in given[:50]] + ["w1 " * 9000]
    for reader in _readers(resolution, stages, texts):
        tokenizer = load_tokenizer(home / reader.level, None)
        around = read_around(tokenizer, is_language_model=False)
        ids = plain_ids(tokenizer, texts)
        for number, row in enumerate(reader.tokens.rows(np.arange(len(texts)), reader.context)):
            room = reader.context - len(around[0]) - len(around[1])
            assert row.tolist() == [*around[0], *ids[number][-room:], *around[1]]


def test_the_built_in_tokenizer_is_loaded_as_stages_load_it() -> None:
    texts = ["def f(x):\n    return x  # é 日\n", "a <|endoftext|> b", "  ", "\t\r\n"]
    fast, loaded = _tokenizer("w2s:small", ""), load_tokenizer(LADDER / "tokenizer", None)
    assert fast is not None and plain_ids(fast, texts) == plain_ids(loaded, texts)
    for is_language_model in (False, True):
        pairs = zip(*(read_around(own, is_language_model=is_language_model) for own in (fast, loaded)), strict=True)
        assert all(own.tolist() == other.tolist() for own, other in pairs)


def test_the_lines_of_a_view_have_its_numbers(home: Path, store: ArtifactStore) -> None:
    path = json_lines(home / "rows.jsonl", rows(600))
    view = planned(study_in(home, {"moods": {"files": path}}), store).task_views["moods"]
    shown = "\n".join(_view(view))
    assert "rows.jsonl 600" in shown and "S, T1 (seed 0) 60: negative 30, positive 30" in shown
    assert shown.count("s reads: '[CLS] ") == 3 and "24 tokens cut" in shown


@pytest.mark.parametrize(
    ("task", "method"),
    [
        ({"text": "text"}, {"objective": "next_token"}),
        ({"text": "text", "answer": "label"}, {"arms": ["chain"]}),
        ({"chosen": "text", "rejected": "other"}, {"arms": ["chain"]}),
    ],
)
def test_every_kind_of_task_has_a_view(
    task: dict[str, Any], method: dict[str, Any], home: Path, store: ArtifactStore
) -> None:
    given = [{**row, "other": f"worse than {row['text']}"} for row in rows(600)]
    files = json_lines(home / "rows.jsonl", given)
    study = study_in(home, {}, tasks={"t": {"files": files, **task}}, methods={"only": method})
    view = planned(study, store).task_views["t"]
    assert len(view.examples) == 3 and view.num_examples > 500 and list(_view(view))


@pytest.mark.parametrize(
    ("template", "token", "remedy"),
    [
        ("{text} [SEP] {label}", "[SEP]", '"{text}\\n{label}"'),
        ("[CLS] {text}</s>{label}", "</s>", '"{text}\\n{label}"'),
        ("{text} <|endoftext|>", "<|endoftext|>", '"{text}"'),
        ("<s>{text}", "<s>", '"{text}"'),
    ],
)
def test_special_tokens_in_a_template_are_noticed_with_what_to_write(
    template: str, token: str, remedy: str, home: Path, store: ArtifactStore
) -> None:
    path = json_lines(home / "rows.jsonl", rows(600))
    notices = planned(study_in(home, {"moods": {"files": path, "text": template}}), store).notices
    (notice,) = (notice for notice in notices if "special token" in notice)
    assert token in notice and remedy in notice


def test_a_backslash_in_a_template_is_no_line_end(home: Path, store: ArtifactStore) -> None:
    path = json_lines(home / "rows.jsonl", rows(600))
    notices = planned(study_in(home, {"moods": {"files": path, "text": "{text}\\nGood?"}}), store).notices
    assert any("backslash" in notice for notice in notices)
    notices = planned(study_in(home, {"moods": {"files": path, "text": "{text}\nGood?"}}), store).notices
    assert not notices


def test_special_tokens_in_many_texts_are_noticed(home: Path, store: ArtifactStore) -> None:
    given = [{**row, "text": f"{row['text']} [SEP] more"} for row in rows(600)]
    path = json_lines(home / "rows.jsonl", given)
    notices = planned(study_in(home, {"moods": {"files": path}}), store).notices
    assert [notice for notice in notices if "100% of the texts contain [SEP]" in notice]
    plain = study_in(home, {"plain": {"files": json_lines(home / "plain.jsonl", rows(600))}})
    assert not planned(plain, store).notices


def test_one_number_fits_all_tasks_and_seeds_that_have_too_few(home: Path, store: ArtifactStore) -> None:
    tasks = {
        name: {"files": json_lines(home / f"{name}.jsonl", rows(size, start))}
        for name, size, start in (("a", 900, 0), ("b", 700, 1000), ("c", 800, 2000))
    }

    def study(**splits: int) -> Study:
        return study_in(home, tasks, splits={"validation_examples": 20, **splits}, seeds=[0, 1, 2, 3])

    with pytest.raises(DataError) as caught:
        resolve(study(train_examples=400), store)
    assert all(f"task {name}: " in caught.value.message for name in tasks)
    assert "class 'positive' is short" in caught.value.message and "kept for the test set" in caught.value.message
    (number,) = re.findall(r"splits\.train_examples to at most (\d+)", caught.value.hint)
    resolve(study(train_examples=int(number)), store)
    with pytest.raises(DataError):
        resolve(study(train_examples=int(number) + 1), store)


def test_the_number_names_the_key_that_sets_the_size(home: Path, store: ArtifactStore) -> None:
    path = json_lines(home / "a.jsonl", rows(900))
    task = {"files": path, "train_examples": 800, "test_examples": 500}
    with pytest.raises(DataError) as caught:
        resolve(study_in(home, {"a": task}), store)
    keys = dict(re.findall(r"(tasks\.\S+|splits\.\S+) to at most (\d+)", caught.value.hint))
    assert keys.keys() == {"tasks.a.train_examples", "tasks.a.test_examples"}
    sizes = {key.rpartition(".")[2]: int(size) for key, size in keys.items()}
    resolve(study_in(home, {"a": {"files": path, **sizes}}), store)


def test_too_few_examples_of_a_class_come_with_the_labels_that_look_alike(home: Path, store: ArtifactStore) -> None:
    given = rows(600)
    given[7] = {**given[7], "label": "Negative"}
    task = {"files": json_lines(home / "rows.jsonl", given)}
    with pytest.raises(DataError) as caught:
        resolve(study_in(home, {"moods": task}), store)
    assert 'labels: {"negative": ["Negative"]}' in caught.value.hint
    planned(study_in(home, {"moods": {**task, "labels": {"negative": ["Negative"]}}}), store)


@pytest.mark.parametrize(("period", "advice"), [(20, "otherwise set splits.train"), (600, "raise test_fraction")])
@pytest.mark.parametrize(
    ("labels", "keys", "words"),
    [
        ({7: "NaN", 8: "null"}, {}, ("'NaN' (", "'null' (", 'classes: ["negative", "positive"]')),
        ({7: "Negative", 8: "Positive"}, {}, ('labels: {"negative": ["Negative"], "positive": ["Positive"]}',)),
        ({7: "Pos"}, {"labels": {"positive": ["Poss"]}}, ("'Poss' does not occur", "'Pos'")),
    ],
)
def test_remarks_on_labels_come_before_advice_on_sizes(
    labels: dict[int, str],
    keys: dict[str, Any],
    words: tuple[str, ...],
    period: int,
    advice: str,
    home: Path,
    store: ArtifactStore,
) -> None:
    given = [{**row, "label": labels.get(n % period, row["label"])} for n, row in enumerate(rows(600))]
    task = {"files": json_lines(home / "rows.jsonl", given), **keys}
    with pytest.raises(DataError) as caught:
        resolve(study_in(home, {"moods": task}), store)
    remarks, separator, _ = caught.value.hint.partition(advice)
    assert separator and all(word in remarks for word in words)


def test_a_ladder_is_shortened_only_where_a_shorter_one_fits(home: Path, store: ArtifactStore) -> None:
    task = {"files": json_lines(home / "rows.jsonl", rows(600))}
    three = {name: {"model": str(home / "s")} for name in ("a", "b", "c")}
    two = {name: three[name] for name in ("a", "b")}
    for ladder, size, levels in ((two, 300, None), (three, 300, None), (three, 100, 2)):
        splits = {"train_examples": size, "validation_examples": 8}
        with pytest.raises(DataError) as caught:
            resolve(study_in(home, {"moods": task}, ladder=ladder, splits=splits), store)
        assert ("shorten the ladder to 2 levels" in caught.value.hint) == (levels is not None)
        assert ("shorten" in caught.value.hint) == (levels is not None)


def test_a_plan_for_a_machine_without_gpus_names_the_levels_that_need_them(home: Path, store: ArtifactStore) -> None:
    path = json_lines(home / "rows.jsonl", rows(600))
    study = study_in(home, {"moods": {"files": path}}, execution={"gpus_per_worker": 1})
    resolution = resolve(study, store)
    for nodes, num in (((Node(4),), 2), ((Node(4), Node(4, gpus=1)), 0), ((), 0)):
        notices = plan(study, resolution, store, nodes).notices
        assert sum("there is no GPU" in notice for notice in notices) == num
