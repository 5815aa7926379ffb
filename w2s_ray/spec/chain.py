"""Compile a study: chains, each a list of planned stages in the order in which they can run.

The compiler is pure. What it needs from the outside, the fingerprints of data and models, comes in as a `Resolution`.

Splits belong to levels: level 0 learns ground truth on S, level i learns on Ti whichever levels a chain skips, so
every arm of one model sees the same ids. Vi carries labels of the arm's own source. Seeds act through
hash(seed, level, purpose), so the arms of one model share initialisation and batch order.
"""

from collections.abc import Iterable, Iterator
from functools import cached_property

from w2s_ray.spec.base import Spec
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.identity import seeded_hash
from w2s_ray.spec.search import Found, Point
from w2s_ray.spec.stage import (
    GroundTruth,
    LabelledSplit,
    Labels,
    Loss,
    ModelSource,
    NaiveLoss,
    PredictionSpec,
    SplitSpec,
    StageSpec,
    WeakLabels,
)
from w2s_ray.spec.study import Arm, LevelSpec, MethodSpec, Study
from w2s_ray.spec.variants import at, candidates, final, optimisation_levels


class ResolvedTask(Spec):
    """What a task's name came to."""

    fingerprint: str
    num_classes: int
    num_test: int
    """Examples of the test set as this study uses it."""
    num_documents: int = 0
    """Documents of a task without labels."""
    num_held_out: int = 0


class ResolvedModel(Spec):
    """What a level's model came to."""

    revision: str
    num_parameters: int | None


class Resolution(Spec):
    """Every outside name of a study, pinned; kept in the store as study.lock.yaml."""

    tasks: dict[str, ResolvedTask]
    models: dict[str, ResolvedModel]
    """By level name."""
    unresolved: tuple[str, ...] = ()
    """Files that could not be found; a study that has any cannot run."""


class PlannedStage(Spec):
    """A stage at its place in a chain: what to train, how to run it, and what to predict with it."""

    spec: StageSpec
    execution: Execution
    arm: Arm
    level: str
    task: str
    supervisor: str | None = None
    """Identity of the stage whose labels it learns from."""
    predicts: tuple[PredictionSpec, ...] = ()
    num_reports: int = 0
    """How often it is judged on its validation examples while it trains, for schedulers to compare; changes nothing."""

    @property
    def identity(self) -> str:
        """The stage's identity."""
        return self.spec.identity

    @cached_property
    def requires(self) -> frozenset[str]:
        """Identities of the predictions that must exist before it can train."""
        sets = (*self.spec.train, *((self.spec.validation,) if self.spec.validation else ()))
        return frozenset(p for part in sets if isinstance(part.labels, WeakLabels) for p in part.labels.predictions)

    @property
    def test_prediction(self) -> PredictionSpec | None:
        """Its predictions for the test set, if it makes any."""
        return next((prediction for prediction in self.predicts if prediction.split.is_test), None)


class Chain(Spec):
    """One climb with one method and one set of seeds: what one Tune trial runs."""

    study: str
    task: str
    path: tuple[str, ...]
    method: str
    seed: int
    point: Point | None = None
    """The searched settings that it has."""
    stages: tuple[PlannedStage, ...]
    """In an order in which each stage comes after all that it learns from."""

    @cached_property
    def name(self) -> str:
        """A readable name, unique within the study."""
        name = f"{self.task}-{'-'.join(self.path)}-{self.method}-s{self.seed}"
        return f"{name}-{self.point.id}" if self.point is not None else name

    def find(self, arm: Arm, level: str) -> PlannedStage | None:
        """Return the stage of `arm` on `level`, if the chain has one."""
        return next((stage for stage in self.stages if stage.arm == arm and stage.level == level), None)


def compile_study(study: Study, resolution: Resolution, found: Found | None = None) -> tuple[Chain, ...]:
    """Return every chain that is judged on the test set, in the order tasks, seeds, paths, methods, points.

    Where the study's search chooses, those are the winners' chains: none before it has `found` any.

    Raises:
        StudyError: when values that the search combines do not go together.
    """
    search = study.search
    if search is None:
        return _chains(study, resolution)
    if search.choose_by is None:
        return tuple(chain for point in search.points() for chain in _chains(at(study, point), resolution, point=point))
    levels, frozen = optimisation_levels(study), final(study)
    return tuple(
        chain
        for winner in (found.winners if found is not None else ())
        for chain in _chains(
            at(frozen, winner),
            resolution,
            point=winner,
            ceilings=at(frozen, found.ceiling_point(winner, levels)) if found is not None else None,
        )
    )


