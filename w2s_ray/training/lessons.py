"""What a stage's objective makes of its data: examples to learn, a check on Vi, and predictions to keep.

    objective        examples                         check on Vi                     predictions
    classification   a text, a probability per class  agreement with its labels       a probability per class
    preference       two texts, likewise              likewise                        likewise
    answer           a text and what follows it       share of equal answers          the answers, greedily
    next_token       blocks of text                   loss on held-out text           none

A stage that only prompts has the same check and predictions, and examples that nobody learns.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from transformers import PreTrainedTokenizerFast

from w2s_ray.data import labels
from w2s_ray.data.prepare import PreparedTask
from w2s_ray.data.splits import draw
from w2s_ray.data.tokens import Tokens
from w2s_ray.errors import DataError
from w2s_ray.science.metrics import accuracy
from w2s_ray.spec.identity import seeded_hash
from w2s_ray.spec.labels import LabelledSplit, SplitSpec
from w2s_ray.spec.stage import PredictionSpec, StageSpec
from w2s_ray.spec.trainable import Prompt
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.predictions import LABELS_NAME, write
from w2s_ray.tasks.judges import open_judge
from w2s_ray.training.answers import answer_tokens, write_answers
from w2s_ray.training.feed import Examples, Feeder, FloatArray, IntArray, Labelled, TokenRow, Written
from w2s_ray.training.language import held_out_loss
from w2s_ray.training.models import Network, name_tokens
from w2s_ray.training.objectives import Classification, Objective, Writing
from w2s_ray.training.predict import predict
from w2s_ray.training.prompts import joined, shots
from w2s_ray.training.workers import Workers

Some = TypeVar("Some", bound=Examples)

AGREEMENT, ACCURACY, HELD_OUT = "validation_agreement", "validation_accuracy", "held_out_loss"
"""With the labels of Vi; with its truth, which only reports and oracles look at; of language."""
_HELD_OUT_BLOCKS = 256
"""Blocks of held-out text on which pretraining is judged."""
_PREDICTION_TOKENS = 8192
"""Padded tokens of one forward pass without gradients."""


@dataclass(frozen=True)
class Material:
    """What a stage's data lies in."""

    spec: StageSpec
    store: ArtifactStore
    prepared: PreparedTask
    tokens: Tokens
    tokenizer: PreTrainedTokenizerFast
    workers: Workers
    sharded: bool
    """Whether weights are spread over the workers (ZeRO-3)."""
    features: labels.Features
    """What the model that the stage starts from makes of rows."""

    def feeder(self, examples: Some, tokens_per_micro_batch: int = _PREDICTION_TOKENS) -> Feeder[Some]:
        """Return what cuts these examples into micro-batches."""
        return Feeder(examples, self.workers, tokens_per_micro_batch, self.tokenizer.pad_token_id)


class Lesson(Protocol):
    """A stage's data as its objective reads it."""

    @property
    def examples(self) -> Examples:
        """What is learnt."""
        ...

    def cut(self) -> list[str]:
        """Return the ids of the learnt examples that are longer than the context and keep their last tokens."""
        ...

    def objective(self) -> Objective:
        """Return how it is learnt."""
        ...

    def check(self, network: Network) -> dict[str, float]:
        """Return the network's figures on Vi: `AGREEMENT` and `ACCURACY`, or `HELD_OUT`. Collective."""
        ...

    def predict(self, network: Network, prediction: PredictionSpec) -> None:
        """Predict a split and put that into the store. Collective."""
        ...

    def keep_labels(self, folder: Path) -> None:
        """Write what was learnt into the stage's folder, where that is not what the label source said."""
        ...


def lesson_of(material: Material) -> Lesson:
    """Return the lesson that the stage's objective asks for."""
    match material.spec.objective:
        case "next_token":
            return TextLesson(material)
        case "answer":
            return AnswerLesson(material)
        case _:
            return ClassLesson(material)


