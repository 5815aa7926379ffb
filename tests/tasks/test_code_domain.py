import collections
import dataclasses

import pytest

from w2s_ray.data.prepare import prepare_task
from w2s_ray.data.splits import check_sizes, num_test, rows_of_split
from w2s_ray.errors import DataError
from w2s_ray.spec.labels import SplitSpec
from w2s_ray.spec.study import TaskSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.tasks.embedded import corpus
from w2s_ray.tasks.embedded.code_domain import CUTS_PER_FUNCTION, DEEP_LEARNING, CodeDomain, distinct_texts, texts_of
from w2s_ray.tasks.embedded.published import MANIFEST, Manifest, digest_of
from w2s_ray.tasks.registry import open_task
from w2s_ray.tasks.task import POOL, SCHEMA, TaskData


def function(package: str, text: str, path: str = "a.py", cuts: tuple[int, ...] = ()) -> corpus.Function:
    return corpus.Function(package, path, "task", text, "shape", cuts or tuple(range(1, text.count("\n") + 1)))


@dataclasses.dataclass
class AlreadyRead:
    """A task whose examples are in memory."""

    data: TaskData
    kind = "classes"

    def fingerprint(self) -> str:
        return CodeDomain().fingerprint()

    def read(self) -> TaskData:
        return self.data


def test_the_class_is_the_functions_package(domain: TaskData) -> None:
    assert domain.class_names == ("elsewhere", "deep_learning")
    assert domain.table.schema == SCHEMA and set(domain.table["origin"].to_pylist()) == {POOL}
    for row in domain.table.select(["group", "label"]).to_pylist():
        assert row["label"] == (row["group"].partition(":")[0] in DEEP_LEARNING)


def test_texts_are_distinct_short_and_end_with_their_line(domain: TaskData) -> None:
    texts = domain.table["text"].to_pylist()
    assert len(texts) == len(set(texts)) >= 9_000
    assert len(set(domain.table["id"].to_pylist())) == len(texts)
    for text in texts:
        assert text.endswith("\n") and text.count("\n") >= 2 and len(text) <= 200
        assert not all(line.startswith(" ") for line in text.splitlines())


def test_a_text_is_the_whole_lines_before_a_cut_without_shared_indentation() -> None:
    lines = ["def f(self):", *(f"    value_{number} = self.reader.read({number})" for number in range(12))]
    (text,) = texts_of(function("torch", "\n".join(lines), cuts=(1, 9)))
    assert text == "".join(f"{line.strip()}\n" for line in lines[4:9])
    assert len("".join(f"{line}\n" for line in lines[4:9])) <= 200 < len("".join(f"{line}\n" for line in lines[3:9]))


def test_a_function_gives_at_most_two_texts() -> None:
    lines = ["def f(self):", *(f"    value_{number} = {number}" for number in range(12))]
    assert len(texts_of(function("ray", "\n".join(lines)))) == CUTS_PER_FUNCTION == 2


def test_a_repeated_text_is_used_once_and_not_at_all_with_both_classes() -> None:
    shared, other = "def f(a):\n    a = 1\n    b = a", "def g(a):\n    a = 2\n    b = a"
    functions = [
        function("torch", shared, "z.py", (2,)),
        function("torch", shared, "b.py", (2,)),
        function("torch", other, "c.py", (2,)),
        function("pandas", other, "d.py", (2,)),
    ]
    for order in (functions, functions[::-1]):
        ((text, source),) = distinct_texts(order)
        assert (text, source.file) == ("def f(a):\n    a = 1\n", "torch:b.py")


def test_the_splits_are_balanced_and_share_no_file(domain: TaskData, store: ArtifactStore) -> None:
    prepared = prepare_task(store, "code_domain", AlreadyRead(domain), TaskSpec(builtin="code_domain").test_fraction)
    sizes = {"train_examples": 2000, "validation_examples": 400, "test_examples": 4000}
    check_sizes(prepared, num_levels=3, seeds=(0, 1), balance=True, **sizes)
    assert num_test(prepared) >= 4000
    groups = prepared.table()["group"].to_pylist()
    split_of: dict[str, str] = {}
    for name, size in {"S": 2000, "T1": 2000, "T2": 2000, "V1": 400, "test": 4000}.items():
        split = SplitSpec(
            task=prepared.fingerprint, name=name, num_levels=3, split_seed=0, num_examples=size, balance=True
        )
        rows = rows_of_split(prepared, split)
        assert collections.Counter(prepared.labels(rows).tolist()) == {0: size // 2, 1: size // 2}
        assert {split_of.setdefault(groups[row], name) for row in rows.tolist()} == {name}


def test_the_installed_packages_give_the_published_task(domain: TaskData) -> None:
    assert digest_of(domain.table) == Manifest.model_validate_json(MANIFEST.read_text()).tasks["code_domain"]


def test_the_task_is_opened_by_name() -> None:
    task = open_task(TaskSpec(builtin="code_domain"))
    assert isinstance(task, CodeDomain) and task.kind == "classes"


def test_a_size_larger_than_its_slot_is_refused_with_both_numbers(domain: TaskData, store: ArtifactStore) -> None:
    prepared = prepare_task(store, "code_domain", AlreadyRead(domain), 0.2)
    sizes = {"train_examples": 12_000, "validation_examples": 400, "test_examples": 4000}
    with pytest.raises(DataError) as caught:
        check_sizes(prepared, num_levels=3, seeds=(0,), balance=True, **sizes)
    assert "12000" in caught.value.message and "deep_learning" in caught.value.message and caught.value.hint
