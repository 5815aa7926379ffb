"""Reads the predictions of stages, and what they are held against, from the store; each test set once.

Classes are numbers already. Written answers become numbers here, the same number for the same text throughout a task,
so that whatever compares predictions serves both.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow.compute as pc

from w2s_ray.data.judging import accepted
from w2s_ray.data.labels import combined, join, join_answers, learnt
from w2s_ray.data.prepare import PreparedTask, load_prepared
from w2s_ray.data.splits import draw
from w2s_ray.errors import DataError
from w2s_ray.science.baselines import by_length, majority
from w2s_ray.science.degeneracy import Spread, degeneracy, spread
from w2s_ray.science.metrics import hard
from w2s_ray.spec.base import Kind
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.identity import short
from w2s_ray.spec.labels import LabelledSplit, SplitSpec, WeakLabels
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.predictions import Answers
from w2s_ray.store.record import Record


@dataclass(frozen=True)
class TestSet:
    """The examples on which all arms of a task are judged."""

    ids: tuple[str, ...]
    truth_N: np.ndarray
    """The true class, or the number of the true answer."""
    groups_N: np.ndarray
    """Related examples carry the same group."""
    strata_N: np.ndarray
    """Name of each example's stratum; empty where it has none."""
    class_names: tuple[str, ...]
    kind: Kind

    __test__ = False  # not a test, whatever pytest thinks of the name


@dataclass(frozen=True)
class TestPredictions:
    """What a stage said of each example of its task's test set."""

    task: str
    predicted_N: np.ndarray
    """The most probable class, or the number of the answer."""
    probs_NC: np.ndarray | None = None
    """A probability per class; None for answers."""
    is_allowed_N: np.ndarray | None = None
    """Whether the task's rule allows the answer; None for classes."""
    is_accepted_N: np.ndarray | None = None
    """Whether the answer is as good as the true one; None for classes."""

    __test__ = False


@dataclass(frozen=True)
class Labelling:
    """What a supervisor's labels for a student's training examples were worth, against ground truth."""

    split: str
    num_examples: int
    accuracy: float
    spread: Spread
    allowed_share: float | None
    """Of answers, those that the task's rule allows."""
    degenerate: str | None
    """What is wrong where the labels are nearly all one."""


