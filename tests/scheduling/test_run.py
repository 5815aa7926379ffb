"""Whole runs on a real Ray session: Tune, the dispatcher and worker groups, with stages that only pretend to train."""

import json
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from tests.scheduling.runner import Behaviour, behave
from tests.scheduling.studies import chains_of, no_tracker, resolution_of, small_study
from tests.tracking.null_tracker import NullTracker
from w2s_ray.errors import Interrupted, ResourceError
from w2s_ray.scheduling.status import RunningStage, StudyStatus
from w2s_ray.scheduling.study import RunSettings, StudyOutcome, is_finished, run_study
from w2s_ray.spec.chain import PlannedStage, distinct_stages
from w2s_ray.spec.study import Study
from w2s_ray.store import lease
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.search_result import read_failures

pytestmark = pytest.mark.usefixtures("ray_of_two_cpus")

SETTINGS = RunSettings(runner="tests.scheduling.runner:run_stage", tracker=no_tracker, collective_seconds=200)
ONE_WORKER = {"workers": 1}


class Watching:
    """A view that keeps every status, and acts once when a stage is at a certain point."""

    def __init__(self, each_time: Callable[[], None] = lambda: None) -> None:
        self.shown: list[StudyStatus] = []
        self._each_time = each_time
        self._acts: list[tuple[Callable[[RunningStage], bool], Callable[[RunningStage], None]]] = []

    def when(self, stands: Callable[[RunningStage], bool], act: Callable[[RunningStage], None]) -> "Watching":
        self._acts.append((stands, act))
        return self

    def update(self, status: StudyStatus) -> None:
        self.shown.append(status)
        self._each_time()
        for stage in status.running:
            for stands, act in self._acts[:]:
                if stands(stage):
                    self._acts.remove((stands, act))
                    act(stage)


def run(
    study: Study,
    store: ArtifactStore,
    view: Watching,
    interrupt: threading.Event | None = None,
    settings: RunSettings = SETTINGS,
) -> StudyOutcome:
    return run_study(
        study,
        resolution=resolution_of(study),
        store=store,
        address=None,
        view=view,
        interrupt=interrupt or threading.Event(),
        settings=settings,
    )


def starts(store: ArtifactStore, stage: PlannedStage) -> list[dict[str, int]]:
    """The first step of each attempt at a stage, and its process."""
    path = store.folder(stage.spec.slug, stage.identity) / "attempts_seen.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def is_at(arm: str, step: int) -> Callable[[RunningStage], bool]:
    return lambda stage: stage.arm == arm and stage.activity == "training" and stage.step >= step


def processes(name: str) -> list[psutil.Process]:
    """Return this process's descendants of this name; a zombie's command line cannot be read."""
    found = psutil.process_iter(["ppid", "cmdline"])
    ours = {one.pid for one in psutil.Process().children(recursive=True)}
    return [one for one in found if one.pid in ours and name in " ".join(one.info["cmdline"] or ())]


def what_is_left() -> tuple[int, int, set[str]]:
    """Actors alive, placement groups alive, and our processes' names."""
    import ray
    from ray._private.state import actors

    alive = sum(actor["State"] != "DEAD" for actor in actors().values())
    groups = sum(group["state"] not in ("REMOVED",) for group in ray.util.placement_group_table().values())
    ours = ("Dispatcher", "Writer", "ChainTrial", "run_group", "TrainController", "RayTrainWorker", "Synchronization")
    return alive, groups, {name for name in ours if processes(f"ray::{name}")}


