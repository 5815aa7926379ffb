"""The tables behind the headline, for terminal and page alike: links, calibration, answers, strata, what it took."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from w2s_ray.report.arm_findings import ArmSummary
from w2s_ray.report.findings import Summary, TaskSummary
from w2s_ray.report.wording import duration, number, whole, with_bounds

Cells = Sequence[str]


@dataclass(frozen=True)
class Rows:
    """One task's table of a kind."""

    columns: tuple[str, ...]
    """After model and arm; the most telling first."""
    arms: list[tuple[ArmSummary, Cells]]


@dataclass(frozen=True)
class Detail:
    """One kind of table, for each task that has it."""

    title: str
    about: str
    """What its columns mean."""
    tasks: dict[str, Rows]


@dataclass(frozen=True)
class _Kind:
    """How a kind of table is made."""

    title: str
    about: str
    columns: Callable[[TaskSummary], tuple[str, ...]]
    cells: Callable[[ArmSummary, TaskSummary], Cells | None]
    """None where the table has nothing to say of an arm."""


def details_of(summary: Summary) -> list[Detail]:
    """Return every table that has a row."""
    found = []
    for kind in _KINDS:
        tasks = {}
        for name, task in summary.tasks.items():
            arms = [arm for arm in summary.arms if arm.task == name and arm.accuracy is not None]
            rows = [(arm, cells) for arm in arms if (cells := kind.cells(arm, task)) is not None]
            if rows:
                tasks[name] = Rows(kind.columns(task), rows)
        if tasks:
            found.append(Detail(kind.title, kind.about, tasks))
    return found


def _link(arm: ArmSummary) -> Cells | None:
    link = arm.link
    if link is None:
        return None
    majority = number(link.label_majority_share, 2) + ("!" if link.degenerate else "")
    shares = (link.agreement, link.inherited, link.corrected, link.new_errors, link.error_correlation)
    more = (link.error_correlation_first, link.ceiling_agreement, link.label_entropy_bits)
    return [number(link.label_accuracy), majority, *(number(value, 2) for value in (*shares, *more))]


def _answers(arm: ArmSummary) -> Cells | None:
    if arm.answers is None:
        return None
    labels = (arm.link.label_allowed_share, arm.link.label_distinct_share) if arm.link is not None else (None, None)
    found = arm.answers
    return [
        number(found.accepted_share),
        *(number(value, 2) for value in (found.allowed_share, found.distinct_share, *labels)),
    ]


def _calibration(arm: ArmSummary) -> Cells | None:
    found = arm.calibration
    return [number(value) for value in (found.ece, found.brier, found.auroc)] if found is not None else None


def _strata(arm: ArmSummary, task: TaskSummary) -> Cells | None:
    return [with_bounds(arm.strata.get(name), 2) for name in task.strata] if arm.strata else None


def _cost(arm: ArmSummary) -> Cells | None:
    cost = arm.cost
    if cost is None or cost.seconds is None:
        return None
    own = [whole(cost.tokens), duration(cost.seconds), whole(cost.tokens_per_second)]
    return [*own, whole(cost.num_parameters), duration(cost.seconds_in_all), whole(cost.tokens_in_all)]


def _always(*columns: str) -> Callable[[TaskSummary], tuple[str, ...]]:
    return lambda task: columns


def _alone(cells: Callable[[ArmSummary], Cells | None]) -> Callable[[ArmSummary, TaskSummary], Cells | None]:
    return lambda arm, task: cells(arm)


_KINDS = (
    _Kind(
        "Links: what is taken over",
        "Labels: how many of those it learned from are right; the share of the most frequent one (! where they are "
        "nearly all one) and their entropy in bits. On the test set: how often it says what its supervisor says; of "
        "the supervisor's errors, those that it repeats and those that it gets right; of what the supervisor gets "
        "right, what it gets wrong; φ, the correlation of its errors with the supervisor's and with level 0's. Its "
        "ceiling has never seen the supervisor's labels: what it agrees beyond the ceiling is imitation.",
        _always(
            *("labels", "majority", "agrees", "inherits", "corrects", "new"),
            *("φ", "φ, level 0", "ceiling agrees", "bits"),
        ),
        _alone(_link),
    ),
    _Kind(
        "Calibration",
        "Expected calibration error (15 bins), Brier score, area under the ROC curve (ties count half).",
        _always("ECE", "Brier", "AUROC"),
        _alone(_calibration),
    ),
    _Kind(
        "Written answers",
        "Those that are as good as the true one by the task's rule, such as another move that mates; those that the "
        "rule allows, and distinct ones per example, on the test set and among the labels that it learned from.",
        _always("as good", "allowed", "distinct", "labels allowed", "labels distinct"),
        _alone(_answers),
    ),
    _Kind(
        "Accuracy by stratum",
        "With 95 % intervals of the same bootstrap; a stratum of one group of related examples has no figure.",
        lambda task: tuple(f"{name} ({whole(size)})" for name, size in task.strata.items()),
        _strata,
    ),
    _Kind(
        "What it took",
        "Of training alone. In all: with the trainings of its supervisors and theirs, and of what it started from. "
        "Parameters are its model's, whichever of them are trained.",
        _always("tokens", "time", "tok/s", "parameters", "time in all", "tokens in all"),
        _alone(_cost),
    ),
)
