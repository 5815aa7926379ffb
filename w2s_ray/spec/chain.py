"""The result of compiling a study: chains, each a list of planned stages in an order in which they can run."""

from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property

from w2s_ray.spec.base import Kind, Positive, Spec
from w2s_ray.spec.execution import Execution, ExecutionSpec
from w2s_ray.spec.search import Point
from w2s_ray.spec.stage import DEFAULT_CUE, Lora, PredictionSpec, StageSource, StageSpec
from w2s_ray.spec.study import Arm, TaskSizes


class ResolvedTask(Spec):
    """A task of the study, after its data was looked up."""

    fingerprint: str
    kind: Kind = "classes"
    num_classes: int
    class_names: tuple[str, ...] = ()
    num_test: int
    """Examples of the test set in this study."""
    sizes: TaskSizes | None = None
    """The largest that the study or its search asks for; None for text alone, and for data that could not be read."""
    num_documents: int = 0
    """Training documents of a task without labels."""
    num_held_out: int = 0
    """Validation documents of a task without labels."""
    revision: str | None = None
    """The locked version of its rows on the hub: `branch@commit`."""
    left_out: tuple[str, ...] = ()
    """Which rows of its source are skipped, and why."""
    notices: tuple[str, ...] = ()
    """Properties of its data, or of how it was read, that a user would not expect."""
    cue: str = DEFAULT_CUE
    """Between a text and its class's name, where a language model is asked for the class."""


class ModelShape(Spec):
    """The sizes in a model's configuration, from which a worker's memory is computed."""

    hidden_size: Positive
    num_layers: Positive
    inner_size: Positive
    """Width of a layer's feed-forward block."""
    key_size: Positive
    """Width of a token's keys over all heads; smaller than `hidden_size` if heads share them."""
    vocabulary: Positive
    activation: str = "gelu"
    gated: bool = False
    """Whether the feed-forward block has a third matrix, a gate."""


class ResolvedModel(Spec):
    """A level's model, after it was looked up."""

    revision: str
    num_parameters: int | None
    shape: ModelShape | None = None
    """None if its configuration does not tell."""


class Resolution(Spec):
    """The locked versions of all data and models of a study; stored as study.lock.yaml."""

    tasks: dict[str, ResolvedTask]
    models: dict[str, ResolvedModel]
    """By level name."""
    unresolved: tuple[str, ...] = ()
    """Files that could not be found; a study that has any cannot run."""

    @property
    def notices(self) -> list[str]:
        """Return notices about the data for the user, before training starts, such as which rows are skipped."""
        return [f"task {name}: {line}" for name, task in self.tasks.items() for line in (*task.notices, *task.left_out)]


class PlannedStage(Spec):
    """A stage of a chain: what to train, how to run it, and what to predict with it."""

    spec: StageSpec
    execution: ExecutionSpec
    arm: Arm
    level: str
    task: str
    supervisors: tuple[str, ...] = ()
    """Identities of the stages whose labels it learns from; in an ensemble the floor comes first."""
    ceiling: str | None = None
    """Identity of the ceiling of a student's own setting, whether or not the study trains it."""
    full_ceiling: str | None = None
    """Identity of the ceiling that trains all weights, for a student that trains only some."""
    predicts: tuple[PredictionSpec, ...] = ()
    num_reports: int = 0
    """How often it is evaluated on its validation examples for a search's scheduler; does not change the training."""

    @property
    def identity(self) -> str:
        """The identity of its spec."""
        return self.spec.identity

    @cached_property
    def requires(self) -> frozenset[str]:
        """Identities of the predictions and of the stage to start from that must exist before it can train."""
        sets = (*self.spec.train, *((self.spec.validation,) if self.spec.validation else ()))
        predictions = {identity for part in sets for identity in part.labels.sources}
        if self.spec.reference is not None:
            predictions |= {prediction.identity for prediction in self.reference_predictions}
        source = self.spec.starts_from
        return frozenset(predictions | ({source.stage} if isinstance(source, StageSource) else set()))

    @property
    def reference_predictions(self) -> Iterator[PredictionSpec]:
        """The predictions of its reference for all that it learns, is validated on and predicts."""
        context = self.spec.optimisation.context_tokens
        for split in self.spec.splits_read:
            yield self.spec.reference_prediction(split, context)
        for prediction in self.predicts:
            yield self.spec.reference_prediction(prediction.split, prediction.context_tokens)

    @cached_property
    def products(self) -> frozenset[str]:
        """Identities of everything that it makes: itself and its predictions."""
        return frozenset((self.identity, *(prediction.identity for prediction in self.predicts)))

    @property
    def keeps_adapters(self) -> bool:
        """Whether its LoRA weights are stored alone; with random weights their model has no files, so it is stored."""
        return self.execution.keep_adapters and isinstance(self.spec.trainable, Lora) and not self.spec.starts_drawn

    @property
    def test_prediction(self) -> PredictionSpec | None:
        """Its predictions for the test set, if it makes any; of several, those at its own context."""
        predictions = [prediction for prediction in self.predicts if prediction.split.is_test]
        own = self.spec.optimisation.context_tokens
        return max(predictions, key=lambda prediction: prediction.context_tokens == own, default=None)


