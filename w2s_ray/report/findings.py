"""What a study found, as plain values: the keys of `results.json` and the content of every table and figure."""

from typing import Any

from pydantic import Field

from w2s_ray.report.arm_findings import ArmSummary, Estimate
from w2s_ray.spec.base import Kind, Spec
from w2s_ray.spec.reporting import Outcome
from w2s_ray.spec.study import Arm

SCHEMA = 2
"""Version of the summary's keys."""


class Comparison(Spec):
    """The difference in PGR between two arms of one level, on the same draws; exploratory unless it was declared."""

    task: str
    level: str
    first: str
    second: str
    difference: Estimate
    minimum_detectable: float
    """The smallest true difference that this study would find four times in five."""
    oracle: bool
    """Whether either arm is one."""


class DeclaredComparison(Spec):
    """A difference that the study was to test, over all its tasks together."""

    first: str
    second: str
    by: Outcome
    point: str | None
    """The searched settings; None where it is the same at all of them."""
    asked: tuple[str, ...]
    """The tasks that it was declared for; none named where it is for all."""
    num_tasks: int
    """How many it is to be decided on."""
    oracle: bool
    """Whether either contender is one on any of them."""
    tasks: tuple[str, ...]
    """Those on which both are finished; the figures are of these."""
    seeds: dict[str, tuple[int, ...]]
    """By task, those that the difference that it is by rests on."""
    accuracy: Estimate | None = None
    """The difference of their mean accuracies."""
    pgr: Estimate | None = None
    """The difference of their pooled PGRs."""
    p_value: float | None = None
    """Of the difference that it is by; two-sided, from the paired bootstrap."""
    p_holm: float | None = None
    """The same after Holm's correction over all declared comparisons."""
    undecided: str | None = None
    """Why there is no p-value."""


class AcrossTasks(Spec):
    """A student over all tasks that it was trained on."""

    level: str
    arm: Arm
    label: str
    oracle: bool
    seed_conditional: bool
    """Whether that holds on any of its tasks."""
    accuracy: Estimate
    """Mean over the tasks on which it was judged."""
    pgrs: dict[str, float | None]
    """By task on which it was judged; None where it is undefined."""
    median: float | None
    """Of the PGRs that are defined."""
    num_undefined: int
    """Tasks without a ceiling, or whose gap is not surely above `min_gap`."""
    pooled: Estimate | None
    """Σ(student − floor) / Σ(ceiling − floor) over all tasks that have both, however small their gap."""
    pooled_undefined: str | None
    num_pooled: int
    """Tasks that it covers."""


class LearningCurve(Spec):
    """A ceiling's accuracy by the number of its training examples."""

    task: str
    level: str
    setting: str
    points: tuple[tuple[int, Estimate], ...]


class ReferenceRow(Spec):
    """A result of the literature beside this study's."""

    source: str
    setting: str
    figure: Outcome
    contender: str
    theirs: float | str
    ours: float | None
    """Of several tasks the median PGR, or the mean accuracy."""
    num_tasks: int
    """On which it was judged here."""
    num_undefined: int
    """Of them, those without a PGR."""
    oracle: bool
    seed_conditional: bool


class Step(Spec):
    """A chain's last student, as one of several that differ in how many students came before."""

    task: str
    level: str
    label: str
    path: tuple[str, ...]
    num_intermediates: int
    oracle: bool
    seed_conditional: bool
    accuracy: Estimate
    pgr: Estimate | None
    difference: Estimate | None
    """In PGR, to the one with the fewest intermediates of its method and point; on the same draws and seeds."""


class CandidateSummary(Spec):
    """One point that a search judged."""

    settings: dict[str, Any]
    status: str
    score: float | None
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
    """The best first; those without a score last."""


class TaskSummary(Spec):
    """A task's test set."""

    num_test: int
    num_groups: int
    """Sets of related examples, which are drawn together."""
    class_names: tuple[str, ...]
    kind: Kind
    baselines: dict[str, Estimate]
    """Accuracy of what needs no understanding: `majority`, and for classes and pairs `length`."""
    strata: dict[str, int]
    """Test examples of each stratum."""


class Pretrained(Spec):
    """A level that was trained on text alone: pretrained, or before it learned from labels."""

    task: str
    level: str
    arm: Arm
    stages: dict[int, str]
    """Identity by seed, of those that are finished."""
    metrics: dict[str, float]
    """Means over seeds."""


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
    """Exploratory."""
    declared: tuple[DeclaredComparison, ...] = ()
    across: tuple[AcrossTasks, ...] = ()
    """Students of several tasks."""
    curves: tuple[LearningCurve, ...] = ()
    references: tuple[ReferenceRow, ...] = ()
    steps: tuple[Step, ...] = ()
    """Last students over chains of 0, 1, 2 … intermediates, where the study has several; by method and point."""
    search: SearchSummary | None = None
    failures: dict[str, str] = Field(default_factory=dict)
    """Why a chain failed when the study last ran, by the chain's name."""
    pretrained: tuple[Pretrained, ...]
    num_students: int
    """Distinct students that are finished; one that stands above several floors counts with each."""
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
