"""Results as a data frame: one row for each stage of each chain that has been judged on the test set."""

from typing import Any

import numpy as np
import pandas as pd

from w2s_ray.report.evidence import Evidence, gather
from w2s_ray.science.metrics import accuracy, auroc, brier, calibration_error, hard
from w2s_ray.science.relations import relate
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution
from w2s_ray.spec.labels import GroundTruth
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore

COLUMNS = (
    "study task chain path method point seed level arm loss oracle stage supervisor num_test "
    "accuracy agreement agreement_supervisor_right agreement_supervisor_wrong ece brier auroc "
    "label_accuracy seconds tokens_per_second"
).split()
"""The columns that every frame has; a record's own figures follow as `train/<name>`."""


def read_results(study: Study, resolution: Resolution, store: ArtifactStore) -> pd.DataFrame:
    """Return what the store knows of the study's results.

    A row is a stage at its place in a chain, so a stage that serves several chains stands there several times, told
    by its identity in the column `stage`. Stages that are not finished are absent.

    Raises:
        DataError: when a stage was judged on other examples than the task's test set.
        StoreError: when an artifact is damaged.
    """
    return to_frame(study, gather(study, resolution, store))


def to_frame(study: Study, evidence: Evidence) -> pd.DataFrame:
    """Return the evidence as a frame."""
    figures = {identity: figures_of(evidence, identity) for identity in evidence.probs}
    rows = [
        {**_place(study, chain, stage), **figures[stage.identity]}
        for chain in evidence.chains
        for stage in chain.stages
        if stage.identity in figures
    ]
    extra = sorted({name for row in rows for name in row} - set(COLUMNS))
    return pd.DataFrame(rows, columns=[*COLUMNS, *extra])


def is_oracle(study: Study, stage: PlannedStage) -> bool:
    """Say whether a weakly supervised student was chosen by ground truth: its settings, or by its early stopping."""
    validation = stage.spec.validation
    weak = stage.arm not in ("floor", "ceiling", "pretraining")
    stops = stage.spec.optimisation.early_stopping is not None
    if weak and study.search is not None and study.search.choose_by == "oracle":
        return True
    return weak and stops and validation is not None and isinstance(validation.labels, GroundTruth)


def _place(study: Study, chain: Chain, stage: PlannedStage) -> dict[str, Any]:
    return {
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
        "oracle": is_oracle(study, stage),
        "stage": stage.identity,
        "supervisor": "+".join(stage.supervisors) or None,
    }


def figures_of(evidence: Evidence, identity: str) -> dict[str, Any]:
    """Return all that was measured of one stage that was judged."""
    stage = evidence.stages[identity]
    probs_NC, labels_N = evidence.probs[identity], evidence.tests[stage.task].labels_N
    record = evidence.records.get(identity)
    metrics = record.metrics if record is not None else {}
    labelling = evidence.labellings.get(identity)
    return {
        "num_test": len(labels_N),
        "accuracy": accuracy(probs_NC, labels_N),
        **_agreement(evidence, stage, probs_NC, labels_N),
        "ece": calibration_error(probs_NC, labels_N),
        "brier": brier(probs_NC, labels_N),
        "auroc": auroc(probs_NC, labels_N),
        "label_accuracy": labelling.accuracy if labelling is not None else None,
        "seconds": metrics.get("train_seconds"),
        "tokens_per_second": metrics.get("tokens_per_second"),
        **{f"train/{name}": value for name, value in metrics.items()},
    }


def _agreement(
    evidence: Evidence, stage: PlannedStage, probs_NC: np.ndarray, labels_N: np.ndarray
) -> dict[str, float | None]:
    """Agreement with the stage's supervisor on the test set, where it has one that was judged."""
    if not stage.supervisors or not all(each in evidence.probs for each in stage.supervisors):
        return {}
    supervisor_NC = np.mean([evidence.probs[each] for each in stage.supervisors], axis=0)
    found = relate(hard(probs_NC), hard(supervisor_NC), labels_N)
    return {
        "agreement": found.agreement,
        "agreement_supervisor_right": found.agreement_supervisor_right,
        "agreement_supervisor_wrong": found.agreement_supervisor_wrong,
    }
