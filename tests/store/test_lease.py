import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from w2s_ray.errors import StoreError
from w2s_ray.store import lease
from w2s_ray.store.artifacts import ArtifactStore

IDENTITY = "a" * 64
HOLD = """
import sys
from w2s_ray.errors import StoreError
from w2s_ray.store.artifacts import ArtifactStore
try:
    ArtifactStore(sys.argv[1]).lease("a" * 64, "stage", sys.argv[2])
    print("taken", flush=True)
except StoreError:
    print("refused", flush=True)
sys.stdin.read()
"""


RACE = """
import sys, time
from w2s_ray.errors import StoreError
from w2s_ray.store.artifacts import ArtifactStore
print("ready", flush=True)
time.sleep(max(0, float(sys.stdin.readline()) - time.time()))
taken = []
for number in range(400):
    try:
        ArtifactStore(sys.argv[1]).lease(f"{number:064}"[::-1], "stage", sys.argv[2])
        taken.append(number)
    except StoreError:
        pass
print(*taken, flush=True)
sys.stdin.read()
"""


def start_owner(store: ArtifactStore, owner: str, script: str = HOLD) -> "subprocess.Popen[str]":
    """Start a process that tries to take the lease, prints the outcome, and keeps running."""
    command = [sys.executable, "-c", script, str(store.root), owner]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def reply(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


def lease_file(store: ArtifactStore) -> Path:
    return store.folder("stage", IDENTITY) / "lease.json"


def age(store: ArtifactStore, seconds: float, **changes: object) -> None:
    """Make the lease's last heartbeat older."""
    held = lease.Lease.model_validate_json(lease_file(store).read_bytes())
    changed = held.model_copy(update={"heartbeat_at": time.time() - seconds, **changes})
    lease_file(store).write_text(changed.model_dump_json())


def test_a_killed_owner_frees_its_lease_at_once_and_a_living_one_does_not(store: ArtifactStore) -> None:
    first = start_owner(store, "first run")
    try:
        assert reply(first) == "taken"
        with pytest.raises(StoreError, match="first run"):
            store.lease(IDENTITY, "stage", "second run")
    finally:
        end(first)
    store.lease(IDENTITY, "stage", "second run")
    held = lease.holder(store.folder("stage", IDENTITY))
    assert held is not None and held.owner == "second run"


def test_one_of_many_concurrent_processes_gets_each_lease(store: ArtifactStore) -> None:
    owners = [start_owner(store, f"run {number}", RACE) for number in range(4)]
    try:
        assert [reply(owner) for owner in owners] == ["ready"] * 4
        start = time.time() + 0.1
        for owner in owners:
            assert owner.stdin is not None
            owner.stdin.write(f"{start}\n")
            owner.stdin.flush()
        taken = [int(number) for owner in owners for number in reply(owner).split()]
        assert sorted(taken) == list(range(400))
    finally:
        for owner in owners:
            end(owner)


def test_the_owner_renews_and_releases_its_lease(store: ArtifactStore) -> None:
    store.lease(IDENTITY, "stage", "one")
    age(store, 50)
    store.lease(IDENTITY, "stage", "one")
    held = lease.Lease.model_validate_json(lease_file(store).read_bytes())
    assert time.time() - held.heartbeat_at < 10
    store.release(IDENTITY, "stage", "another")
    assert lease_file(store).exists()
    store.release(IDENTITY, "stage", "one")
    store.lease(IDENTITY, "stage", "another")


@pytest.mark.parametrize(("seconds", "free"), [(55, False), (61, True)])
def test_the_lease_of_another_host_expires_after_a_minute(seconds: float, free: bool, store: ArtifactStore) -> None:
    store.lease(IDENTITY, "stage", "elsewhere")
    age(store, seconds, process=lease.Process(machine="another machine", pid=1, started=""))
    if free:
        store.lease(IDENTITY, "stage", "here")
        return
    with pytest.raises(StoreError):
        store.lease(IDENTITY, "stage", "here")


def test_a_reused_process_number_is_not_the_owner(store: ArtifactStore) -> None:
    store.lease(IDENTITY, "stage", "before")
    age(store, 0, process=lease.Process.of(os.getpid()).model_copy(update={"started": "1"}))
    store.lease(IDENTITY, "stage", "now")


def test_an_incomplete_lease_is_free(store: ArtifactStore) -> None:
    store.lease(IDENTITY, "stage", "dead")
    lease_file(store).write_text('{"owner": "de')
    store.lease(IDENTITY, "stage", "alive")


def test_releasing_a_lease_that_was_never_taken_does_nothing(store: ArtifactStore) -> None:
    store.release(IDENTITY, "stage", "one")


def test_a_lease_is_held_during_its_renewal(store: ArtifactStore) -> None:
    store.lease(IDENTITY, "stage", "one")
    renewer = threading.Thread(target=lambda: [store.lease(IDENTITY, "stage", "one") for _ in range(300)])
    renewer.start()
    looks = []
    while renewer.is_alive():
        looks.append(lease.holder(store.folder("stage", IDENTITY)) is not None)
    assert looks and all(looks)
