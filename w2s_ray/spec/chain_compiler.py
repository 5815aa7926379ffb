"""Compile one chain: its stages, each after all that it learns from.

Splits belong to levels: level 0 learns ground truth on S, level i learns on Ti whichever levels a chain skips, so every
arm of a model sees the same examples. Vi has labels from the arm's own source. Seeds are hash(seed, level, purpose), so
the arms of a model share initialisation and batch order.
"""

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from w2s_ray.spec.base import Kind
from w2s_ray.spec.chain import PlannedStage, Resolution, ResolvedTask
from w2s_ray.spec.identity import seeded_hash
from w2s_ray.spec.labels import GroundTruth, KeepRandom, LabelledSplit, SplitSpec, Transform, WeakLabels, Weighing
from w2s_ray.spec.level_splits import LevelSplits
from w2s_ray.spec.losses import NaiveLoss
from w2s_ray.spec.stage import (
    SHOTS_RECIPE,
    AllWeights,
    ModelSource,
    Objective,
    Optimisation,
    Precision,
    PredictionSpec,
    Prompt,
    Score,
    StageSource,
    StageSpec,
    Trainable,
)
from w2s_ray.spec.study import Arm, MethodSpec, Study

BAG = round(1 - math.exp(-1), 3)
"""Share of S that a bagged member learns from: the distinct examples of a bootstrap sample, on average."""
_CEILINGS: tuple[Arm, ...] = ("ceiling", "full_ceiling")
_OBJECTIVES: dict[Kind, Objective] = {
    "classes": "classification",
    "pairs": "preference",
    "answers": "answer",
    "text": "next_token",
}


class StageCache:
    """The stages and predictions of a study and its variants, each built once; keyed by the values they depend on."""

    def __init__(self, resolution: Resolution, *, predict_test: bool = True) -> None:
        self.resolution, self.predict_test = resolution, predict_test
        self.stages: dict[tuple[object, ...], PlannedStage] = {}
        self._predictions: dict[tuple[str, SplitSpec, Precision], PredictionSpec] = {}

    def prediction(self, stage: StageSpec, split: SplitSpec, precision: Precision) -> PredictionSpec:
        """Return the stage's prediction of a split; stored features are read, and heads computed, in fp32."""
        if stage.reads_once:
            precision = "fp32"
        key = (stage.identity, split, precision)
        known = self._predictions.get(key)
        if known is None:
            tokens = stage.optimisation.context_tokens
            known = PredictionSpec(stage=stage.identity, split=split, context_tokens=tokens, precision=precision)
            self._predictions[key] = known
        return known


