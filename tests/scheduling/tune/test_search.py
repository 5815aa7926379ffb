"""Searches on real Ray and Tune: candidates are judged, stopped, varied and restored; the best run on new seeds."""

import json
import math
import shutil
import subprocess
import sys
import threading
import zipfile
from pathlib import Path
from typing import Any

import pytest
import ray
from ray import cloudpickle

from tests.scheduling.judged import FORGIVEN, STEPS, judged_study, leave_in_store, others, resolved
from tests.scheduling.studies import no_tracker
from tests.scheduling.test_run import Watching, processes, starts, wait_until, what_is_left
from w2s_ray.errors import Interrupted
from w2s_ray.scheduling.study import RunSettings, StudyOutcome, run_study
from w2s_ray.scheduling.tune import search as module
from w2s_ray.scheduling.tune import trials
from w2s_ray.scheduling.tune.candidates import CandidateJudge
from w2s_ray.scheduling.tune.search import Search, repair_state, save_state
from w2s_ray.scheduling.tune.trials import TuneStopped
from w2s_ray.spec.chain import Chain, distinct_stages
from w2s_ray.spec.search import Point, SearchResult
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.search_result import every_chain, read_search_result

pytestmark = pytest.mark.usefixtures("ray_of_two_cpus")

SETTINGS = RunSettings(runner="tests.scheduling.judged:run_stage", tracker=no_tracker, collective_seconds=200)
RATE = "ladder.l.optimisation.learning_rate"
RATES = [1e-5, 1e-4, 1e-3, 1e-2]


def go(
    study: Study,
    store: ArtifactStore,
    interrupt: threading.Event | None = None,
    view: Watching | None = None,
    *,
    retry_failed: bool = False,
) -> StudyOutcome:
    return run_study(
        study,
        resolution=resolved(study, store),
        store=store,
        address=None,
        view=view or Watching(),
        interrupt=interrupt or threading.Event(),
        settings=SETTINGS,
        retry_failed=retry_failed,
    )


def finished_stages(store: ArtifactStore) -> list[Path]:
    return [path.parent for path in (store.root / "artifacts").glob("*/record.json") if "-on-" not in path.parent.name]


def search(**keys: Any) -> dict[str, Any]:
    return {"search": {"space": {RATE: RATES}, "choose_by": "agreement"} | keys}


class Broken(CandidateJudge):
    """Fails in every trial's process."""

    def chains(self, point: Point) -> tuple[Chain, ...]:
        raise OSError("the disk is gone")


def found_in(outcome: StudyOutcome) -> SearchResult:
    assert outcome.search is not None
    return outcome.search


def test_the_best_point_of_a_grid_runs_on_the_studys_own_seeds(store: ArtifactStore, tmp_path: Path) -> None:
    study = judged_study(tmp_path, seeds=[0, 1], **search())
    outcome = go(study, store)
    found = found_in(outcome)
    assert [candidate.status for candidate in found.candidates] == ["done"] * 4
    assert [winner.values[RATE] for winner in found.winners] == [1e-3]
    assert outcome.failed == {}
    assert {name.rpartition("-")[0] for name in outcome.chains} == {"numbers-s-l-naive-s0", "numbers-s-l-naive-s1"}
    assert read_search_result(study, store) == found
    stages = distinct_stages(every_chain(study, resolved(study, store), store))
    assert [store.num_attempts(identity) for identity in stages] == [1] * len(stages)
    judged = [stage for stage in stages.values() if not any(each.split.is_test for each in stage.predicts)]
    assert len(judged) == 1 + 2 * 4, "one floor, then a student and a ceiling for each candidate, never on the test set"
    again = go(study, store)
    assert again.trained == () and again.search == found
    lost = next(stage for stage in stages.values() if any(each.split.is_test for each in stage.predicts))
    shutil.rmtree(store.folder(lost.spec.slug, lost.identity))
    regained = go(study, store)
    assert regained.trained == (lost.identity,) and regained.search == found, "as if killed among the winners' chains"


