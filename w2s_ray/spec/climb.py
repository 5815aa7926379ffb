"""One climb: the stages of a chain, with what each learns from, begins from, trains and predicts.

Splits belong to levels: level 0 learns ground truth on S, level i learns on Ti whichever levels a chain skips, so
every arm of one model sees the same ids. Vi carries labels of the arm's own source. Seeds act through
hash(seed, level, purpose), so the arms of one model share initialisation and batch order.
"""

import functools
import math
from collections.abc import Iterator

from w2s_ray.spec.base import Kind
from w2s_ray.spec.chain import PlannedStage, Resolution
from w2s_ray.spec.identity import seeded_hash
from w2s_ray.spec.labels import GroundTruth, LabelledSplit, SplitSpec, WeakLabels, Weighing
from w2s_ray.spec.losses import Loss, NaiveLoss
from w2s_ray.spec.method import Arm, MethodSpec
from w2s_ray.spec.stage import ModelSource, Objective, Optimisation, PredictionSpec, StageSource, StageSpec
from w2s_ray.spec.study import LevelSpec, Study
from w2s_ray.spec.trainable import AllWeights, Prompt, Trainable
from w2s_ray.spec.transforms import KeepRandom, Transform

BAG = round(1 - math.exp(-1), 3)
"""Share of S that a bagged member learns on: the distinct examples that a bootstrap sample holds on average."""


class Made:
    """What the climbs of a study, or of its variants, have in common: each stage and prediction is made once."""

    def __init__(self, resolution: Resolution, *, judged: bool) -> None:
        """Nothing is made yet; with `judged` no stage predicts the test set."""
        self.resolution, self.judged = resolution, judged
        self.stages: dict[tuple[object, ...], PlannedStage] = {}
        """By all that a stage is made from."""
        self.predictions: dict[tuple[str, SplitSpec], PredictionSpec] = {}

    def prediction(self, stage: StageSpec, split: SplitSpec) -> PredictionSpec:
        """Return the stage's prediction of a split."""
        key = (stage.identity, split)
        known = self.predictions.get(key)
        if known is None:
            tokens = stage.optimisation.context_tokens
            known = PredictionSpec(stage=stage.identity, split=split, context_tokens=tokens)
            self.predictions[key] = known
        return known


