import collections
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.feature_extraction.text import HashingVectorizer
from sklearn.linear_model import LogisticRegression

from w2s_ray.errors import DataError
from w2s_ray.spec.identity import seeded_hash
from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks.embedded import corpus
from w2s_ray.tasks.embedded.code_continuation import (
    CLASS_NAMES,
    CodeContinuation,
    is_informative,
)
from w2s_ray.tasks.embedded.published import MANIFEST, Manifest, check_published, digest_of
from w2s_ray.tasks.registry import open_task
from w2s_ray.tasks.task import POOL, SCHEMA, TaskData

EXAMPLES_FOR_REGRESSION = 12_000


@pytest.fixture(params=["easy", "hard"])
def data(request: pytest.FixtureRequest, continuation: TaskData, hard_continuation: TaskData) -> TaskData:
    return continuation if request.param == "easy" else hard_continuation


def parts(text: str) -> tuple[str, str]:
    prefix, _, line = text.removesuffix("\n").rpartition("\n")
    return prefix, line


def test_there_are_enough_examples_and_half_of_them_are_true(data: TaskData) -> None:
    assert data.table.schema == SCHEMA
    assert data.class_names == CLASS_NAMES
    assert data.table.num_rows >= 60_000
    assert sum(data.table["label"].to_pylist()) * 2 == data.table.num_rows
    assert set(data.table["origin"].to_pylist()) == {POOL}
    assert len(set(data.table["id"].to_pylist())) == data.table.num_rows


def test_each_line_and_each_prefix_is_true_once_and_false_once(data: TaskData) -> None:
    lines, prefixes = collections.defaultdict(list), collections.defaultdict(list)
    for row in data.table.to_pylist():
        prefix, line = parts(row["text"])
        lines[line.strip()].append(row["label"])
        prefixes[prefix].append(row["label"])
    assert {tuple(sorted(labels)) for labels in lines.values()} == {(0, 1)}
    assert {tuple(sorted(labels)) for labels in prefixes.values()} == {(0, 1)}


def test_hard_lines_take_the_indentation_of_the_true_one(hard_continuation: TaskData) -> None:
    depths = collections.defaultdict(set)
    for row in hard_continuation.table.to_pylist():
        prefix, line = parts(row["text"])
        depths[prefix].add(len(line) - len(line.lstrip()))
    assert {len(members) for members in depths.values()} == {1}


def test_easy_lines_keep_their_own_indentation(continuation: TaskData) -> None:
    depths = collections.defaultdict(set)
    for row in continuation.table.to_pylist():
        _, line = parts(row["text"])
        depths[line.strip()].add(len(line) - len(line.lstrip()))
    assert {len(members) for members in depths.values()} == {1}