class Reader:
    """Reads predictions and the examples they belong to."""

    def __init__(self, store: ArtifactStore) -> None:
        self._store = store
        self._tests: dict[SplitSpec, TestSet] = {}
        self._numbers: dict[str, dict[str, int]] = defaultdict(dict)
        """The number of each answer, by the task's fingerprint."""

    def record(self, identity: str) -> Record | None:
        """Return the record of a finished stage."""
        return self._store.find(identity)

    def test_set(self, stage: PlannedStage) -> TestSet:
        """Return the test set of the stage's task."""
        prediction = stage.test_prediction
        assert prediction is not None, "the stage was judged"
        split = prediction.split
        if split not in self._tests:
            self._tests[split] = self._read_test_set(load_prepared(self._store, split.task), split)
        return self._tests[split]

    def test_predictions(self, stage: PlannedStage) -> TestPredictions | None:
        """Return what the stage said of the test set, in its order; None where it has not yet.

        Raises:
            DataError: when it was judged on other examples.
        """
        prediction = stage.test_prediction
        if prediction is None or self._store.find(prediction.identity) is None:
            return None
        test = self.test_set(stage)
        name = f"test predictions of {stage.level} ({stage.arm}, {short(stage.identity)})"
        if test.kind == "answers":
            answers = self._store.read_answers(prediction.identity)
            _check_size(name, len(answers.ids), len(test.ids))
            return self._written(stage, test, prediction.split, join_answers(test.ids, answers, name))
        predictions = self._store.read_predictions(prediction.identity)
        _check_size(name, len(predictions.ids), len(test.ids))
        probs_NC = join(test.ids, predictions, stage.spec.num_classes, name)
        return TestPredictions(stage.task, hard(probs_NC), probs_NC=probs_NC)

    def _written(self, stage: PlannedStage, test: TestSet, split: SplitSpec, answers: Answers) -> TestPredictions:
        """What a stage wrote; only answers that are allowed and not the true one are left for the judge to accept."""
        numbers_N = self._numbered(split.task, answers.texts)
        is_accepted_N = numbers_N == test.truth_N
        prepared = load_prepared(self._store, split.task)
        (open_M,) = np.nonzero(~is_accepted_N & answers.is_allowed_N)
        texts = [answers.texts[place] for place in open_M]
        is_accepted_N[open_M] = accepted(prepared, draw(prepared, split)[open_M], texts)
        return TestPredictions(stage.task, numbers_N, is_allowed_N=answers.is_allowed_N, is_accepted_N=is_accepted_N)

    def together(self, student: PlannedStage, supervisors: Sequence[PlannedStage]) -> TestPredictions | None:
        """Return what several supervisors say of the test set together, combined as for this student.

        None where that cannot be known yet.
        """
        labels = student.spec.train[-1].labels
        assert isinstance(labels, WeakLabels), "supervisors give weak labels"
        tests = [each.test_prediction for each in supervisors]
        judged = labels.model_copy(update={"predictions": tuple(test.identity for test in tests if test is not None)})
        if len(judged.predictions) < len(tests) or any(self._store.find(each) is None for each in judged.sources):
            return None
        prepared = load_prepared(self._store, student.spec.train[-1].split.task)
        test = self.test_set(supervisors[0])
        probs_NC = combined(self._store, prepared, test.ids, judged, student.spec.num_classes)
        return TestPredictions(student.task, hard(probs_NC), probs_NC=probs_NC)

    def labelling(self, stage: PlannedStage) -> Labelling | None:
        """Return what the weak labels that the stage learned from are worth; None where they are gone."""
        parts = [part for part in stage.spec.train if isinstance(part.labels, WeakLabels)]
        if not parts or any(self._store.find(each) is None for part in parts for each in part.labels.sources):
            return None
        prepared = load_prepared(self._store, parts[0].split.task)
        are_answers = prepared.kind == "answers"
        read = self._answered if are_answers else self._classified
        labels_N, truth_N, allowed_N = read(prepared, stage)
        fallen = spread(labels_N)
        return Labelling(
            split="+".join(part.split.name for part in parts),
            num_examples=len(labels_N),
            accuracy=float((labels_N == truth_N).mean()),
            spread=fallen,
            allowed_share=float(allowed_N.mean()) if are_answers else None,
            degenerate=degeneracy(fallen, are_answers=are_answers),
        )

    def baselines(self, floors: Sequence[PlannedStage]) -> dict[str, np.ndarray]:
        """Return whether the majority and the length are right, by name (S × N).

        Both are fitted on what floors learn from, with its ground truth, once for floors that learn from the same.
        """
        found: dict[str, list[np.ndarray]] = defaultdict(list)
        for split, floor in {floor.spec.train[0].split: floor for floor in floors}.items():
            assert floor.test_prediction is not None, "a floor is judged"
            test = self.test_set(floor)
            prepared = load_prepared(self._store, split.task)
            rows, test_rows = draw(prepared, split), draw(prepared, floor.test_prediction.split)
            train_N = self._truth(prepared, rows)
            found["majority"].append(np.equal(test.truth_N, majority(train_N)))
            if prepared.is_classified:
                predicted_N = by_length(_lengths(prepared, rows), train_N, _lengths(prepared, test_rows))
                found["length"].append(np.equal(test.truth_N, predicted_N))
        return {name: np.stack(correct) for name, correct in found.items()}

    def _read_test_set(self, prepared: PreparedTask, split: SplitSpec) -> TestSet:
        rows = draw(prepared, split)
        columns = prepared.table().select(["group", "stratum"]).take(rows).to_pydict()
        _, group_of_N = np.unique(np.array(columns["group"], dtype=str), return_inverse=True)
        return TestSet(
            ids=tuple(prepared.ids(rows)),
            truth_N=self._truth(prepared, rows),
            groups_N=group_of_N,
            strata_N=np.array([name or "" for name in columns["stratum"]], dtype=str),
            class_names=prepared.class_names,
            kind=prepared.kind,
        )

    def _truth(self, prepared: PreparedTask, rows_N: np.ndarray) -> np.ndarray:
        if prepared.kind == "answers":
            return self._numbered(prepared.fingerprint, prepared.others(rows_N))
        return prepared.labels(rows_N)

    def _classified(self, prepared: PreparedTask, stage: PlannedStage) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Hard labels that the stage learned, the truth, and that all are allowed."""
        rows_N, labels_NC = learnt(self._store, prepared, stage.spec)
        return hard(labels_NC), prepared.labels(rows_N), np.ones(len(rows_N), dtype=bool)

    def _answered(self, prepared: PreparedTask, stage: PlannedStage) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Labels that were written, the true answers, and which are allowed."""
        found = [self._answers_to(prepared, part) for part in stage.spec.train]
        labels_N, truth_N, allowed_N = (np.concatenate(each) for each in zip(*found, strict=True))
        return labels_N, truth_N, allowed_N

    def _answers_to(self, prepared: PreparedTask, part: LabelledSplit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same of one split."""
        rows_N = draw(prepared, part.split)
        (source,) = part.labels.sources
        written = join_answers(prepared.ids(rows_N), self._store.read_answers(source), f"answers {short(source)}")
        numbers_N = self._numbered(prepared.fingerprint, written.texts)
        return numbers_N, self._truth(prepared, rows_N), written.is_allowed_N

    def _numbered(self, task: str, texts: Sequence[str]) -> np.ndarray:
        """The numbers of answers; white space around them says nothing."""
        numbers = self._numbers[task]
        return np.array([numbers.setdefault(text.strip(), len(numbers)) for text in texts], dtype=np.int64)


def _lengths(prepared: PreparedTask, rows_N: np.ndarray) -> np.ndarray:
    """Characters of each text; of a pair, the first's less the second's."""
    columns = prepared.table().select(["text", "other"]).take(rows_N)
    lengths_N = np.asarray(pc.utf8_length(columns["text"]).to_numpy(), dtype=np.float64)
    if prepared.kind != "pairs":
        return lengths_N
    return lengths_N - np.asarray(pc.utf8_length(columns["other"]).to_numpy(), dtype=np.float64)


def _check_size(name: str, num_predicted: int, num_test: int) -> None:
    if num_predicted != num_test:
        raise DataError(
            f"{name} hold {num_predicted} examples, the test set {num_test}",
            "every arm is judged on the same test examples",
            "remove the predictions' folder; the next run makes them again",
        )