@pytest.mark.soak
def test_a_search_whose_time_is_up_runs_the_best_point_so_far(store: ArtifactStore, tmp_path: Path) -> None:
    epochs = "ladder.l.optimisation.epochs"
    space = {epochs: [1, 80, 81]}
    study = judged_study(tmp_path, max_concurrent=1, **search(space=space, time_budget_seconds=15))
    judge = CandidateJudge(study, resolved(study, store), store)
    for stage in distinct_stages(judge.chains(Point.of({epochs: 1}))).values():
        leave_in_store(stage, store)
    outcome = go(study, store)
    found = found_in(outcome)
    assert [(one.point.values[epochs], one.status) for one in found.candidates] == [(1, "done"), (80, "stopped")]
    assert [winner.values[epochs] for winner in found.winners] == [1]
    assert outcome.failed == {}
    (chain,) = judge.chains(Point.of({epochs: 80}))
    assert not any(store.find(stage.identity) for stage in chain.stages if stage.level == "l")


def test_a_candidate_whose_process_cannot_start_fails_with_the_reason(
    store: ArtifactStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = judged_study(tmp_path, **search(space={RATE: RATES[:2]}))
    judge = Broken(study, resolved(study, store), store)
    monkeypatch.setattr(module, "MAX_TRIAL_FAILURES", 0)
    broken = Search(judge, None, ray.put("no dispatcher"))
    broken.start()
    assert broken.wait(120)
    candidates = broken.result().candidates
    assert [one.point.values[RATE] for one in candidates] == RATES[:2]
    assert all(one.status == "failed" and "the disk is gone" in str(one.error) for one in candidates)


def test_trials_and_the_dispatcher_import_no_torch() -> None:
    code = (
        "import sys, w2s_ray.scheduling.tune.search, w2s_ray.scheduling.dispatcher.dispatcher\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'transformers', 'deepspeed')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.soak
def test_asha_stops_a_weak_candidate_in_the_middle_of_its_student(store: ArtifactStore, tmp_path: Path) -> None:
    scheduler = {"kind": "asha", "reports": 6, "grace_reports": 1, "reduction_factor": 2}
    slow = {"optimisation": {"epochs": 5}}
    best_first = {"space": {RATE: sorted(RATES, key=lambda rate: abs(math.log10(rate) + 3))}}
    study = judged_study(tmp_path, max_concurrent=1, **search(scheduler=scheduler, **best_first), **slow)
    outcome = go(study, store)
    found = found_in(outcome)
    by_status = {
        status: [c for c in found.candidates if c.status == status] for status in ("done", "stopped", "failed")
    }
    assert by_status["stopped"] and not by_status["failed"]
    assert [winner.values[RATE] for winner in found.winners] == [1e-3]
    judge = CandidateJudge(study, resolved(study, store), store)
    for candidate in by_status["stopped"]:
        student = judge.chains(candidate.point)[0].find("chain", "l")
        assert student is not None
        if store.num_attempts(student.identity):
            checkpoint = store.folder(student.spec.slug, student.identity) / "checkpoints" / "step"
            assert store.find(student.identity) is None
            assert int(checkpoint.read_text()) < STEPS, "its checkpoint is kept"


@pytest.mark.soak
def test_a_failed_candidate_has_its_error_and_is_judged_again_on_request(store: ArtifactStore, tmp_path: Path) -> None:
    study = judged_study(tmp_path, search={"space": {RATE: [1e-3, 1.0]}, "choose_by": "oracle"})
    found = found_in(go(study, store))
    good, bad = sorted(found.candidates, key=lambda candidate: candidate.status)
    assert (good.status, bad.status) == ("done", "failed")
    assert "the loss is nan" in str(bad.error)
    assert found.winners == (good.point,)
    before = {folder: store.num_attempts(folder.name.rpartition("-")[2]) for folder in finished_stages(store)}
    (store.root / FORGIVEN).touch()
    assert found_in(go(study, store)) == found, "not requested"
    again = found_in(go(study, store, retry_failed=True))
    assert [candidate.status for candidate in again.candidates] == ["done"] * 2
    assert {candidate.point for candidate in again.candidates} == {good.point, bad.point}
    assert (
        before.items()
        <= {folder: store.num_attempts(folder.name.rpartition("-")[2]) for folder in finished_stages(store)}.items()
    ), "what was finished is not trained again"


@pytest.mark.soak
@pytest.mark.parametrize(("sampler", "more"), [("tpe", {}), ("nsga2", {"minimise": "train_tokens", "num_winners": 2})])
def test_optuna_draws_the_requested_number_of_candidates(
    sampler: str, more: dict[str, Any], store: ArtifactStore, tmp_path: Path
) -> None:
    space = {RATE: {"low": 1e-5, "high": 1e-2, "log": True}, "ladder.l.optimisation.epochs": [1, 2]}
    folder = tmp_path / "data"
    study = judged_study(folder)
    study = judged_study(
        folder,
        tasks={"numbers": study.tasks["numbers"].model_dump(), "others": others(folder)},
        search={
            "space": space,
            "sampler": sampler,
            "num_samples": 4,
            "choose_by": "development_tasks",
            "development_tasks": ["others"],
            **more,
        },
    )
    outcome = go(study, store)
    found = found_in(outcome)
    assert [candidate.status for candidate in found.candidates] == ["done"] * 4
    assert len({candidate.point for candidate in found.candidates}) > 1
    assert all(chain.startswith("numbers-") for chain in outcome.chains)
    if sampler == "nsga2":
        assert all(candidate.cost for candidate in found.candidates)


@pytest.mark.soak
def test_pbt_shares_finished_levels_and_varies_the_next(store: ArtifactStore, tmp_path: Path) -> None:
    rates = {"low": 1e-5, "high": 1e-2, "log": True}
    study = judged_study(
        tmp_path,
        ladder={"s": {"model": "w2s:small"}, "m": {"model": "w2s:medium"}, "l": {"model": "w2s:large"}},
        methods={"naive": {"arms": ["chain"]}},
        max_concurrent=1,  # is for chains: a population is trained together
        search={
            "space": {"ladder.m.optimisation.learning_rate": rates, RATE: rates},
            "sampler": "random",
            "num_samples": 4,
            "choose_by": "oracle",
            "scheduler": {"kind": "pbt", "quantile_fraction": 0.25},
        },
    )
    outcome = go(study, store)
    found = found_in(outcome)
    assert [candidate.status for candidate in found.candidates] == ["done"] * 4
    medium = [candidate.point.values["ladder.m.optimisation.learning_rate"] for candidate in found.candidates]
    large = [candidate.point.values[RATE] for candidate in found.candidates]
    assert len(set(medium)) == 3, "one candidate replaced another after the first level, and kept its medium student"
    assert len(set(large)) == 4, "and varied the next level"
    judge = CandidateJudge(study, resolved(study, store), store)
    chains = [chain for candidate in found.candidates for chain in judge.chains(candidate.point)]
    stages = distinct_stages(chains)
    assert [store.num_attempts(identity) for identity in stages] == [1] * len(stages)
    trained = [folder for folder in (store.root / "artifacts").iterdir() if (folder / "attempts_seen.jsonl").is_file()]
    final = {
        stage.identity[:12] for stage in distinct_stages(every_chain(study, resolved(study, store), store)).values()
    }
    extra = [folder for folder in trained if folder.name.rpartition("-")[2] not in final]
    assert len(extra) <= 1, "the medium student that was replaced"


def test_a_search_whose_store_was_moved_is_restored_and_can_be_stopped(store: ArtifactStore, tmp_path: Path) -> None:
    study = judged_study(tmp_path, **search())

    def search_in(store: ArtifactStore) -> Search:
        return Search(CandidateJudge(study, resolved(study, store), store), None, ray.put("no dispatcher"))

    search_in(store).tuner()
    (store.study_folder(study.name) / "search" / "experiment_state-1.json").write_text("{}")
    moved = ArtifactStore(store.root.rename(tmp_path / "elsewhere"))
    moved_search = search_in(moved)
    restored = moved_search.tuner()._local_tuner
    assert restored is not None and restored._is_restored
    (callback,) = restored.get_run_config().callbacks or ()
    trials._THREAD.tuning = moved_search
    callback.on_step_begin(0, [])
    assert (moved.study_folder(study.name) / "search-state.zip").is_file() and not store.root.exists()
    moved_search.stop()
    with pytest.raises(TuneStopped):
        callback.on_step_begin(1, [])


@pytest.mark.soak
@pytest.mark.parametrize(
    "sampler",
    [
        {"sampler": "tpe"},
        {"sampler": "random", "scheduler": {"kind": "asha", "reports": 6, "grace_reports": 1, "reduction_factor": 2}},
    ],
)
def test_a_search_whose_dispatcher_is_killed_judges_every_candidate(
    store: ArtifactStore, tmp_path: Path, sampler: dict[str, Any]
) -> None:
    space = {RATE: {"low": 1e-5, "high": 1e-2, "log": True}}
    study = judged_study(
        tmp_path,
        max_concurrent=2,
        optimisation={"epochs": 3},
        search={"space": space, "num_samples": 5, "choose_by": "oracle", **sampler},
    )
    killed: list[int] = []

    def kill_once() -> None:
        if view.shown[-1].num_done >= 4 and not killed:
            (dispatcher,) = processes("ray::Dispatcher")
            killed.append(dispatcher.pid)
            dispatcher.kill()

    view = Watching(each_time=kill_once)
    outcome = go(study, store, view=view)
    assert killed and outcome.failed == {}
    assert {candidate.status for candidate in found_in(outcome).candidates} <= {"done", "stopped"}
    assert len(found_in(outcome).candidates) == 5
    wait_until(lambda: what_is_left() == (0, 0, set()))
    assert what_is_left() == (0, 0, set())


@pytest.mark.soak
def test_an_interrupted_search_continues_and_trains_nothing_twice(store: ArtifactStore, tmp_path: Path) -> None:
    space = {RATE: {"low": 1e-5, "high": 1e-2, "log": True}}
    study = judged_study(
        tmp_path,
        max_concurrent=2,
        search={"space": space, "sampler": "tpe", "num_samples": 5, "choose_by": "oracle"},
    )
    interrupt = threading.Event()
    view = Watching(each_time=lambda: interrupt.set() if view.shown[-1].num_done >= 4 else None)
    with pytest.raises(Interrupted):
        go(study, store, interrupt, view)
    before = {folder.name: (folder / "record.json").is_file() for folder in (store.root / "artifacts").iterdir()}
    outcome = go(study, store)
    found = found_in(outcome)
    assert [candidate.status for candidate in found.candidates] == ["done"] * 5
    stages = distinct_stages(every_chain(study, resolved(study, store), store))
    assert {name for name, done in before.items() if done} <= {
        store.folder(stage.spec.slug, stage.identity).name for stage in stages.values()
    } | {folder.name for folder in (store.root / "artifacts").iterdir() if "-on-" in folder.name}
    for stage in stages.values():
        first, *later = starts(store, stage)
        assert first["from"] == 0 and all(one["from"] > 0 for one in later)


STATE, SAMPLER, TUNER = "experiment_state-1.json", "searcher-state-1.pkl", "tuner.pkl"


@pytest.fixture
def tune_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "search"
    folder.mkdir()
    (folder / STATE).write_text(json.dumps({"trials": [1, 2]}))
    for name in (SAMPLER, TUNER):
        (folder / name).write_bytes(cloudpickle.dumps({"of": name}))
    return folder


@pytest.mark.parametrize("name", [STATE, SAMPLER, TUNER])
@pytest.mark.parametrize("share", [0.0, 0.5])
def test_a_torn_state_is_restored_as_a_whole(tune_folder: Path, name: str, share: float) -> None:
    whole = {path.name: path.read_bytes() for path in tune_folder.iterdir()}
    save_state(tune_folder)
    (tune_folder / STATE).write_text(json.dumps({"trials": [1, 2, 3]}))
    (tune_folder / name).write_bytes(whole[name][: round(share * len(whole[name]))])
    assert repair_state(tune_folder)
    assert {path.name: path.read_bytes() for path in tune_folder.iterdir()} == whole


def test_a_whole_state_is_not_replaced_by_its_archive(tune_folder: Path) -> None:
    save_state(tune_folder)
    newer = json.dumps({"trials": [1, 2, 3]})
    (tune_folder / STATE).write_text(newer)
    assert repair_state(tune_folder) and (tune_folder / STATE).read_text() == newer


def test_a_torn_state_is_never_archived(tune_folder: Path) -> None:
    save_state(tune_folder)
    (tune_folder / SAMPLER).write_bytes(b"")
    save_state(tune_folder)
    assert repair_state(tune_folder) and (tune_folder / SAMPLER).stat().st_size


def test_a_torn_state_without_an_archive_cannot_be_repaired(tune_folder: Path) -> None:
    (tune_folder / STATE).write_bytes(b"")
    assert not repair_state(tune_folder)
    (tune_folder / STATE).unlink()
    assert not repair_state(tune_folder)


def test_a_state_of_another_version_cannot_be_repaired(tune_folder: Path) -> None:
    (tune_folder / TUNER).write_bytes(b"cw2s_ray.scheduling.no_such_file\nTrial\n.")
    with zipfile.ZipFile(tune_folder.with_name(f"{tune_folder.name}-state.zip"), "w") as archive:
        for path in tune_folder.iterdir():
            archive.write(path, path.name)
    assert not repair_state(tune_folder), "the search starts again, and finds its stages in the store"
