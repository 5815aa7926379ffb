"""The lease on an identity: two runs on one store never do one piece of work twice.

An owner renews its lease while it works. A lease whose heartbeat is old is free, and so is one whose process is known
to be gone, so that a killed run can be started again at once. Reading and writing happen under a file lock.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from w2s_ray.errors import LeaseHeld
from w2s_ray.spec.base import Spec
from w2s_ray.store.files import writing

LEASE_NAME = "lease.json"
ALIVE_SECONDS = 60.0
"""A heartbeat older than this is a dead owner's."""


class Process(Spec):
    """One process, told from all others."""

    machine: str
    """Where `pid` and `started` can be looked up: boot and process namespace; empty where that is unknown."""
    pid: int
    started: str
    """When the process began, in ticks since boot: tells it from a later one with the same number."""

    @classmethod
    def of(cls, pid: int) -> Self:
        """Return the process that has this number here and now."""
        return cls(machine=_machine(), pid=pid, started=_process_start(pid))


class Lease(Spec):
    """Who works on an identity, and when it last said so."""

    owner: str
    heartbeat_at: float
    """Seconds since the epoch."""
    process: Process
    """The one that the owner lives and dies with."""

    @property
    def alive(self) -> bool:
        """Whether the owner still works, as far as can be known from here."""
        if time.time() - self.heartbeat_at >= ALIVE_SECONDS:
            return False
        process = self.process
        return not process.machine or process.machine != _machine() or _process_start(process.pid) == process.started


def take(folder: Path, owner: str, process: Process | None = None) -> None:
    """Take the lease on `folder`, or renew it.

    Args:
        folder: what is to be worked on.
        owner: names who works on it.
        process: the one that the owner lives and dies with; the caller's where it is not given.

    Raises:
        LeaseHeld: when another owner that is alive holds it.
        StoreError: when it cannot be written.
    """
    with writing(folder / LEASE_NAME):
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / LEASE_NAME) as descriptor:
            held = _parse(os.pread(descriptor, 65536, 0))
            if held is not None and held.owner != owner and held.alive:
                age = time.time() - held.heartbeat_at
                raise LeaseHeld(
                    f"{folder.name} is being made by {held.owner} (heard of {age:.0f} s ago)",
                    "one owner at a time works on an identity",
                    f"wait for it, or end it; {ALIVE_SECONDS:.0f} s after its last heartbeat the lease is free",
                )
            lease = Lease(owner=owner, heartbeat_at=time.time(), process=process or Process.of(os.getpid()))
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, lease.model_dump_json().encode(), 0)


def release(folder: Path, owner: str) -> None:
    """Give the lease on `folder` back; nothing happens where someone else holds it by now."""
    path = folder / LEASE_NAME
    if not path.exists():
        return
    with writing(path), _locked(path) as descriptor:
        held = _parse(os.pread(descriptor, 65536, 0))
        if held is None or held.owner == owner:
            path.unlink(missing_ok=True)


def holder(folder: Path) -> Lease | None:
    """Return the lease of an owner that is alive, if there is one."""
    try:
        descriptor = os.open(folder / LEASE_NAME, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # a renewal that is under way is half a lease
        held = _parse(os.pread(descriptor, 65536, 0))
    finally:
        os.close(descriptor)
    return held if held is not None and held.alive else None


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open `path` and hold its lock; try again where the file was removed between opening and locking."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if _same_file(descriptor, path):
                yield descriptor
                return
        finally:
            os.close(descriptor)


def _same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except FileNotFoundError:
        return False


def _parse(content: bytes) -> Lease | None:
    """Read a lease; half a lease is that of a writer that died, so nobody's."""
    try:
        return Lease.model_validate(json.loads(content))
    except ValueError:
        return None


def _machine() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _process_start(pid: int) -> str:
    """Return when a process of this machine began, or an empty text where it is gone."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state[0] in "ZX" else state[19]
