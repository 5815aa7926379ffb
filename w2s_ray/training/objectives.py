"""Objectives: a stage's examples, its validation and its predictions.

    objective        class            examples                      validation                 predictions
    classification   ClassObjective   text, probability per class   agreement with labels      class probabilities
    preference       ClassObjective   two texts, likewise           likewise                   likewise
                     (with a score: completions, likewise)
    answer           AnswerObjective  text and the answer after it  share of equal answers     greedy answers
    next_token       TextObjective    blocks of text                loss on held-out text      none

A prompted stage has the same validation and predictions, and trains on nothing. AnswerObjective and TextObjective are
in language_objectives.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import fields
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

from w2s_ray.data import labels
from w2s_ray.data.splits import rows_of_split
from w2s_ray.errors import StoreError, TrainingError
from w2s_ray.science import FloatArray, IntArray
from w2s_ray.science.metrics import accuracy
from w2s_ray.spec.identity import seeded_hash, short
from w2s_ray.spec.labels import LabelledSplit, SplitSpec
from w2s_ray.spec.stage import PredictionSpec, Prompt
from w2s_ray.store.predictions import LABELS_NAME, write
from w2s_ray.training.feed import Examples, Feeder, LabelledExamples, TokenRow
from w2s_ray.training.inputs import StageInputs
from w2s_ray.training.losses import BatchLoss, ClassBatchLoss
from w2s_ray.training.models.completions import (
    Completions,
    check_completions,
    class_completions,
    pair_completions,
    text_start,
)
from w2s_ray.training.models.network import Network, class_name_tokens, evaluating
from w2s_ray.training.models.prompts import Prompts, few_shots, prompt_tokens

AGREEMENT, ACCURACY, HELD_OUT = "validation_agreement", "validation_accuracy", "held_out_loss"
"""Metrics on Vi: agreement with its labels; with its truth (for reports and oracles only); loss on held-out text."""


class StageObjective(ABC):
    """A stage's inputs as its objective reads them."""

    def __init__(self, inputs: StageInputs) -> None:
        self._inputs, self._spec = inputs, inputs.spec

    @property
    @abstractmethod
    def examples(self) -> Examples:
        """The examples to learn."""

    @property
    def planned_lengths_N(self) -> IntArray:
        """Lengths by which optimizer batches are planned; they do not depend on the label source."""
        return self.examples.lengths_N

    def check(self, predictions: Sequence[PredictionSpec]) -> None:  # noqa: B027 (objectives that cut texts need none)
        """Check the examples of these predictions, before anything is trained.

        Raises:
            DataError: when one cannot be read.
        """

    @abstractmethod
    def truncated_ids(self) -> list[str]:
        """Return the ids of the examples that exceed the context and keep their last tokens.

        For a prompted stage: of the examples that its shots come from.
        """

    @abstractmethod
    def names(self, positions_N: IntArray) -> list[str]:
        """Return the ids of these examples, for messages."""

    def num_shots_N(self) -> IntArray | None:
        """Return the shots before each of those examples; None for a stage without shots."""
        return None

    @abstractmethod
    def loss(self) -> BatchLoss:
        """Return the loss of the examples."""

    @abstractmethod
    def validate(self, network: Network) -> dict[str, float]:
        """Return the network's metrics on Vi: `AGREEMENT` and `ACCURACY`, or `HELD_OUT`. Collective."""

    @abstractmethod
    def predict(self, network: Network, prediction: PredictionSpec) -> None:
        """Write the network's predictions for a split into the store. Collective."""

    @abstractmethod
    def write_labels(self, folder: Path) -> None:
        """Write the learned labels into the stage's folder; called when transforms changed them."""