class Climb:
    """One chain on its way to its stages."""

    def __init__(
        self,
        made: Made,
        study: Study,
        ceilings: Study,
        task: str,
        path: tuple[str, ...],
        method: str,
        seed: int,
    ) -> None:
        """Take up one chain of `study`; ceilings are optimised as in `ceilings`."""
        self.made, self.study, self.ceilings = made, study, ceilings
        self.task, self.path, self.seed = task, path, seed
        self.method: MethodSpec = study.methods[method]
        self.order = list(study.ladder)
        self.resolved = made.resolution.tasks[task]
        self.splits = study.splits_of(task)

    def stages(self) -> Iterator[PlannedStage]:
        """Yield its stages, each after all that it learns from."""
        if self.method.objective == "next_token":
            yield from (self._stage("pretraining", level) for level in self.path)
            return
        students, arms = self.path[1:], self.method.arms
        labels_needed = students if {"direct", "pooled", "self"} & set(arms) else students[:1]
        first = tuple(
            self._stage("member" if number else "floor", self.path[0], feeds=labels_needed, member=number)
            for number in range(self.method.supervisors.num)
        )
        yield from first
        if "zero_shot" in arms:
            yield from (self._stage("zero_shot", level) for level in self.path)
        teaching = first
        truthful: PlannedStage | None = None
        for position, level in enumerate(students):
            following = students[position + 1 : position + 2]
            if level in self.method.generative:
                yield self._stage("generative", level)
            if "chain" in arms:
                teaching = (self._stage("chain", level, supervisors=teaching, on=(level,), feeds=following),)
                yield from teaching
            if "direct" in arms:
                yield self._stage("direct", level, supervisors=first, on=(level,))
            if truthful is not None:
                yield self._stage("truth_chain", level, supervisors=(truthful,), on=(level,))
            if "ceiling" in arms or ("truth_chain" in arms and following):
                truthful = self._stage("ceiling", level, feeds=following if "truth_chain" in arms else ())
                yield truthful
            truthful = truthful if "truth_chain" in arms else None
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
        """The stage of one arm on one level.

        Args:
            arm: which supervision it gets.
            level: its model.
            supervisors: whose labels it learns from; ground truth where there are none.
            on: the levels on whose transfer splits it learns from those labels, validated on the last one's.
            feeds: the levels that learn from its labels.
            member: its number among the first supervisors.
        """
        entry = (self.ceilings if arm in ("ceiling", "full_ceiling") else self.study).ladder[level]
        loss = self.method.loss_of(level) if supervisors else NaiveLoss()
        sources = tuple(each.identity for each in supervisors)
        relabelling = self.method.relabelling_of(level) if supervisors else None
        start = (self.method.generative.get(level), level in self.method.random, self.method.trainable_of(level))
        parts = (id(entry), *self.splits.model_dump().values(), level in self.method.oracle, *start)
        ensemble = (member, self.method.supervisors)
        key = (arm, level, sources, on, feeds, self.task, self.seed, loss, relabelling, ensemble, self.path[0], parts)
        known = self.made.stages.get(key)
        if known is None:
            spec = self._spec(arm, level, entry, loss, supervisors, on, member)
            known = PlannedStage(
                spec=spec,
                execution=entry.execution,
                arm=arm,
                level=level,
                task=self.task,
                supervisors=sources,
                predicts=tuple(self.made.prediction(spec, split) for split in self._predicted(arm, level, feeds)),
            )
            self.made.stages[key] = known
        return known

    def _spec(
        self,
        arm: Arm,
        level: str,
        entry: LevelSpec,
        loss: Loss,
        supervisors: tuple[PlannedStage, ...],
        on: tuple[str, ...],
        member: int,
    ) -> StageSpec:
        splits, index = self.splits, self.order.index(level)
        optimisation = entry.optimisation
        train: tuple[LabelledSplit, ...]
        validation: LabelledSplit | None
        if arm == "pretraining":
            train = (self._true(self._split("text", self.resolved.num_documents)),)
            validation = self._true(self._split("held_out", self.resolved.num_held_out))
        elif arm == "generative":
            train, validation = (self._true(self._train_split(level)),), None
            optimisation = self.method.generative[level]
        elif arm == "zero_shot" or (level == self.path[0] and not supervisors):  # no shots: S stands for no examples
            train = (self._bag(self._split("S", splits.train_examples), member),)
            validation = self._true(self._judging_split())
        elif not supervisors:
            train = (self._true(self._train_split(level)),)
            validation = self._true(self._validation_split(level))
        else:
            transforms = self.method.relabelling_of(level).transforms
            train = tuple(self._labelled(supervisors, self._train_split(each), level, transforms) for each in on)
            kept = tuple(each for each in transforms if each.for_validation)
            validation = self._labelled(supervisors, self._validation_split(on[-1]), level, kept)
            if level in self.method.oracle:
                optimisation = _by_oracle(optimisation)
        trainable = self._trainable(arm, level)
        return StageSpec(
            objective="next_token" if arm in ("pretraining", "generative") else _OBJECTIVES[self.resolved.kind],
            starts_from=self._source(arm, level, entry),
            num_classes=max(self.resolved.num_classes, 1),
            class_names=self.resolved.class_names if isinstance(trainable, Prompt) else (),
            trainable=trainable,
            train=train,
            validation=validation,
            loss=loss,
            optimisation=optimisation,
            init_seed=_seed(self.seed, index, _of_member("init", member)),
            order_seed=_seed(self.seed, index, _of_member("order", member)),
        )

    def _trainable(self, arm: Arm, level: str) -> Trainable:
        match arm:
            case "pretraining" | "generative" | "full_ceiling":
                return AllWeights()
            case "zero_shot":
                return Prompt()
        return self.method.trainable_of(level)

    def _predicted(self, arm: Arm, level: str, feeds: tuple[str, ...]) -> Iterator[SplitSpec]:
        """The splits that a stage predicts: what judges it, and those of the levels that learn from it.

        What judges it is the test set, or for a student of a search's candidate its own validation examples.
        """
        if arm in ("pretraining", "generative"):
            return
        if not self.made.judged:
            yield self._split("test", self.resolved.num_test)
        elif level != self.path[0]:
            yield self._validation_split(level)
        for each in feeds:
            yield self._train_split(each)
            yield self._validation_split(each)
        if arm in ("floor", "member") and self.method.supervisors.combine == "weighted":
            yield self._judging_split()

    def _true(self, split: SplitSpec) -> LabelledSplit:
        return LabelledSplit(split=split, labels=GroundTruth())

    def _bag(self, split: SplitSpec, member: int) -> LabelledSplit:
        """What a first supervisor learns: all of `split`, or for members of a bagged ensemble a share of it."""
        if not (member and self.method.supervisors.bagging):
            return self._true(split)
        bag = GroundTruth(transforms=(KeepRandom(fraction=BAG),), coin_seed=_seed(self.seed, 0, f"bag {member}"))
        return LabelledSplit(split=split, labels=bag)

    def _labelled(
        self, supervisors: tuple[PlannedStage, ...], split: SplitSpec, level: str, transforms: tuple[Transform, ...]
    ) -> LabelledSplit:
        """The labels that these supervisors together give to `split`, for a student on `level`."""
        combine = self.method.supervisors.combine if len(supervisors) > 1 else "mean"
        weighing = None
        if combine == "weighted":
            judging = self._judging_split()
            weighing = Weighing(split=judging, predictions=self._predictions(supervisors, judging))
        labels = WeakLabels(
            predictions=self._predictions(supervisors, split),
            combine=combine,
            weighing=weighing,
            transforms=transforms,
            coin_seed=_seed(self.seed, self.order.index(level), "labels") if transforms else 0,
        )
        return LabelledSplit(split=split, labels=labels)

    def _predictions(self, supervisors: tuple[PlannedStage, ...], split: SplitSpec) -> tuple[str, ...]:
        return tuple(self.made.prediction(each.spec, split).identity for each in supervisors)

    def _judging_split(self) -> SplitSpec:
        """V0, whose truth says how much each of several supervisors weighs."""
        return self._split("V0", self.splits.validation_examples)

    def _source(self, arm: Arm, level: str, entry: LevelSpec) -> ModelSource | StageSource:
        if level in self.method.generative and arm not in ("generative", "zero_shot"):
            return StageSource(stage=self._stage("generative", level).identity, name=entry.model)
        return ModelSource(
            name=entry.model,
            revision=self.made.resolution.models[level].revision,
            architecture=entry.architecture,
            pad_token=entry.pad_token,
            random=level in self.method.random and arm != "zero_shot",
        )

    def _train_split(self, level: str) -> SplitSpec:
        return self._split(f"T{self.order.index(level)}", self.splits.train_examples)

    def _validation_split(self, level: str) -> SplitSpec:
        return self._split(f"V{self.order.index(level)}", self.splits.validation_examples)

    def _split(self, name: str, num_examples: int) -> SplitSpec:
        seedless = name in ("test", "text", "held_out")
        return SplitSpec(
            task=self.resolved.fingerprint,
            name=name,
            num_examples=max(num_examples, 1),
            num_levels=1 if seedless else len(self.order),
            split_seed=0 if seedless else self.seed,
            balance=name == "test" or (not seedless and self.splits.balance_transfer),
        )


def _by_oracle(optimisation: Optimisation) -> Optimisation:
    assert optimisation.early_stopping is not None, "the study refuses an oracle that never stops"
    rule = optimisation.early_stopping.model_copy(update={"by": "oracle"})
    return optimisation.model_copy(update={"early_stopping": rule})


_OBJECTIVES: dict[Kind, Objective] = {
    "classes": "classification",
    "pairs": "preference",
    "answers": "answer",
    "text": "next_token",
}


def _of_member(purpose: str, member: int) -> str:
    return f"{purpose} {member}" if member else purpose


@functools.lru_cache(maxsize=10_000)
def _seed(seed: int, level: int, purpose: str) -> int:
    return seeded_hash(seed, level, purpose)
