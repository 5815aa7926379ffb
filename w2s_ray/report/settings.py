"""Which ceiling belongs to which student: the one of its own setting.

Methods differ in more than the loss: a probe, a student that was first trained on text, one that begins with random
weights each have a ceiling of their own, trained alike from the same start. So a ceiling is found by what it shares
with the student (task, point, seed, level, start, trainable weights), whichever method or chain asked for it.
"""

from collections.abc import Iterable

from w2s_ray.spec.chain import Chain, PlannedStage
from w2s_ray.spec.labels import WeakLabels
from w2s_ray.spec.stage import AllWeights, ModelSource, StageSource, StageSpec, Trainable


def setting_of(spec: StageSpec) -> str:
    """Return what sets a stage's training apart besides its loss, for people; nothing where that is the rule.

    That is what its ceiling shares, and what was done to its labels, which its ceiling's were not.
    """
    labels = spec.train[-1].labels
    made = labels.label.removeprefix("weak").lstrip("-") if isinstance(labels, WeakLabels) else ""
    parts = [spec.trainable.label, made]
    if isinstance(spec.starts_from, StageSource):
        parts.append("after its texts")
    elif spec.starts_from.random:
        parts.append("random start")
    return ", ".join(part for part in parts if part)


def floor_of(chain: Chain) -> str | None:
    """Return the identity of a chain's first supervisor; None where it learns text alone."""
    floor = chain.find("floor", chain.path[0])
    return floor.identity if floor is not None else None


class Ceilings:
    """Finds the ceilings of a study's chains."""

    def __init__(self, chains: Iterable[Chain]) -> None:
        self._known: dict[tuple[object, ...], str] = {}
        for chain in chains:
            for stage in chain.stages:
                if stage.arm in ("ceiling", "full_ceiling"):
                    self._known[_place(chain, stage, stage.spec.trainable)] = stage.identity

    def of(self, chain: Chain, stage: PlannedStage) -> str | None:
        """Return the identity of the ceiling of a chain's student; None where the study has none.

        A `self` student has none: its model is the floor's.
        """
        if stage.arm == "self":
            return None
        return self._known.get(_place(chain, stage, stage.spec.trainable))

    def full(self, chain: Chain, stage: PlannedStage) -> str | None:
        """Return the ceiling that trains all weights, for a student that does not."""
        if isinstance(stage.spec.trainable, AllWeights):
            return None
        return self._known.get(_place(chain, stage, AllWeights()))


def _place(chain: Chain, stage: PlannedStage, trainable: Trainable) -> tuple[object, ...]:
    start: ModelSource | StageSource = stage.spec.starts_from
    return chain.task, chain.point, chain.seed, stage.level, start, trainable
