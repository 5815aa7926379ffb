"""Rows of hub data sets, with the hub unreachable or faked."""

import pickle
from typing import Any

import pytest

from w2s_ray import hub
from w2s_ray.hub import HubRepo, HubUnreachable
from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks.registry import open_task
from w2s_ray.tasks.sources import PARQUET, parse_revision
from w2s_ray.tasks.task import POOL, TEST


def test_an_unreachable_hub_is_reported_with_the_missing_data(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "look_up", lambda name, revision, repo_type: None)
    task = open_task(TaskSpec(hub="stanfordnlp/no-such-set", text="sentence", label="label"))
    with pytest.raises(HubUnreachable) as caught:
        task.fingerprint()
    assert caught.value.files == ("datasets/stanfordnlp/no-such-set@main",)
    copy = pickle.loads(pickle.dumps(caught.value))
    assert copy.files == caught.value.files and str(copy) == str(caught.value)


def test_a_whole_commit_identifies_the_data_without_asking_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "look_up", lambda name, revision, repo_type: None)
    spec = TaskSpec(hub="stanfordnlp/no-such-set", revision="a" * 40, text="sentence", label="label")
    task = open_task(spec)
    assert task.fingerprint() != open_task(spec.model_copy(update={"revision": "b" * 40})).fingerprint()
    with pytest.raises(HubUnreachable):
        task.read()


def test_hub_rows_are_read_at_the_commit_of_the_branch(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []

    def load_dataset(path: str, **options: Any) -> list[dict[str, Any]]:
        asked.append((path, options))
        return [{"sentence": f"{options['split']} {n}", "label": n % 2} for n in range(4)]

    monkeypatch.setattr(hub, "look_up", lambda name, revision, repo_type: HubRepo("c" * 40, (), None))
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    spec = TaskSpec(hub="me/mine", subset="en", test_split="validation", text="sentence", label="label")
    table = open_task(spec).read().table
    assert table["origin"].to_pylist() == [POOL] * 4 + [TEST] * 4
    assert asked == [
        ("me/mine", {"name": "en", "split": split, "revision": "c" * 40}) for split in ("train", "validation")
    ]


def test_hub_rows_on_the_parquet_branch_are_read_file_by_file(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str]] = []

    def load_dataset(path: str, *, data_files: dict[str, str], split: str) -> list[dict[str, Any]]:
        asked.append((path, data_files[split], split))
        return [{"sentence": f"The {split} {n}.", "label": n % 2} for n in range(4)]

    monkeypatch.setattr(hub, "look_up", lambda name, revision, repo_type: HubRepo("c" * 40, (), None))
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    data = open_task(TaskSpec(builtin="cola")).read()
    assert data.table["origin"].to_pylist() == [POOL] * 8
    assert data.revision == f"{PARQUET}@{'c' * 40}"
    place = f"hf://datasets/nyu-mll/glue@{'c' * 40}/cola"
    assert asked == [("parquet", f"{place}/{split}/*.parquet", split) for split in ("train", "validation")]


@pytest.mark.parametrize(
    ("revision", "expected"),
    [
        ("main", ("main", None)),
        ("refs/convert/parquet", ("refs/convert/parquet", None)),
        ("a" * 40, (None, "a" * 40)),
        (f"refs/convert/parquet@{'a' * 40}", ("refs/convert/parquet", "a" * 40)),
        ("abc1234", ("abc1234", None)),
    ],
)
def test_a_revision_is_a_branch_a_commit_or_both(revision: str, expected: tuple[str | None, str | None]) -> None:
    assert parse_revision(revision) == expected
