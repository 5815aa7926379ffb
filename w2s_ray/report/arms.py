"""The distinct arms of a study, each once, whichever chains and methods share it.

A study's chains name the same stage again and again: a floor serves every chain of its seed, and the medium model's
student is the same under each loss that only the large one uses; the first student of a chain learns from level 0, so
its `chain` and its `direct` arm are one. An arm here is what is distinct: per seed one stage, and of a student its
floor, because a `truth_chain` owes nothing to level 0 and may stand above several.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from w2s_ray.report.settings import Ceilings, floor_of
from w2s_ray.spec.chain import Chain, PlannedStage
from w2s_ray.spec.search import Point
from w2s_ray.spec.study import Arm

ARM_ORDER: tuple[Arm, ...] = (
    "pretraining",
    "generative",
    "floor",
    "member",
    "zero_shot",
    "chain",
    "direct",
    "truth_chain",
    "pooled",
    "self",
    "ceiling",
    "full_ceiling",
)
"""In which order the arms of a level are shown."""
TEXT_ARMS: tuple[Arm, ...] = ("pretraining", "generative")
"""Arms that learn text alone and predict nothing."""
STUDENTS: tuple[Arm, ...] = ("chain", "direct", "truth_chain", "pooled", "self")
"""Arms that learn from a supervisor's labels and so have a PGR."""


@dataclass(frozen=True)
class Place:
    """What a study calls an arm in one of its climbs."""

    method: str
    path: tuple[str, ...]
    point: Point | None
    arm: Arm
    number: int = 0
    """Among several of one name: the members of an ensemble."""


@dataclass
class NamedArm:
    """An arm of a level under all its names."""

    level: str
    places: list[Place]
    """The first one's arm comes first."""
    via: list[tuple[str, ...]] = field(default_factory=list)
    """Through which levels its supervision comes, from where the labels begin to its own; by place, each once."""
    label: str = ""
    """Unique among the arms of its level, once all of them are known."""

    @property
    def arm(self) -> Arm:
        """Its first name."""
        return self.places[0].arm

    @property
    def kinds(self) -> list[Arm]:
        """What the study calls it, the first name first."""
        return list(dict.fromkeys(place.arm for place in self.places))

    @property
    def methods(self) -> list[str]:
        """The methods that share it."""
        return list(dict.fromkeys(place.method for place in self.places))

    @property
    def points(self) -> list[str]:
        """The searched settings that share it, for people."""
        return list(dict.fromkeys(place.point.label for place in self.places if place.point is not None))

    @property
    def is_student(self) -> bool:
        """Whether it learned from a supervisor's labels."""
        return self.arm in STUDENTS

    def add(self, place: Place) -> None:
        """Note one more place where the study names it."""
        self.places.append(place)
        via = _via(place, self.level)
        if via not in self.via:
            self.via.append(via)


@dataclass
class DistinctArm(NamedArm):
    """One stage per seed, at the same place in every chain that it serves."""

    task: str = ""
    stages: dict[int, PlannedStage] = field(default_factory=dict)
    """By seed."""
    floors: dict[int, str] = field(default_factory=dict)
    """Identity of the chain's floor, by seed."""
    ceilings: dict[int, str] = field(default_factory=dict)
    """Identity of the ceiling of its own setting, by seed; whichever chain has it."""
    full_ceilings: dict[int, str] = field(default_factory=dict)
    """Identity of the ceiling that trains all weights, by seed, where it does not train all of them itself."""

    @property
    def identities(self) -> dict[int, str]:
        """Its stages' identities by seed."""
        return {seed: stage.identity for seed, stage in self.stages.items()}


