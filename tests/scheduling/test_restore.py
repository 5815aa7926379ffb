"""A search whose whole run is killed continues with its sampler, its scheduler and its candidates."""

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.scheduling.judged import judged_study, resolved
from tests.scheduling.studies import no_tracker
from tests.scheduling.test_run import Watching, starts
from w2s_ray.scheduling.study import RunSettings, StudyOutcome, run_study
from w2s_ray.spec.chain import distinct_stages
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.search_result import every_chain

pytestmark = pytest.mark.soak

RATES = {"ladder.l.optimisation.learning_rate": {"low": 1e-5, "high": 1e-2, "log": True}}
SEARCHES: dict[str, dict[str, Any]] = {
    "tpe": {"sampler": "tpe", "num_samples": 5},
    "asha": {
        "sampler": "random",
        "num_samples": 5,
        "scheduler": {"kind": "asha", "reports": 6, "grace_reports": 1, "reduction_factor": 2},
    },
}


def study_of(folder: Path, kind: str) -> Study:
    return judged_study(
        folder / "data",
        max_concurrent=2,
        optimisation={"epochs": 3},
        search={"space": RATES, "choose_by": "oracle", **SEARCHES[kind]},
    )


def run_it(folder: Path, kind: str) -> StudyOutcome:
    study, store = study_of(folder, kind), ArtifactStore(folder / "store")
    store.prepare()
    return run_study(
        study,
        resolution=resolved(study, store),
        store=store,
        address=None,
        view=Watching(),
        interrupt=threading.Event(),
        settings=RunSettings(runner="tests.scheduling.judged:run_stage", tracker=no_tracker),
    )


def kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill the driver, with Tune in it, and all of its Ray processes."""
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    for member in family:
        member.kill()
    process.wait(timeout=30)
    psutil.wait_procs(family, timeout=30)


@pytest.mark.parametrize("torn", [False, True])
@pytest.mark.parametrize("kind", SEARCHES)
def test_a_killed_search_continues_and_trains_no_finished_stage_again(kind: str, torn: bool, tmp_path: Path) -> None:
    code = f"from tests.scheduling.test_restore import *; run_it(Path({str(tmp_path)!r}), {kind!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[2])
    finished = tmp_path / "store" / "artifacts"
    deadline = time.monotonic() + 180
    while len(list(finished.glob("[sl]*/record.json"))) < 3 + torn:
        assert time.monotonic() < deadline and process.poll() is None, "the search never got going"
        time.sleep(0.05)
    kill(process)
    if torn:  # as when Tune is killed while it copies its state into the study's folder
        for file in (tmp_path / "store" / "studies").glob("*/search/experiment_state-*.json"):
            file.write_bytes(file.read_bytes()[:100])
    before = {path.parent.name: len(attempts(path.parent)) for path in finished.glob("[sl]*/record.json")}

    outcome = run_it(tmp_path, kind)
    assert outcome.search is not None and outcome.failed == {}
    assert len(outcome.search.candidates) == 5
    assert outcome.search.winners
    study, store = study_of(tmp_path, kind), ArtifactStore(tmp_path / "store")
    after = {name: len(attempts(finished / name)) for name in before}
    assert after == before, "finished stages were not trained again"
    if kind == "tpe":
        stages = distinct_stages(every_chain(study, resolved(study, store), store))
        trained = {path.parent.name for path in finished.glob("[sl]*/attempts_seen.jsonl")}
        assert trained == {store.folder(stage.spec.slug, stage.identity).name for stage in stages.values()}, (
            "the sampler continued: every stage that was started belongs to a candidate"
        )
        for stage in stages.values():
            assert len(starts(store, stage)) <= 2


def attempts(folder: Path) -> list[dict[str, int]]:
    return [json.loads(line) for line in (folder / "attempts_seen.jsonl").read_text().splitlines()]
