"""Compile a study: chains, each a list of planned stages in the order in which they can run.

The compiler is pure. What it needs from the outside, the fingerprints of data and models, comes in as a `Resolution`.

Splits belong to levels: level 0 learns ground truth on S, level i learns on Ti whichever levels a chain skips, so
every arm of one model sees the same ids. Vi carries labels of the arm's own source. Seeds act through
hash(seed, level, purpose), so the arms of one model share initialisation and batch order.
"""

import functools
from collections.abc import Iterator

from w2s_ray.spec.base import Kind
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution
from w2s_ray.spec.identity import seeded_hash
from w2s_ray.spec.losses import Loss, NaiveLoss
from w2s_ray.spec.search import Found, Point
from w2s_ray.spec.stage import (
    GroundTruth,
    LabelledSplit,
    Labels,
    ModelSource,
    Objective,
    PredictionSpec,
    SplitSpec,
    StageSource,
    StageSpec,
    WeakLabels,
)
from w2s_ray.spec.study import Arm, LevelSpec, MethodSpec, Study
from w2s_ray.spec.trainable import AllWeights, Prompt, Trainable
from w2s_ray.spec.variants import Variants, candidates, final, optimisation_levels


def compile_study(study: Study, resolution: Resolution, found: Found | None = None) -> tuple[Chain, ...]:
    """Return every chain that is judged on the test set, in the order points, tasks, seeds, paths, methods.

    Where the study's search chooses, those are the winners' chains: none before it has `found` any.

    Raises:
        StudyError: when values that the search combines do not go together.
    """
    search = study.search
    if search is None:
        return tuple(_Compiler(resolution).chains(study))
    if search.choose_by is None:
        variants, compiler = Variants(study), _Compiler(resolution)
        return tuple(chain for point in search.points() for chain in compiler.chains(variants.at(point), point))
    if found is None:
        return ()
    variants, compiler, levels = Variants(final(study)), _Compiler(resolution), optimisation_levels(study)
    return tuple(
        chain
        for winner in found.winners
        for ceilings in (variants.at(found.ceiling_point(winner, levels)),)
        for chain in compiler.chains(variants.at(winner), winner, ceilings=ceilings)
    )


class CandidateCompiler:
    """Compiles points of a search that chooses into the chains on which they are judged, without the test set."""

    def __init__(self, study: Study, resolution: Resolution) -> None:
        """What several points share is compiled once."""
        self._variants, self._compiler = Variants(candidates(study)), _Compiler(resolution, judged=True)

    def chains(self, point: Point) -> tuple[Chain, ...]:
        """Return the point's chains.

        Raises:
            StudyError: when the point's values do not go together.
        """
        return tuple(self._compiler.chains(self._variants.at(point), point))


class _Compiler:
    """Compiles studies that are variants of one; a stage that several chains name is made once."""

    def __init__(self, resolution: Resolution, *, judged: bool = False) -> None:
        self.resolution, self.judged = resolution, judged
        self.stages: dict[tuple[object, ...], PlannedStage] = {}
        """By all that a stage is made from."""
        self.predictions: dict[tuple[str, SplitSpec], PredictionSpec] = {}
        self.kept: list[object] = []
        """Parts of studies that stand in those keys by their address: they must live as long."""

    def prediction(self, stage: StageSpec, split: SplitSpec) -> PredictionSpec:
        key = (stage.identity, split)
        known = self.predictions.get(key)
        if known is None:
            tokens = stage.optimisation.context_tokens
            known = PredictionSpec(stage=stage.identity, split=split, context_tokens=tokens)
            self.predictions[key] = known
        return known

    def chains(self, study: Study, point: Point | None = None, *, ceilings: Study | None = None) -> Iterator[Chain]:
        self.kept += [study, ceilings]
        for task in study.tasks:
            for seed in study.seeds:
                for path in study.paths:
                    for method in (name for name, each in study.methods.items() if each.serves(task)):
                        stages = _Climb(self, study, ceilings or study, task, path, method, seed).stages()
                        yield Chain(
                            study=study.name,
                            task=task,
                            path=path,
                            method=method,
                            seed=seed,
                            point=point,
                            stages=tuple(stages),
                        )