def distinct_arms(chains: Iterable[Chain], ladder: Iterable[str]) -> list[DistinctArm]:
    """Return every distinct arm, by task, level and kind, labelled by what sets it apart."""
    chains = list(chains)
    ceilings = Ceilings(chains)
    climbs: dict[tuple[str, tuple[str, ...], str, Point | None], dict[int, Chain]] = {}
    for chain in chains:
        climbs.setdefault((chain.task, chain.path, chain.method, chain.point), {})[chain.seed] = chain
    arms: dict[object, DistinctArm] = {}
    for by_seed in climbs.values():
        _add_climb(arms, by_seed, ceilings)
    order = list(ladder)
    tasks = list(dict.fromkeys(task for task, *_ in climbs))
    found = sorted(arms.values(), key=lambda a: (tasks.index(a.task), order.index(a.level), ARM_ORDER.index(a.arm)))
    for task in tasks:
        label([arm for arm in found if arm.task == task])
    return found


def label(arms: Sequence[NamedArm]) -> None:
    """Name each arm by its kind, and by path, method and point where those tell arms of one kind apart."""
    groups: dict[tuple[str, Arm], list[NamedArm]] = {}
    for arm in arms:
        groups.setdefault((arm.level, arm.arm), []).append(arm)
    for alike in groups.values():
        several_numbers = len({place.number for arm in alike for place in arm.places}) > 1
        several_ways = len({tuple(arm.via) for arm in alike}) > 1
        several_methods = len({tuple(arm.methods) for arm in alike}) > 1
        several_points = len({tuple(arm.points) for arm in alike}) > 1
        for arm in alike:
            parts = [" = ".join(arm.kinds) + (f" {arm.places[0].number + 1}" if several_numbers else "")]
            if several_ways:
                parts.append(" / ".join("→".join(path) for path in arm.via))
            if several_methods:
                parts.append(", ".join(arm.methods))
            if several_points:
                parts.append(" / ".join(arm.points))
            arm.label = " · ".join(parts)


def _add_climb(arms: dict[object, DistinctArm], by_seed: Mapping[int, Chain], ceilings: Ceilings) -> None:
    """Put the stages of one climb down, each as a new arm or as one more place of a known one."""
    first = next(iter(by_seed.values()))
    slots = {seed: _slots(chain) for seed, chain in by_seed.items()}
    for arm, level, number in _slots(first):
        stages = {seed: own[arm, level, number] for seed, own in slots.items() if (arm, level, number) in own}
        found = {seed: by_seed[seed] for seed in stages}
        floors = _known({seed: floor_of(chain) for seed, chain in found.items()})
        own = tuple((seed, stage.identity) for seed, stage in stages.items())
        key = (first.task, level, own, tuple(floors.items()) if arm in STUDENTS else ())
        if key not in arms:
            arms[key] = DistinctArm(
                level=level,
                places=[],
                task=first.task,
                stages=stages,
                floors=floors,
                ceilings=_known({seed: ceilings.of(chain, stages[seed]) for seed, chain in found.items()}),
                full_ceilings=_known({seed: ceilings.full(chain, stages[seed]) for seed, chain in found.items()}),
            )
        arms[key].add(Place(first.method, first.path, first.point, arm, number))


def _slots(chain: Chain) -> dict[tuple[Arm, str, int], PlannedStage]:
    """A chain's stages by arm, level and, of several there, their number."""
    slots: dict[tuple[Arm, str, int], PlannedStage] = {}
    for stage in chain.stages:
        number = sum((arm, level) == (stage.arm, stage.level) for arm, level, _ in slots)
        slots[stage.arm, stage.level, number] = stage
    return slots


def _known(identities: Mapping[int, str | None]) -> dict[int, str]:
    return {seed: identity for seed, identity in identities.items() if identity is not None}


def _via(place: Place, level: str) -> tuple[str, ...]:
    """The levels that an arm's supervision comes through."""
    match place.arm:
        case "direct":
            return (place.path[0], level)
        case "self":
            return (place.path[0], place.path[-1])
        case "ceiling" | "full_ceiling" | "zero_shot" | "member" | "generative":
            return (level,)
    return place.path[: place.path.index(level) + 1]
