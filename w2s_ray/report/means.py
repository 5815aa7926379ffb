"""What is measured of an arm, as means over its seeds."""

from collections.abc import Iterable, Sequence
from statistics import fmean

from w2s_ray.report.arm_findings import Answers, Calibration, Cost, Link
from w2s_ray.report.arms import DistinctArm
from w2s_ray.report.evidence import Evidence
from w2s_ray.report.measures import ANSWERS, CALIBRATION, COST, LABELS, RELATION, Beside, Measures, cost, measure


def measured(evidence: Evidence, arm: DistinctArm, seeds: Sequence[int]) -> dict[str, object]:
    """Return the parts of an arm's summary that are means over its judged seeds."""
    identities = [arm.identities[seed] for seed in seeds]
    beside = [Beside(arm.floors.get(seed), arm.ceilings.get(seed)) for seed in seeds]
    found = [measure(evidence, *each) for each in zip(identities, beside, strict=True)]
    means = {name: mean(each[name] for each in found) for name in (*CALIBRATION, *ANSWERS, *RELATION, *LABELS)}
    parts: dict[str, object] = {"cost": _cost(evidence, arm)}
    if means["ece"] is not None:
        parts["calibration"] = Calibration.model_validate({name: means[name] for name in CALIBRATION})
    if means["allowed_share"] is not None:
        parts["answers"] = Answers.model_validate({name: means[name] for name in ANSWERS})
    if evidence.stages[identities[0]].supervisors:
        parts["link"] = _link(evidence, arm, seeds, means)
    return parts


def mean(values: Iterable[float | None]) -> float | None:
    """Return the mean of the values that are there; None where none is."""
    known = [value for value in values if value is not None]
    return fmean(known) if known else None


def _link(evidence: Evidence, arm: DistinctArm, seeds: Sequence[int], means: Measures) -> Link:
    identities = arm.identities
    first = identities[seeds[0]]
    supervisors = [evidence.stages[each] for each in evidence.stages[first].supervisors]
    labellings = {
        seed: evidence.labellings[identities[seed]] for seed in seeds if identities[seed] in evidence.labellings
    }
    return Link.model_validate(
        {
            "supervisors": tuple(f"{stage.level} ({stage.arm})" for stage in supervisors),
            "split": "+".join(part.split.name for part in evidence.stages[first].spec.train),
            "num_examples": mean(found.num_examples for found in labellings.values()),
            "degenerate": {seed: found.degenerate for seed, found in labellings.items() if found.degenerate},
            **{name: means[name] for name in (*RELATION, *LABELS)},
        }
    )


def _cost(evidence: Evidence, arm: DistinctArm) -> Cost:
    found = [cost(evidence, identity) for identity in arm.identities.values()]
    means = {name: mean(each.get(name) for each in found) for name in COST}
    return Cost.model_validate({"num_parameters": evidence.num_parameters.get(arm.level), **means})