class ClassLesson:
    """Texts, or pairs of them, and a probability per class."""

    def __init__(self, material: Material) -> None:
        self._material, self._spec = material, material.spec

    @cached_property
    def examples(self) -> Labelled:
        """All that the stage learns from, with its labels."""
        return self._labelled(*self._learnt)

    def cut(self) -> list[str]:
        """Any of an example's texts may be the long one."""
        prepared, (rows_N, _) = self._material.prepared, self._learnt
        longer = self._material.tokens.are_longer(prepared.text_numbers(rows_N), self._spec.optimisation.context_tokens)
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
        prepared, prompt = self._material.prepared, self._spec.trainable
        if isinstance(prompt, Prompt):
            asked = _asked(self._material, rows_N, prompt, self._shots)
            names = name_tokens(self._spec, self._material.tokenizer)
            return Examples(
                tokens=[joined(before, name, context) for name in names for before in asked],
                texts_per_example=len(names),
            )
        return Examples(
            tokens=self._material.tokens.rows(prepared.text_numbers(rows_N), context),
            texts_per_example=prepared.texts_per_example,
        )

    @cached_property
    def _shots(self) -> str:
        prompt, prepared = self._spec.trainable, self._material.prepared
        assert isinstance(prompt, Prompt)
        if not prompt.num_shots:
            return ""
        rows_N, targets_NC = self._learnt
        named = [self._spec.class_names[number] for number in targets_NC.argmax(axis=1)]
        return shots(prompt, prepared.ids(rows_N), prepared.texts(rows_N), named, self._spec.order_seed)


class AnswerLesson:
    """Texts and what is to be written after them; only that is learnt."""

    def __init__(self, material: Material) -> None:
        self._material, self._spec = material, material.spec

    @cached_property
    def examples(self) -> Written:
        """Each text, and after it the answer of the stage's label source."""
        context = self._spec.optimisation.context_tokens
        assert self._max_tokens < context
        rows_N, answers = self._answers(self._spec.train)
        ends = answer_tokens(self._material.tokenizer, answers)
        texts = self._material.tokens.rows(rows_N, context)
        rows = [joined(text, end, context) for text, end in zip(texts, ends, strict=True)]
        starts = [max(len(row) - len(end), 1) for row, end in zip(rows, ends, strict=True)]
        return Written(tokens=rows, learnt_from_N=np.array(starts, dtype=np.int64))

    def cut(self) -> list[str]:
        """A text is cut where it and its answer do not fit together."""
        prepared, context = self._material.prepared, self._spec.optimisation.context_tokens
        rows_N, answers = self._answers(self._spec.train)
        room_N = context - np.array([len(end) for end in answer_tokens(self._material.tokenizer, answers)])
        return prepared.ids(rows_N[self._material.tokens.are_longer(rows_N, room_N)])

    def objective(self) -> Objective:
        """Cross-entropy of the answers' tokens."""
        return Writing(self.examples)

    def check(self, network: Network) -> dict[str, float]:
        """Compare what the network writes with the labels and with the truth, letter by letter."""
        validation = self._spec.validation
        assert validation is not None
        rows_N, wanted = self._answers((validation,))
        written = self._written(network, rows_N, self._spec.optimisation.context_tokens)
        truth = self._material.prepared.others(rows_N)
        return {AGREEMENT: _share_equal(written, wanted), ACCURACY: _share_equal(written, truth)}

    def predict(self, network: Network, prediction: PredictionSpec) -> None:
        """Keep the answers, and whether the task's rule allows each; forbidden ones stay."""
        material = self._material
        rows_N = draw(material.prepared, prediction.split)
        written = self._written(network, rows_N, prediction.context_tokens)
        ids, judge = material.prepared.ids(rows_N), open_judge(material.prepared.judge)
        pairs = zip(material.prepared.texts(rows_N), written, strict=True)
        allowed_N = np.array([judge.allows(text, answer) for text, answer in pairs], dtype=bool)
        material.workers.led(lambda: material.store.write_answers(prediction, ids, written, allowed_N))

    def keep_labels(self, folder: Path) -> None:
        """Answers are learnt as they were written."""
        raise AssertionError("answers have no transforms")

    def _written(self, network: Network, rows_N: IntArray, context: int) -> list[str]:
        material, prompt = self._material, self._spec.trainable
        room = context - self._max_tokens
        if isinstance(prompt, Prompt):
            rows = [row[-room:] for row in _asked(material, rows_N, prompt, self._shots)]
        else:
            rows = material.tokens.rows(rows_N, room)
        feeder = material.feeder(Examples(tokens=rows))
        return write_answers(network, feeder, material.tokenizer, self._max_tokens, sharded=material.sharded)

    @cached_property
    def _max_tokens(self) -> int:
        """Of the task's longest answer."""
        prepared = self._material.prepared
        every = prepared.others(np.arange(prepared.table().num_rows))
        longest = max(len(tokens) for tokens in answer_tokens(self._material.tokenizer, every))
        context = self._spec.optimisation.context_tokens
        if longest >= context:
            raise DataError(
                f"the longest answer has {longest} tokens, optimisation.context_tokens is {context}",
                "a text and its answer stand in one context",
                "raise optimisation.context_tokens",
            )
        return longest

    @cached_property
    def _shots(self) -> str:
        prompt, prepared = self._spec.trainable, self._material.prepared
        assert isinstance(prompt, Prompt)
        if not prompt.num_shots:
            return ""
        rows_N, answers = self._answers(self._spec.train)
        return shots(prompt, prepared.ids(rows_N), prepared.texts(rows_N), answers, self._spec.order_seed)

    def _answers(self, parts: Sequence[LabelledSplit]) -> tuple[IntArray, list[str]]:
        found = [labels.answers(self._material.store, self._material.prepared, part) for part in parts]
        return np.concatenate([rows for rows, _ in found]), [answer for _, each in found for answer in each]


