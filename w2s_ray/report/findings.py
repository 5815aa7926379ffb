"""The results of a study as plain values: the keys of results.json, and the content of every table and figure."""

from typing import Any

from pydantic import Field

from w2s_ray.report.arms import STUDENTS
from w2s_ray.spec.base import Kind, Spec
from w2s_ray.spec.reporting import Outcome
from w2s_ray.spec.study import Arm

SCHEMA = 4
"""Version of the keys of results.json."""


class Estimate(Spec):
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float
    sd: float | None = None
    """Standard deviation over seeds, that of a ratio of means to first order; None for a single seed."""


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
    """The levels that its supervision passes through, from the first labels to its own."""
    loss: str
    setting: str
    """Further differences of its training: trainable weights, transforms of its labels, start."""
    oracle: bool
    """It used ground truth that a weakly supervised student does not have, or a supervisor of it did."""
    stages: dict[int, str]
    """Identity by seed, finished or not."""
    seeds: tuple[int, ...]
    """Seeds whose test predictions are made."""
    pgr_seeds: tuple[int, ...] = ()
    """Those of them whose floor and ceiling are finished too; floor, ceiling, gap and PGR are over these seeds."""
    few_seeds: bool
    """At most ten seeds (for a student with a PGR, seeds of its PGR): the interval assumes that they are normal."""
    accuracy: Estimate | None = None
    """On the test set; for written answers the share that equals the true one. None for an unfinished arm."""
    floor: Estimate | None = None
    """Over the seeds of the PGR; of a student without a PGR over those whose floor is finished."""
    ceiling: Estimate | None = None
    gap: Estimate | None = None
    """Ceiling − floor."""
    pgr: Estimate | None = None
    pgr_undefined: str | None = None
    """Why a student has no PGR."""
    pgr_link: Estimate | None = None
    """With the immediate supervisor as the floor; not comparable across arms."""
    pgr_link_undefined: str | None = None
    full_ceiling: Estimate | None = None
    """That of its model with all weights trained, for an arm that trains only some."""
    pgr_full: Estimate | None = None
    """Against the full ceiling."""
    pgr_full_undefined: str | None = None
    untrained: Estimate | None = None
    """Accuracy of its model before any training (`zero_shot`), for a student of a study with that arm."""
    above_untrained: Estimate | None = None
    """Its accuracy less that of its untrained model, on the same resamples and seeds."""
    supervisors: tuple[str, ...] = ()
    """Level and arm of each."""
    trained_on: str = ""
    """The splits whose weak labels it learned; empty for an arm without a supervisor."""
    num_labels: float | None = None
    """Weak labels that it learned from; mean over seeds."""
    degenerate: dict[int, str] = Field(default_factory=dict)
    """The problem, for each seed whose weak labels are nearly all the same."""
    metrics: dict[str, float | None] = Field(default_factory=dict)
    """Means over seeds, by name; `METRICS` in metrics.py declares them. None where a metric does not apply."""
    strata: dict[str, Estimate] = Field(default_factory=dict)
    """Accuracy on each stratum of the test set."""

    @property
    def id(self) -> str:
        """The `id` of its `DistinctArm`."""
        return f"{self.task}/{self.level}/{self.label}"

    @property
    def kinds(self) -> tuple[Arm, ...]:
        """All its names; which of them is `arm` depends on the order of methods."""
        return (self.arm, *self.also)

    @property
    def is_student(self) -> bool:
        return self.arm in STUDENTS

    @property
    def is_below_untrained(self) -> bool:
        """Whether it is reliably worse than its model before any training: by the 95 % interval of the difference."""
        return self.above_untrained is not None and self.above_untrained.high < 0

    @property
    def num_seeds(self) -> int:
        """Seeds of its PGR, or of its accuracy where it can have no PGR."""
        return len(self.pgr_seeds or self.seeds)


class Comparison(Spec):
    """The difference in PGR between two arms of one level on the same resamples; exploratory."""

    task: str
    level: str
    first: str
    second: str
    difference: Estimate
    minimum_detectable: float
    """The smallest true difference that this study would detect with a power of 80 %."""
    oracle: bool
    """Whether either arm is one."""

    @property
    def excludes_zero(self) -> bool:
        return self.difference.low > 0 or self.difference.high < 0


class DeclaredComparison(Spec):
    """A difference that the study declared as a test, over all its tasks together."""

    first: str
    second: str
    by: Outcome
    point: str | None
    """The searched settings; None where the comparison is the same at all points."""
    asked: tuple[str, ...]
    """The tasks that it names; empty where it is over all tasks."""
    num_tasks: int
    """Tasks that it is over."""
    oracle: bool
    """Whether either contender is one on any of the tasks."""
    tasks: tuple[str, ...]
    """Tasks on which both are finished; the differences are over these."""
    seeds: dict[str, tuple[int, ...]]
    """The seeds of the tested difference, by task."""
    accuracy: Estimate | None = None
    """Difference of mean accuracies."""
    pgr: Estimate | None = None
    """Difference of pooled PGRs."""
    p_value: float | None = None
    """Two-sided, from the draws of the tested difference; None below three seeds."""
    p_holm: float | None = None
    """After Holm's correction over all declared comparisons."""
    undecided: str | None = None
    """Why there is no p-value."""


