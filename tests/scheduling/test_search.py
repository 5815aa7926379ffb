"""Searches on real Ray and Tune: candidates are judged, stopped, varied, restored; the best run on fresh seeds."""

import threading
from pathlib import Path
from typing import Any

import pytest

from tests.scheduling.judged import STEPS, judged_study, others, resolved
from tests.scheduling.test_run import Watching, starts
from w2s_ray.scheduling.candidates import CandidateJudge
from w2s_ray.scheduling.study import RunSettings, StudyOutcome, run_study
from w2s_ray.spec.chain import distinct_stages
from w2s_ray.spec.search import Found
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.found import every_chain, read_found
from w2s_ray.tracking.tracker import NullTracker

pytestmark = pytest.mark.usefixtures("ray_of_two_cpus")

SETTINGS = RunSettings(runner="tests.scheduling.judged:run_stage", tracker=NullTracker, collective_seconds=200)
RATE = "ladder.l.optimisation.learning_rate"
RATES = [1e-5, 1e-4, 1e-3, 1e-2]


def go(study: Study, store: ArtifactStore, interrupt: threading.Event | None = None, view: Watching | None = None) -> StudyOutcome:
    return run_study(
        study,
        resolution=resolved(study, store),
        store=store,
        address=None,
        view=view or Watching(),
        interrupt=interrupt or threading.Event(),
        settings=SETTINGS,
    )


def search(**keys: Any) -> dict[str, Any]:
    return {"search": {"space": {RATE: RATES}, "choose_by": "agreement", **keys}}


def found_in(outcome: StudyOutcome) -> Found:
    assert outcome.found is not None
    return outcome.found


def test_a_grid_is_judged_and_its_best_point_runs_on_the_studys_own_seeds(store: ArtifactStore, tmp_path: Path) -> None:
    study = judged_study(tmp_path, seeds=[0, 1], **search())
    outcome = go(study, store)
    found = found_in(outcome)
    assert [candidate.status for candidate in found.candidates] == ["done"] * 4
    assert [winner.values[RATE] for winner in found.winners] == [1e-3]
    assert outcome.failed == {}
    assert {name.rpartition("-")[0] for name in outcome.chains} == {"numbers-s-l-naive-s0", "numbers-s-l-naive-s1"}
    assert read_found(study, store) == found
    stages = distinct_stages(every_chain(study, resolved(study, store), store))
    assert [store.num_attempts(identity) for identity in stages] == [1] * len(stages)
    judged = [stage for stage in stages.values() if not any(each.split.is_test for each in stage.predicts)]
    assert len(judged) == 1 + 2 * 4, "one floor, then a student and a ceiling for each candidate, never on the test set"
    again = go(study, store)
    assert again.trained == () and again.found == found
