"""The distinct arms of a study, each with its floors and ceilings, by seed.

A study's chains name the same stage again and again: all chains of a seed share one floor, methods that differ only at
the last level share the students below it, and a chain's first student is its `direct` arm too. A distinct arm is one
stage per seed, and for a student one floor as well: a `truth_chain` does not depend on level 0, so it may belong to
several floors.

A student's ceiling is the one of its own setting: a probe, a student that was first trained on text, one with random
initial weights and one whose method sets its own optimisation each have a ceiling that trains the same way from the
same start. The compiler names it (`PlannedStage.ceiling`); any method and chain of the study may be the one that
trains it.
"""

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from w2s_ray.spec.chain import Chain, PlannedStage
from w2s_ray.spec.labels import GroundTruth, WeakLabels
from w2s_ray.spec.search import Point
from w2s_ray.spec.stage import ModelSource, Score, StageSource, StageSpec
from w2s_ray.spec.study import Arm, Study

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
"""The order in which the arms of a level are shown."""
TEXT_ARMS: tuple[Arm, ...] = ("pretraining", "generative")
"""Arms that learn text alone and predict no labels."""
STUDENTS: tuple[Arm, ...] = ("chain", "direct", "truth_chain", "pooled", "self")
"""Arms that learn from a supervisor's labels and can have a PGR."""


@dataclass(frozen=True)
class Place:
    """The study's name for an arm in one of its chains."""

    method: str
    path: tuple[str, ...]
    point: Point | None
    arm: Arm
    number: int = 0
    """Among several arms of one name: the members of an ensemble."""


@dataclass
class NamedArm:
    """An arm of a level with all its names."""

    level: str
    places: list[Place]
    routes: list[tuple[str, ...]] = field(default_factory=list)
    """The levels that its supervision passes through, from the first labels to its own; distinct, by place."""
    label: str = ""
    """Unique among the arms of its level; set by `set_labels` once all of them are known."""

    @property
    def arm(self) -> Arm:
        return self.places[0].arm

    @property
    def kinds(self) -> list[Arm]:
        return list(dict.fromkeys(place.arm for place in self.places))

    @property
    def methods(self) -> list[str]:
        return list(dict.fromkeys(place.method for place in self.places))

    @property
    def is_student(self) -> bool:
        return self.arm in STUDENTS

    def add(self, place: Place) -> None:
        self.places.append(place)
        route = _route(place, self.level)
        if route not in self.routes:
            self.routes.append(route)


@dataclass
class DistinctArm(NamedArm):
    """One stage per seed, at the same place in every chain that shares it."""

    task: str = ""
    stages: dict[int, PlannedStage] = field(default_factory=dict)
    """By seed."""
    floors: dict[int, str] = field(default_factory=dict)
    """Identity of the chain's floor, by seed."""
    ceilings: dict[int, str] = field(default_factory=dict)
    """Identity of the ceiling of its own setting, by seed."""
    full_ceilings: dict[int, str] = field(default_factory=dict)
    """Identity of the ceiling that trains all weights, by seed; empty for an arm that trains all weights itself."""

    @property
    def id(self) -> str:
        """Unique among all arms of the study; set once the arm has its label."""
        return f"{self.task}/{self.level}/{self.label}"

    @property
    def identities(self) -> dict[int, str]:
        """Identity of its stage, by seed."""
        return {seed: stage.identity for seed, stage in self.stages.items()}


def trained_ceilings(stage: PlannedStage, trained: Container[str]) -> tuple[str | None, str | None]:
    """Return the ceiling of a student's own setting and the one that trains all weights, where the study has them."""
    own, full = (ceiling if ceiling in trained else None for ceiling in (stage.ceiling, stage.full_ceiling))
    return own, full


def floor_of(chain: Chain) -> str | None:
    """Return the identity of a chain's first supervisor; None where the chain learns text alone."""
    floor = chain.find("floor", chain.path[0])
    return floor.identity if floor is not None else None


def untrained_of(student: DistinctArm, arms: Iterable[DistinctArm]) -> DistinctArm | None:
    """Return the `zero_shot` arm of a student's task, level, point and score, preferably of its own method.

    None where the study has none, and for a student with random initial weights, whose untrained model knows nothing.
    The untrained model is asked by the score that its student is trained by; a student with a head has none.
    """
    starts = [stage.spec.starts_from for stage in student.stages.values()]
    if any(isinstance(start, ModelSource) and start.random for start in starts):
        return None
    points = {place.point for place in student.places}
    score = _own_score(student)
    known = [
        arm
        for arm in arms
        if "zero_shot" in arm.kinds
        and (arm.task, arm.level, _own_score(arm)) == (student.task, student.level, score)
        and not points.isdisjoint(place.point for place in arm.places)
    ]
    return max(known, key=lambda arm: not set(student.methods).isdisjoint(arm.methods), default=None)


def _own_score(arm: DistinctArm) -> Score | None:
    """Return the score of an arm's model by itself, without a reference."""
    score = next(iter(arm.stages.values())).spec.score
    return None if score is None else score.model_copy(update={"reference": False})


def setting_of(spec: StageSpec) -> str:
    """Describe what sets a stage's training apart besides its loss; empty for the default.

    That is everything its ceiling shares (trainable weights, score, start), and the transforms of its labels, which its
    ceiling does not share.
    """
    labels = spec.train[-1].labels
    transforms = labels.label.removeprefix("weak").lstrip("-") if isinstance(labels, WeakLabels) else ""
    start = "after its texts" if isinstance(spec.starts_from, StageSource) else ""
    if not isinstance(spec.starts_from, StageSource) and spec.starts_from.random:
        start = "random start"
    score = spec.score.label if spec.score is not None else ""
    return ", ".join(part for part in (spec.trainable.label, score, transforms, start) if part)


