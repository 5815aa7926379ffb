"""The registry of metrics: each is declared once, in `ESTIMATES` or `METRICS`.

From its entry a metric gets a column in the tables of terminal and page with its line in the legend, columns of
results.csv, and its line in docs/methods.md (a test compares them). To add a metric, add an entry to `METRICS`, from
which it gets a key under `arms[].metrics` in results.json too.

An entry of `METRICS` is a number computed from one stage's stored predictions and record; an arm's value is the mean
over its seeds. `ESTIMATES` need several stages on the same bootstrap resamples: they are fields of `ArmSummary`,
computed in evaluation.py. In the formulas y is the truth, s and t the hard predictions of student and supervisor.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Literal

from w2s_ray.errors import StudyError
from w2s_ray.report.evidence import EvalPredictions, Evidence, LabelQuality
from w2s_ray.science import BoolArray, FloatArray, IntArray
from w2s_ray.science.metrics import Relation, auroc, brier, calibration_error, error_correlation, relate, spread
from w2s_ray.spec.base import check_known
from w2s_ray.spec.own_code import source_of

GroupName = Literal["links", "calibration", "answers", "cost"]
Values = dict[str, float | None]
"""Value of each metric by name; None where it does not apply."""


@dataclass(frozen=True)
class Case:
    """A stage with test predictions, and everything that a metric may compare it with."""

    predictions: EvalPredictions
    truth_N: IntArray
    supervisor: EvalPredictions | None
    """The combination of several supervisors, if there are several."""
    floor: EvalPredictions | None
    ceiling: EvalPredictions | None
    labels: LabelQuality | None
    """The weak labels that it learned from."""
    num_parameters: int | None
    training: Mapping[str, float]
    """The metrics of its own record; empty for a stage that is not trained."""
    all_training: Sequence[Mapping[str, float]]
    """The metrics of all trainings that it depends on, its own among them."""

    @cached_property
    def relation(self) -> Relation | None:
        """Its predictions compared with its supervisor's."""
        if self.supervisor is None:
            return None
        return relate(self.predictions.predicted_N, self.supervisor.predicted_N, self.truth_N)

    def error_correlation(self, other: EvalPredictions | None) -> float | None:
        """Return phi between its errors and another model's; None for a stage without a supervisor."""
        if self.supervisor is None or other is None:
            return None
        return error_correlation(self.predictions.predicted_N, other.predicted_N, self.truth_N)


@dataclass(frozen=True)
class EstimateEntry:
    """One number with an interval, a field of `ArmSummary`."""

    name: str
    title: str
    about: str
    digits: int = 3


@dataclass(frozen=True)
class Group:
    """Metrics that share a table."""

    title: str
    about: str
    """Further notes for readers of the table."""
    needs: str = ""
    """The metric without which an arm has no row; if empty, an arm has a row if any metric of the group applies."""


@dataclass(frozen=True)
class Metric:
    """One number that is reported for every arm to which it applies."""

    name: str
    """Column of results.csv and key in results.json."""
    group: GroupName
    title: str
    """Column heading; empty for a metric that is only in the files, because another column implies it."""
    compute: Callable[[Case], float | None]
    """Returns a finite number, or None if the metric does not apply to the stage."""
    about: str
    """Its meaning or formula, in a few words; shown on the page and in docs/methods.md."""
    digits: int = 2
    shown_as: Literal["number", "count", "seconds"] = "number"
    headline: bool = False
    """Whether it is in the first table too."""


GROUPS: dict[GroupName, Group] = {
    "links": Group(
        "Links between student and supervisor",
        "! marks labels of which nearly all are the same. Agreement beyond that of the ceiling, which never saw the "
        "supervisor's labels, is imitation.",
    ),
    "calibration": Group("Calibration", "Of the predicted probabilities on the test set."),
    "answers": Group("Written answers", "On the test set, and for the labels that the student learned from."),
    "cost": Group("Cost of training", "Prediction is not counted.", needs="seconds"),
}
"""In the order in which their tables are shown."""


def _labels(read: Callable[[LabelQuality], float | None]) -> Callable[[Case], float | None]:
    """Make a metric of the weak labels."""
    return lambda case: read(case.labels) if case.labels is not None else None


def _relation(read: Callable[[Relation], float | None]) -> Callable[[Case], float | None]:
    """Make a metric of student and supervisor."""
    return lambda case: read(case.relation) if case.relation is not None else None


def _probabilities(score: Callable[[FloatArray, IntArray], float | None]) -> Callable[[Case], float | None]:
    """Make a metric of the probabilities (N × C) and the truth (N); None for written answers."""
    return lambda case: (
        score(case.predictions.probs_NC, case.truth_N) if case.predictions.probs_NC is not None else None
    )


def _answers(read: Callable[[EvalPredictions], BoolArray | None]) -> Callable[[Case], float | None]:
    """Make a metric of a property of written answers (N): the share that has it; None for classes."""

    def share(case: Case) -> float | None:
        is_so_N = read(case.predictions)
        return float(is_so_N.mean()) if is_so_N is not None else None

    return share