def compile_candidate(study: Study, resolution: Resolution, point: Point) -> tuple[Chain, ...]:
    """Return the chains on which a point of a search that chooses is judged; none of them sees the test set.

    Raises:
        StudyError: when the point's values do not go together.
    """
    return _chains(at(candidates(study), point), resolution, point=point, judged=True)


def _chains(
    study: Study,
    resolution: Resolution,
    *,
    point: Point | None = None,
    ceilings: Study | None = None,
    judged: bool = False,
) -> tuple[Chain, ...]:
    return tuple(
        _Climb(study, resolution, task, path, method_name, seed, point, ceilings or study, judged).chain()
        for task in study.tasks
        for seed in study.seeds
        for path in study.paths
        for method_name in study.methods
    )


def distinct_stages(chains: Iterable[Chain]) -> dict[str, PlannedStage]:
    """Return each distinct stage once, by identity; predictions asked for by any chain are merged."""
    stages: dict[str, PlannedStage] = {}
    for chain in chains:
        for stage in chain.stages:
            known = stages.get(stage.identity)
            stages[stage.identity] = stage if known is None else merge(known, stage)
    return stages


def merge(first: PlannedStage, second: PlannedStage) -> PlannedStage:
    """Return `first` with the predictions and reports of both; they must be one stage."""
    assert first.identity == second.identity
    if set(second.predicts) <= set(first.predicts) and second.num_reports <= first.num_reports:
        return first
    predicts = tuple(dict.fromkeys((*first.predicts, *second.predicts)))
    num_reports = max(first.num_reports, second.num_reports)
    return first.model_copy(update={"predicts": predicts, "num_reports": num_reports})


