from pathlib import Path

import pytest

from w2s_ray.errors import DataError
from w2s_ray.tasks import corpus, manifest
from w2s_ray.tasks.task import TaskData


def test_the_installed_packages_give_the_published_tasks(continuation: TaskData, hard_continuation: TaskData) -> None:
    published = manifest.Manifest.model_validate_json(manifest.PATH.read_text())
    assert published.versions == corpus.versions()
    assert manifest.entry_of(continuation.table) == published.tasks["code_continuation"]
    assert manifest.entry_of(hard_continuation.table) == published.tasks["code_continuation_hard"]


def test_a_changed_source_file_is_refused_and_another_version_is_another_task(
    continuation: TaskData, tmp_path: Path
) -> None:
    published = manifest.Manifest.model_validate_json(manifest.PATH.read_text())
    fewer = continuation.table.slice(4)
    with pytest.raises(DataError, match=r"constraints\.txt"):
        manifest.check("code_continuation", fewer, published.versions)
    manifest.check("code_continuation", fewer, {**published.versions, "torch": "0.0"})
