"""What a study is compiled to: chains, each a list of planned stages in the order in which they can run."""

from collections.abc import Iterable, Sequence
from functools import cached_property

from w2s_ray.spec.base import Kind, Positive, Spec
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.method import Arm
from w2s_ray.spec.search import Point
from w2s_ray.spec.stage import PredictionSpec, StageSource, StageSpec


class ResolvedTask(Spec):
    """What a task's name came to."""

    fingerprint: str
    kind: Kind = "classes"
    num_classes: int
    class_names: tuple[str, ...] = ()
    num_test: int
    """Examples of the test set as this study uses it."""
    num_documents: int = 0
    """Documents of a task without labels."""
    num_held_out: int = 0
    revision: str | None = None
    """What pins its rows on the hub: `branch@commit`."""
    left_out: tuple[str, ...] = ()
    """Which rows of its source became no example, and why."""


class ModelShape(Spec):
    """What a model's configuration says of its size: enough to tell what a worker holds."""

    hidden_size: Positive
    num_layers: Positive
    inner_size: Positive
    """Width of a layer's feed-forward block."""
    key_size: Positive
    """Width of a token's keys, all heads together; smaller than `hidden_size` where heads share them."""
    vocabulary: Positive
    activation: str = "gelu"
    gated: bool = False
    """Whether the feed-forward block has a third matrix, whose product gates the others'."""


class ResolvedModel(Spec):
    """What a level's model came to."""

    revision: str
    num_parameters: int | None
    shape: ModelShape | None = None
    """None where its configuration does not say."""


class Resolution(Spec):
    """Every outside name of a study, pinned; kept in the store as study.lock.yaml."""

    tasks: dict[str, ResolvedTask]
    models: dict[str, ResolvedModel]
    """By level name."""
    unresolved: tuple[str, ...] = ()
    """Files that could not be found; a study that has any cannot run."""

    @property
    def notices(self) -> list[str]:
        """What a user should know of the data before anything is trained: which rows serve as no example."""
        return [f"task {name}: {line}" for name, task in self.tasks.items() for line in task.left_out]


class PlannedStage(Spec):
    """A stage at its place in a chain: what to train, how to run it, and what to predict with it."""

    spec: StageSpec
    execution: Execution
    arm: Arm
    level: str
    task: str
    supervisors: tuple[str, ...] = ()
    """Identities of the stages whose labels it learns from; of an ensemble the floor comes first."""
    predicts: tuple[PredictionSpec, ...] = ()
    num_reports: int = 0
    """How often it is judged on its validation examples while it trains, for schedulers to compare; changes nothing."""

    @property
    def identity(self) -> str:
        """The stage's identity."""
        return self.spec.identity

    @cached_property
    def requires(self) -> frozenset[str]:
        """Identities of the predictions, and of the stage it starts from, that must exist before it can train."""
        sets = (*self.spec.train, *((self.spec.validation,) if self.spec.validation else ()))
        labels = {each for part in sets for each in part.labels.sources}
        source = self.spec.starts_from
        return frozenset(labels | ({source.stage} if isinstance(source, StageSource) else set()))

    @cached_property
    def products(self) -> frozenset[str]:
        """Identities of all that it makes: itself and its predictions."""
        return frozenset((self.identity, *(prediction.identity for prediction in self.predicts)))

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
        name = f"{climb_name(self.task, self.path, self.method)}-s{self.seed}"
        return f"{name}-{self.point.id}" if self.point is not None else name

    def find(self, arm: Arm, level: str) -> PlannedStage | None:
        """Return the stage of `arm` on `level`, if the chain has one."""
        return next((stage for stage in self.stages if stage.arm == arm and stage.level == level), None)


def climb_name(task: str, path: Sequence[str], method: str) -> str:
    """Return what the chains of one climb are called, but for their seed; a study in which two are alike is refused."""
    return "-".join((task, *path, method))


def distinct_stages(chains: Iterable[Chain]) -> dict[str, PlannedStage]:
    """Return each distinct stage once, by identity; predictions asked for by any chain are merged."""
    stages: dict[str, PlannedStage] = {}
    for chain in chains:
        for stage in chain.stages:
            known = stages.get(stage.identity)
            stages[stage.identity] = stage if known is None else merge(known, stage)
    return stages


def num_named(chains: Iterable[Chain]) -> int:
    """Return how many stages the chains would train if each were alone: those of every chain, once each."""
    return sum(len({stage.identity for stage in chain.stages}) for chain in chains)


def merge(first: PlannedStage, second: PlannedStage) -> PlannedStage:
    """Return `first` with the predictions and reports of both; they must be one stage."""
    assert first.identity == second.identity
    if set(second.predicts) <= set(first.predicts) and second.num_reports <= first.num_reports:
        return first
    predicts = tuple(dict.fromkeys((*first.predicts, *second.predicts)))
    num_reports = max(first.num_reports, second.num_reports)
    return first.model_copy(update={"predicts": predicts, "num_reports": num_reports})