@pytest.mark.parametrize("part", ["line", "prefix"])
def test_the_line_or_the_prefix_alone_gives_chance_accuracy(data: TaskData, part: str) -> None:
    rows = sorted(data.table.to_pylist(), key=lambda row: seeded_hash(row["group"]))
    rows = rows[:EXAMPLES_FOR_REGRESSION]
    boundary = rows[len(rows) * 2 // 3]["group"]
    middle = next(at for at, row in enumerate(rows) if row["group"] == boundary)
    assert not {row["group"] for row in rows[:middle]} & {row["group"] for row in rows[middle:]}
    texts = [parts(row["text"])[part == "line"] for row in rows]
    label_N = np.array([row["label"] for row in rows])
    grams = HashingVectorizer(analyzer="char", ngram_range=(1, 3), n_features=2**16).transform(texts)
    model = LogisticRegression(max_iter=200).fit(grams[:middle], label_N[:middle])
    accuracy = model.score(grams[middle:], label_N[middle:])
    standard_error = math.sqrt(0.25 / (len(rows) - middle))
    assert abs(accuracy - 0.5) <= 2 * standard_error


def test_a_bundle_has_two_prefixes_and_two_lines_each_true_once(data: TaskData) -> None:
    bundles = collections.defaultdict(list)
    for row in data.table.to_pylist():
        bundles[row["bundle"]].append(row)
    for rows in bundles.values():
        assert len(rows) == 4 and len({row["group"] for row in rows}) == 1
        assert len({row["text"] for row in rows}) == 4
        for part in (0, 1):
            labels = collections.defaultdict(set)
            for row in rows:
                labels[parts(row["text"])[part].strip()].add(row["label"])
            assert list(labels.values()) == [{0, 1}, {0, 1}]


@pytest.mark.soak
def test_a_process_that_parses_only_task_files_makes_the_same_examples(continuation: TaskData) -> None:
    script = (
        "from w2s_ray.tasks.embedded.code_continuation import CodeContinuation;"
        "print(*CodeContinuation().read().table['id'].to_pylist())"
    )
    env = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": str(Path(corpus.__file__).parents[2])}
    other = subprocess.run([sys.executable, "-c", script], env=env, capture_output=True, text=True, check=True)
    assert other.stdout.split() == continuation.table["id"].to_pylist()


def test_a_group_is_two_files_of_two_packages_and_no_file_is_in_two_groups(continuation: TaskData) -> None:
    groups = sorted(set(continuation.table["group"].to_pylist()))
    files = [file for group in groups for file in group.split(" ")]
    assert len(files) == len(set(files)) == 2 * len(groups)
    assert all(len({file.partition(":")[0] for file in group.split(" ")}) == 2 for group in groups)


def test_a_group_of_the_hard_task_is_one_file(hard_continuation: TaskData) -> None:
    files = {source.package + ":" + source.path for source in corpus.sources() if source.pool == "task"}
    assert set(hard_continuation.table["group"].to_pylist()) <= files


def test_the_true_line_follows_in_the_source(continuation: TaskData, functions: tuple[corpus.Function, ...]) -> None:
    def flat(text: str) -> str:
        return "\n".join(line.strip() for line in text.strip("\n").split("\n"))

    by_file = collections.defaultdict(list)
    for function in functions:
        by_file[function.file].append(flat(function.text))
    for row in continuation.table.to_pylist()[:4000]:
        sources = [text for file in row["group"].split(" ") for text in by_file[file]]
        assert any(flat(row["text"]) in text for text in sources) == bool(row["label"])


def test_texts_are_short(data: TaskData) -> None:
    lengths = [len(text) for text in data.table["text"].to_pylist()]
    assert max(lengths) <= 350
    assert 120 <= np.mean(lengths) <= 240


def test_lines_without_names_are_not_used() -> None:
    for line in (
        "else:",
        "return self",
        "try:",
        "x = y",
        "return result",
        "elif left_side == right_side:",
        "import torch.nn",
    ):
        assert not is_informative(line), line
    for line in ("self.groups[name].append(parent)", "for column in table.columns:"):
        assert is_informative(line), line


def test_both_tasks_have_their_own_names_and_fingerprints() -> None:
    easy, hard = (open_task(TaskSpec(builtin=name)) for name in ("code_continuation", "code_continuation_hard"))
    assert isinstance(easy, CodeContinuation) and isinstance(hard, CodeContinuation)
    assert easy.fingerprint() != hard.fingerprint()
    assert easy.kind == "classes"


def test_the_installed_packages_give_the_published_tasks(continuation: TaskData, hard_continuation: TaskData) -> None:
    published = Manifest.model_validate_json(MANIFEST.read_text())
    assert published.versions == corpus.versions()
    assert digest_of(continuation.table) == published.tasks["code_continuation"]
    assert digest_of(hard_continuation.table) == published.tasks["code_continuation_hard"]


def test_a_changed_source_file_is_refused_but_another_version_is_not(continuation: TaskData, tmp_path: Path) -> None:
    published = Manifest.model_validate_json(MANIFEST.read_text())
    fewer = continuation.table.slice(4)
    with pytest.raises(DataError, match=r"constraints\.txt"):
        check_published("code_continuation", fewer, published.versions)
    check_published("code_continuation", fewer, {**published.versions, "torch": "0.0"})
