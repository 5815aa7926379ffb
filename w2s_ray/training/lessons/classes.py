"""Lessons of classes and of pairs."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from w2s_ray.data import labels
from w2s_ray.data.splits import draw
from w2s_ray.science.metrics import accuracy
from w2s_ray.spec.identity import seeded_hash
from w2s_ray.spec.labels import LabelledSplit
from w2s_ray.spec.stage import PredictionSpec, Prompt
from w2s_ray.store.predictions import LABELS_NAME, write
from w2s_ray.training.feed import Examples, FloatArray, IntArray, Labelled, TokenRow
from w2s_ray.training.lessons.protocol import ACCURACY, AGREEMENT, Material
from w2s_ray.training.models.network import Network, name_tokens
from w2s_ray.training.models.prompts import asked, shots
from w2s_ray.training.objectives import Classification, Objective
from w2s_ray.training.predict import predict


class ClassLesson:
    """Texts, or pairs of them, and a probability per class."""

    def __init__(self, material: Material) -> None:
        self._material, self._spec = material, material.spec

    @cached_property
    def examples(self) -> Labelled:
        """All that the stage learns from, with its labels."""
        return self._labelled(*self._learnt)

    @property
    def planned_lengths_N(self) -> IntArray:
        """Tokens of the texts; labels have none."""
        return self.examples.lengths_N

    def cut(self) -> list[str]:
        """Any of an example's texts may be the long one."""
        prepared, (rows_N, _) = self._material.prepared, self._learnt
        context = self._spec.optimisation.context_tokens
        if isinstance(self._spec.trainable, Prompt):
            return prepared.ids(rows_N[self._asked(self._spec.trainable, rows_N, context)[1]])
        longer = self._material.tokens.are_longer(prepared.text_numbers(rows_N), context)
        return prepared.ids(rows_N[longer.reshape(-1, len(rows_N)).any(axis=0)])

    def objective(self) -> Objective:
        """Soft labels, and the stage's loss."""
        return Classification(self._spec, self.examples, self._material.workers)

    def check(self, network: Network) -> dict[str, float]:
        """Compare the most probable classes with the labels' and with the truth."""
        validation = self._spec.validation
        assert validation is not None
        examples = self._validation
        probs_NC = predict(network, self._material.feeder(examples), self._spec.num_classes)
        truth_N = self._material.prepared.labels(draw(self._material.prepared, validation.split))
        return {
            AGREEMENT: accuracy(probs_NC, examples.targets_NC.argmax(axis=1)),
            ACCURACY: accuracy(probs_NC, truth_N),
        }

    def predict(self, network: Network, prediction: PredictionSpec) -> None:
        """Keep a probability per class."""
        material = self._material
        rows_N = draw(material.prepared, prediction.split)
        examples = self._texts(rows_N, prediction.context_tokens)
        probs_NC = predict(network, material.feeder(examples), self._spec.num_classes)
        ids = material.prepared.ids(rows_N)
        material.workers.led(lambda: material.store.write_predictions(prediction, ids, probs_NC))

    def keep_labels(self, folder: Path) -> None:
        """Keep a probability per class of each example that was learnt."""
        rows_N, targets_NC = self._learnt
        write(folder, self._material.prepared.ids(rows_N), targets_NC, LABELS_NAME)

    @cached_property
    def _learnt(self) -> tuple[IntArray, FloatArray]:
        return self._targets(self._spec.train)

    @cached_property
    def _validation(self) -> Labelled:
        assert self._spec.validation is not None
        return self._labelled(*self._targets((self._spec.validation,)))

    def _labelled(self, rows_N: IntArray, targets_NC: FloatArray) -> Labelled:
        texts = self._texts(rows_N, self._spec.optimisation.context_tokens)
        return Labelled(
            tokens=texts.tokens,
            texts_per_example=texts.texts_per_example,
            targets_NC=targets_NC,
            ties_N=np.array([seeded_hash(id_) for id_ in self._material.prepared.ids(rows_N)], dtype=np.int64),
        )

    def _targets(self, parts: Sequence[LabelledSplit]) -> tuple[IntArray, FloatArray]:
        material = self._material
        joined_ = [
            labels.targets(material.store, material.prepared, part, self._spec.num_classes, material.features)
            for part in parts
        ]
        return np.concatenate([rows for rows, _ in joined_]), np.concatenate([targets for _, targets in joined_])

    def _texts(self, rows_N: IntArray, context: int) -> Examples:
        """The rows' texts; for a prompt, once with the name of each class."""
        prompt = self._spec.trainable
        if isinstance(prompt, Prompt):
            before_each, _ = self._asked(prompt, rows_N, context)
            return Examples(
                tokens=[np.concatenate([before, name]) for name in self._names for before in before_each],
                texts_per_example=len(self._names),
            )
        return self._material.texts(rows_N, context)

    def _asked(self, prompt: Prompt, rows_N: IntArray, context: int) -> tuple[list[TokenRow], npt.NDArray[np.bool_]]:
        """The rows' prompts, with room for any class's name, and which texts were cut for it."""
        room = context - max(len(name) for name in self._names)
        texts = self._material.prepared.texts(rows_N)
        return asked(self._material.tokenizer, prompt, self._shots, texts, room)

    @cached_property
    def _names(self) -> list[TokenRow]:
        return name_tokens(self._spec, self._material.tokenizer)

    @cached_property
    def _shots(self) -> str:
        prompt, prepared = self._spec.trainable, self._material.prepared
        assert isinstance(prompt, Prompt)
        if not prompt.num_shots:
            return ""
        rows_N, targets_NC = self._learnt
        named = [self._spec.class_names[number] for number in targets_NC.argmax(axis=1)]
        return shots(prompt, prepared.ids(rows_N), prepared.texts(rows_N), named, self._spec.order_seed)