def _recorded(name: str) -> Callable[[Case], float | None]:
    """Make a metric of a number in the stage's own record."""
    return lambda case: case.training.get(name)


def _total(name: str) -> Callable[[Case], float | None]:
    """Make a metric of the sum of a recorded number over all trainings; None for a stage without a record."""
    return lambda case: sum(metrics.get(name, 0.0) for metrics in case.all_training) if case.training else None


def _distinct_answers(case: Case) -> float | None:
    is_written = case.predictions.is_allowed_N is not None
    return spread(case.predictions.predicted_N).distinct_share if is_written else None


def _distinct_labels(quality: LabelQuality) -> float | None:
    return quality.spread.distinct_share if quality.allowed_share is not None else None


def _ceiling_agreement(case: Case) -> float | None:
    if case.ceiling is None or case.supervisor is None:
        return None
    return float((case.ceiling.predicted_N == case.supervisor.predicted_N).mean())


# Two lines for each metric, to read like a table.
# fmt: off
_METRICS = (
    Metric("agreement", "links", "agrees", headline=True, compute=_relation(lambda r: r.agreement),
           about="P(s = t): how often the student predicts what its supervisor predicts"),
    Metric("label_accuracy", "links", "labels", digits=3, headline=True, compute=_labels(lambda q: q.accuracy),
           about="share of the weak labels, hardened and after all transforms, that are right"),
    Metric("label_majority_share", "links", "majority", compute=_labels(lambda q: q.spread.majority_share),
           about="share of the most frequent weak label"),
    Metric("agreement_supervisor_right", "links", "", compute=_relation(lambda r: r.agreement_supervisor_right),
           about="P(s = t | t = y), which is 1 − `new_errors`"),
    Metric("agreement_supervisor_wrong", "links", "", compute=_relation(lambda r: r.agreement_supervisor_wrong),
           about="P(s = t | t ≠ y), which is `inherited`"),
    Metric("inherited", "links", "inherits", compute=_relation(lambda r: r.inherited),
           about="P(s = t | t ≠ y): share of the supervisor's errors that the student repeats"),
    Metric("corrected", "links", "corrects", compute=_relation(lambda r: r.corrected),
           about="P(s = y | t ≠ y): share of the supervisor's errors that the student gets right"),
    Metric("new_errors", "links", "new", compute=_relation(lambda r: r.new_errors),
           about="P(s ≠ y | t = y): share of the supervisor's right predictions that the student gets wrong"),
    Metric("error_correlation", "links", "φ", compute=lambda case: case.error_correlation(case.supervisor),
           about="Pearson's φ between the errors of student and supervisor"),
    Metric("error_correlation_first", "links", "φ, level 0", compute=lambda case: case.error_correlation(case.floor),
           about="φ between the errors of the student and of level 0"),
    Metric("ceiling_agreement", "links", "ceiling agrees", compute=_ceiling_agreement,
           about="how often the student's ceiling predicts what the supervisor predicts"),
    Metric("label_entropy_bits", "links", "bits", compute=_labels(lambda q: q.spread.entropy_bits),
           about="Shannon entropy of the weak labels, in bits"),
    Metric("ece", "calibration", "ECE", digits=3, compute=_probabilities(calibration_error),
           about="expected calibration error over 15 bins of equal width: Σ (n / N) · abs(accuracy − mean confidence)"),
    Metric("brier", "calibration", "Brier", digits=3, compute=_probabilities(brier),
           about="mean of Σ_c (p_c − y_c)², halved for two classes; y_c is 1 for the true class, else 0"),
    Metric("auroc", "calibration", "AUROC", digits=3, compute=_probabilities(auroc),
           about="area under the ROC curve, ties counted half; for several classes the mean, each against the rest"),
    Metric("accepted_share", "answers", "as good", digits=3, compute=_answers(lambda a: a.is_accepted_N),
           about="share of answers that the task's rule accepts as equal to the true one, such as another mating move"),
    Metric("allowed_share", "answers", "allowed", compute=_answers(lambda a: a.is_allowed_N),
           about="share of answers that the task's rule allows"),
    Metric("distinct_share", "answers", "distinct", compute=_distinct_answers,
           about="distinct answers per example"),
    Metric("label_allowed_share", "answers", "labels allowed", compute=_labels(lambda q: q.allowed_share),
           about="share of the written labels that the task's rule allows"),
    Metric("label_distinct_share", "answers", "labels distinct", compute=_labels(_distinct_labels),
           about="distinct written labels per example"),
    Metric("tokens", "cost", "tokens", shown_as="count", compute=_recorded("train_tokens"),
           about="tokens of the stage's own training"),
    Metric("seconds", "cost", "time", shown_as="seconds", compute=_recorded("train_seconds"),
           about="seconds of the stage's own training"),
    Metric("tokens_per_second", "cost", "tok/s", shown_as="count", compute=_recorded("tokens_per_second"),
           about="training tokens per second"),
    Metric("num_parameters", "cost", "parameters", shown_as="count", compute=lambda case: case.num_parameters,
           about="parameters of the model, trained or not"),
    Metric("seconds_in_all", "cost", "time in all", shown_as="seconds", compute=_total("train_seconds"),
           about="seconds of training, with that of all its supervisors and of the stage that it started from"),
    Metric("tokens_in_all", "cost", "tokens in all", shown_as="count", compute=_total("train_tokens"),
           about="tokens of training, with that of all its supervisors and of the stage that it started from"),
)
# fmt: on
_ESTIMATES = (
    EstimateEntry("accuracy", "accuracy", "share of the test examples that are right; answers have to match exactly"),
    EstimateEntry("floor", "floor", "accuracy of the first supervisor"),
    EstimateEntry("ceiling", "ceiling", "accuracy of the student's model trained on the truth of the same examples"),
    EstimateEntry("pgr", "PGR", "share of the gap recovered: (accuracy − floor) / (ceiling − floor)", 2),
    EstimateEntry(
        "pgr_full",
        "PGR of full",
        "PGR against the ceiling that trains all weights with the level's own optimisation",
        2,
    ),
    EstimateEntry("pgr_link", "link", "PGR with the immediate supervisor as the floor; not comparable across arms", 2),
    EstimateEntry("gap", "", "ceiling − floor"),
    EstimateEntry("full_ceiling", "", "accuracy of the ceiling that trains all weights"),
    EstimateEntry("untrained", "", "accuracy of the student's model before any training (`zero_shot`)"),
    EstimateEntry("above_untrained", "", "accuracy − untrained"),
)
ESTIMATES: dict[str, EstimateEntry] = {entry.name: entry for entry in _ESTIMATES}
"""By name; those with a title are columns of the first table, in this order."""
METRICS: dict[str, Metric] = {metric.name: metric for metric in _METRICS}
"""By name, in the order of their columns."""


