"""What the store knows of a study: each finished stage's test predictions and record, on one test set per task.

Every arm of a task is judged on the same examples. That is not taken on trust: predictions are joined by example id,
and a stage that lacks an example of the test set, or has one more, is an error.
"""

from dataclasses import dataclass, field

import numpy as np

from w2s_ray.data.labels import join, learnt
from w2s_ray.data.prepare import PreparedTask, load_prepared
from w2s_ray.data.splits import draw
from w2s_ray.errors import DataError
from w2s_ray.science.metrics import accuracy, degeneracy_warning
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution, distinct_stages
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.identity import short
from w2s_ray.spec.labels import SplitSpec, WeakLabels
from w2s_ray.spec.search import Found
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.found import read_failures, read_found
from w2s_ray.store.record import Record


@dataclass(frozen=True)
class TestSet:
    """The examples on which all arms of a task are judged."""

    ids: tuple[str, ...]
    labels_N: np.ndarray
    groups_N: np.ndarray
    """Related examples carry the same group."""
    class_names: tuple[str, ...]

    __test__ = False  # not a test, whatever pytest thinks of the name


@dataclass(frozen=True)
class Labelling:
    """What a supervisor's labels for a student's training examples were worth, against ground truth."""

    accuracy: float
    warning: str | None
    """Said where the labels are nearly all of one class."""


@dataclass
class Evidence:
    """All that a report is made from."""

    chains: tuple[Chain, ...]
    tests: dict[str, TestSet] = field(default_factory=dict)
    """By task."""
    stages: dict[str, PlannedStage] = field(default_factory=dict)
    """Every distinct stage of the study, by identity, finished or not."""
    records: dict[str, Record] = field(default_factory=dict)
    """Of the stages that are trained, by identity."""
    probs: dict[str, np.ndarray] = field(default_factory=dict)
    """Test predictions (N × C, in the order of the test set), by identity of the stage that made them."""
    labellings: dict[str, Labelling] = field(default_factory=dict)
    """By identity of the student."""
    found: Found | None = None
    """What the study's search came to."""
    failures: dict[str, str] = field(default_factory=dict)
    """Why a chain failed, by its name."""


def gather(study: Study, resolution: Resolution, store: ArtifactStore) -> Evidence:
    """Read what the store has of the study; what is not finished is absent.

    Raises:
        DataError: when a stage was judged on other examples than the task's test set.
        StoreError: when an artifact is damaged.
    """
    found = read_found(study, store)
    evidence = gather_chains(compile_study(study, resolution, found), store)
    evidence.found = found
    evidence.failures = read_failures(study, store)
    return evidence


def gather_chains(chains: tuple[Chain, ...], store: ArtifactStore) -> Evidence:
    """Read what the store has of these chains; see `gather`."""
    found = Evidence(chains=chains, stages=distinct_stages(chains))
    reader = _Reader(store)
    for identity, stage in found.stages.items():
        record = store.find(identity)
        if record is not None:
            found.records[identity] = record
        probs_NC = reader.test_predictions(stage)
        if probs_NC is None:
            continue
        found.probs[identity] = probs_NC
        found.tests[stage.task] = reader.test_set(stage)
        supervisors = " and ".join(_described(found.stages[each]) for each in stage.supervisors)
        labelling = reader.labelling(stage, supervisors) if supervisors else None
        if labelling is not None:
            found.labellings[identity] = labelling
    return found


def _described(stage: PlannedStage) -> str:
    return f"{stage.level} ({stage.arm}, {short(stage.identity)})"


class _Reader:
    """Reads predictions and the examples they belong to, each test set once."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._tests: dict[SplitSpec, TestSet] = {}

    def test_set(self, stage: PlannedStage) -> TestSet:
        """The test set of the stage's task."""
        prediction = stage.test_prediction
        assert prediction is not None, "the stage was judged"
        split = prediction.split
        if split not in self._tests:
            self._tests[split] = _test_set(load_prepared(self._store, split.task), split)
        return self._tests[split]

    def test_predictions(self, stage: PlannedStage) -> np.ndarray | None:
        """The stage's probabilities for the test set, in its order; None where it has made none yet."""
        prediction = stage.test_prediction
        if prediction is None or self._store.find(prediction.identity) is None:
            return None
        test = self.test_set(stage)
        predictions = self._store.read_predictions(prediction.identity)
        name = f"test predictions of {_described(stage)}"
        probs_NC = join(test.ids, predictions, stage.spec.num_classes, name)
        if len(predictions.ids) != len(test.ids):
            raise DataError(
                f"{name} hold {len(predictions.ids)} examples, the test set {len(test.ids)}",
                "every arm is judged on the same test examples",
                "remove the predictions' folder; the next run makes them again",
            )
        return probs_NC

    def labelling(self, stage: PlannedStage, supervisor: str) -> Labelling | None:
        """What the weak labels that the stage learned from are worth; None where they are gone."""
        parts = [part for part in stage.spec.train if isinstance(part.labels, WeakLabels)]
        if not parts or any(self._store.find(each) is None for part in parts for each in part.labels.sources):
            return None
        prepared = load_prepared(self._store, parts[0].split.task)
        rows_N, labels_NC = learnt(self._store, prepared, stage.spec)
        truth_N = prepared.labels(rows_N)
        splits = "+".join(part.split.name for part in parts)
        return Labelling(
            accuracy(labels_NC, truth_N), degeneracy_warning(labels_NC, f"{stage.task}: {supervisor}", splits)
        )


def _test_set(prepared: PreparedTask, split: SplitSpec) -> TestSet:
    rows = draw(prepared, split)
    groups = np.asarray(prepared.table()["group"].to_numpy(zero_copy_only=False))[rows]
    _, group_of_N = np.unique(groups.astype(str), return_inverse=True)
    return TestSet(tuple(prepared.ids(rows)), prepared.labels(rows), group_of_N, prepared.class_names)
