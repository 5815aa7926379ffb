"""Which models are checked before a run, and where their verdicts are kept."""

import threading
from pathlib import Path

import pytest

from tests.planning.conftest import study_in
from w2s_ray.planning import model_checks
from w2s_ray.planning.resolve import _read_lock, _save, locked, locked_checks, resolve_whole, save_checks, save_study
from w2s_ray.spec.model_check import CheckResult, Checks
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import exclusive
from w2s_ray.store.verdicts import write_verdict


def test_a_machine_that_is_too_slow_to_check_a_model_only_says_so(
    home: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_checks, "_SECONDS", 0.01)
    study = study_in(home)
    lines: list[str] = []
    assert model_checks.check_models(study, resolve_whole(study, store), store, lines.append) == 0
    assert len(lines) == 2 and str(home / "s") in lines[0] and lines[1].startswith("not checked: ")
    assert locked_checks(study, store) == {}


def test_verdicts_are_kept_in_the_lock_and_shared_by_the_studies_of_a_store(
    home: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(stages: tuple, store: ArtifactStore) -> Checks:
        for stage in stages:
            write_verdict(store, stage, 0.25)
        return Checks(verdicts=(CheckResult(difference=0.25),) * len(stages))

    monkeypatch.setattr(model_checks, "_run", run)
    study, other = study_in(home), study_in(home, name="other")
    resolution = resolve_whole(study, store)
    assert model_checks.check_models(study, resolution, store) == 3
    checks = locked_checks(study, store)
    assert checks.keys() == {model.revision for model in resolution.models.values()}
    assert [list(ways.values()) for ways in checks.values()] == [[0.25]] * 3
    save_study(study, resolution, store)
    assert locked_checks(study, store) == checks
    assert model_checks.check_models(other, resolve_whole(other, store), store) == 0
    assert locked_checks(other, store) == checks


def test_verdicts_do_not_replace_what_a_run_locks_meanwhile(home: Path, store: ArtifactStore) -> None:
    study = study_in(home)
    resolve_whole(study, store)
    save_checks(study, store, {"model": {"one way": 0.5}})
    with exclusive(store.study_folder(study.name)):
        thread = threading.Thread(target=save_checks, args=(study, store, {"model": {"another way": 0.25}}))
        thread.start()
        thread.join(0.05)
        lock = _read_lock(study, store)
        assert lock is not None and thread.is_alive()
        _save(study, store, lock.model_copy(update={"sources": "those of another run"}))
    thread.join(10)
    lock = _read_lock(study, store)
    assert lock is not None and lock.sources == "those of another run"
    assert lock.checks == {"model": {"one way": 0.5, "another way": 0.25}}


def test_consent_to_a_models_code_changes_what_is_locked(home: Path, store: ArtifactStore) -> None:
    (home / "s" / "modeling_own.py").write_text("")
    study = study_in(home)
    before = resolve_whole(study, store)
    ladder = study.ladder | {"s": study.ladder["s"].model_copy(update={"trust_remote_code": True})}
    after = locked(study.model_copy(update={"ladder": ladder}), store)
    assert locked(study, store) == before
    assert after.models["s"].revision != before.models["s"].revision
    assert after.models["m"] == before.models["m"]
