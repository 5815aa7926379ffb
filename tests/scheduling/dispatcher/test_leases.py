"""The lease on a study: one run at a time, without Ray."""

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.scheduling.studies import no_tracker, resolution_of, small_study
from tests.scheduling.test_run import Watching
from w2s_ray.errors import Interrupted, LeaseHeld
from w2s_ray.planning.resolve import LOCK_NAME
from w2s_ray.scheduling import run as run_module
from w2s_ray.scheduling.dispatcher.leases import StudyLease
from w2s_ray.scheduling.run import Run
from w2s_ray.scheduling.status import NullView, StudyStatus
from w2s_ray.scheduling.study import RunSettings, run_study
from w2s_ray.spec.load import STUDY_NAME
from w2s_ray.store import lease
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.garbage import abandoned

TAKE = """
import sys, threading
from tests.scheduling.studies import small_study
from w2s_ray.scheduling.dispatcher.leases import StudyLease
from w2s_ray.planning.resolve import LOCK_NAME
from w2s_ray.scheduling.status import NullView
from w2s_ray.store.artifacts import ArtifactStore
StudyLease(small_study(), ArtifactStore(sys.argv[1])).take(NullView(), threading.Event())
print("taken", flush=True)
sys.stdin.read()
"""


def folder_of(store: ArtifactStore) -> Path:
    return store.study_folder("small")


@contextmanager
def another_run(store: ArtifactStore) -> Iterator[None]:
    """A run of the same study that lives and says so."""
    over = threading.Event()

    def live() -> None:
        while not over.wait(0.1):
            lease.take(folder_of(store), "another run")

    lease.take(folder_of(store), "another run")
    thread = threading.Thread(target=live)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        lease.release(folder_of(store), "another run")


def run(store: ArtifactStore, view: Watching) -> None:
    study = small_study()
    run_study(study, resolution=resolution_of(study), store=store, address=None, view=view, interrupt=threading.Event())


def test_a_second_run_waits_and_is_refused_without_touching_the_first(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "ALIVE_SECONDS", 1.5)
    state = folder_of(store) / "chains" / "tuner.pkl"
    state.parent.mkdir()
    state.touch()
    files = [folder_of(store) / name for name in (STUDY_NAME, LOCK_NAME)]
    for file in files:
        file.write_text("of the run under way")
    view = Watching()
    with another_run(store):
        with pytest.raises(LeaseHeld, match="another run") as refused:
            run(store, view)
        assert lease.holder(folder_of(store)), "what it did not get it does not give back"
    assert refused.value.exit_code == 2
    assert state.exists()
    assert [file.read_text() for file in files] == ["of the run under way"] * 2
    assert "another run" in view.shown[0].notice


def test_a_run_that_ends_meanwhile_lets_the_next_one_start(store: ArtifactStore) -> None:
    held, view = StudyLease(small_study(), store), Watching()
    lease.take(folder_of(store), "another run")
    threading.Timer(1, lease.release, (folder_of(store), "another run")).start()
    began = time.monotonic()
    held.take(view, threading.Event())
    assert view.shown and time.monotonic() - began < lease.ALIVE_SECONDS / 2
    held.release()
    assert list(folder_of(store).iterdir()) == []


def test_the_lease_of_a_run_killed_on_this_machine_is_free_at_once(store: ArtifactStore) -> None:
    killed = subprocess.Popen(
        [sys.executable, "-c", TAKE, store.root],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[3],
    )
    assert killed.stdout is not None and killed.stdout.readline() == b"taken\n"
    held, view = StudyLease(small_study(), store), Watching()
    with pytest.raises(LeaseHeld):
        held.renew()
    killed.kill()
    killed.communicate()
    held.take(view, threading.Event())
    assert view.shown == []


def test_the_lease_of_a_run_killed_elsewhere_expires(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "ALIVE_SECONDS", 1.5)
    elsewhere = lease.Process(machine="another machine", pid=1, started="1")
    lease.take(folder_of(store), "a pod that was evicted", elsewhere)
    view = Watching()
    StudyLease(small_study(), store).take(view, threading.Event())
    assert "evicted" in view.shown[-1].notice


def test_an_interrupt_ends_the_wait(store: ArtifactStore) -> None:
    interrupt = threading.Event()
    with another_run(store), pytest.raises(Interrupted):
        StudyLease(small_study(), store).take(Watching(each_time=interrupt.set), interrupt)


def test_runs_of_other_studies_are_not_blocked_and_leases_are_no_garbage(store: ArtifactStore) -> None:
    with another_run(store):
        other = StudyLease(small_study(name="other"), store)
        other.take(Watching(), threading.Event())
        assert abandoned(store) == []
        other.release()


def test_a_status_file_that_cannot_be_written_ends_no_run_but_a_lost_lease_does(
    store: ArtifactStore, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = small_study()
    settings = RunSettings(tracker=no_tracker)
    resolution = resolution_of(study)
    one = Run(study, resolution, (), None, store, NullView(), threading.Event(), settings)
    (folder_of(store) / "under-way.json").mkdir(parents=True)  # no file can be written there
    polled: Any = SimpleNamespace(poll=SimpleNamespace(remote=lambda: StudyStatus()))
    monkeypatch.setattr(run_module.ray, "get", lambda status, timeout: status)
    monkeypatch.setattr(run_module, "_STATUS_FILE_SECONDS", 0)
    one._poll(polled)
    assert caplog.records
    one._lease.release()
    with another_run(store), pytest.raises(LeaseHeld):
        one._poll(polled)


def test_two_runs_in_one_process_exclude_each_other(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "ALIVE_SECONDS", 1.5)
    first, second = StudyLease(small_study(), store), StudyLease(small_study(), store)
    first.take(NullView(), threading.Event())
    with pytest.raises(LeaseHeld):
        second.renew()
    first.release()
    second.renew()
    second.release()
