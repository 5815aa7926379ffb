"""What a study found, as plain values: the keys of `results.json` and the content of every table and figure."""

from typing import Any

from pydantic import Field

from w2s_ray.report.arms import STUDENTS
from w2s_ray.spec.base import Spec
from w2s_ray.spec.study import Arm

SCHEMA = 1
"""Version of the summary's keys."""


class Estimate(Spec):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


class ArmSummary(Spec):
    """One distinct arm of one level, over its seeds."""

    task: str
    level: str
    arm: Arm
    also: tuple[Arm, ...]
    """Other arms that are the same stages: a chain's first student is its direct student too."""
    label: str
    """Unique within task and level."""
    methods: tuple[str, ...]
    """The methods that share it."""
    paths: tuple[tuple[str, ...], ...]
    """Through which levels its supervision comes, from where the labels begin to its own."""
    loss: str
    oracle: bool
    """Chosen by ground truth."""
    stages: dict[int, str]
    """Identity by seed, finished or not."""
    seeds: tuple[int, ...]
    """The seeds that are finished."""
    seed_conditional: bool
    """Fewer than five seeds: the intervals say little about other seeds."""
    accuracy: Estimate | None = None
    floor: Estimate | None = None
    ceiling: Estimate | None = None
    gap: Estimate | None = None
    """Ceiling − floor."""
    pgr: Estimate | None = None
    pgr_undefined: str | None = None
    """Why a student has no PGR."""
    pgr_link: Estimate | None = None
    """With the chain's previous student as the floor; not to be compared across arms."""
    pgr_link_undefined: str | None = None
    agreement: float | None = None
    """How often it says what its supervisor says, on the test set."""
    agreement_supervisor_right: float | None = None
    agreement_supervisor_wrong: float | None = None
    label_accuracy: float | None = None
    """Of the labels that it learned from."""
    ece: float | None = None
    brier: float | None = None
    auroc: float | None = None
    seconds: float | None = None
    """Of training, mean over seeds."""
    tokens_per_second: float | None = None

    @property
    def is_student(self) -> bool:
        """Whether it learned from weak labels."""
        return self.arm in STUDENTS


class Comparison(Spec):
    """The difference in PGR between two arms of one level, on the same draws."""

    task: str
    level: str
    first: str
    second: str
    difference: Estimate
    minimum_detectable: float
    """The smallest true difference that this study would find four times in five."""


class Step(Spec):
    """A chain's last student, as one of several that differ in how many students came before."""

    task: str
    level: str
    label: str
    path: tuple[str, ...]
    num_intermediates: int
    accuracy: Estimate
    pgr: Estimate | None
    difference: Estimate | None
    """In PGR, to the one with the fewest intermediates; on the same examples, draws and seeds."""


class CandidateSummary(Spec):
    """One point that a search judged."""

    settings: dict[str, Any]
    status: str
    figure: float | None
    cost: float | None
    error: str | None
    is_winner: bool


class SearchSummary(Spec):
    """What a search that chooses came to."""

    choose_by: str
    development_tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    """On which candidates were judged."""
    sampler: str
    scheduler: str | None
    minimise: str | None
    candidates: tuple[CandidateSummary, ...]
    """The best first; those without a figure last."""


class TaskSummary(Spec):
    """A task's test set."""

    num_test: int
    num_groups: int
    """Sets of related examples, which are drawn together."""
    class_names: tuple[str, ...]


class Pretrained(Spec):
    """A level that was trained on text alone."""

    task: str
    level: str
    seed: int
    stage: str
    metrics: dict[str, float]


class Summary(Spec):
    """What a study found."""

    schema_version: int = SCHEMA
    study: str
    seeds: tuple[int, ...]
    ladder: tuple[str, ...]
    paths: tuple[tuple[str, ...], ...]
    tasks: dict[str, TaskSummary]
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    steps: tuple[Step, ...] = ()
    """Last students over chains of 0, 1, 2 … intermediates, where the study has several."""
    search: SearchSummary | None = None
    failures: dict[str, str] = Field(default_factory=dict)
    """Why a chain failed when the study last ran, by the chain's name."""
    pretrained: tuple[Pretrained, ...]
    num_students: int
    """Distinct students that are finished."""
    num_undefined: int
    """Those of them that have no PGR."""
    num_stages: int
    num_stages_finished: int
    min_gap: float
    bootstrap_samples: int
    warnings: tuple[str, ...]
    versions: dict[str, tuple[str, ...]]
    """Of the packages that the stages were trained with."""
    commits: tuple[str, ...]
    finished_at: str | None
    """When the last of its stages was finished."""
