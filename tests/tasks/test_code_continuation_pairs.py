"""The tasks `code_continuation_pairs` and `code_continuation_pairs_hard`."""

import collections

import numpy as np
import pytest

from w2s_ray.data.prepare import prepare_task
from w2s_ray.data.splits import rows_of_split
from w2s_ray.spec.labels import SplitSpec
from w2s_ray.spec.study import TaskSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.tasks.embedded import corpus
from w2s_ray.tasks.embedded.code_continuation import CodeContinuation
from w2s_ray.tasks.embedded.published import MANIFEST, Manifest, digest_of
from w2s_ray.tasks.registry import open_task
from w2s_ray.tasks.task import POOL, SCHEMA, TaskData

Row = dict[str, str | int]


def completions(row: Row) -> tuple[str, str]:
    """Return both lines, with indentation and final line end."""
    length = len(str(row["prompt"]))
    return str(row["text"])[length:], str(row["other"])[length:]


def right(row: Row) -> str:
    return completions(row)[int(row["label"])].strip()


def test_both_texts_begin_with_the_prompt_and_end_in_one_line(comparisons: TaskData) -> None:
    assert comparisons.table.schema == SCHEMA and comparisons.class_names == ("first", "second")
    assert comparisons.table.num_rows >= 40_000
    assert len(set(comparisons.table["id"].to_pylist())) == comparisons.table.num_rows
    assert set(comparisons.table["origin"].to_pylist()) == {POOL}
    for row in comparisons.table.to_pylist():
        assert row["prompt"].endswith("\n")
        assert row["text"].startswith(row["prompt"]) and row["other"].startswith(row["prompt"])
        for line in completions(row):
            assert line.strip() and line.endswith("\n") and line.count("\n") == 1


def test_a_bundle_has_two_prompts_and_each_line_is_right_after_one(comparisons: TaskData) -> None:
    bundles = collections.defaultdict(list)
    for row in comparisons.table.to_pylist():
        bundles[row["bundle"]].append(row)
    for rows in bundles.values():
        assert len(rows) == 2 == len({row["prompt"] for row in rows}) and len({row["group"] for row in rows}) == 1
        assert {row["label"] for row in rows} == {0, 1}, "each class once, so a balanced split keeps the bundle whole"
        lines = [[line.strip() for line in completions(row)] for row in rows]
        assert lines[0] == lines[1], "the lines and their order do not show which is right"
        assert {right(row) for row in rows} == set(lines[0])


def test_a_balanced_split_keeps_bundles_whole(comparisons: TaskData, store: ArtifactStore) -> None:
    task = CodeContinuation(kind="pairs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(task, "read", lambda: comparisons)
        prepared = prepare_task(store, "pairs", task, 0.2)
    bundles = prepared.table()["bundle"].to_pylist()
    for name in ("S", "T2", "V1", "test"):
        split = SplitSpec(task=prepared.fingerprint, name=name, num_levels=3, split_seed=0, num_examples=1000)
        rows = rows_of_split(prepared, split)
        assert set(collections.Counter(bundles[row] for row in rows.tolist()).values()) == {2}
        assert prepared.labels(rows).mean() == 0.5
        assert all(prepared.prompts(rows))


def test_which_line_is_first_depends_on_neither_prompt(comparisons: TaskData) -> None:
    rows = comparisons.table.to_pylist()
    first_of_bundle = {row["bundle"]: row["label"] for row in reversed(rows)}
    share = np.mean(list(first_of_bundle.values()))
    assert abs(share - 0.5) < 3 * np.sqrt(0.25 / len(first_of_bundle))


def test_the_right_line_follows_in_the_source(comparisons: TaskData, functions: tuple[corpus.Function, ...]) -> None:
    def flat(text: str) -> str:
        return "\n".join(line.strip() for line in text.strip("\n").split("\n"))

    by_file = collections.defaultdict(list)
    for function in functions:
        by_file[function.file].append(flat(function.text))
    for row in comparisons.table.to_pylist()[:400]:
        sources = [text for file in row["group"].split(" ") for text in by_file[file]]
        for label, text in enumerate((row["text"], row["other"])):
            assert any(flat(text) in source for source in sources) == (label == row["label"])


def test_the_texts_are_those_of_the_classes(continuation: TaskData, comparisons: TaskData) -> None:
    table = comparisons.table
    if " " not in table["group"][0].as_py():
        return  # the hard task
    texts = {*table["text"].to_pylist(), *table["other"].to_pylist()}
    assert texts == set(continuation.table["text"].to_pylist())
    assert set(table["group"].to_pylist()) == set(continuation.table["group"].to_pylist())


def test_the_installed_packages_give_the_published_pairs(comparisons: TaskData) -> None:
    published = Manifest.model_validate_json(MANIFEST.read_text()).tasks
    assert digest_of(comparisons.table) in (
        published["code_continuation_pairs"],
        published["code_continuation_pairs_hard"],
    )


def test_the_pairs_have_names_and_fingerprints_of_their_own() -> None:
    names = [f"code_continuation{form}{level}" for form in ("", "_pairs") for level in ("", "_hard")]
    tasks = [open_task(TaskSpec(builtin=name)) for name in names]
    assert all(isinstance(task, CodeContinuation) for task in tasks)
    assert [task.name for task in tasks if isinstance(task, CodeContinuation)] == names
    assert [task.kind for task in tasks] == ["classes", "classes", "pairs", "pairs"]
    assert len({task.fingerprint() for task in tasks}) == 4