@dataclass(frozen=True)
class ChainCompiler:
    """Compiles one chain."""

    cache: StageCache
    study: Study
    ceilings: Study
    """The study whose optimisation the ceilings get."""
    task: str
    path: tuple[str, ...]
    name: str
    """The method's."""
    seed: int

    def stages(self) -> Iterator[PlannedStage]:
        """Yield its stages, each after all that it learns from or is compared with."""
        planned = list(self._students())
        waiting = {level: self._reference(level, planned) for level in self.path if self._has_reference}
        for stage in planned:
            if stage.spec.reference is not None and stage.level in waiting:
                yield waiting.pop(stage.level)
            yield stage

    def _prediction(self, stage: StageSpec, split: SplitSpec) -> PredictionSpec:
        return self.cache.prediction(stage, split, self.study.prediction_precision)

    def _reference(self, level: str, planned: Sequence[PlannedStage]) -> PlannedStage:
        """Return the untrained stage whose scores all arms of a level subtract, with the predictions that they need."""
        reference = self._stage("reference", level)
        needed = (
            prediction
            for stage in planned
            if stage.spec.reference == reference.identity
            for prediction in stage.reference_predictions
        )
        return reference.model_copy(update={"predicts": tuple(dict.fromkeys(needed))})

    @property
    def _has_reference(self) -> bool:
        return self.method.score is not None and self.method.score.reference

    def _students(self) -> Iterator[PlannedStage]:
        """Yield all stages but the references."""
        if self.method.objective == "next_token":
            yield from (self._stage("pretraining", level) for level in self.path)
            return
        students, arms = self.path[1:], self.method.arms
        feeds = students if {"direct", "pooled", "self"} & set(arms) else students[:1]
        first = tuple(
            self._stage("member" if number else "floor", self.path[0], feeds=feeds, member=number)
            for number in range(self.method.supervisors.num)
        )
        yield from first
        if "zero_shot" in arms:
            yield from (self._stage("zero_shot", level) for level in self.path)
        supervisors = first
        true_supervisor: PlannedStage | None = None
        for position, level in enumerate(students):
            following = students[position + 1 : position + 2]
            if level in self.method.generative:
                yield self._stage("generative", level)
            if "chain" in arms:
                supervisors = (self._stage("chain", level, supervisors=supervisors, on=(level,), feeds=following),)
                yield from supervisors
            if "direct" in arms:
                yield self._stage("direct", level, supervisors=first, on=(level,))
            if true_supervisor is not None:
                yield self._stage("truth_chain", level, supervisors=(true_supervisor,), on=(level,))
            if "ceiling" in arms or ("truth_chain" in arms and following):
                ceiling = self._stage("ceiling", level, feeds=following if "truth_chain" in arms else ())
                yield ceiling
                true_supervisor = ceiling if "truth_chain" in arms else None
            if "ceiling" in arms and self.method.trainable_of(level) != AllWeights():
                yield self._stage("full_ceiling", level)
            if "pooled" in arms:
                yield self._stage("pooled", level, supervisors=first, on=students[: position + 1])
        if "self" in arms:
            yield self._stage("self", self.path[0], supervisors=first, on=(students[-1],))

    def _stage(
        self,
        arm: Arm,
        level: str,
        *,
        supervisors: tuple[PlannedStage, ...] = (),
        on: tuple[str, ...] = (),
        feeds: tuple[str, ...] = (),
        member: int = 0,
    ) -> PlannedStage:
        """Return the stage of one arm on one level.

        Args:
            arm: which supervision it gets.
            level: its model.
            supervisors: the stages whose labels it learns from; ground truth if there are none.
            on: the levels on whose training splits it learns from those labels; it is validated on the last one's.
            feeds: the levels that learn from its labels.
            member: its number among the first supervisors.
        """
        entry = (self.ceilings if arm in _CEILINGS else self.study).ladder[level]
        optimisation = self._optimisation(arm, level)
        sources = tuple(supervisor.identity for supervisor in supervisors)
        request = (arm, level, sources, on, feeds, member, self.task, self.path[0], self.seed)
        settings = self._settings(level, weak=bool(supervisors))
        key = (*request, entry, optimisation, self.splits.sizes, settings)
        known = self.cache.stages.get(key)
        if known is None:
            spec = self._spec(arm, level, supervisors, on, member)
            has_ceiling = bool(supervisors) and arm != "self"  # that student's model is the floor's
            trains_all = self.method.trainable_of(level) == AllWeights()
            known = self.cache.stages[key] = PlannedStage(
                spec=spec,
                execution=entry.execution,
                arm=arm,
                level=level,
                task=self.task,
                supervisors=sources,
                ceiling=self._stage("ceiling", level).identity if has_ceiling else None,
                full_ceiling=self._stage("full_ceiling", level).identity if has_ceiling and not trains_all else None,
                predicts=tuple(self._prediction(spec, split) for split in self._predicted(arm, level, feeds)),
            )
        return known

    def _settings(self, level: str, *, weak: bool) -> tuple[object, ...]:
        """Return the method's settings for a stage of a level, with those for weak labels if it learns from them."""
        method = self.method
        shared = (
            method.supervisors,
            method.generative.get(level),
            method.trainable_of(level),
            level in method.random,
            level in method.oracle,
            method.score,
        )
        if not weak:
            return shared
        ceilings = (self._optimisation("ceiling", level), self._optimisation("full_ceiling", level))
        return (*shared, method.loss_of(level), method.relabelling_of(level), *ceilings)

    def _optimisation(self, arm: Arm, level: str) -> Optimisation:
        """Return the level's optimisation with the method's own keys, for all arms that more than one method shares."""
        if arm == "generative":
            return self.method.generative[level]
        study = self.ceilings if arm in (*_CEILINGS, "reference") else self.study  # ceilings have references too
        if arm in ("full_ceiling", "zero_shot", "reference"):
            return study.ladder[level].optimisation
        return study.optimisation_of(study.methods[self.name], level)

    def _spec(
        self,
        arm: Arm,
        level: str,
        supervisors: tuple[PlannedStage, ...],
        on: tuple[str, ...],
        member: int,
    ) -> StageSpec:
        index, score, optimisation = self.order.index(level), self._score(arm), self._optimisation(arm, level)
        trainable = self._trainable(arm, level, score)
        reads_names = self.resolved.kind != "pairs" and (score is not None or isinstance(trainable, Prompt))
        if supervisors and level in self.method.oracle:
            optimisation = _by_oracle(optimisation)
        weak = self._weak_examples(level, supervisors, on) if supervisors else None
        train, validation = weak or self._true_examples(arm, level, member)
        return StageSpec(
            objective="next_token" if arm in ("pretraining", "generative") else _OBJECTIVES[self.resolved.kind],
            starts_from=self._source(arm, level),
            num_classes=max(self.resolved.num_classes, 1),
            class_names=self.resolved.class_names if reads_names else (),
            trainable=trainable,
            score=score,
            reference=self._stage("reference", level).identity if score is not None and score.reference else None,
            shots_recipe=SHOTS_RECIPE if isinstance(trainable, Prompt) and trainable.num_shots else 1,
            train=train,
            validation=validation,
            loss=self.method.loss_of(level) if supervisors else NaiveLoss(),
            optimisation=optimisation,
            init_seed=_seed(self.seed, index, _of_member("init", member)),
            order_seed=_seed(self.seed, index, _of_member("order", member)),
        )

    def _score(self, arm: Arm) -> Score | None:
        """Return the method's score with the task's cue; prompts that are not trained have no reference."""
        score = self.method.score
        if score is None or arm in ("pretraining", "generative"):
            return None
        cue = (self.resolved.cue if score.cue is None else score.cue) if self.resolved.kind == "classes" else None
        has_reference = score.reference and arm not in ("zero_shot", "reference")
        return score.model_copy(update={"cue": cue, "reference": has_reference})

    def _trainable(self, arm: Arm, level: str, score: Score | None) -> Trainable:
        if arm in ("pretraining", "generative", "full_ceiling"):
            return AllWeights()
        trainable = Prompt() if arm in ("zero_shot", "reference") else self.method.trainable_of(level)
        if not isinstance(trainable, Prompt) or trainable.cue is not None:
            return trainable
        cue = score.cue if score is not None and score.cue is not None else self.resolved.cue
        return trainable.model_copy(update={"cue": cue})

    def _true_examples(
        self, arm: Arm, level: str, member: int
    ) -> tuple[tuple[LabelledSplit, ...], LabelledSplit | None]:
        """Return what a stage without supervisors learns from and is validated on."""
        if arm == "pretraining":
            return (_true(self.splits.text()),), _true(self.splits.held_out())
        if arm == "generative":
            return (_true(self.splits.train(level)),), None
        if arm in ("zero_shot", "reference") or level == self.path[0]:  # without shots they read nothing of S
            split = self.splits.supervisor()
            if member and self.method.supervisors.bagging:
                bag = (KeepRandom(fraction=BAG),)
                labels = GroundTruth(transforms=bag, coin_seed=_seed(self.seed, 0, f"bag {member}"))
                return (LabelledSplit(split=split, labels=labels),), _true(self.splits.validation())
            return (_true(split),), _true(self.splits.validation())
        return (_true(self.splits.train(level)),), _true(self.splits.validation(level))

    def _weak_examples(
        self, level: str, supervisors: tuple[PlannedStage, ...], on: tuple[str, ...]
    ) -> tuple[tuple[LabelledSplit, ...], LabelledSplit]:
        """Return what a student of these supervisors learns from and is validated on."""
        transforms = self.method.relabelling_of(level).transforms
        train = tuple(self._labelled(supervisors, self.splits.train(other), level, transforms) for other in on)
        transforms = tuple(transform for transform in transforms if transform.for_validation)
        return train, self._labelled(supervisors, self.splits.validation(on[-1]), level, transforms)

    def _labelled(
        self, supervisors: tuple[PlannedStage, ...], split: SplitSpec, level: str, transforms: tuple[Transform, ...]
    ) -> LabelledSplit:
        """Return `split` with the combined labels of these supervisors, for a student on `level`."""
        combine = self.method.supervisors.combine if len(supervisors) > 1 else "mean"
        weighing = None
        if combine == "weighted":
            first = self.splits.validation()
            weighing = Weighing(split=first, predictions=self._predictions(supervisors, first))
        labels = WeakLabels(
            predictions=self._predictions(supervisors, split),
            combine=combine,
            weighing=weighing,
            transforms=transforms,
            coin_seed=_seed(self.seed, self.order.index(level), "labels") if transforms else 0,
        )
        return LabelledSplit(split=split, labels=labels)

    def _predictions(self, supervisors: tuple[PlannedStage, ...], split: SplitSpec) -> tuple[str, ...]:
        return tuple(self._prediction(supervisor.spec, split).identity for supervisor in supervisors)

    def _predicted(self, arm: Arm, level: str, feeds: tuple[str, ...]) -> Iterator[SplitSpec]:
        """Yield the splits that a stage predicts: the one it is evaluated on, and those of the levels that it labels.

        A stage is evaluated on the test set; a student of a search's candidate on its own validation examples.
        """
        if arm in ("pretraining", "generative", "reference"):
            return
        if self.cache.predict_test:
            yield self.splits.test()
        elif level != self.path[0]:
            yield self.splits.validation(level)
        for other in feeds:
            yield self.splits.train(other)
            yield self.splits.validation(other)
        if arm in ("floor", "member") and self.method.supervisors.combine == "weighted":
            yield self.splits.validation()

    def _source(self, arm: Arm, level: str) -> ModelSource | StageSource:
        entry = self.study.ladder[level]
        if level in self.method.generative and arm not in ("generative", "zero_shot"):
            stage = self._stage("generative", level).identity
            return StageSource(stage=stage, name=entry.model, trust_remote_code=entry.trust_remote_code)
        return ModelSource(
            name=entry.model,
            revision=self.cache.resolution.models[level].revision,
            architecture=entry.architecture,
            pad_token=entry.pad_token,
            random=level in self.method.random and arm != "zero_shot",
            trust_remote_code=entry.trust_remote_code,
        )

    @cached_property
    def method(self) -> MethodSpec:
        """The chain's method."""
        return self.study.methods[self.name]

    @cached_property
    def order(self) -> list[str]:
        """The ladder's levels, weak to strong."""
        return list(self.study.ladder)

    @cached_property
    def resolved(self) -> ResolvedTask:
        """The chain's task."""
        return self.cache.resolution.tasks[self.task]

    @cached_property
    def splits(self) -> LevelSplits:
        """The task's splits."""
        return LevelSplits(self.resolved, self.study.sizes_of(self.task), tuple(self.order), self.seed)


def _true(split: SplitSpec) -> LabelledSplit:
    return LabelledSplit(split=split, labels=GroundTruth())


def _by_oracle(optimisation: Optimisation) -> Optimisation:
    assert optimisation.early_stopping is not None, "checks.py refuses an oracle for a level that never stops early"
    rule = optimisation.early_stopping.model_copy(update={"by": "oracle"})
    return optimisation.model_copy(update={"early_stopping": rule})


def _of_member(purpose: str, member: int) -> str:
    return f"{purpose} {member}" if member else purpose


@functools.lru_cache(maxsize=10_000)
def _seed(seed: int, level: int, purpose: str) -> int:
    return seeded_hash(seed, level, purpose)
