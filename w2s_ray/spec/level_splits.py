"""The splits of one task for one seed, named by the levels that read them."""

from dataclasses import dataclass

from w2s_ray.spec.chain import ResolvedTask
from w2s_ray.spec.labels import SplitSpec
from w2s_ray.spec.study import TaskSizes


@dataclass(frozen=True)
class LevelSplits:
    """Level 0 learns S; level i learns Ti and is validated on Vi, whichever levels a chain skips."""

    task: ResolvedTask
    sizes: TaskSizes
    order: tuple[str, ...]
    """The ladder's levels, weak to strong."""
    seed: int

    def supervisor(self) -> SplitSpec:
        """Return S, of which a first supervisor learns the truth."""
        return self._seeded("S", self.sizes.S)

    def train(self, level: str) -> SplitSpec:
        """Return the examples from which the students on a level learn."""
        return self._seeded(f"T{self.order.index(level)}", self.sizes.T)

    def validation(self, level: str | None = None) -> SplitSpec:
        """Return the level's validation examples; without a level V0, whose truth also weighs several supervisors."""
        return self._seeded(f"V{self.order.index(level) if level else 0}", self.sizes.V)

    def test(self) -> SplitSpec:
        """Return the test set, which depends on no seed."""
        return self._unseeded("test", self.task.num_test, balance=True)

    def text(self) -> SplitSpec:
        """Return all documents that pretraining learns."""
        return self._unseeded("text", self.task.num_documents)

    def held_out(self) -> SplitSpec:
        """Return the documents on which pretraining is validated."""
        return self._unseeded("held_out", self.task.num_held_out)

    def _seeded(self, name: str, num_examples: int) -> SplitSpec:
        return SplitSpec(
            task=self.task.fingerprint,
            name=name,
            num_examples=num_examples,
            num_levels=len(self.order),
            split_seed=self.seed,
            balance=self.sizes.balance,
        )

    def _unseeded(self, name: str, num_examples: int, *, balance: bool = False) -> SplitSpec:
        num_examples = max(num_examples, 1)  # of a task that could not be read
        return SplitSpec(
            task=self.task.fingerprint,
            name=name,
            num_examples=num_examples,
            num_levels=1,
            split_seed=0,
            balance=balance,
        )
