"""Results as data frames: `students_frame`, which is also results.csv, and `stages_frame`, which is also stages.csv."""

from collections.abc import Iterator

import pandas as pd

from w2s_ray.report.arms import STUDENTS, DistinctArm, distinct_arms, floor_of, is_oracle, setting_of, trained_ceilings
from w2s_ray.report.evidence import Evidence, gather
from w2s_ray.report.findings import ArmSummary, Estimate, Summary
from w2s_ray.report.metrics import ESTIMATES, METRICS, Values, case_of, measure
from w2s_ray.report.summary import summary_of
from w2s_ray.spec.chain import Resolution
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore

STUDENT_PLACE = tuple("task chain method arm level".split())
"""The columns that identify a row of `students_frame`, with `point` in a study with a search."""
_STUDENT_NOTES = tuple(
    "pgr_undefined num_seeds seeds few_seeds below_untrained oracle point loss setting label num_test study".split()
)
_ENDS = {"_low": "low", "_high": "high", "_sd": "sd"}
"""Ends of the columns of an estimate, and its fields."""
STAGE_PLACE = tuple("study task chain path method point seed level arm loss setting oracle stage supervisor".split())
"""The columns that identify a row of `stages_frame`."""


def student_columns() -> tuple[str, ...]:
    """Return the columns of `students_frame`: of each estimate the value, its interval and its seeds' deviation."""
    parts = [name + end for name in ESTIMATES for end in ("", *_ENDS)]
    return (*STUDENT_PLACE, *parts, *_STUDENT_NOTES, *METRICS)


def stage_columns() -> tuple[str, ...]:
    """Return the columns that every `stages_frame` has; those of the stages' records follow as `train/<name>`."""
    return (*STAGE_PLACE, "num_test", "accuracy", *METRICS)


def read_results(study: Study, resolution: Resolution, store: ArtifactStore) -> pd.DataFrame:
    """Return a row for each finished student of a study, over its seeds.

    Raises:
        DataError: if a stage was evaluated on other examples than the task's test set.
        StoreError: if an artifact is damaged.
    """
    evidence = gather(study, resolution, store)
    return students_frame(study, evidence, summary_of(study, evidence))


def read_stages(study: Study, resolution: Resolution, store: ArtifactStore) -> pd.DataFrame:
    """Return a row for each finished stage at each of its places in a chain, for one seed each.

    Raises:
        DataError: if a stage was evaluated on other examples than the task's test set.
        StoreError: if an artifact is damaged.
    """
    return stages_frame(study, gather(study, resolution, store))


def students_frame(study: Study, evidence: Evidence, summary: Summary) -> pd.DataFrame:
    """Return the results of a study whose evidence is read already, one row per student over its seeds.

    A student that several methods or chains share has a row in each, with the same `label`. A PGR that is undefined is
    empty, and `pgr_undefined` is the reason.
    """
    arms = {arm.id: arm for arm in summary.arms}
    rows = [
        row
        for arm in distinct_arms(evidence.chains, study.ladder)
        if arm.id in arms and arms[arm.id].accuracy is not None
        for row in _student_rows(study.name, arm, arms[arm.id], summary.tasks[arm.task].num_test)
    ]
    return pd.DataFrame(rows, columns=student_columns())


def _student_rows(study: str, distinct: DistinctArm, arm: ArmSummary, num_test: int) -> Iterator[dict[str, object]]:
    """Yield a row for each place of one student; none for another arm."""
    values = {
        "pgr_undefined": arm.pgr_undefined,
        "num_seeds": arm.num_seeds,
        "seeds": " ".join(map(str, arm.pgr_seeds or arm.seeds)),
        "few_seeds": arm.few_seeds,
        "below_untrained": arm.is_below_untrained if arm.above_untrained is not None else None,
        "oracle": arm.oracle,
        "loss": arm.loss,
        "setting": arm.setting,
        "label": arm.label,
        "num_test": num_test,
        "study": study,
        **arm.metrics,
    }
    for name in ESTIMATES:
        estimate: Estimate | None = getattr(arm, name)
        values |= {name: estimate.value if estimate is not None else None}
        values |= {f"{name}{end}": getattr(estimate, field, None) for end, field in _ENDS.items()}
    for place in distinct.places:
        if place.arm in STUDENTS:
            path, point = "-".join(place.path), place.point.label if place.point is not None else None
            own = {"task": arm.task, "chain": path, "method": place.method, "arm": place.arm, "level": arm.level}
            yield {**own, **values, "point": point}


def stages_frame(study: Study, evidence: Evidence) -> pd.DataFrame:
    """Return the results of a study whose evidence is read already, one row per stage at its place in a chain.

    A stage that several chains share has several rows, with one identity in the column `stage`. Unfinished stages are
    absent.
    """
    known: dict[tuple[str, str | None, str | None], Values] = {}
    rows = []
    for chain in evidence.chains:
        for stage in chain.stages:
            identity = stage.identity
            if identity not in evidence.predictions:
                continue
            key = (identity, floor_of(chain), trained_ceilings(stage, evidence.stages)[0])
            if key not in known:
                case = case_of(evidence, *key)
                is_right_N = case.predictions.predicted_N == case.truth_N
                known[key] = {"num_test": len(is_right_N), "accuracy": float(is_right_N.mean()), **measure(case)}
            record = evidence.records.get(identity)
            rows.append(
                {
                    "study": study.name,
                    "task": chain.task,
                    "chain": chain.name,
                    "path": "-".join(chain.path),
                    "method": chain.method,
                    "point": chain.point.label if chain.point is not None else None,
                    "seed": chain.seed,
                    "level": stage.level,
                    "arm": stage.arm,
                    "loss": stage.spec.loss.label,
                    "setting": setting_of(stage.spec),
                    "oracle": is_oracle(study, evidence.stages, stage),
                    "stage": identity,
                    "supervisor": evidence.supervisor(identity) or None,
                    **known[key],
                    **{f"train/{name}": value for name, value in (record.metrics if record else {}).items()},
                }
            )
    recorded = sorted({name for row in rows for name in row} - set(stage_columns()))
    return pd.DataFrame(rows, columns=[*stage_columns(), *recorded])
