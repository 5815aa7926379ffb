"""What a run knows of the store: what is done there, and which stages it has taken for itself.

Another run may work on the same store, from another cluster. A lease with a heartbeat keeps the two from training one
stage twice; what the other has done is simply found. All of it is disk work, so the dispatcher does it in threads.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from w2s_ray.errors import W2SError
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.lease import Process

logger = logging.getLogger(__name__)

LEASE_SECONDS = 15.0
"""Between two heartbeats of the leases."""


class Ownership:
    """Looks stages up in a store, and holds leases there in one owner's name."""

    def __init__(self, store: ArtifactStore, owner: str, process: Process | None = None) -> None:
        """`owner` names the run to others; it lives and dies with `process`, or with this one."""
        self._store, self._owner, self._process = store, owner, process
        self.metrics: dict[str, dict[str, float]] = {}
        """Of every finished stage that was looked up."""

    async def look_up(self, stages: Sequence[PlannedStage]) -> frozenset[str]:
        """Return which of the stages and of their predictions the store has."""
        return await asyncio.to_thread(self._look_up, stages)

    async def take(self, stage: PlannedStage) -> frozenset[str]:
        """Take the lease on a stage, then look it up: another run may have finished it a moment ago.

        Raises:
            LeaseHeld: when another run has it in hand.
            StoreError: when the store cannot be read or written.
        """
        await asyncio.to_thread(self._store.lease, stage.identity, stage.spec.slug, self._owner, self._process)
        return await self.look_up((stage,))

    async def release(self, stage: PlannedStage) -> None:
        """Give the lease back."""
        await asyncio.to_thread(self._store.release, stage.identity, stage.spec.slug, self._owner)

    async def renew_for_ever(self, stages_in_hand: Callable[[], Iterable[PlannedStage]]) -> None:
        """Keep the leases on the stages in hand alive."""
        while True:
            for stage in tuple(stages_in_hand()):
                try:
                    await asyncio.to_thread(
                        self._store.lease, stage.identity, stage.spec.slug, self._owner, self._process
                    )
                except W2SError:
                    logger.exception("the lease on %s is lost", stage.spec.slug)
            await asyncio.sleep(LEASE_SECONDS)

    def _look_up(self, stages: Sequence[PlannedStage]) -> frozenset[str]:
        found: set[str] = set()
        for stage in stages:
            record = self._store.find(stage.identity)
            if record is not None:
                found.add(stage.identity)
                self.metrics[stage.identity] = dict(record.metrics)
            for identity in (prediction.identity for prediction in stage.predicts):
                if identity not in found and self._store.find(identity) is not None:
                    found.add(identity)
        return frozenset(found)
