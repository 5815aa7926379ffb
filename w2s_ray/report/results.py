"""Results as a data frame, which is also results.csv: one row for each stage of each chain with test predictions."""

import pandas as pd

from w2s_ray.report.arms import floor_of, is_oracle, setting_of, trained_ceilings
from w2s_ray.report.evidence import Evidence, gather
from w2s_ray.report.metrics import METRICS, Values, case_of, measure
from w2s_ray.spec.chain import Resolution
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore

PLACE = tuple("study task chain path method point seed level arm loss setting oracle stage supervisor".split())
"""The columns that identify a row."""


def columns() -> tuple[str, ...]:
    """Return the columns that every frame has; those of the stages' records follow as `train/<name>`."""
    return (*PLACE, "num_test", "accuracy", *METRICS)


def read_results(study: Study, resolution: Resolution, store: ArtifactStore) -> pd.DataFrame:
    """Return the results of a study.

    A row is a stage at its place in a chain, so a stage that several chains share has several rows, with one identity
    in the column `stage`. Unfinished stages are absent.

    Raises:
        DataError: if a stage was evaluated on other examples than the task's test set.
        StoreError: if an artifact is damaged.
    """
    return to_frame(study, gather(study, resolution, store))


def to_frame(study: Study, evidence: Evidence) -> pd.DataFrame:
    """Return the results of a study whose evidence is read already."""
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
    return pd.DataFrame(rows, columns=[*columns(), *sorted({name for row in rows for name in row} - set(columns()))])
