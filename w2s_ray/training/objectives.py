"""Objectives: a stage's examples, its validation and its predictions.

    objective        class            examples                      validation                 predictions
    classification   ClassObjective   text, probability per class   agreement with labels      class probabilities
    preference       ClassObjective   two texts, likewise           likewise                   likewise
    answer           AnswerObjective  text and the answer after it  share of equal answers     greedy answers
    next_token       TextObjective    blocks of text                loss on held-out text      none

A prompted stage has the same validation and predictions, and trains on nothing. AnswerObjective and TextObjective are
in language_objectives.py.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from w2s_ray.data import labels
from w2s_ray.data.splits import rows_of_split
from w2s_ray.errors import TrainingError
from w2s_ray.science import BoolArray, FloatArray, IntArray
from w2s_ray.science.metrics import accuracy
from w2s_ray.spec.identity import seeded_hash
from w2s_ray.spec.labels import LabelledSplit
from w2s_ray.spec.stage import PredictionSpec, Prompt
from w2s_ray.store.predictions import LABELS_NAME, write
from w2s_ray.training.feed import Examples, Feeder, LabelledExamples, TokenRow
from w2s_ray.training.inputs import StageInputs
from w2s_ray.training.losses import BatchLoss, ClassBatchLoss
from w2s_ray.training.models.network import Network, class_name_tokens, evaluating
from w2s_ray.training.models.prompts import few_shot_prefix, prompt_tokens

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

    @abstractmethod
    def truncated_ids(self) -> list[str]:
        """Return the ids of the examples that exceed the context and keep their last tokens.

        For a prompted stage: of the examples that its shots come from.
        """

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
        return self._labelled(*self._targets)

    def truncated_ids(self) -> list[str]:
        prepared, (rows_N, _) = self._inputs.prepared, self._targets
        context = self._spec.optimisation.context_tokens
        if isinstance(self._spec.trainable, Prompt):
            return prepared.ids(rows_N[self._prompts(self._spec.trainable, rows_N, context)[1]])
        longer = self._inputs.tokens.are_longer(prepared.text_numbers(rows_N), context)
        return prepared.ids(rows_N[longer.reshape(-1, len(rows_N)).any(axis=0)])  # any text of an example

    def loss(self) -> BatchLoss:
        return ClassBatchLoss(self._spec.loss, self.examples, self._inputs.workers)

    def validate(self, network: Network) -> dict[str, float]:
        assert self._spec.validation is not None
        probs_NC = class_probabilities(network, self._inputs.feeder(self._validation), self._spec.num_classes)
        prepared = self._inputs.prepared
        truth_N = prepared.labels(rows_of_split(prepared, self._spec.validation.split))
        return {
            AGREEMENT: accuracy(probs_NC, self._validation.targets_NC.argmax(axis=1)),
            ACCURACY: accuracy(probs_NC, truth_N),
        }

    def predict(self, network: Network, prediction: PredictionSpec) -> None:
        inputs = self._inputs
        rows_N = rows_of_split(inputs.prepared, prediction.split)
        feeder = inputs.feeder(self._texts(rows_N, prediction.context_tokens))
        probs_NC = class_probabilities(network, feeder, self._spec.num_classes)
        ids = inputs.prepared.ids(rows_N)
        inputs.workers.on_rank_0(lambda: inputs.store.write_predictions(prediction, ids, probs_NC))

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
        return self._labelled(*self._targets_of((self._spec.validation,)))

    def _targets_of(self, parts: Sequence[LabelledSplit]) -> tuple[IntArray, FloatArray]:
        inputs, num_classes = self._inputs, self._spec.num_classes
        targets = [labels.targets(inputs.store, inputs.prepared, part, num_classes, inputs.features) for part in parts]
        return np.concatenate([rows for rows, _ in targets]), np.concatenate([probs for _, probs in targets])

    def _labelled(self, rows_N: IntArray, targets_NC: FloatArray) -> LabelledExamples:
        texts = self._texts(rows_N, self._spec.optimisation.context_tokens)
        return LabelledExamples(
            tokens=texts.tokens,
            texts_per_example=texts.texts_per_example,
            features_MD=texts.features_MD,
            targets_NC=targets_NC,
            ties_N=np.array([seeded_hash(id_) for id_ in self._inputs.prepared.ids(rows_N)], dtype=np.int64),
        )

    def _texts(self, rows_N: IntArray, context: int) -> Examples:
        """Return the rows' texts; for a prompt, one text for each class, which ends in the class's name."""
        prompt = self._spec.trainable
        if not isinstance(prompt, Prompt):
            return self._inputs.texts(rows_N, context)
        prompts, _ = self._prompts(prompt, rows_N, context)
        return Examples(
            tokens=[np.concatenate([row, name]) for name in self._class_names for row in prompts],
            texts_per_example=len(self._class_names),
        )

    def _prompts(self, prompt: Prompt, rows_N: IntArray, context: int) -> tuple[list[TokenRow], BoolArray]:
        """Return the rows' prompts, with room for any class's name, and which texts were cut."""
        room = context - max(len(name) for name in self._class_names)
        texts = self._inputs.prepared.texts(rows_N)
        return prompt_tokens(self._inputs.tokenizer, prompt, self._shots, texts, room)

    @cached_property
    def _class_names(self) -> list[TokenRow]:
        return class_name_tokens(self._spec, self._inputs.tokenizer)

    @cached_property
    def _shots(self) -> str:
        prompt, prepared = self._spec.trainable, self._inputs.prepared
        assert isinstance(prompt, Prompt)
        if not prompt.num_shots:
            return ""
        rows_N, targets_NC = self._targets
        names = [self._spec.class_names[number] for number in targets_NC.argmax(axis=1)]
        return few_shot_prefix(prompt, prepared.ids(rows_N), prepared.texts(rows_N), names, self._spec.order_seed)


def class_probabilities(network: Network, feeder: Feeder[Examples], num_classes: int) -> FloatArray:
    """Return softmax probs_NC of every example of the feeder, the same on every rank, in fp32. Collective.

    Raises:
        TrainingError: on every rank, when a probability is not finite.
    """
    examples, workers = feeder.examples, feeder.workers
    probs_NC = torch.zeros((len(examples), num_classes), device=workers.device)
    with evaluating(network):
        for batch in feeder.sweep():
            probs_BC = network(batch.tokens_RT, batch.last_R).softmax(dim=-1)
            if len(batch.positions):
                probs_NC[torch.from_numpy(batch.positions).to(workers.device)] = probs_BC
    gathered_NC = workers.sum(probs_NC).cpu().numpy().astype(np.float32)
    if not np.isfinite(gathered_NC).all():
        raise TrainingError(
            "the model's predictions are not finite", "lower optimisation.learning_rate, or check the data"
        )
    return gathered_NC
