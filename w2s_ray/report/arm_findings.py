"""What a study found of one arm, as plain values."""

from pydantic import Field

from w2s_ray.report.arms import STUDENTS
from w2s_ray.spec.base import Spec
from w2s_ray.spec.study import Arm


class Estimate(Spec):
    """A figure with its 95 % interval."""

    value: float
    low: float
    high: float


class Link(Spec):
    """A student and whom it learns from: means over seeds; None where there is no such example or it is not known."""

    supervisors: tuple[str, ...]
    """Level and arm of each."""
    split: str
    """The examples that it learns on."""
    num_examples: float | None
    label_accuracy: float | None
    """Of the labels that it learned from, hardened."""
    label_majority_share: float | None
    label_entropy_bits: float | None
    label_allowed_share: float | None
    """Of written labels, those that the task's rule allows."""
    label_distinct_share: float | None
    """Of written labels, distinct ones per example."""
    degenerate: dict[int, str]
    """What is wrong with the labels of a seed, where they are nearly all one."""
    agreement: float | None
    """How often it says what its supervisor says, on the test set."""
    agreement_supervisor_right: float | None
    agreement_supervisor_wrong: float | None
    inherited: float | None
    """Of the supervisor's errors, those that it repeats."""
    corrected: float | None
    """Of the supervisor's errors, those that it gets right."""
    new_errors: float | None
    """Of what the supervisor gets right, what it gets wrong."""
    error_correlation: float | None
    """Phi between its errors and its supervisor's."""
    error_correlation_first: float | None
    """The same with level 0's."""
    ceiling_agreement: float | None
    """How often its ceiling, which has never seen the supervisor's labels, says what the supervisor says."""


class Calibration(Spec):
    """How far its probabilities can be believed: means over seeds."""

    ece: float
    brier: float
    auroc: float | None


class Answers(Spec):
    """What its written answers to the test set are, besides right or wrong: means over seeds."""

    accepted_share: float
    """Those that are as good as the true one by the task's rule, itself included: another move that mates."""
    allowed_share: float
    """Those that the task's rule allows."""
    distinct_share: float
    """Distinct ones per example."""


class Cost(Spec):
    """What its training took: means over seeds."""

    num_parameters: int | None
    """Of its model, whichever of them are trained."""
    seconds: float | None
    tokens: float | None
    tokens_per_second: float | None
    seconds_in_all: float | None
    """With the trainings of its supervisors and theirs, and of what it started from."""
    tokens_in_all: float | None


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
    setting: str
    """What else sets its training apart: trainable weights, start. Its ceiling has the same."""
    oracle: bool
    """It, or a student that its labels come from, learned from, was stopped by or was chosen by ground truth."""
    stages: dict[int, str]
    """Identity by seed, finished or not."""
    seeds: tuple[int, ...]
    """The seeds that are finished."""
    pgr_seeds: tuple[int, ...] = ()
    """Of them, those whose floor and ceiling are finished too: on these floor, ceiling, gap and PGR rest."""
    seed_conditional: bool
    """Fewer than five seeds, of a PGR where there may be one: the intervals say little about other seeds."""
    accuracy: Estimate | None = None
    """On the test set; of written answers the share that is the true one, letter for letter."""
    floor: Estimate | None = None
    ceiling: Estimate | None = None
    gap: Estimate | None = None
    """Ceiling − floor."""
    pgr: Estimate | None = None
    pgr_undefined: str | None = None
    """Why a student has no PGR."""
    pgr_link: Estimate | None = None
    """With the immediate supervisor as the floor; not to be compared across arms."""
    pgr_link_undefined: str | None = None
    full_ceiling: Estimate | None = None
    """Of its model with all weights trained, where it does not train all."""
    pgr_full: Estimate | None = None
    """Against the full ceiling."""
    pgr_full_undefined: str | None = None
    link: Link | None = None
    calibration: Calibration | None = None
    answers: Answers | None = None
    cost: Cost | None = None
    strata: dict[str, Estimate] = Field(default_factory=dict)
    """Accuracy on each stratum of the test set."""

    @property
    def kinds(self) -> tuple[Arm, ...]:
        """What the study calls it, the first name first; which name that is depends on the order of methods alone."""
        return (self.arm, *self.also)

    @property
    def is_student(self) -> bool:
        """Whether it learned from a supervisor's labels."""
        return self.arm in STUDENTS

    @property
    def num_seeds(self) -> int:
        """On how many seeds its PGR rests, or where it can have none its accuracy."""
        return len(self.pgr_seeds or self.seeds)