class ClassObjective(StageObjective):
    """Texts, or pairs of texts, with a probability per class."""

    @cached_property
    def examples(self) -> LabelledExamples:
        return self._labelled(self._spec.train, *self._targets)

    def check(self, predictions: Sequence[PredictionSpec]) -> None:
        if self._spec.completion_score is None:
            return
        for prediction in predictions:
            rows_N = rows_of_split(self._inputs.prepared, prediction.split)
            self._completions(rows_N, prediction.context_tokens)
        if self._spec.validation is not None:
            self._completions(self._targets_of((self._spec.validation,))[0], self._spec.optimisation.context_tokens)

    def truncated_ids(self) -> list[str]:
        prepared, (rows_N, _) = self._inputs.prepared, self._targets
        context = self._spec.optimisation.context_tokens
        if self._spec.completion_score is not None:
            return prepared.ids(rows_N[self._completions(rows_N, context).is_cut_N])
        longer = self._inputs.tokens.are_longer(prepared.text_numbers(rows_N), context)
        return prepared.ids(rows_N[longer.reshape(-1, len(rows_N)).any(axis=0)])  # any text of an example

    def names(self, positions_N: IntArray) -> list[str]:
        return self._inputs.prepared.ids(self._targets[0][positions_N])

    def loss(self) -> BatchLoss:
        return ClassBatchLoss(self._spec.loss, self.examples, self._inputs.workers)

    def validate(self, network: Network) -> dict[str, float]:
        assert self._spec.validation is not None
        probs_NC = class_outputs(network, self._inputs.feeder(self._validation), self._spec.num_classes, _softmax)
        prepared = self._inputs.prepared
        truth_N = prepared.labels(rows_of_split(prepared, self._spec.validation.split))
        return {
            AGREEMENT: accuracy(probs_NC, self._validation.targets_NC.argmax(axis=1)),
            ACCURACY: accuracy(probs_NC, truth_N),
        }

    def predict(self, network: Network, prediction: PredictionSpec) -> None:
        inputs = self._inputs
        rows_N = rows_of_split(inputs.prepared, prediction.split)
        feeder = inputs.feeder(self.texts(rows_N, prediction.context_tokens, (prediction.split,)))
        if self._spec.score is None:
            probs_NC, logs_NC = class_outputs(network, feeder, self._spec.num_classes, _softmax), None
        else:
            logs_NC = class_outputs(network, feeder, self._spec.num_classes, _log_softmax)
            probs_NC = np.exp(logs_NC)
        ids = inputs.prepared.ids(rows_N)
        inputs.workers.on_rank_0(lambda: inputs.store.write_predictions(prediction, ids, probs_NC, logs_NC))

    def write_labels(self, folder: Path) -> None:
        rows_N, targets_NC = self._targets
        write(folder, self._inputs.prepared.ids(rows_N), targets_NC, LABELS_NAME)

    @cached_property
    def _targets(self) -> tuple[IntArray, FloatArray]:
        """Rows of the task and targets_NC that the stage learns."""
        return self._targets_of(self._spec.train)

    @cached_property
    def _validation(self) -> LabelledExamples:
        assert self._spec.validation is not None
        parts = (self._spec.validation,)
        return self._labelled(parts, *self._targets_of(parts))

    def _targets_of(self, parts: Sequence[LabelledSplit]) -> tuple[IntArray, FloatArray]:
        inputs, num_classes = self._inputs, self._spec.num_classes
        targets = [labels.targets(inputs.store, inputs.prepared, part, num_classes, inputs.features) for part in parts]
        return np.concatenate([rows for rows, _ in targets]), np.concatenate([probs for _, probs in targets])

    def _labelled(self, parts: Sequence[LabelledSplit], rows_N: IntArray, targets_NC: FloatArray) -> LabelledExamples:
        splits = [part.split for part in parts]
        texts = self.texts(rows_N, self._spec.optimisation.context_tokens, splits)
        ties_N = np.array([seeded_hash(id_) for id_ in self._inputs.prepared.ids(rows_N)], dtype=np.int64)
        read = {field.name: getattr(texts, field.name) for field in fields(texts)}
        return LabelledExamples(**read, targets_NC=targets_NC, ties_N=ties_N)

    def texts(self, rows_N: IntArray, context: int, splits: Sequence[SplitSpec]) -> Examples:
        """Return the texts of these rows, which are of `splits`; where completions are scored, one text for each."""
        if self._spec.completion_score is None:
            return self._inputs.texts(rows_N, context)
        completions = self._completions(rows_N, context)
        subtracted_NC = None if self._spec.reference is None else self._reference_logs(rows_N, context, splits)
        return Examples(
            tokens=completions.tokens,
            texts_per_example=len(completions.rows),
            first=completions.first,
            subtracted_NC=subtracted_NC,
        )

    def _completions(self, rows_N: IntArray, context: int) -> Completions:
        """Return the rows' completions; for calibration those without prompts come after those with them."""
        inputs, score = self._inputs, self._spec.completion_score
        assert score is not None
        if self._spec.objective == "preference":
            completions = self._pair_completions(rows_N, context)
            befores = [text_start(inputs.tokenizer)] * len(rows_N) if score.calibrate else []
        else:
            prompts = self._prompts(rows_N, context)
            completions = class_completions(prompts.rows, prompts.is_cut_N, self._class_names)
            befores = self._blanks(prompts.num_shots_N, context) if score.calibrate else []
        return completions.joined(completions.without_prompts(befores)) if befores else completions

    def _pair_completions(self, rows_N: IntArray, context: int) -> Completions:
        inputs, prepared = self._inputs, self._inputs.prepared
        numbers = prepared.text_numbers(rows_N).reshape(prepared.texts_per_example, -1)
        texts = [inputs.tokens.uncut(numbers_N) for numbers_N in numbers]
        return pair_completions(inputs.tokenizer, prepared.prompts(rows_N), texts, prepared.ids(rows_N), context)

    def _reference_logs(self, rows_N: IntArray, context: int, splits: Sequence[SplitSpec]) -> FloatArray:
        """Return the logarithms of the reference's probabilities: its scores, but for a constant per example."""
        ids: list[str] = []
        logs: list[FloatArray] = []
        for split in splits:
            prediction = self._spec.reference_prediction(split, context)
            kept = self._inputs.store.read_predictions(prediction.identity)
            if kept.logs_NC is None:
                raise StoreError(
                    f"predictions {short(prediction.identity)} of the reference have no logarithms",
                    "remove their folder; the next run makes them again",
                )
            ids += kept.ids
            logs.append(kept.logs_NC)
        return np.concatenate(logs)[
            labels.places(ids, self._inputs.prepared.ids(rows_N), "the reference's predictions")
        ]

    def num_shots_N(self) -> IntArray | None:
        spec = self._spec
        if not isinstance(spec.trainable, Prompt) or not spec.trainable.num_shots:
            return None
        return self._prompts(self._targets[0], spec.optimisation.context_tokens).num_shots_N

    def _prompts(self, rows_N: IntArray, context: int) -> Prompts:
        """Return the rows' prompts, with room for any class's name."""
        texts, room = self._inputs.prepared.texts(rows_N), self._room(context)
        return prompt_tokens(self._inputs.tokenizer, self._prompt, self._shots, texts, room)

    def _room(self, context: int) -> int:
        return context - max(len(name) for name in self._class_names)

    def _blanks(self, num_shots_N: IntArray, context: int) -> list[TokenRow]:
        """Return the prompts of texts without content, each with as many shots as that of its example."""
        tokenizer, room, blanks = self._inputs.tokenizer, self._room(context), dict[int, TokenRow]()
        for num in set(num_shots_N.tolist()):
            (row,) = prompt_tokens(tokenizer, self._prompt, self._shots[:num], [""], room).rows
            blanks[num] = row if len(row) else text_start(tokenizer)
        return [blanks[num] for num in num_shots_N.tolist()]

    @property
    def _prompt(self) -> Prompt:
        """The prompt of classes; models that are trained get no shots."""
        if isinstance(self._spec.trainable, Prompt):
            return self._spec.trainable
        assert self._spec.score is not None
        return Prompt(cue=self._spec.score.cue)

    @cached_property
    def _class_names(self) -> list[TokenRow]:
        names = class_name_tokens(self._spec, self._inputs.tokenizer)
        context = self._spec.optimisation.context_tokens
        check_completions(names, f"the class names {', '.join(self._spec.class_names)}", context - 1, context)
        return names

    @cached_property
    def _shots(self) -> list[str]:
        prompt, prepared = self._prompt, self._inputs.prepared
        if not prompt.num_shots:
            return []
        rows_N, targets_NC = self._targets
        classes = targets_NC.argmax(axis=1).tolist()
        names = [self._spec.class_names[number] for number in classes]
        ids, texts = prepared.ids(rows_N), prepared.texts(rows_N)
        return few_shots(prompt, ids, texts, names, self._spec.order_seed, classes)


_softmax = partial(torch.softmax, dim=-1)
_log_softmax = partial(torch.log_softmax, dim=-1)


def class_outputs(
    network: Network, feeder: Feeder[Examples], num_classes: int, squash: Callable[[torch.Tensor], torch.Tensor]
) -> FloatArray:
    """Return `squash` of the logits of every example of the feeder, [N, C], on every rank, in fp32. Collective.

    Raises:
        TrainingError: on every rank, when an output is not finite.
    """
    positions, outputs = list[IntArray](), list[torch.Tensor]()
    with evaluating(network):
        for batch in network.fed_by(feeder).sweep():
            outputs_BC = squash(network(*batch.inputs))
            if len(batch.positions):
                positions.append(batch.positions)
                outputs.append(outputs_BC)
    outputs_NC = np.empty((len(feeder.examples), num_classes), dtype=np.float32)
    own = (np.concatenate(positions), torch.cat(outputs).cpu().numpy()) if positions else None
    for share in feeder.workers.on_every_rank(lambda: own):
        if share is not None:
            outputs_NC[share[0]] = share[1]
    if not np.isfinite(outputs_NC).all():
        raise TrainingError(
            "the model's predictions are not finite", "lower optimisation.learning_rate, or check the data"
        )
    return outputs_NC