class AcrossTasks(Spec):
    """A student over all tasks that it was trained on."""

    level: str
    arm: Arm
    label: str
    oracle: bool
    few_seeds: bool
    """Whether it is on any of its tasks."""
    accuracy: Estimate
    """Mean over its finished tasks."""
    pgrs: dict[str, float | None]
    """By finished task; None where it is undefined."""
    median: float | None
    """Over the tasks where PGR is defined."""
    num_undefined: int
    """Tasks without a ceiling, or whose gap is not surely above `min_gap`."""
    pooled: Estimate | None
    """Σ(student − floor) / Σ(ceiling − floor) over all tasks with both, however small their gap."""
    pooled_undefined: str | None
    num_pooled: int
    """Tasks in the pooled PGR."""


class LearningCurve(Spec):
    """A ceiling's accuracy by its number of training examples."""

    task: str
    level: str
    setting: str
    points: tuple[tuple[int, Estimate], ...]


class ReferenceRow(Spec):
    """A published result next to this study's."""

    source: str
    setting: str
    figure: Outcome
    contender: str
    theirs: float | str
    ours: float | None
    """Over several tasks the median PGR, or the mean accuracy."""
    num_tasks: int
    """Tasks on which the contender is finished here."""
    num_undefined: int
    """Those of them without a PGR."""
    oracle: bool
    few_seeds: bool


class Step(Spec):
    """A chain's last student, as one of several whose chains differ in their number of intermediate students."""

    task: str
    level: str
    label: str
    path: tuple[str, ...]
    num_intermediates: int
    oracle: bool
    few_seeds: bool
    accuracy: Estimate
    pgr: Estimate | None
    difference: Estimate | None
    """In PGR, to the shortest chain of its method and point, on the same resamples and seeds; None for that chain."""


class CandidateSummary(Spec):
    """One point that a search judged."""

    settings: dict[str, Any]
    status: str
    score: float | None
    cost: float | None
    error: str | None
    is_winner: bool


class SearchSummary(Spec):
    """The result of a search that chooses."""

    choose_by: str
    development_tasks: tuple[str, ...]
    seeds: tuple[int, ...]
    """On which candidates were judged."""
    sampler: str
    scheduler: str | None
    minimise: str | None
    candidates: tuple[CandidateSummary, ...]
    """The best first; those without a score last."""


class TaskSummary(Spec):
    """A task's test set."""

    num_test: int
    num_groups: int
    """Groups of related examples, which are resampled together."""
    class_names: tuple[str, ...]
    kind: Kind
    baselines: dict[str, Estimate]
    """Accuracy of trivial predictors: `majority`, and for classes and pairs `length`."""
    strata: dict[str, int]
    """Test examples of each stratum."""
    verdict: str = ""
    """Two sentences on its students (verdict.py); empty without any."""


class Pretrained(Spec):
    """A level that was trained on text alone: pretrained, or before it learned from labels."""

    task: str
    level: str
    arm: Arm
    stages: dict[int, str]
    """Identity by seed, of finished stages."""
    metrics: dict[str, float]
    """From their records; means over seeds."""


class Summary(Spec):
    """The results of a study."""

    schema_version: int = SCHEMA
    study: str
    verdict: str = ""
    """Two sentences on the last student: the task's, or over several tasks."""
    seeds: tuple[int, ...]
    ladder: tuple[str, ...]
    paths: tuple[tuple[str, ...], ...]
    tasks: dict[str, TaskSummary]
    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    """Exploratory."""
    declared: tuple[DeclaredComparison, ...] = ()
    across: tuple[AcrossTasks, ...] = ()
    """Students of several tasks."""
    curves: tuple[LearningCurve, ...] = ()
    references: tuple[ReferenceRow, ...] = ()
    steps: tuple[Step, ...] = ()
    """Last students over chains of 0, 1, 2 … intermediates, where the study has several, by method and point."""
    search: SearchSummary | None = None
    failures: dict[str, str] = Field(default_factory=dict)
    """Why a chain failed in the study's last run, by the chain's name."""
    pretrained: tuple[Pretrained, ...]
    num_students: int
    """Distinct finished students; one that belongs to several floors counts once for each."""
    num_undefined: int
    """Those of them without a PGR."""
    num_stages: int
    num_stages_finished: int
    min_gap: float
    bootstrap_samples: int
    warnings: tuple[str, ...]
    versions: dict[str, tuple[str, ...]]
    """Versions of the packages that the stages were trained with."""
    commits: tuple[str, ...]
    finished_at: str | None
    """When the last of its stages finished."""
