"""Leases: one run at a time works on a study, and one on a stage.

Two runs of one study would overwrite each other's Tune state. Runs of different studies, also on different clusters,
may share a store: the leases on stages keep them from training a stage twice, and each finds what the other finished.
"""

import asyncio
import logging
import os
import socket
import threading
import time
import uuid
from collections.abc import Sequence

from w2s_ray.errors import Interrupted, LeaseHeld, W2SError
from w2s_ray.scheduling.status import StudyStatus, StudyView
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.study import Study
from w2s_ray.store import lease
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.lease import Process

logger = logging.getLogger(__name__)

RENEW_SECONDS = 15.0
"""Between two heartbeats of a lease."""
_RETRY_SECONDS = 0.5


class StudyLease:
    """The lease on a study's folder, in this process's name."""

    def __init__(self, study: Study, store: ArtifactStore) -> None:
        self._folder = store.study_folder(study.name)
        self.process = Process.of(os.getpid())
        self.owner = f"{study.name} on {socket.gethostname()}, process {self.process.pid}, run {uuid.uuid4().hex[:8]}"
        """Identifies the run to other runs, also of this process."""

    def take(self, view: StudyView, interrupt: threading.Event) -> None:
        """Take the lease; wait until the lease of a run that was killed elsewhere has expired.

        Raises:
            LeaseHeld: when another run still holds it then.
            Interrupted: when `interrupt` was set meanwhile.
        """
        deadline = time.monotonic() + lease.ALIVE_SECONDS
        while True:
            try:
                return self.renew()
            except LeaseHeld as held:
                if time.monotonic() > deadline:
                    raise
                view.update(
                    StudyStatus(notice=f"waiting up to {lease.ALIVE_SECONDS:.0f} s for another run: {held.message}")
                )
            if interrupt.wait(_RETRY_SECONDS):
                raise Interrupted("stopped while waiting for another run of the study; nothing was started")

    def renew(self) -> None:
        """Renew the lease; has to be called well within `lease.ALIVE_SECONDS`.

        Raises:
            LeaseHeld: when another run holds it.
        """
        try:
            lease.take(self._folder, self.owner, self.process)
        except LeaseHeld as held:
            raise LeaseHeld(
                f"only one run per study and store at a time: study {held.message}",
                "wait for the other run or end it; or rename this study: studies share the stages of a store",
            ) from None

    def release(self) -> None:
        """Release the lease, if it is held."""
        lease.release(self._folder, self.owner)


class StageLeases:
    """Looks stages up in a store and holds leases on them in one owner's name; all disk work is done in threads."""

    def __init__(self, store: ArtifactStore, owner: str, process: Process | None = None) -> None:
        """`owner` identifies the run; its leases end with `process` (this one if None)."""
        self._store, self._owner, self._process = store, owner, process
        self.metrics: dict[str, dict[str, float]] = {}
        """Metrics of every finished stage that was looked up."""

    async def look_up(self, stages: Sequence[PlannedStage]) -> tuple[frozenset[str], W2SError | None]:
        """Return which of the stages and of their predictions the store has, and why it cannot be read if so."""
        try:
            return await asyncio.to_thread(self._look_up, stages), None
        except W2SError as error:
            return frozenset(), error

    async def take(self, stage: PlannedStage) -> frozenset[str]:
        """Take the lease on a stage, then look the stage up: another run may have just finished it.

        Raises:
            LeaseHeld: when another run holds it.
            StoreError: when the store cannot be read or written.
        """
        await asyncio.to_thread(self._store.lease, stage.identity, stage.spec.slug, self._owner, self._process)
        return await asyncio.to_thread(self._look_up, (stage,))

    async def renew(self, stage: PlannedStage) -> None:
        """Renew the lease on a stage; a failure is logged, and the stage's worker notices a lost lease itself."""
        try:
            await asyncio.to_thread(self._store.lease, stage.identity, stage.spec.slug, self._owner, self._process)
        except W2SError:
            logger.exception("the lease on %s was not renewed", stage.spec.slug)

    async def release(self, stage: PlannedStage) -> None:
        """Release the lease on a stage; after a failure, which is logged, the lease expires."""
        try:
            await asyncio.to_thread(self._store.release, stage.identity, stage.spec.slug, self._owner)
        except W2SError:
            logger.exception("the lease on %s was not released", stage.spec.slug)

    def _look_up(self, stages: Sequence[PlannedStage]) -> frozenset[str]:
        stored: set[str] = set()
        for stage in stages:
            record = self._store.find(stage.identity)
            if record is not None:
                stored.add(stage.identity)
                self.metrics[stage.identity] = dict(record.metrics)
            for prediction in stage.predicts:
                if prediction.identity not in stored and self._store.find(prediction.identity) is not None:
                    stored.add(prediction.identity)
        return frozenset(stored)
