"""Which models are checked before a run."""

from pathlib import Path

import pytest

from tests.planning.test_plan import home, study_in
from w2s_ray.planning import model_checks
from w2s_ray.planning.resolve import locked_checks, resolve_whole
from w2s_ray.store.artifacts import ArtifactStore

__all__ = ["home"]


def test_a_machine_that_is_too_slow_to_check_a_model_only_says_so(
    home: Path, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_checks, "_SECONDS", 0.01)
    study = study_in(home)
    lines: list[str] = []
    assert model_checks.check_models(study, resolve_whole(study, store), store, lines.append) == 0
    assert len(lines) == 2 and str(home / "s") in lines[0] and lines[1].startswith("not checked: ")
    assert locked_checks(study, store) == {}
