"""Faults of real worker groups; they take minutes, so they are soaks."""

import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.scheduling.runner import Behaviour, behave
from tests.scheduling.studies import chains_of, small_study
from tests.scheduling.test_run import SETTINGS, Watching, is_at, processes, run, starts, wait_until, what_is_left
from w2s_ray.scheduling.status import RunningStage
from w2s_ray.store.artifacts import ArtifactStore

pytestmark = [pytest.mark.soak, pytest.mark.usefixtures("ray_of_two_cpus")]


@pytest.mark.parametrize("victim", ["ray::TrainController", "ray::run_group"])
def test_a_group_whose_controller_or_task_is_killed_frees_its_cpus(store: ArtifactStore, victim: str) -> None:
    behave(store, all=Behaviour(steps=30, step_seconds=0.1))

    def kill(_: RunningStage) -> None:
        for process in processes(victim):
            process.kill()

    outcome = run(small_study(methods={"naive": {}}), store, Watching().when(is_at("floor", 5), kill))
    assert outcome.failed == {}
    assert len(outcome.trained) == 3
    wait_until(lambda: what_is_left() == (0, 0, set()))
    assert what_is_left() == (0, 0, set())


def test_an_error_of_one_rank_fails_only_its_stage_once_two_groups_raised_it(store: ArtifactStore) -> None:
    behave(store, **{"confidence0.5": Behaviour(crashes_at=1)})
    study = small_study(methods={"naive": {}, "half": {"losses": {"l": {"kind": "confidence"}}}})
    outcome = run(study, store, Watching())
    (error,) = outcome.failed.values()
    assert "failed 2 times" in error
    assert "rank 1: RuntimeError: this rank alone" in error
    log = error.split("log: ")[1].split(")")[0]
    assert "this rank alone" in Path(log).read_text()
    assert len(outcome.trained) == 3


@pytest.mark.parametrize(
    ("behaviour", "cause", "num_attempts"),
    [
        (Behaviour(raises_at=1, raises="SystemExit"), "failed: SystemExit: all ranks", 1),
        (Behaviour(raises_at=1, raises="MemoryError"), "ran out of memory", 3),
        (Behaviour(killed=(0,)), "the process of rank 0 on .* was killed or crashed", 3),
        (Behaviour(killed=(1,)), "the process of rank 1 on .* was killed or crashed", 3),
        (Behaviour(killed=(0, 1)), "was killed or crashed", 3),
        (Behaviour(hangs_at=1), "rank 0 waited 3 s for another worker in a collective", 3),
    ],
    ids=["exit", "memory", "rank-0-killed", "rank-1-killed", "both-killed", "timeout"],
)
def test_a_stage_fails_with_the_true_cause_of_its_deaths(
    store: ArtifactStore, behaviour: Behaviour, cause: str, num_attempts: int
) -> None:
    behave(store, s=behaviour, l=Behaviour(steps=1, step_seconds=0))
    study = small_study(methods={"naive": {"arms": ["ceiling"]}})
    outcome = run(study, store, Watching(), settings=replace(SETTINGS, collective_seconds=3))
    (error,) = outcome.failed.values()
    assert re.search(cause, error)
    assert not [words for words in ("Ray", "Actor", "peer", "Traceback", "unexpected") if words in error]
    (floor,) = (one for chain in chains_of(study) for one in chain.stages if one.arm == "floor")
    assert len(starts(store, floor)) == num_attempts


def test_a_stage_out_of_memory_continues_from_its_checkpoint(store: ArtifactStore) -> None:
    behave(store, l=Behaviour(steps=4, runs_out_at=2))
    study = small_study(methods={"naive": {"arms": ["chain"]}})
    outcome = run(study, store, Watching())
    assert outcome.failed == {}
    (student,) = (one for chain in chains_of(study) for one in chain.stages if one.level == "l")
    assert [start["from"] for start in starts(store, student)] == [0, 2, 2, 2, 2]


def test_sixty_chains_leave_nothing_behind(store: ArtifactStore) -> None:
    behave(store, all=Behaviour(steps=1, step_seconds=0))
    outcome = run(small_study(seeds=list(range(20)), max_concurrent=4), store, Watching())
    assert outcome.failed == {}
    assert len(outcome.trained) == 100
    wait_until(lambda: what_is_left() == (0, 0, set()))
    assert what_is_left() == (0, 0, set())


def test_a_worker_that_dies_between_stages_harms_no_stage(store: ArtifactStore) -> None:
    behave(store, all=Behaviour(steps=10, step_seconds=0.1))

    def kill(_: RunningStage) -> None:
        for process in processes("ray::RayTrainWorker")[-1:]:
            os.kill(process.pid, signal.SIGKILL)

    outcome = run(small_study(methods={"naive": {}}), store, Watching().when(is_at("ceiling", 10), kill))
    assert outcome.failed == {}


def test_a_stage_that_loses_its_nodes_fails_with_that_cause(tmp_path: Path) -> None:
    program = [sys.executable, "-m", "tests.scheduling.lost_node", str(tmp_path / "store")]
    done = subprocess.run(program, capture_output=True, text=True, cwd=Path(__file__).parents[2], timeout=400)
    assert "3 worker groups died running it" in done.stdout, done.stderr[-3000:]
    assert re.search("the last cause: the node o[fn] .* was lost", done.stdout), done.stdout[-2000:]
    assert "checkpoint_every_seconds" in done.stdout