def is_oracle(study: Study, stages: Mapping[str, PlannedStage], stage: PlannedStage) -> bool:
    """Return whether ground truth chose a weakly supervised student's settings, stopped it early or is in its labels.

    A student that learns from an oracle is one too, and so is a `truth_chain`, whose supervisor learned the truth of
    its own examples. `stages` are all of the study's, by identity.
    """
    labels = [part.labels for part in stage.spec.train if isinstance(part.labels, WeakLabels)]
    if not labels:
        return False
    chosen = study.search is not None and study.search.choose_by == "oracle"
    stopping, validation = stage.spec.optimisation.early_stopping, stage.spec.validation
    validates_on_truth = validation is not None and isinstance(validation.labels, GroundTruth)
    stopped = stopping is not None and (stopping.by == "oracle" or validates_on_truth)
    if chosen or stopped or any(part.reads_truth for part in labels):
        return True
    supervisors = [stages[identity] for identity in stage.supervisors]
    return any(_learned_truth_beyond_s(other) or is_oracle(study, stages, other) for other in supervisors)


def _learned_truth_beyond_s(stage: PlannedStage) -> bool:
    """Return whether a stage learned ground truth of other examples than S, which every study grants to level 0."""
    return any(isinstance(part.labels, GroundTruth) and part.split.name != "S" for part in stage.spec.train)


def distinct_arms(chains: Iterable[Chain], ladder: Iterable[str]) -> list[DistinctArm]:
    """Return every distinct arm with its label, ordered by task, level and kind."""
    chains = list(chains)
    trained = {stage.identity for chain in chains for stage in chain.stages}
    by_place: dict[tuple[str, tuple[str, ...], str, Point | None], dict[int, Chain]] = {}
    for chain in chains:
        by_place.setdefault((chain.task, chain.path, chain.method, chain.point), {})[chain.seed] = chain
    arms: dict[object, DistinctArm] = {}
    for by_seed in by_place.values():
        _add_chain(arms, by_seed, trained)
    order = list(ladder)
    tasks = list(dict.fromkeys(task for task, *_ in by_place))
    ordered = sorted(arms.values(), key=lambda a: (tasks.index(a.task), order.index(a.level), ARM_ORDER.index(a.arm)))
    for task in tasks:
        set_labels([arm for arm in ordered if arm.task == task])
    return ordered


def set_labels(arms: Sequence[NamedArm]) -> None:
    """Label each arm by its kind, and by route, method and point where arms of one kind differ in them."""
    groups: dict[tuple[str, Arm], list[NamedArm]] = {}
    for arm in arms:
        groups.setdefault((arm.level, arm.arm), []).append(arm)
    for group in groups.values():
        points = [" / ".join(dict.fromkeys(p.point.label for p in arm.places if p.point is not None)) for arm in group]
        several_numbers = len({place.number for arm in group for place in arm.places}) > 1
        several_routes = len({tuple(arm.routes) for arm in group}) > 1
        several_methods = len({tuple(arm.methods) for arm in group}) > 1
        several_points = len(set(points)) > 1
        for arm, point in zip(group, points, strict=True):
            parts = [" = ".join(arm.kinds) + (f" {arm.places[0].number + 1}" if several_numbers else "")]
            parts += [" / ".join("→".join(route) for route in arm.routes)] if several_routes else []
            parts += [", ".join(arm.methods)] if several_methods else []
            parts += [point] if several_points else []
            arm.label = " · ".join(parts)


def _add_chain(arms: dict[object, DistinctArm], by_seed: Mapping[int, Chain], trained: Container[str]) -> None:
    """Add the stages of one chain, given by seed, each as a new arm or as one more name of a known one."""
    first = next(iter(by_seed.values()))
    slots = {seed: _slots(chain) for seed, chain in by_seed.items()}
    for slot in (slot for slot in _slots(first) if slot[0] != "reference"):
        arm, level, number = slot
        stages = {seed: by_slot[slot] for seed, by_slot in slots.items() if slot in by_slot}
        floors = _present({seed: floor_of(by_seed[seed]) for seed in stages})
        identities = tuple((seed, stage.identity) for seed, stage in stages.items())
        key = (first.task, level, identities, tuple(floors.items()) if arm in STUDENTS else ())
        if key not in arms:
            ceilings = {seed: trained_ceilings(stage, trained) for seed, stage in stages.items()}
            arms[key] = DistinctArm(
                level=level,
                places=[],
                task=first.task,
                stages=stages,
                floors=floors,
                ceilings=_present({seed: own for seed, (own, _) in ceilings.items()}),
                full_ceilings=_present({seed: full for seed, (_, full) in ceilings.items()}),
            )
        arms[key].add(Place(first.method, first.path, first.point, arm, number))


def _slots(chain: Chain) -> dict[tuple[Arm, str, int], PlannedStage]:
    """Return a chain's stages by arm, level, and number among several of the same arm and level."""
    slots: dict[tuple[Arm, str, int], PlannedStage] = {}
    for stage in chain.stages:
        number = sum((arm, level) == (stage.arm, stage.level) for arm, level, _ in slots)
        slots[stage.arm, stage.level, number] = stage
    return slots


def _present(identities: Mapping[int, str | None]) -> dict[int, str]:
    return {seed: identity for seed, identity in identities.items() if identity is not None}


def _route(place: Place, level: str) -> tuple[str, ...]:
    match place.arm:
        case "direct":
            return (place.path[0], level)
        case "self":
            return (place.path[0], place.path[-1])
        case "ceiling" | "full_ceiling" | "zero_shot" | "member" | "generative":
            return (level,)
    return place.path[: place.path.index(level) + 1]