class TextLesson:
    """Blocks of text, every token of which is learnt: pretraining, or a student's own reading of Ti."""

    def __init__(self, material: Material) -> None:
        self._material, self._spec = material, material.spec

    @cached_property
    def examples(self) -> Written:
        """The documents end to end, in full blocks."""
        return self._blocks(self._spec.train[0].split)

    def cut(self) -> list[str]:
        """Blocks are full; nothing is cut."""
        return []

    def objective(self) -> Objective:
        """Cross-entropy of every token."""
        return Writing(self.examples)

    def check(self, network: Network) -> dict[str, float]:
        """Return the loss on held-out text."""
        return {HELD_OUT: held_out_loss(network, self._material.feeder(self._held_out))}

    def predict(self, network: Network, prediction: PredictionSpec) -> None:
        """Nothing is predicted of text."""
        raise AssertionError("a stage that learns text predicts nothing")

    def keep_labels(self, folder: Path) -> None:
        """Text has no labels."""
        raise AssertionError("text has no labels")

    @cached_property
    def _held_out(self) -> Written:
        assert self._spec.validation is not None
        return self._blocks(self._spec.validation.split, _HELD_OUT_BLOCKS)

    def _blocks(self, split: SplitSpec, at_most: int | None = None) -> Written:
        material, context = self._material, self._spec.optimisation.context_tokens
        numbers_N = material.prepared.text_numbers(draw(material.prepared, split))
        blocks_NT = material.tokens.blocks(numbers_N, context, material.tokenizer.eos_token_id)[:at_most]
        if not len(blocks_NT):
            raise DataError(
                f"the texts of {split.name} fill no block of {context} tokens",
                "text is learnt in full blocks",
                "give it more texts, or lower optimisation.context_tokens",
            )
        return Written(tokens=list(blocks_NT), learnt_from_N=np.ones(len(blocks_NT), dtype=np.int64))


def _asked(material: Material, rows_N: IntArray, prompt: Prompt, before: str) -> list[TokenRow]:
    """The tokens of each row's prompt, up to the cue."""
    texts = [f"{before}{text}{prompt.cue}" for text in material.prepared.texts(rows_N)]
    encoded = material.tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)
    return [np.array(tokens, dtype=np.int32) for tokens in encoded["input_ids"]]


def _share_equal(written: Sequence[str], wanted: Sequence[str]) -> float:
    return float(np.mean([one == other.strip() for one, other in zip(written, wanted, strict=True)]))
