"""Reads a study from its store: test predictions, training records, and the quality of each student's weak labels.

All arms of a task are evaluated on the same examples. Predictions are joined by example id, and a stage that misses an
example of the test set or has an extra one is an error.

A class is an integer already. A written answer becomes one here, the same integer for the same text throughout a task,
so that the rest of the report treats both alike. Shapes: N test examples, C classes, S seeds.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow.compute as pc

from w2s_ray.data.labels import combined, join, join_answers, learnt
from w2s_ray.data.prepare import PreparedTask, load_prepared
from w2s_ray.data.splits import rows_of_split
from w2s_ray.errors import DataError
from w2s_ray.science import BoolArray, FloatArray, IntArray
from w2s_ray.science.metrics import Spread, by_length, degeneracy, hard, majority, spread
from w2s_ray.spec.base import Kind
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution, distinct_stages
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.identity import short
from w2s_ray.spec.labels import LabelledSplit, SplitSpec, WeakLabels
from w2s_ray.spec.search import SearchResult
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.record import Record
from w2s_ray.store.search_result import read_failures, read_search_result


@dataclass(frozen=True)
class EvalSet:
    """The test examples of one task, in the order of all predictions."""

    ids: tuple[str, ...]
    truth_N: IntArray
    """The true class, or the integer of the true answer."""
    groups_N: IntArray
    """Related examples have the same group."""
    strata_N: npt.NDArray[np.str_]
    """Name of each example's stratum; empty where it has none."""
    class_names: tuple[str, ...]
    kind: Kind


@dataclass(frozen=True)
class EvalPredictions:
    """The predictions of one stage for its task's test set."""

    task: str
    predicted_N: IntArray
    """The most probable class, or the integer of the answer."""
    probs_NC: FloatArray | None = None
    """None for answers."""
    is_allowed_N: BoolArray | None = None
    """Whether the task's rule allows the answer; None for classes."""
    is_accepted_N: BoolArray | None = None
    """Whether the answer is as good as the true one; None for classes."""


@dataclass(frozen=True)
class LabelQuality:
    """The weak labels of a student's training examples, compared with ground truth."""

    num_examples: int
    accuracy: float
    spread: Spread
    allowed_share: float | None
    """Share of written answers that the task's rule allows; None for classes."""
    degenerate: str | None
    """The problem, where nearly all labels are the same."""


@dataclass
class Evidence:
    """Everything that a report is computed from."""

    chains: tuple[Chain, ...]
    stages: dict[str, PlannedStage]
    """Every distinct stage of the study, by identity, finished or not."""
    tests: dict[str, EvalSet] = field(default_factory=dict)
    """By task."""
    records: dict[str, Record] = field(default_factory=dict)
    """Those of finished stages, by identity."""
    predictions: dict[str, EvalPredictions] = field(default_factory=dict)
    """By the stage's identity, or by `supervisor` for several supervisors combined."""
    labels: dict[str, LabelQuality] = field(default_factory=dict)
    """By the student's identity."""
    baselines: dict[str, dict[str, BoolArray]] = field(default_factory=dict)
    """By task and name, whether a trivial predictor is right (S × N)."""
    num_parameters: dict[str, int | None] = field(default_factory=dict)
    """By level."""
    search: SearchResult | None = None
    failures: dict[str, str] = field(default_factory=dict)
    """Why a chain failed, by the chain's name with its searched values."""

    def supervisor(self, identity: str) -> str:
        """Return the key in `predictions` of a student's supervisors; empty for a stage without one."""
        stage = self.stages[identity]
        if len(stage.supervisors) < 2:
            return "".join(stage.supervisors)
        return f"{_weak_labels(stage).combine} {'+'.join(stage.supervisors)}"


def gather(study: Study, resolution: Resolution, store: ArtifactStore) -> Evidence:
    """Read what the store has of the study; unfinished stages are absent.

    Raises:
        DataError: if a stage was evaluated on other examples than the task's test set.
        StoreError: if an artifact is damaged.
    """
    search = read_search_result(study, store)
    reader = _Reader(store)
    evidence = reader.gather(compile_study(study, resolution, search))
    evidence.search = search
    evidence.failures = read_failures(study, store).chains
    evidence.num_parameters = {level: model.num_parameters for level, model in resolution.models.items()}
    for task in evidence.tests:
        floors = [stage for stage in evidence.stages.values() if stage.task == task and stage.arm == "floor"]
        evidence.baselines[task] = reader.baselines(floors)
    return evidence


