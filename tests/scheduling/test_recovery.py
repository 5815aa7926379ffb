"""What a run does when its dispatcher dies, without Ray: the dispatcher's calls fail as those of a dead actor do."""

import threading
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import ActorDiedError, OutOfMemoryError

from tests.scheduling.studies import chains_of, no_tracker, resolution_of, small_study
from w2s_ray.errors import Interrupted, ResourceError, TrainingError, W2SError
from w2s_ray.planning.nodes import Node
from w2s_ray.scheduling import run as module
from w2s_ray.scheduling.run import Run
from w2s_ray.scheduling.status import NullView
from w2s_ray.scheduling.study import ChainOutcome, RunSettings
from w2s_ray.store import lease
from w2s_ray.store.artifacts import ArtifactStore


@pytest.fixture
def run(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> Run:
    """A run on a cluster of two CPUs whose actors are not started."""
    monkeypatch.setattr(module, "ray_session", nullcontext)
    monkeypatch.setattr(module, "cluster_nodes", lambda: (Node(2),))
    monkeypatch.setattr(Run, "_writer", lambda run: nullcontext())
    monkeypatch.setattr(Run, "_dispatcher", lambda run, nodes, writer: nullcontext())
    study = small_study()
    settings = RunSettings(tracker=no_tracker)
    return Run(study, resolution_of(study), chains_of(study), None, store, NullView(), threading.Event(), settings)


def test_a_status_file_that_cannot_be_removed_hides_no_error_and_keeps_no_lease(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(module, "clear_run_status", read_only)
    monkeypatch.setattr(module, "cluster_nodes", lambda: (Node(1),))
    with pytest.raises(ResourceError):
        run.go(None)
    assert lease.holder(run._store.study_folder("small")) is None


def dies(monkeypatch: pytest.MonkeyPatch, *errors: Exception) -> None:
    """Let the dispatcher die with each of these errors, and then work."""
    left = list(errors)

    def run_chains(run: Run, dispatcher: Any) -> dict[str, ChainOutcome]:
        if left:
            raise left.pop(0)
        return {"chain": ChainOutcome("done")}

    monkeypatch.setattr(Run, "_run_chains", run_chains)


KILLED = OutOfMemoryError("the dispatcher was killed due to the node running low on memory")


@pytest.mark.parametrize("error", [ActorDiedError(), KILLED])
def test_a_dispatcher_that_died_is_started_again(run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    dies(monkeypatch, error, error)
    assert run.go(None).chains == {"chain": ChainOutcome("done")}


@pytest.mark.parametrize(("error", "raised"), [(ActorDiedError(), TrainingError), (KILLED, ResourceError)])
def test_a_dispatcher_that_dies_three_times_fails_the_run_with_a_plain_error(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, raised: type[W2SError]
) -> None:
    dies(monkeypatch, *[error] * 3)
    with pytest.raises(raised):
        run.go(None)


def test_an_interrupted_run_does_not_start_a_dead_dispatcher_again(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    dies(monkeypatch, ActorDiedError())
    run._interrupt.set()
    with pytest.raises(Interrupted):
        run._count_death(ActorDiedError())


class Tuning:
    """Tune, of which only the order of calls matters."""

    def __init__(self, calls: list[str]) -> None:
        self._calls = calls

    def start(self) -> None: ...

    def stop(self) -> None:
        self._calls.append("Tune stops")

    def wait(self, seconds: float) -> bool:
        return False


def test_an_interrupt_stops_the_stages_before_it_waits_for_tune(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    dispatcher: Any = SimpleNamespace(close=SimpleNamespace(remote=lambda: calls.append("stages stop")))
    monkeypatch.setattr(Run, "_poll", lambda run, dispatcher: None)
    run._interrupt.set()
    tuning: Any = Tuning(calls)
    run._work(dispatcher, tuning)
    assert calls == ["stages stop", "Tune stops"]