class _Climb:
    """The compiler's working state for one chain."""

    def __init__(
        self,
        compiler: _Compiler,
        study: Study,
        ceilings: Study,
        task: str,
        path: tuple[str, ...],
        method: str,
        seed: int,
    ) -> None:
        self.compiler, self.study, self.ceilings = compiler, study, ceilings
        self.task, self.path, self.seed = task, path, seed
        self.method: MethodSpec = study.methods[method]
        self.order = list(study.ladder)
        self.resolved = compiler.resolution.tasks[task]

    def stages(self) -> Iterator[PlannedStage]:
        if self.method.objective == "next_token":
            yield from (self._stage("pretraining", level) for level in self.path)
            return
        students, arms = self.path[1:], self.method.arms
        labels_needed = students if {"direct", "pooled", "self"} & set(arms) else students[:1]
        floor = self._stage("floor", self.path[0], feeds=labels_needed)
        yield floor
        if "zero_shot" in arms:
            yield from (self._stage("zero_shot", level) for level in self.path)
        previous = floor
        truthful: PlannedStage | None = None
        for position, level in enumerate(students):
            following = students[position + 1 : position + 2]
            if level in self.method.generative:
                yield self._stage("generative", level)
            if "chain" in arms:
                previous = self._stage("chain", level, supervisor=previous, on=(level,), feeds=following)
                yield previous
            if "direct" in arms:
                yield self._stage("direct", level, supervisor=floor, on=(level,))
            if truthful is not None:
                yield self._stage("truth_chain", level, supervisor=truthful, on=(level,))
            if "ceiling" in arms or ("truth_chain" in arms and following):
                truthful = self._stage("ceiling", level, feeds=following if "truth_chain" in arms else ())
                yield truthful
            truthful = truthful if "truth_chain" in arms else None
            if "ceiling" in arms and self.method.trainable_of(level) != AllWeights():
                yield self._stage("full_ceiling", level)
            if "pooled" in arms:
                yield self._stage("pooled", level, supervisor=floor, on=students[: position + 1])
        if "self" in arms:
            yield self._stage("self", self.path[0], supervisor=floor, on=(students[-1],))

    def _stage(
        self,
        arm: Arm,
        level: str,
        *,
        supervisor: PlannedStage | None = None,
        on: tuple[str, ...] = (),
        feeds: tuple[str, ...] = (),
    ) -> PlannedStage:
        """The stage of one arm on one level.

        Args:
            arm: which supervision it gets.
            level: its model.
            supervisor: whose labels it learns from; ground truth where there is none.
            on: the levels on whose transfer splits it learns from those labels, validated on the last one's.
            feeds: the levels that learn from its labels.
        """
        entry = (self.ceilings if arm in ("ceiling", "full_ceiling") else self.study).ladder[level]
        loss = self.method.loss_of(level) if supervisor is not None else NaiveLoss()
        source = supervisor.identity if supervisor is not None else None
        start = (self.method.generative.get(level), level in self.method.random, self.method.trainable_of(level))
        parts = (id(entry), id(self.study.splits), *start)
        key = (arm, level, source, on, feeds, self.task, self.seed, loss, self.path[0], parts)
        known = self.compiler.stages.get(key)
        if known is None:
            spec = self._spec(arm, level, entry, loss, supervisor, on)
            known = PlannedStage(
                spec=spec,
                execution=entry.execution,
                arm=arm,
                level=level,
                task=self.task,
                supervisor=source,
                predicts=tuple(self.compiler.prediction(spec, split) for split in self._predicted(arm, level, feeds)),
            )
            self.compiler.stages[key] = known
        return known

    def _spec(
        self,
        arm: Arm,
        level: str,
        entry: LevelSpec,
        loss: Loss,
        supervisor: PlannedStage | None,
        on: tuple[str, ...],
    ) -> StageSpec:
        splits, index = self.study.splits, self.order.index(level)
        optimisation = entry.optimisation
        train: tuple[LabelledSplit, ...]
        validation: LabelledSplit | None
        if arm == "pretraining":
            train = (self._true(self._split("text", self.resolved.num_documents)),)
            validation = self._true(self._split("held_out", self.resolved.num_held_out))
        elif arm == "generative":
            train, validation = (self._true(self._train_split(level)),), None
            optimisation = self.method.generative[level]
        elif level == self.path[0] and supervisor is None:
            train = (self._true(self._split("S", splits.train_examples)),)
            validation = self._true(self._split("V0", splits.validation_examples))
        elif supervisor is None:
            train = (self._true(self._train_split(level)),)
            validation = self._true(self._validation_split(level))
        else:
            train = tuple(self._labelled(supervisor, self._train_split(each)) for each in on)
            validation = self._labelled(supervisor, self._validation_split(on[-1]))
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
            init_seed=_seed(self.seed, index, "init"),
            order_seed=_seed(self.seed, index, "order"),
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
        if not self.compiler.judged:
            yield self._split("test", self.resolved.num_test)
        elif level != self.path[0]:
            yield self._validation_split(level)
        for each in feeds:
            yield self._train_split(each)
            yield self._validation_split(each)

    def _true(self, split: SplitSpec) -> LabelledSplit:
        return LabelledSplit(split=split, labels=GroundTruth())

    def _labelled(self, supervisor: PlannedStage, split: SplitSpec) -> LabelledSplit:
        labels: Labels = WeakLabels(predictions=(self.compiler.prediction(supervisor.spec, split).identity,))
        return LabelledSplit(split=split, labels=labels)

    def _source(self, arm: Arm, level: str, entry: LevelSpec) -> ModelSource | StageSource:
        if level in self.method.generative and arm not in ("generative", "zero_shot"):
            return StageSource(stage=self._stage("generative", level).identity, name=entry.model)
        return ModelSource(
            name=entry.model,
            revision=self.compiler.resolution.models[level].revision,
            architecture=entry.architecture,
            pad_token=entry.pad_token,
            random=level in self.method.random and arm != "zero_shot",
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


_OBJECTIVES: dict[Kind, Objective] = {
    "classes": "classification",
    "pairs": "preference",
    "answers": "answer",
    "text": "next_token",
}


@functools.lru_cache(maxsize=10_000)
def _seed(seed: int, level: int, purpose: str) -> int:
    return seeded_hash(seed, level, purpose)