_OWN_DIGITS = 12
_own: dict[str, str] = {}


def register_metric(metric: Metric) -> None:
    """Register a metric of your own: it is computed for every stage with test predictions, in the group of its choice.

    It gets the columns and keys of a built-in one in every report that this process makes. `compute` has to be a
    function at the top level of a file: the digest of its source is in results.json (`own_metrics`), with its values.

    Raises:
        StudyError: when its name is taken by another metric, its group is unknown, or it has no source.
    """
    digest = hashlib.sha256(source_of(metric.compute).encode()).hexdigest()[:_OWN_DIGITS]
    if metric.name in ESTIMATES or (metric.name in METRICS and _own.get(metric.name) != digest):
        raise StudyError(f"another metric is registered as {metric.name!r}", "choose another name")
    check_known(metric.group, GROUPS, f"the metric {metric.name}", "group")
    METRICS[metric.name] = metric
    _own[metric.name] = digest


def own_metrics() -> dict[str, str]:
    """Return the digest of each registered metric's source, by name."""
    return dict(_own)


def case_of(evidence: Evidence, identity: str, floor: str | None, ceiling: str | None) -> Case:
    """Return a stage that has test predictions with all that it is compared with; `floor` and `ceiling` by identity."""
    predictions = evidence.predictions[identity]
    records = evidence.records
    return Case(
        predictions=predictions,
        truth_N=evidence.tests[predictions.task].truth_N,
        supervisor=evidence.predictions.get(evidence.supervisor(identity)),
        floor=evidence.predictions.get(floor or ""),
        ceiling=evidence.predictions.get(ceiling or ""),
        labels=evidence.labels.get(identity),
        num_parameters=evidence.num_parameters.get(evidence.stages[identity].level),
        training=records[identity].metrics if identity in records else {},
        all_training=[records[stage].metrics for stage in _dependencies(evidence, identity) if stage in records],
    )


def measure(case: Case) -> Values:
    """Return every metric of one stage."""
    values = {name: metric.compute(case) for name, metric in METRICS.items()}
    for name in _own:
        value = values[name]
        if value is not None and not (isinstance(value, float | int) and math.isfinite(value)):
            raise StudyError(f"metric {name} returned {value!r}; it must return a finite number or None")
    for name, value in values.items():
        assert value is None or math.isfinite(value), f"metric {name} is {value}, which JSON cannot hold"
    return values


def mean_values(cases: Sequence[Values]) -> Values:
    """Return the mean of each metric over seeds; seeds without a value are left out."""
    known = {name: [value for values in cases if (value := values[name]) is not None] for name in METRICS}
    return {name: fmean(values) if values else None for name, values in known.items()}


def _dependencies(evidence: Evidence, identity: str) -> list[str]:
    """Return a stage, its supervisors and the stage that it starts from, and all of theirs, each once."""
    stages: dict[str, None] = {}
    open_stages = [identity]
    while open_stages:
        stage = open_stages.pop()
        if stage not in stages and stage in evidence.stages:
            stages[stage] = None
            open_stages += [*evidence.stages[stage].supervisors, *sorted(evidence.stages[stage].requires)]
    return list(stages)
