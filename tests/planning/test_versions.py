"""Former versions of a study: what a file of the same name replaced."""

import shutil
from pathlib import Path

import pytest
import yaml

from tests.scheduling.judged import judged_study
from w2s_ray.errors import StudyError
from w2s_ray.planning.resolve import locked, resolve_whole, save_study
from w2s_ray.planning.versions import (
    LOCK_NAME,
    former_versions,
    load_stored,
    notice_of_change,
    notice_of_other_version,
    stored_studies,
    version_of,
)
from w2s_ray.spec.load import STUDY_NAME, load_study
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore


def study_file(folder: Path, **changes: object) -> Path:
    """Write a study's file, with its data beside it."""
    raw = judged_study(folder, **changes).model_dump(mode="json", exclude_unset=True)
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(raw))
    return path


def saved(study: Study, store: ArtifactStore) -> str | None:
    """Save a study as a run does; return the notice before that."""
    resolution = resolve_whole(study, store)
    notice = notice_of_change(study, resolution, store)
    save_study(study, resolution, store)
    return notice


def test_another_file_of_the_same_name_is_warned_about_and_its_version_kept(
    tmp_path: Path, store: ArtifactStore
) -> None:
    first, second = study_file(tmp_path / "a", seeds=[0]), study_file(tmp_path / "b", seeds=[1, 2])
    assert saved(load_study(first), store) is None
    notice = saved(load_study(second), store)
    assert notice is not None and notice.startswith("warning") and str(first) in notice and str(second) in notice
    assert former_versions("judged", store) == [1]
    former = version_of(load_study(second), 1, store)
    assert former.seeds == (0,) and locked(former, store).tasks.keys() == {"numbers"}


def test_a_changed_file_keeps_its_former_version_with_a_notice(tmp_path: Path, store: ArtifactStore) -> None:
    path = study_file(tmp_path)
    saved(load_study(path), store)
    notice = saved(load_study(path, ["seeds=[5]"]), store)
    assert notice is not None and not notice.startswith("warning") and "version 1" in notice


def test_verbs_that_read_notice_another_version(tmp_path: Path, store: ArtifactStore) -> None:
    def notice(path: Path, *overrides: str) -> str | None:
        study = load_study(path, overrides)
        return notice_of_other_version(study, resolve_whole(study, store), store)

    first, second = study_file(tmp_path / "a", seeds=[0]), study_file(tmp_path / "b", seeds=[1])
    assert notice(first) is None, "nothing ran"
    saved(load_study(first), store)
    assert notice(first) is None and notice(first, "ladder.l.execution.workers=2") is None
    assert str(first) not in (notice(first, "seeds=[5]") or str(first))
    assert str(first) in (notice(second) or "")


@pytest.mark.parametrize(
    "override",
    ["max_concurrent=3", "report.min_gap=0.1", "tracking.wandb=offline", "ladder.l.execution.workers=2"],
)
def test_what_changes_no_result_makes_no_version(tmp_path: Path, store: ArtifactStore, override: str) -> None:
    path = study_file(tmp_path)
    saved(load_study(path), store)
    assert saved(load_study(path, [override]), store) is None
    assert former_versions("judged", store) == []


def test_a_study_that_moved_with_its_data_is_the_same_version(tmp_path: Path, store: ArtifactStore) -> None:
    saved(load_study(study_file(tmp_path / "a")), store)
    assert saved(load_study(study_file(tmp_path / "b")), store) is None
    other = study_file(tmp_path / "c")
    (tmp_path / "c" / "numbers.jsonl").write_text((tmp_path / "a" / "others.jsonl").read_text())
    assert saved(load_study(other), store) is not None, "other data of the same name"


def test_a_study_that_cannot_be_read_any_more_is_kept_too(tmp_path: Path, store: ArtifactStore) -> None:
    study = load_study(study_file(tmp_path))
    saved(study, store)
    (store.study_folder("judged") / STUDY_NAME).write_text("of: another version")
    (store.study_folder("judged") / LOCK_NAME).unlink()
    assert saved(study, store) is not None
    assert (store.study_folder("judged") / "versions" / "1" / STUDY_NAME).read_text() == "of: another version"


def test_a_run_killed_while_it_replaced_a_version_keeps_it_once(tmp_path: Path, store: ArtifactStore) -> None:
    path = study_file(tmp_path)
    saved(load_study(path), store)
    before = tmp_path / "before"
    shutil.copytree(store.study_folder("judged"), before)
    saved(load_study(path, ["seeds=[5]"]), store)
    shutil.copytree(before, store.study_folder("judged"), dirs_exist_ok=True)
    saved(load_study(path, ["seeds=[5]"]), store)
    assert former_versions("judged", store) == [1]


def test_a_missing_version_names_those_that_exist(tmp_path: Path, store: ArtifactStore) -> None:
    study = load_study(study_file(tmp_path))
    saved(study, store)
    saved(load_study(study_file(tmp_path, seeds=[7])), store)
    with pytest.raises(StudyError, match="it has 1"):
        version_of(study, 9, store)
    assert [load_stored(folder, store).name for folder in stored_studies(store)] == ["judged", "judged/versions/1"]
