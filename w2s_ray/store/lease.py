"""Leases: two runs on one store never do the same work.

An owner renews its lease while it works. A lease expires when its heartbeat is 60 s old, or at once when its process is
known to have ended, so that a killed run can be started again immediately. Leases are read and written under a file
lock. An owner that was suspended until its lease expired finds out by its attempt number
(`ArtifactStore.check_attempt`).
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
"""Age of the last heartbeat at which a lease expires."""


class Process(Spec):
    """A unique identification of a process."""

    machine: str
    """The boot and the process namespace in which `pid` is valid; empty if unknown."""
    pid: int
    started: str
    """Start time in ticks since boot: tells the process from a later one with the same number."""

    @classmethod
    def of(cls, pid: int) -> Self:
        """Return the process with this number on this machine."""
        return cls(machine=_machine(), pid=pid, started=_process_start(pid))


class Lease(Spec):
    """The owner of a piece of work, and its last heartbeat."""

    owner: str
    heartbeat_at: float
    """Seconds since the epoch."""
    process: Process
    """The lease ends with this process."""

    @property
    def alive(self) -> bool:
        """Whether the owner still works, as far as this machine can tell."""
        if time.time() - self.heartbeat_at >= ALIVE_SECONDS:
            return False
        process = self.process
        return not process.machine or process.machine != _machine() or _process_start(process.pid) == process.started


def take(folder: Path, owner: str, process: Process | None = None) -> None:
    """Take the lease on `folder`, or renew it.

    Args:
        folder: the folder of the artifact or study.
        owner: a unique name.
        process: the lease ends with this process; None for the caller's.

    Raises:
        LeaseHeld: when another living owner has it.
        StoreError: when it cannot be written.
    """
    with writing(folder / LEASE_NAME):
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / LEASE_NAME) as descriptor:
            held = _parse(os.pread(descriptor, 65536, 0))
            if held is not None and held.owner != owner and held.alive:
                age = time.time() - held.heartbeat_at
                raise LeaseHeld(
                    f"{held.owner} is working on {folder.name} (last heartbeat {age:.0f} s ago)",
                    f"wait for it, or stop it; its lease expires {ALIVE_SECONDS:.0f} s after its last heartbeat",
                )
            lease = Lease(owner=owner, heartbeat_at=time.time(), process=process or Process.of(os.getpid()))
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, lease.model_dump_json().encode(), 0)


def release(folder: Path, owner: str) -> None:
    """Release the lease on `folder`, unless another owner has it by now."""
    path = folder / LEASE_NAME
    if not path.exists():
        return
    with writing(path), _locked(path) as descriptor:
        held = _parse(os.pread(descriptor, 65536, 0))
        if held is None or held.owner == owner:
            path.unlink(missing_ok=True)


def holder(folder: Path) -> Lease | None:
    """Return the lease of a living owner, or None."""
    try:
        descriptor = os.open(folder / LEASE_NAME, os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)  # waits for a renewal, which truncates the file first
        held = _parse(os.pread(descriptor, 65536, 0))
    finally:
        os.close(descriptor)
    return held if held is not None and held.alive else None


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    """Open `path` and lock it; try again if the file was removed between opening and locking."""
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
    """Parse a lease; an incomplete one is that of a killed writer, so None."""
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
    """Return the start time of a process of this machine in ticks since boot, or "" if it has ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if state[0] in "ZX" else state[19]
