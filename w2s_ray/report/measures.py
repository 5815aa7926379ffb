"""All that is measured of one stage by itself, beside its supervisor, and on the labels that it learned from.

The names here are the columns of the data frame and, as means over seeds, the keys of the summary.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from w2s_ray.report.evidence import Evidence
from w2s_ray.report.reader import TestPredictions
from w2s_ray.science.metrics import auroc, brier, calibration_error, error_correlation, relate, spread

Measures = dict[str, float | None]

CALIBRATION = ("ece", "brier", "auroc")
ANSWERS = ("accepted_share", "allowed_share", "distinct_share")
"""Of written answers to the test set: those as good as the true one; those that the rule allows; distinct ones."""
LABELS = ("label_accuracy", "label_majority_share", "label_entropy_bits", "label_allowed_share", "label_distinct_share")
"""Of what a student learned from."""
RELATION = (
    "agreement",
    "agreement_supervisor_right",
    "agreement_supervisor_wrong",
    "inherited",
    "corrected",
    "new_errors",
    "error_correlation",
    "error_correlation_first",
    "ceiling_agreement",
)
"""Of a student and its supervisor, on the test set; `first` is level 0."""
COST = ("seconds", "tokens", "tokens_per_second", "seconds_in_all", "tokens_in_all")
"""Of a stage's training, and of that with all trainings that it rests on."""
NAMES = ("num_test", "accuracy", *CALIBRATION, *ANSWERS, *RELATION, *LABELS, *COST)


@dataclass(frozen=True)
class Beside:
    """What a stage is held against: identities, None where there is none."""

    floor: str | None = None
    ceiling: str | None = None


def measure(evidence: Evidence, identity: str, beside: Beside) -> Measures:
    """Return all figures of a stage that was judged; what does not apply is None."""
    said = evidence.predictions[identity]
    truth_N = evidence.tests[said.task].truth_N
    found: Measures = dict.fromkeys(NAMES)
    found |= {"num_test": len(truth_N), "accuracy": float((said.predicted_N == truth_N).mean())}
    found |= _calibration(said, truth_N) | _answers(said) | _relation(evidence, identity, beside)
    return found | _labels(evidence, identity) | cost(evidence, identity)


def cost(evidence: Evidence, identity: str) -> Measures:
    """Return what a stage's training took, and that of all stages that it rests on; None where it is not trained."""
    if identity not in evidence.records:
        return {}
    metrics = evidence.records[identity].metrics
    records = [evidence.records[each].metrics for each in _rests_on(evidence, identity) if each in evidence.records]
    return {
        "seconds": metrics.get("train_seconds"),
        "tokens": metrics.get("train_tokens"),
        "tokens_per_second": metrics.get("tokens_per_second"),
        "seconds_in_all": sum(each.get("train_seconds", 0.0) for each in records),
        "tokens_in_all": sum(each.get("train_tokens", 0.0) for each in records),
    }


def _rests_on(evidence: Evidence, identity: str) -> set[str]:
    """A stage, those whose labels it learns from or that it starts from, and theirs."""
    found: set[str] = set()
    waiting = [identity]
    while waiting:
        each = waiting.pop()
        if each not in found and each in evidence.stages:
            found.add(each)
            waiting += [*evidence.stages[each].supervisors, *evidence.stages[each].requires]
    return found


def _calibration(said: TestPredictions, truth_N: np.ndarray) -> Measures:
    if said.probs_NC is None:
        return {}
    return {
        "ece": calibration_error(said.probs_NC, truth_N),
        "brier": brier(said.probs_NC, truth_N),
        "auroc": auroc(said.probs_NC, truth_N),
    }


def _answers(said: TestPredictions) -> Measures:
    if said.is_allowed_N is None or said.is_accepted_N is None:
        return {}
    return {
        "accepted_share": float(said.is_accepted_N.mean()),
        "allowed_share": float(said.is_allowed_N.mean()),
        "distinct_share": spread(said.predicted_N).distinct_share,
    }


def _relation(evidence: Evidence, identity: str, beside: Beside) -> Measures:
    """The stage beside its supervisor, where it has one that was judged."""
    known = evidence.predictions
    supervisor = known.get(evidence.supervisor(identity))
    if supervisor is None:
        return {}
    student_N, truth_N = known[identity].predicted_N, evidence.tests[known[identity].task].truth_N
    found = relate(student_N, supervisor.predicted_N, truth_N)
    first, ceiling = known.get(beside.floor or ""), known.get(beside.ceiling or "")
    return {
        **asdict(found),
        "inherited": found.inherited,
        "new_errors": found.new_errors,
        "error_correlation": error_correlation(student_N, supervisor.predicted_N, truth_N),
        "error_correlation_first": error_correlation(student_N, first.predicted_N, truth_N) if first else None,
        "ceiling_agreement": float((ceiling.predicted_N == supervisor.predicted_N).mean()) if ceiling else None,
    }


def _labels(evidence: Evidence, identity: str) -> Measures:
    found = evidence.labellings.get(identity)
    if found is None:
        return {}
    return {
        "label_accuracy": found.accuracy,
        "label_majority_share": found.spread.majority_share,
        "label_entropy_bits": found.spread.entropy_bits,
        "label_allowed_share": found.allowed_share,
        "label_distinct_share": found.spread.distinct_share if found.allowed_share is not None else None,
    }


def record_metrics(evidence: Evidence, identity: str) -> dict[str, Any]:
    """Return what the stage's record says of its training, as columns `train/<name>`."""
    record = evidence.records.get(identity)
    return {f"train/{name}": value for name, value in (record.metrics if record is not None else {}).items()}
