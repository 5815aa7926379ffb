"""What the store knows of a study: each finished stage's test predictions and record, on one test set per task.

Every arm of a task is judged on the same examples. That is not taken on trust: predictions are joined by example id,
and a stage that lacks an example of the test set, or has one more, is an error.
"""

from dataclasses import dataclass, field

import numpy as np

from w2s_ray.report.reader import Labelling, Reader, TestPredictions, TestSet
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution, distinct_stages
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.labels import WeakLabels
from w2s_ray.spec.search import SearchResult
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.record import Record
from w2s_ray.store.search_result import read_failures, read_search_result


@dataclass
class Evidence:
    """All that a report is made from."""

    chains: tuple[Chain, ...]
    stages: dict[str, PlannedStage]
    """Every distinct stage of the study, by identity, finished or not."""
    tests: dict[str, TestSet] = field(default_factory=dict)
    """By task."""
    records: dict[str, Record] = field(default_factory=dict)
    """Of the stages that are trained, by identity."""
    predictions: dict[str, TestPredictions] = field(default_factory=dict)
    """By identity of the stage that made them, or by the name of several supervisors together."""
    labellings: dict[str, Labelling] = field(default_factory=dict)
    """By identity of the student."""
    baselines: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    """By task and name: whether what needs no understanding is right, per seed and test example (S × N)."""
    num_parameters: dict[str, int | None] = field(default_factory=dict)
    """By level."""
    found: SearchResult | None = None
    """What the study's search came to."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why a chain failed, by its name."""

    def supervisor(self, identity: str) -> str:
        """Return under which name the predictions of a student's supervisors stand, if they were judged."""
        stage = self.stages[identity]
        if len(stage.supervisors) < 2:
            return "".join(stage.supervisors)
        labels = stage.spec.train[-1].labels
        assert isinstance(labels, WeakLabels), "supervisors give weak labels"
        return f"{labels.combine} {'+'.join(stage.supervisors)}"


def gather(study: Study, resolution: Resolution, store: ArtifactStore) -> Evidence:
    """Read what the store has of the study; what is not finished is absent.

    Raises:
        DataError: when a stage was judged on other examples than the task's test set.
        StoreError: when an artifact is damaged.
    """
    found = read_search_result(study, store)
    chains = compile_study(study, resolution, found)
    reader = Reader(store)
    evidence = _gathered(chains, reader)
    evidence.found = found
    evidence.failures = read_failures(study, store)
    evidence.num_parameters = {level: model.num_parameters for level, model in resolution.models.items()}
    for task in evidence.tests:
        floors = [stage for stage in evidence.stages.values() if stage.task == task and stage.arm == "floor"]
        evidence.baselines[task] = reader.baselines(floors)
    return evidence


def gather_chains(chains: tuple[Chain, ...], store: ArtifactStore) -> Evidence:
    """Read what the store has of these chains; see `gather`. There are no baselines and no search."""
    return _gathered(chains, Reader(store))


def _gathered(chains: tuple[Chain, ...], reader: Reader) -> Evidence:
    evidence = Evidence(chains=chains, stages=distinct_stages(chains))
    for identity, stage in evidence.stages.items():
        record = reader.record(identity)
        if record is not None:
            evidence.records[identity] = record
        predicted = reader.test_predictions(stage)
        if predicted is None:
            continue
        evidence.predictions[identity] = predicted
        evidence.tests[stage.task] = reader.test_set(stage)
        labelling = reader.labelling(stage)
        if labelling is not None:
            evidence.labellings[identity] = labelling
        together = evidence.supervisor(identity)
        if len(stage.supervisors) > 1 and together not in evidence.predictions:
            pooled = reader.together(stage, [evidence.stages[each] for each in stage.supervisors])
            evidence.predictions |= {together: pooled} if pooled is not None else {}
    return evidence