class SettledStage(PlannedStage):
    """A stage whose execution has nothing left to choose; from `training.memory.settle`."""

    execution: Execution


class Chain(Spec):
    """One path over the ladder on one task with one method and one seed: what one Tune trial runs."""

    study: str
    task: str
    path: tuple[str, ...]
    method: str
    seed: int
    point: Point | None = None
    """Its settings of the searched keys."""
    stages: tuple[PlannedStage, ...]
    """Each stage comes after all that it learns from."""

    @cached_property
    def name(self) -> str:
        """A readable name, unique within the study."""
        name = f"{name_without_seed(self.task, self.path, self.method)}-s{self.seed}"
        return f"{name}-{self.point.id}" if self.point is not None else name

    @property
    def label(self) -> str:
        """Its name, with its searched values if it has some."""
        return f"{self.name} ({self.point.label})" if self.point is not None else self.name

    def find(self, arm: Arm, level: str) -> PlannedStage | None:
        """Return the stage of `arm` on `level`, if the chain has one."""
        return next((stage for stage in self.stages if stage.arm == arm and stage.level == level), None)


def name_without_seed(task: str, path: Sequence[str], method: str) -> str:
    """Return the part of a chain's name that all seeds share; checks.py refuses a study in which two are equal."""
    return "-".join((task, *path, method))


def distinct_stages(chains: Iterable[Chain]) -> dict[str, PlannedStage]:
    """Return each distinct stage once, by identity; its predictions for all chains are merged."""
    stages: dict[str, PlannedStage] = {}
    for chain in chains:
        for stage in chain.stages:
            known = stages.get(stage.identity)
            stages[stage.identity] = stage if known is None else merge(known, stage)
    return stages


def point_labels(chains: Sequence[Chain]) -> dict[str, str]:
    """Return for each stage, by identity, the searched values that tell it from others; empty without a search."""
    points: dict[str, dict[Point, None]] = {}
    for chain in chains:
        if chain.point is not None:
            for stage in chain.stages:
                points.setdefault(stage.identity, {})[chain.point] = None
    among = tuple(dict.fromkeys(point for own in points.values() for point in own))
    return {identity: Point.common_label(tuple(own), among) for identity, own in points.items()}


def num_named(chains: Iterable[Chain]) -> int:
    """Return how many stages the chains would train if they shared none."""
    return sum(len({stage.identity for stage in chain.stages}) for chain in chains)


def merge(first: PlannedStage, second: PlannedStage) -> PlannedStage:
    """Return `first` with the predictions and reports of both; they must be one stage."""
    assert first.identity == second.identity
    if set(second.predicts) <= set(first.predicts) and second.num_reports <= first.num_reports:
        return first
    predicts = tuple(dict.fromkeys((*first.predicts, *second.predicts)))
    num_reports = max(first.num_reports, second.num_reports)
    return first.model_copy(update={"predicts": predicts, "num_reports": num_reports})
