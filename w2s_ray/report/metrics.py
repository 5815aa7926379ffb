"""The registry of metrics: each is declared once, in `METRICS`.

From its entry a metric gets a column in the tables of terminal and page, a column of results.csv, a key under
`arms[].metrics` in results.json, and its line in docs/methods.md (a test compares them). To add a metric, add an entry.

A metric is a number computed from one stage's stored predictions and record; an arm's value is the mean over its seeds.
What needs several stages on the same bootstrap resamples (accuracy with its interval, floor, ceiling, gap, PGR) is
computed in judge.py. In the formulas y is the truth, s and t the hard predictions of student and supervisor.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import fmean
from typing import Literal

from w2s_ray.report.evidence import BoolArray, EvalPredictions, Evidence, FloatArray, IntArray, LabelQuality
from w2s_ray.science.degeneracy import spread
from w2s_ray.science.metrics import auroc, brier, calibration_error
from w2s_ray.science.relations import Relation, error_correlation, relate

GroupName = Literal["links", "calibration", "answers", "cost"]
Values = dict[str, float | None]
"""Value of each metric by name; None where it does not apply."""


@dataclass(frozen=True)
class Case:
    """A stage with test predictions, and everything that a metric may compare it with."""

    predictions: EvalPredictions
    truth_N: IntArray
    supervisor: EvalPredictions | None
    """Of several supervisors, their combination."""
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

    def total(self, name: str) -> float | None:
        """Return the sum of a recorded number over all trainings; None for a stage without a record."""
        return sum(metrics.get(name, 0.0) for metrics in self.all_training) if self.training else None


@dataclass(frozen=True)
class Group:
    """Metrics that share a table."""

    title: str
    about: str
    """What else a reader of the table must know."""
    needs: str = ""
    """The metric without which an arm has no row; where not given, any metric of the group earns a row."""


@dataclass(frozen=True)
class Metric:
    """One number that is reported for every arm to which it applies."""

    name: str
    """Column of results.csv and key in results.json."""
    group: GroupName
    title: str
    """Column heading; empty for a metric that is only in the files, because another column implies it."""
    about: str
    """Its meaning or formula, in a few words; shown on the page and in docs/methods.md."""
    compute: Callable[[Case], float | None]
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


def _share(is_so_N: BoolArray | None) -> float | None:
    return float(is_so_N.mean()) if is_so_N is not None else None


def _ceiling_agreement(case: Case) -> float | None:
    if case.ceiling is None or case.supervisor is None:
        return None
    return float((case.ceiling.predicted_N == case.supervisor.predicted_N).mean())


_METRICS = (
    Metric(
        "agreement",
        "links",
        "agrees",
        "P(s = t): how often the student predicts what its supervisor predicts",
        _relation(lambda relation: relation.agreement),
        headline=True,
    ),
    Metric(
        "label_accuracy",
        "links",
        "labels",
        "share of the weak labels, hardened and after all transforms, that are right",
        _labels(lambda labels: labels.accuracy),
        digits=3,
        headline=True,
    ),
    Metric(
        "label_majority_share",
        "links",
        "majority",
        "share of the most frequent weak label",
        _labels(lambda labels: labels.spread.majority_share),
    ),
    Metric(
        "agreement_supervisor_right",
        "links",
        "",
        "P(s = t | t = y), which is 1 − `new_errors`",
        _relation(lambda relation: relation.agreement_supervisor_right),
    ),
    Metric(
        "agreement_supervisor_wrong",
        "links",
        "",
        "P(s = t | t ≠ y), which is `inherited`",
        _relation(lambda relation: relation.agreement_supervisor_wrong),
    ),
    Metric(
        "inherited",
        "links",
        "inherits",
        "P(s = t | t ≠ y): share of the supervisor's errors that the student repeats",
        _relation(lambda relation: relation.inherited),
    ),
    Metric(
        "corrected",
        "links",
        "corrects",
        "P(s = y | t ≠ y): share of the supervisor's errors that the student gets right",
        _relation(lambda relation: relation.corrected),
    ),
    Metric(
        "new_errors",
        "links",
        "new",
        "P(s ≠ y | t = y): share of the supervisor's right predictions that the student gets wrong",
        _relation(lambda relation: relation.new_errors),
    ),
    Metric(
        "error_correlation",
        "links",
        "φ",
        "Pearson's φ between the errors of student and supervisor",
        lambda case: case.error_correlation(case.supervisor),
    ),
    Metric(
        "error_correlation_first",
        "links",
        "φ, level 0",
        "φ between the errors of the student and of level 0",
        lambda case: case.error_correlation(case.floor),
    ),
    Metric(
        "ceiling_agreement",
        "links",
        "ceiling agrees",
        "how often the student's ceiling predicts what the supervisor predicts",
        _ceiling_agreement,
    ),
    Metric(
        "label_entropy_bits",
        "links",
        "bits",
        "Shannon entropy of the weak labels, in bits",
        _labels(lambda labels: labels.spread.entropy_bits),
    ),
    Metric(
        "ece",
        "calibration",
        "ECE",
        "expected calibration error over 15 bins of equal width: Σ (n / N) · abs(accuracy − mean confidence)",
        _probabilities(calibration_error),
        digits=3,
    ),
    Metric(
        "brier",
        "calibration",
        "Brier",
        "mean of Σ_c (p_c − y_c)², and half of it for two classes",
        _probabilities(brier),
        digits=3,
    ),
    Metric(
        "auroc",
        "calibration",
        "AUROC",
        "area under the ROC curve, ties counted half; for several classes the mean, each against the rest",
        _probabilities(auroc),
        digits=3,
    ),
    Metric(
        "accepted_share",
        "answers",
        "as good",
        "share of answers that the task's rule accepts as equal to the true one, such as another move that mates",
        lambda case: _share(case.predictions.is_accepted_N),
        digits=3,
    ),
    Metric(
        "allowed_share",
        "answers",
        "allowed",
        "share of answers that the task's rule allows",
        lambda case: _share(case.predictions.is_allowed_N),
    ),
    Metric(
        "distinct_share",
        "answers",
        "distinct",
        "distinct answers per example",
        lambda case: (
            spread(case.predictions.predicted_N).distinct_share if case.predictions.is_allowed_N is not None else None
        ),
    ),
    Metric(
        "label_allowed_share",
        "answers",
        "labels allowed",
        "share of the written labels that the task's rule allows",
        _labels(lambda labels: labels.allowed_share),
    ),
    Metric(
        "label_distinct_share",
        "answers",
        "labels distinct",
        "distinct written labels per example",
        _labels(lambda labels: labels.spread.distinct_share if labels.allowed_share is not None else None),
    ),
    Metric(
        "tokens",
        "cost",
        "tokens",
        "tokens of the stage's own training",
        lambda case: case.training.get("train_tokens"),
        shown_as="count",
    ),
    Metric(
        "seconds",
        "cost",
        "time",
        "seconds of the stage's own training",
        lambda case: case.training.get("train_seconds"),
        shown_as="seconds",
    ),
    Metric(
        "tokens_per_second",
        "cost",
        "tok/s",
        "training tokens per second",
        lambda case: case.training.get("tokens_per_second"),
        shown_as="count",
    ),
    Metric(
        "num_parameters",
        "cost",
        "parameters",
        "parameters of the model, trained or not",
        lambda case: case.num_parameters,
        shown_as="count",
    ),
    Metric(
        "seconds_in_all",
        "cost",
        "time in all",
        "seconds of training, with that of all its supervisors and of the stage that it started from",
        lambda case: case.total("train_seconds"),
        shown_as="seconds",
    ),
    Metric(
        "tokens_in_all",
        "cost",
        "tokens in all",
        "tokens of training, with that of all its supervisors and of the stage that it started from",
        lambda case: case.total("train_tokens"),
        shown_as="count",
    ),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _METRICS}
"""By name, in the order of their columns."""


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
    return {name: metric.compute(case) for name, metric in METRICS.items()}


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
