"""The distinct arms of a study, each once, whichever chains and methods share it.

A study's chains name the same stage again and again: a floor serves every chain of its seed, and the medium model's
student is the same under each loss that only the large one uses; the first student of a chain learns from level 0, so
its `chain` and its `direct` arm are one. An arm here is what is distinct: per seed one stage.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from w2s_ray.spec.chain import Chain, PlannedStage
from w2s_ray.spec.search import Point
from w2s_ray.spec.study import Arm

ARM_ORDER: tuple[Arm, ...] = ("pretraining", "floor", "chain", "direct", "pooled", "self", "ceiling")
"""In which order the arms of a level are shown."""
STUDENTS: tuple[Arm, ...] = ("chain", "direct", "pooled", "self")
"""Arms that learn from weak labels and so have a PGR."""


@dataclass
class DistinctArm:
    """One stage per seed, at the same place in every chain that it serves."""

    task: str
    level: str
    kinds: list[Arm]
    """What the study calls it, the first name first."""
    stages: dict[int, PlannedStage]
    """By seed."""
    floors: dict[int, str]
    """Identity of the chain's floor, by seed."""
    ceilings: dict[int, str]
    """Identity of the ceiling of its level under the same settings, by seed; whichever chain has it."""
    paths: list[tuple[str, ...]] = field(default_factory=list)
    """Through which levels its supervision comes, from where the labels begin to its own."""
    methods: list[str] = field(default_factory=list)
    points: list[str] = field(default_factory=list)
    """The searched settings that share it, for people."""
    label: str = ""
    """Unique among the arms of its level."""

    @property
    def arm(self) -> Arm:
        """Its first name."""
        return self.kinds[0]

    @property
    def is_student(self) -> bool:
        """Whether it learned from weak labels."""
        return self.arm in STUDENTS


def distinct_arms(chains: Iterable[Chain], ladder: Iterable[str]) -> list[DistinctArm]:
    """Return every distinct arm, by task, level and kind, labelled by what sets it apart."""
    climbs: dict[tuple[str, tuple[str, ...], str, Point | None], dict[int, Chain]] = {}
    ceilings: dict[tuple[str, Point | None, str], dict[int, str]] = {}
    for chain in chains:
        climbs.setdefault((chain.task, chain.path, chain.method, chain.point), {})[chain.seed] = chain
        for stage in chain.stages:
            if stage.arm == "ceiling":
                ceilings.setdefault((chain.task, chain.point, stage.level), {})[chain.seed] = stage.identity
    arms: dict[object, DistinctArm] = {}
    for by_seed in climbs.values():
        first = next(iter(by_seed.values()))
        for stage in first.stages:
            _add(arms, first, stage, by_seed, ceilings.get((first.task, first.point, stage.level), {}))
    order = list(ladder)
    tasks = list(dict.fromkeys(task for task, *_ in climbs))
    found = sorted(arms.values(), key=lambda a: (tasks.index(a.task), order.index(a.level), ARM_ORDER.index(a.arm)))
    _label(found)
    return found


def _add(
    arms: dict[object, DistinctArm],
    climb: Chain,
    slot: PlannedStage,
    by_seed: Mapping[int, Chain],
    ceilings: dict[int, str],
) -> None:
    """Put the stages at one place of a climb down, as a new arm or as more of a known one."""
    found = {seed: chain.find(slot.arm, slot.level) for seed, chain in by_seed.items()}
    stages = {seed: stage for seed, stage in found.items() if stage is not None}
    key = (climb.task, slot.level, tuple((seed, stage.identity) for seed, stage in stages.items()))
    if key not in arms:
        floors = {seed: chain.stages[0].identity for seed, chain in by_seed.items()}
        arms[key] = DistinctArm(climb.task, slot.level, [slot.arm], stages, floors, ceilings)
    if slot.arm not in arms[key].kinds:
        arms[key].kinds.append(slot.arm)
    via = _via(slot, climb.path)
    if via not in arms[key].paths:
        arms[key].paths.append(via)
    if climb.method not in arms[key].methods:
        arms[key].methods.append(climb.method)
    if climb.point is not None and climb.point.label not in arms[key].points:
        arms[key].points.append(climb.point.label)


def _via(stage: PlannedStage, path: tuple[str, ...]) -> tuple[str, ...]:
    """The levels that a stage's supervision comes through."""
    match stage.arm:
        case "direct":
            return (path[0], stage.level)
        case "self":
            return (path[0], path[-1])
        case "ceiling":
            return (stage.level,)
    return path[: path.index(stage.level) + 1]


def _label(arms: list[DistinctArm]) -> None:
    """Name each arm by its kind, and by path, method and point where those tell arms of one kind apart."""
    for arm in arms:
        alike = [a for a in arms if (a.task, a.level, a.arm) == (arm.task, arm.level, arm.arm)]
        parts: list[str] = [" = ".join(arm.kinds)]
        if len({tuple(a.paths) for a in alike}) > 1:
            parts.append(" / ".join("→".join(path) for path in arm.paths))
        if len({tuple(a.methods) for a in alike}) > 1:
            parts.append(", ".join(arm.methods))
        if len({tuple(a.points) for a in alike}) > 1:
            parts.append(" / ".join(arm.points))
        arm.label = " · ".join(parts)
