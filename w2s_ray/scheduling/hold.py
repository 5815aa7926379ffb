"""A run's hold on its study: one run at a time works on a study in one store.

Two would clear away each other's state of Tune and of the search. Runs of different studies share a store: leases on
their stages keep those apart.
"""

import os
import socket
import threading
import time
import uuid

from w2s_ray.errors import Interrupted, LeaseHeld
from w2s_ray.scheduling.status import StudyStatus, StudyView
from w2s_ray.spec.study import Study
from w2s_ray.store import lease
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.lease import Process

_PAUSE_SECONDS = 0.5


class Hold:
    """The lease on a study's folder, in this process's name."""

    def __init__(self, study: Study, store: ArtifactStore) -> None:
        """Nothing is held yet."""
        self._folder = store.study_folder(study.name)
        self.process = Process.of(os.getpid())
        self.owner = f"{study.name} on {socket.gethostname()}, process {self.process.pid}, run {uuid.uuid4().hex[:8]}"
        """Names the run to others, of this process too."""

    def take(self, view: StudyView, interrupt: threading.Event) -> None:
        """Take the study in hand; wait for as long as the lease of a run that was killed elsewhere lives.

        Raises:
            LeaseHeld: when another run still has it in hand then.
            Interrupted: when `interrupt` was set meanwhile.
        """
        deadline = time.monotonic() + lease.ALIVE_SECONDS
        while True:
            try:
                return self.renew()
            except LeaseHeld as held:
                if time.monotonic() > deadline:
                    raise
                seconds = f"{lease.ALIVE_SECONDS:.0f} s"
                view.update(StudyStatus(notice=f"waiting for up to {seconds} for another run: {held.value}"))
            if interrupt.wait(_PAUSE_SECONDS):
                raise Interrupted(
                    "stopped while another run had the study in hand", "nothing was begun", "run the same command again"
                )

    def renew(self) -> None:
        """Keep the hold alive: call it again well within `lease.ALIVE_SECONDS`.

        Raises:
            LeaseHeld: when another run has the study in hand.
        """
        try:
            lease.take(self._folder, self.owner, self.process)
        except LeaseHeld as held:
            raise LeaseHeld(
                f"study {held.value}",
                "one run at a time works on a study in one store",
                "wait for it or end it; or give the study another name: studies share the stages of a store",
            ) from None

    def release(self) -> None:
        """Give it back, if it is held."""
        lease.release(self._folder, self.owner)