def gather_chains(chains: tuple[Chain, ...], store: ArtifactStore) -> Evidence:
    """Read what the store has of these chains, without baselines, search and failures; errors as in `gather`."""
    return _Reader(store).gather(chains)


class _Reader:
    """Reads predictions and the examples that they belong to; each test set once."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._tests: dict[SplitSpec, EvalSet] = {}
        self._answer_numbers: dict[str, dict[str, int]] = defaultdict(dict)
        """The integer of each answer, by the task's fingerprint."""

    def gather(self, chains: tuple[Chain, ...]) -> Evidence:
        evidence = Evidence(chains=chains, stages=distinct_stages(chains))
        for identity, stage in evidence.stages.items():
            record = self._store.find(identity)
            if record is not None:
                evidence.records[identity] = record
            predictions = self._test_predictions(stage)
            if predictions is None:
                continue
            evidence.predictions[identity] = predictions
            evidence.tests[stage.task] = self._test_set(stage)
            labels = self._label_quality(stage)
            if labels is not None:
                evidence.labels[identity] = labels
            key = evidence.supervisor(identity)
            if len(stage.supervisors) > 1 and key not in evidence.predictions:
                ensemble = self._ensemble(stage, [evidence.stages[supervisor] for supervisor in stage.supervisors])
                evidence.predictions |= {key: ensemble} if ensemble is not None else {}
        return evidence

    def baselines(self, floors: Sequence[PlannedStage]) -> dict[str, BoolArray]:
        """Return whether the majority class and the text length predict the truth (S × N).

        Both are fitted on the ground truth that a floor learns from, once for floors that learn from the same examples.
        """
        correct_SN: dict[str, list[BoolArray]] = defaultdict(list)
        for split, floor in {floor.spec.train[0].split: floor for floor in floors}.items():
            assert floor.test_prediction is not None, "every floor predicts the test set"
            test = self._test_set(floor)
            prepared = load_prepared(self._store, split.task)
            rows, test_rows = rows_of_split(prepared, split), rows_of_split(prepared, floor.test_prediction.split)
            train_N = self._truth(prepared, rows)
            correct_SN["majority"].append(np.equal(test.truth_N, majority(train_N)))
            if prepared.is_classified:
                predicted_N = by_length(_lengths(prepared, rows), train_N, _lengths(prepared, test_rows))
                correct_SN["length"].append(np.equal(test.truth_N, predicted_N))
        return {name: np.stack(correct) for name, correct in correct_SN.items()}

    def _test_set(self, stage: PlannedStage) -> EvalSet:
        prediction = stage.test_prediction
        assert prediction is not None, "the stage predicts the test set"
        split = prediction.split
        if split not in self._tests:
            prepared = load_prepared(self._store, split.task)
            rows = rows_of_split(prepared, split)
            columns = prepared.table().select(["group", "stratum"]).take(rows).to_pydict()
            _, groups_N = np.unique(np.array(columns["group"], dtype=str), return_inverse=True)
            self._tests[split] = EvalSet(
                ids=tuple(prepared.ids(rows)),
                truth_N=self._truth(prepared, rows),
                groups_N=groups_N,
                strata_N=np.array([name or "" for name in columns["stratum"]], dtype=str),
                class_names=prepared.class_names,
                kind=prepared.kind,
            )
        return self._tests[split]

    def _test_predictions(self, stage: PlannedStage) -> EvalPredictions | None:
        """Return the stage's predictions in the order of the test set; None where they are not made yet."""
        prediction = stage.test_prediction
        if prediction is None or self._store.find(prediction.identity) is None:
            return None
        test = self._test_set(stage)
        name = f"test predictions of {stage.level} ({stage.arm}, {short(stage.identity)})"
        if test.kind != "answers":
            predictions = self._store.read_predictions(prediction.identity)
            _check_size(name, len(predictions.ids), len(test.ids))
            probs_NC = join(test.ids, predictions, stage.spec.num_classes, name)
            return EvalPredictions(stage.task, hard(probs_NC), probs_NC=probs_NC)
        stored = self._store.read_answers(prediction.identity)
        _check_size(name, len(stored.ids), len(test.ids))
        answers = join_answers(test.ids, stored, name)
        predicted_N = self._numbers(prediction.split.task, answers.texts)
        # The task's judge is slow, so it gets only the answers that are allowed and differ from the true one.
        is_accepted_N = predicted_N == test.truth_N
        (open_M,) = np.nonzero(~is_accepted_N & answers.is_allowed_N)
        prepared = load_prepared(self._store, prediction.split.task)
        texts = [answers.texts[row] for row in open_M]
        is_accepted_N[open_M] = prepared.accepted(rows_of_split(prepared, prediction.split)[open_M], texts)
        return EvalPredictions(stage.task, predicted_N, is_allowed_N=answers.is_allowed_N, is_accepted_N=is_accepted_N)

    def _ensemble(self, student: PlannedStage, supervisors: Sequence[PlannedStage]) -> EvalPredictions | None:
        """Combine the test predictions of several supervisors as for this student; None where some are missing."""
        tests = [stage.test_prediction for stage in supervisors]
        identities = tuple(test.identity for test in tests if test is not None)
        labels = _weak_labels(student).model_copy(update={"predictions": identities})
        if len(identities) < len(tests) or any(self._store.find(source) is None for source in labels.sources):
            return None
        prepared = load_prepared(self._store, student.spec.train[-1].split.task)
        test = self._test_set(supervisors[0])
        probs_NC = combined(self._store, prepared, test.ids, labels, student.spec.num_classes)
        return EvalPredictions(student.task, hard(probs_NC), probs_NC=probs_NC)

    def _label_quality(self, stage: PlannedStage) -> LabelQuality | None:
        """Compare the weak labels that the stage learned from with the truth; None where they are not in the store."""
        parts = [part for part in stage.spec.train if isinstance(part.labels, WeakLabels)]
        if not parts or any(self._store.find(source) is None for part in parts for source in part.labels.sources):
            return None
        prepared = load_prepared(self._store, parts[0].split.task)
        are_answers = prepared.kind == "answers"
        if are_answers:
            columns = [self._written_labels(prepared, part) for part in stage.spec.train]
            labels_N, truth_N, is_allowed_N = (np.concatenate(column) for column in zip(*columns, strict=True))
            allowed_share = float(is_allowed_N.mean())
        else:
            rows_N, labels_NC = learnt(self._store, prepared, stage.spec)
            labels_N, truth_N, allowed_share = hard(labels_NC), prepared.labels(rows_N), None
        label_spread = spread(labels_N)
        return LabelQuality(
            num_examples=len(labels_N),
            accuracy=float((labels_N == truth_N).mean()),
            spread=label_spread,
            allowed_share=allowed_share,
            degenerate=degeneracy(label_spread, are_answers=are_answers),
        )

    def _written_labels(self, prepared: PreparedTask, part: LabelledSplit) -> tuple[IntArray, IntArray, BoolArray]:
        """Return the answers that a supervisor wrote for a split, the true ones, and which the rule allows."""
        rows_N = rows_of_split(prepared, part.split)
        (source,) = part.labels.sources
        written = join_answers(prepared.ids(rows_N), self._store.read_answers(source), f"answers {short(source)}")
        labels_N = self._numbers(prepared.fingerprint, written.texts)
        return labels_N, self._truth(prepared, rows_N), written.is_allowed_N

    def _truth(self, prepared: PreparedTask, rows_N: IntArray) -> IntArray:
        if prepared.kind == "answers":
            return self._numbers(prepared.fingerprint, prepared.others(rows_N))
        return prepared.labels(rows_N)

    def _numbers(self, task: str, texts: Sequence[str]) -> IntArray:
        """Return the integers of answers; surrounding white space is ignored."""
        numbers = self._answer_numbers[task]
        return np.array([numbers.setdefault(text.strip(), len(numbers)) for text in texts], dtype=np.int64)


def _weak_labels(student: PlannedStage) -> WeakLabels:
    labels = student.spec.train[-1].labels
    assert isinstance(labels, WeakLabels), "a stage with supervisors learns weak labels"
    return labels


def _lengths(prepared: PreparedTask, rows_N: IntArray) -> npt.NDArray[np.float64]:
    """Return each text's number of characters; for a pair, the first text's minus the second's."""
    columns = prepared.table().select(["text", "other"]).take(rows_N)
    lengths_N = np.asarray(pc.utf8_length(columns["text"]).to_numpy(), dtype=np.float64)
    if prepared.kind != "pairs":
        return lengths_N
    return lengths_N - np.asarray(pc.utf8_length(columns["other"]).to_numpy(), dtype=np.float64)


def _check_size(name: str, num_predicted: int, num_test: int) -> None:
    if num_predicted != num_test:
        raise DataError(
            f"{name} have {num_predicted} examples, but the test set has {num_test}",
            "delete the folder of these predictions; the next run makes them again",
        )
