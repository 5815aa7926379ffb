"""The dispatcher's letter boxes: an order stays in a crew's box until the crew acts on it; news wake whoever waits."""

import asyncio
from collections import defaultdict

from w2s_ray.scheduling.messages import WAIT, Order


class Mail:
    """Orders for crews, and a bell for everyone who waits."""

    def __init__(self) -> None:
        """Begin with every box empty."""
        self._orders: dict[str, Order] = {}
        self._bells: dict[str, asyncio.Event] = defaultdict(asyncio.Event)

    def post(self, crew: str, order: Order) -> None:
        """Put an order into a crew's box in place of the one before."""
        self._orders[crew] = order
        self.ring(crew)

    def read(self, crew: str) -> Order:
        """Return the crew's order; it stays there, so that a crew may ask twice."""
        return self._orders.get(crew, WAIT)

    def is_empty(self, crew: str) -> bool:
        """Say whether the crew has no order."""
        return crew not in self._orders

    def clear(self, crew: str, identity: str) -> None:
        """Take the order for a stage out of a crew's box; any other order stays, since a word may come late."""
        stage = self.read(crew).stage
        if stage is not None and stage.identity == identity:
            self._orders.pop(crew, None)

    def forget(self, crew: str) -> None:
        """Empty the box of a crew whose workers were started anew; an order to leave stays."""
        if not self.read(crew).leave:
            self._orders.pop(crew, None)

    def ring(self, who: str) -> None:
        """Wake whoever waits as `who`."""
        self._bells.pop(who, asyncio.Event()).set()

    async def wait(self, who: str, seconds: float) -> None:
        """Wait until somebody rings for `who`, but no longer than `seconds`."""
        try:
            await asyncio.wait_for(self._bells[who].wait(), seconds)
        except TimeoutError:
            return