class _Climb:
    """The compiler's working state for one chain."""

    def __init__(
        self,
        study: Study,
        resolution: Resolution,
        task: str,
        path: tuple[str, ...],
        method_name: str,
        seed: int,
        point: Point | None,
        ceilings: Study,
        judged: bool,
    ) -> None:
        self.study, self.resolution, self.task, self.path, self.seed = study, resolution, task, path, seed
        self.point, self.ceilings, self.judged = point, ceilings, judged
        self.method_name = method_name
        self.method: MethodSpec = study.methods[method_name]
        self.order = list(study.ladder)
        self.resolved = resolution.tasks[task]

    def chain(self) -> Chain:
        pretraining = self.method.objective == "next_token"
        stages = tuple(self._pretraining() if pretraining else self._supervised())
        return Chain(
            study=self.study.name,
            task=self.task,
            path=self.path,
            method=self.method_name,
            seed=self.seed,
            point=self.point,
            stages=stages,
        )

    def _pretraining(self) -> Iterator[PlannedStage]:
        text = LabelledSplit(split=self._split("text", self.resolved.num_documents), labels=GroundTruth())
        held_out = LabelledSplit(split=self._split("held_out", self.resolved.num_held_out), labels=GroundTruth())
        for level in self.path:
            yield self._stage("pretraining", level, (text,), held_out, NaiveLoss(), None, ())

    def _supervised(self) -> Iterator[PlannedStage]:
        floor = self._floor()
        students = self.path[1:]
        labels_needed = students if {"direct", "pooled", "self"} & set(self.method.arms) else students[:1]
        floor = self._predicting(floor, labels_needed)
        yield floor
        previous = floor
        for position, level in enumerate(students):
            if "chain" in self.method.arms:
                student = self._weak("chain", level, previous, (level,))
                student = self._predicting(student, students[position + 1 : position + 2])
                yield student
                previous = student
            if "direct" in self.method.arms:
                yield self._predicting(self._weak("direct", level, floor, (level,)), ())
            if "ceiling" in self.method.arms:
                truth = GroundTruth()
                train = LabelledSplit(split=self._train_split(level), labels=truth)
                validation = LabelledSplit(split=self._validation_split(level), labels=truth)
                yield self._predicting(self._stage("ceiling", level, (train,), validation, NaiveLoss(), None, ()), ())
            if "pooled" in self.method.arms:
                yield self._predicting(self._weak("pooled", level, floor, students[: position + 1]), ())
        if "self" in self.method.arms:
            yield self._predicting(self._weak("self", self.path[0], floor, (students[-1],)), ())

    def _floor(self) -> PlannedStage:
        truth = GroundTruth()
        train = LabelledSplit(split=self._split("S", self.study.splits.train_examples), labels=truth)
        validation = LabelledSplit(split=self._split("V0", self.study.splits.validation_examples), labels=truth)
        return self._stage("floor", self.path[0], (train,), validation, NaiveLoss(), None, ())

    def _weak(self, arm: Arm, level: str, supervisor: PlannedStage, on: tuple[str, ...]) -> PlannedStage:
        """A student of `supervisor` on the transfer splits of the levels `on`, validated on the last one's."""
        train = tuple(self._labelled(supervisor, self._train_split(each)) for each in on)
        validation = self._labelled(supervisor, self._validation_split(on[-1]))
        return self._stage(arm, level, train, validation, self.method.loss_of(level), supervisor.identity, ())

    def _stage(
        self,
        arm: Arm,
        level: str,
        train: tuple[LabelledSplit, ...],
        validation: LabelledSplit,
        loss: Loss,
        supervisor: str | None,
        predicts: tuple[PredictionSpec, ...],
    ) -> PlannedStage:
        entry = (self.ceilings if arm == "ceiling" else self.study).ladder[level]
        index = self.order.index(level)
        spec = StageSpec(
            objective=self.method.objective,
            starts_from=self._source(level, entry),
            num_classes=max(self.resolved.num_classes, 1),
            train=train,
            validation=validation,
            loss=loss,
            optimisation=entry.optimisation,
            init_seed=seeded_hash(self.seed, index, "init"),
            order_seed=seeded_hash(self.seed, index, "order"),
        )
        return PlannedStage(
            spec=spec,
            execution=entry.execution,
            arm=arm,
            level=level,
            task=self.task,
            supervisor=supervisor,
            predicts=predicts,
        )

    def _predicting(self, stage: PlannedStage, levels: tuple[str, ...]) -> PlannedStage:
        """`stage` with predictions for what judges it and for the splits of the `levels` that learn from it.

        That is the test set, or its own validation examples where a search judges.
        """
        own = self._validation_split(stage.level) if stage.level != self.path[0] else None
        splits = [own] if self.judged and own is not None else []
        if not self.judged:
            splits.append(self._split("test", self.resolved.num_test))
        for level in levels:
            splits += [self._train_split(level), self._validation_split(level)]
        return stage.model_copy(update={"predicts": tuple(self._prediction(stage, split) for split in splits)})

    def _labelled(self, supervisor: PlannedStage, split: SplitSpec) -> LabelledSplit:
        labels: Labels = WeakLabels(predictions=(self._prediction(supervisor, split).identity,))
        return LabelledSplit(split=split, labels=labels)

    def _prediction(self, stage: PlannedStage, split: SplitSpec) -> PredictionSpec:
        return PredictionSpec(stage=stage.identity, split=split, context_tokens=stage.spec.optimisation.context_tokens)

    def _source(self, level: str, entry: LevelSpec) -> ModelSource:
        return ModelSource(
            name=entry.model,
            revision=self.resolution.models[level].revision,
            architecture=entry.architecture,
            pad_token=entry.pad_token,
        )

    def _train_split(self, level: str) -> SplitSpec:
        return self._split(f"T{self.order.index(level)}", self.study.splits.train_examples)

    def _validation_split(self, level: str) -> SplitSpec:
        return self._split(f"V{self.order.index(level)}", self.study.splits.validation_examples)

    def _split(self, name: str, num_examples: int) -> SplitSpec:
        seedless = name in ("test", "text", "held_out")
        return SplitSpec(
            task=self.resolved.fingerprint,
            name=name,
            num_examples=max(num_examples, 1),
            num_levels=1 if seedless else len(self.order),
            split_seed=0 if seedless else self.seed,
            balance=name == "test" or (not seedless and self.study.splits.balance_transfer),
        )
