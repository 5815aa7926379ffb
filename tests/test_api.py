"""The public functions: `run_study` prints its progress and raises what failed, `read_results` reads per student."""

from pathlib import Path
from typing import Any

import pytest

from tests.scheduling.studies import chains_of, resolution_of, small_study
from w2s_ray.api import run_study
from w2s_ray.errors import TrainingError
from w2s_ray.scheduling.status import EventKind, NullView, StageEvent, StudyStatus
from w2s_ray.scheduling.study import ChainOutcome, StudyOutcome

STAGE = chains_of(small_study())[0].stages[0]


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that starts one stage, in which one of two chains fails."""

    def run(*_: object, view: Any, **__: object) -> StudyOutcome:
        view.update(StudyStatus(events=(StageEvent(EventKind.ASSIGNED, STAGE, 0),)))
        return StudyOutcome({"a": ChainOutcome("done"), "b": ChainOutcome("failed", "no room")}, trained=("x",))

    monkeypatch.setattr("w2s_ray.scheduling.study.run_study", run)
    monkeypatch.setattr("w2s_ray.planning.resolve.resolve_whole", lambda study, store: resolution_of(study))


@pytest.mark.usefixtures("fails")
def test_a_failed_chain_is_an_error_after_the_others_have_ended(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(TrainingError) as raised:
        run_study(small_study(), tmp_path)
    assert raised.value.message == "failed: b\nno room" and "raise_on_failure" in raised.value.hint
    shown = capsys.readouterr()
    assert shown.out == "", "standard output is the caller's"
    lines = shown.err.splitlines()
    assert lines[0].startswith("started ") and lines[-1].startswith("small: 1 of 2 chains done, 1 stage trained now")


@pytest.mark.usefixtures("fails")
def test_failed_chains_are_in_the_outcome_if_no_error_is_wanted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    outcome = run_study(small_study(), tmp_path, view=NullView(), raise_on_failure=False)
    assert outcome.failed == {"b": "no room"}
    assert capsys.readouterr().err == "", "NullView shows nothing"
