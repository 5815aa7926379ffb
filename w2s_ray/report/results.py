"""Results as a data frame: one row for each stage of each chain that has been judged on the test set."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from w2s_ray.report.evidence import Evidence, gather
from w2s_ray.report.measures import NAMES, Beside, Measures, measure, record_metrics
from w2s_ray.report.settings import Ceilings, floor_of, setting_of
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution
from w2s_ray.spec.labels import GroundTruth, WeakLabels
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore

COLUMNS = (
    *"study task chain path method point seed level arm loss setting oracle stage supervisor num_parameters".split(),
    *NAMES,
)
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
    ceilings = Ceilings(evidence.chains)
    known: dict[tuple[str, Beside], Measures] = {}
    rows = []
    for chain in evidence.chains:
        for stage in chain.stages:
            if stage.identity not in evidence.predictions:
                continue
            beside = Beside(floor_of(chain), ceilings.of(chain, stage))
            key = (stage.identity, beside)
            if key not in known:
                known[key] = measure(evidence, *key)
            place = _place(study, evidence, chain, stage)
            rows.append({**place, **known[key], **record_metrics(evidence, stage.identity)})
    extra = sorted({name for row in rows for name in row} - set(COLUMNS))
    return pd.DataFrame(rows, columns=[*COLUMNS, *extra])


def is_oracle(study: Study, stages: Mapping[str, PlannedStage], stage: PlannedStage) -> bool:
    """Say whether a weakly supervised student had ground truth: for its settings, its early stopping or its labels.

    A student that learns from one that had ground truth has it second-hand. So has a `truth_chain`, whose supervisor
    learned the truth of its own examples. `stages` are all of the study's, by identity.
    """
    labels = [part.labels for part in stage.spec.train if isinstance(part.labels, WeakLabels)]
    if not labels:
        return False
    chosen = study.search is not None and study.search.choose_by == "oracle"
    stopping, validation = stage.spec.optimisation.early_stopping, stage.spec.validation
    by_truth = validation is not None and isinstance(validation.labels, GroundTruth)
    stopped = stopping is not None and (stopping.by == "oracle" or by_truth)
    learned = any(each.reads_truth for each in labels)
    supervisors = [stages[each] for each in stage.supervisors]
    second_hand = any(_learned_truth_beyond_s(each) or is_oracle(study, stages, each) for each in supervisors)
    return chosen or stopped or learned or second_hand


def _learned_truth_beyond_s(stage: PlannedStage) -> bool:
    """Whether a stage learned more truth than level 0, on whose S every student rests."""
    return any(isinstance(part.labels, GroundTruth) and part.split.name != "S" for part in stage.spec.train)


def _place(study: Study, evidence: Evidence, chain: Chain, stage: PlannedStage) -> dict[str, Any]:
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
        "setting": setting_of(stage.spec),
        "oracle": is_oracle(study, evidence.stages, stage),
        "stage": stage.identity,
        "supervisor": evidence.supervisor(stage.identity) or None,
        "num_parameters": evidence.num_parameters.get(stage.level),
    }