def wait_until(true: Callable[[], bool], seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while not true() and time.monotonic() < deadline:
        time.sleep(0.1)


def test_three_chains_share_their_stages_and_leave_nothing_behind(store: ArtifactStore) -> None:
    behave(store, all=Behaviour(steps=40, step_seconds=0.05))
    study = small_study()
    looked_at: dict[str, bool] = {}

    def look_around() -> None:
        assert lease.holder(store.study_folder("small")) is not None, "no other run may start meanwhile"
        for name in {"ChainTrial", "Dispatcher", "TrainController", "run_group", "Writer"} - looked_at.keys():
            for process in processes(f"ray::{name}"):
                with suppress(psutil.Error):  # it has just ended
                    looked_at[name] = any("libtorch" in part.path for part in process.memory_maps())

    view = Watching(each_time=look_around)
    outcome = run(study, store, view)
    stages = distinct_stages(chains_of(study))
    assert outcome.failed == {}
    assert len(outcome.chains) == 3
    assert set(outcome.trained) == set(stages)
    assert outcome.num_shared == 4
    assert [store.num_attempts(identity) for identity in stages] == [1] * 5
    assert outcome.cold_start_seconds is not None
    assert set(outcome.seconds) == set(stages)
    assert looked_at == dict.fromkeys(looked_at, False), "only workers load torch"
    assert {"ChainTrial", "Dispatcher", "TrainController"} <= looked_at.keys()
    last = view.shown[-1]
    assert (last.num_done, last.num_stages, last.num_shared, last.num_waiting) == (5, 5, 4, 0)
    wait_until(lambda: what_is_left() == (0, 0, set()))
    assert what_is_left() == (0, 0, set())
    assert list((store.study_folder("small") / "groups").iterdir()) == []
    logs = store.study_folder("small") / "logs"
    assert len(list(logs.iterdir())) == 6, "one per stage, and the dispatcher's"
    assert (logs / "dispatcher.log").read_text().count(" gets ") == 5
    assert lease.holder(store.study_folder("small")) is None
    again = run(study, store, Watching())
    assert again.trained == ()
    assert again.failed == {}


@pytest.mark.soak
def test_a_killed_worker_a_killed_dispatcher_and_a_bad_stage_harm_no_other(store: ArtifactStore) -> None:
    bad = {"confidence0.5": Behaviour(steps=3, fails_at=1)}
    behave(store, **bad, all=Behaviour(steps=40, step_seconds=0.1))
    study = small_study(methods={"naive": {}, "half": {"losses": {"l": {"kind": "confidence"}}}})
    stages = {f"{one.arm} {one.spec.loss.label}": one for one in distinct_stages(chains_of(study)).values()}

    def kill_a_worker(_: RunningStage) -> None:
        os.kill(starts(store, stages["floor naive"])[-1]["pid"], signal.SIGKILL)

    def kill_the_dispatcher(_: RunningStage) -> None:
        (dispatcher,) = processes("ray::Dispatcher")
        dispatcher.kill()

    view = Watching().when(is_at("floor", 5), kill_a_worker).when(is_at("ceiling", 5), kill_the_dispatcher)
    outcome = run(study, store, view)
    assert list(outcome.failed) == ["code-s-l-half-s0"], outcome.failed
    assert "the loss is nan" in outcome.failed["code-s-l-half-s0"]
    well = [name for name in stages if name != "chain confidence0.5"]
    assert set(outcome.trained) == {stages[name].identity for name in well}
    floor = starts(store, stages["floor naive"])
    assert len(floor) == 2
    assert floor[1]["from"] >= 5, "from its checkpoint"
    assert floor[0]["pid"] != floor[1]["pid"]
    ceiling = starts(store, stages["ceiling naive"])
    assert len(ceiling) == 2 and ceiling[1]["from"] >= 5, "from its checkpoint, on a new worker group"
    wait_until(lambda: what_is_left() == (0, 0, set()))
    assert what_is_left() == (0, 0, set())


def test_an_exception_of_all_ranks_fails_its_stage_at_once_with_its_first_line(store: ArtifactStore) -> None:
    behave(store, **{"confidence0.5": Behaviour(raises_at=1)}, all=Behaviour(steps=1))
    study = small_study(methods={"naive": {}, "half": {"losses": {"l": {"kind": "confidence"}}}})
    outcome = run(study, store, Watching())
    (error,) = outcome.failed.values()
    assert "ZeroDivisionError: all ranks" in error
    log = Path(error.split("log: ")[1].split(")")[0]).read_text()
    assert log.count("\nZeroDivisionError") == log.count("--- attempt of rank") == 2
    (student,) = (one for chain in chains_of(study) for one in chain.stages if one.spec.loss.label == "confidence0.5")
    assert len(starts(store, student)) == 1
    failures = read_failures(study, store)
    assert (list(failures.chains.values()), failures.stages.keys()) == ([error], {student.identity})
    assert len(outcome.trained) == 3
    wait_until(lambda: what_is_left() == (0, 0, set()))
    assert what_is_left() == (0, 0, set())


def test_an_interrupted_run_continues_from_its_checkpoint(store: ArtifactStore) -> None:
    behave(store, all=Behaviour(steps=60, step_seconds=0.05))
    study = small_study(execution=ONE_WORKER, methods={"naive": {}})
    interrupt = threading.Event()
    with pytest.raises(Interrupted, match="0 of 3 stages done"):
        run(study, store, Watching().when(is_at("floor", 3), lambda _: interrupt.set()), interrupt)
    floor = next(stage for stage in distinct_stages(chains_of(study)).values() if stage.arm == "floor")
    assert not is_finished(floor, store)
    wait_until(lambda: what_is_left() == (0, 0, set()))
    assert what_is_left() == (0, 0, set())
    behave(store, all=Behaviour(steps=60, step_seconds=0))
    assert run(study, store, Watching()).failed == {}
    assert [start["from"] > 0 for start in starts(store, floor)] == [False, True]


def test_an_interrupt_while_a_group_starts_leaves_nothing_behind(store: ArtifactStore) -> None:
    interrupt = threading.Event()

    def stop_when_placed() -> None:
        if what_is_left()[1]:
            interrupt.set()

    with pytest.raises(Interrupted):
        run(small_study(methods={"naive": {}}), store, Watching(each_time=stop_when_placed), interrupt)
    wait_until(lambda: what_is_left() == (0, 0, set()))
    assert what_is_left() == (0, 0, set())


def talkative(notify: Callable[[str], None]) -> NullTracker:
    notify("runs are kept offline")
    return NullTracker()


@pytest.mark.soak
def test_messages_of_the_tracker_arrive_at_the_end_of_the_run(store: ArtifactStore) -> None:
    behave(store, all=Behaviour(steps=1))
    said: list[str] = []
    study = small_study(execution=ONE_WORKER, methods={"naive": {"arms": ["ceiling"]}})
    run(study, store, Watching(), settings=replace(SETTINGS, tracker=talkative, notify=said.append))
    assert said == ["runs are kept offline"]


def test_more_workers_than_the_cluster_has_are_refused_at_once(store: ArtifactStore) -> None:
    study = small_study(execution={"workers": 3})
    with pytest.raises(ResourceError, match=r"execution\.workers` to 2"):
        run(study, store, Watching())
    assert list((store.root / "artifacts").iterdir()) == []


def test_a_finished_study_needs_no_ray(tmp_path: Path) -> None:
    code = (
        "import sys, threading; from tests.scheduling.studies import *; "
        "from w2s_ray.scheduling.study import run_study; from w2s_ray.scheduling.status import NullView; "
        "from w2s_ray.store.artifacts import ArtifactStore; s = small_study(); "
        "import w2s_ray.scheduling.study as room; room.is_finished = lambda *_: True; "
        f"o = run_study(s, resolution=resolution_of(s), store=ArtifactStore({str(tmp_path)!r}), "
        "address=None, view=NullView(), interrupt=threading.Event()); "
        "assert o.trained == () and 'ray' not in sys.modules and 'torch' not in sys.modules"
    )
    import subprocess
    import sys

    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2], timeout=60)
