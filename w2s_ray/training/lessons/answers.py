"""Lessons of answers."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from w2s_ray.data import labels
from w2s_ray.data.judging import allowed
from w2s_ray.data.splits import draw
from w2s_ray.errors import DataError
from w2s_ray.science.metrics import share_equal
from w2s_ray.spec.labels import LabelledSplit
from w2s_ray.spec.stage import PredictionSpec, Prompt
from w2s_ray.training.answers import answer_tokens, write_answers
from w2s_ray.training.feed import Examples, IntArray, TokenRow, Written
from w2s_ray.training.lessons.protocol import ACCURACY, AGREEMENT, Material
from w2s_ray.training.models.network import Network
from w2s_ray.training.models.prompts import asked, joined, shots
from w2s_ray.training.objectives import Objective, Writing


class AnswerLesson:
    """Texts and what is to be written after them; only that is learnt."""

    def __init__(self, material: Material) -> None:
        self._material, self._spec = material, material.spec

    @cached_property
    def examples(self) -> Written:
        """Each text, and after it the answer of the stage's label source."""
        context = self._spec.optimisation.context_tokens
        assert self._max_tokens < context
        rows_N, ends = self._learnt
        texts = self._material.tokens.rows(rows_N, self._room_N)
        rows = [joined(text, end, context) for text, end in zip(texts, ends, strict=True)]
        starts = [max(len(row) - len(end), 1) for row, end in zip(rows, ends, strict=True)]
        return Written(tokens=rows, learnt_from_N=np.array(starts, dtype=np.int64))

    @property
    def planned_lengths_N(self) -> IntArray:
        """Tokens of the texts alone: answers are as long as their source made them, and arms share their batches."""
        rows_N, _ = self._learnt
        return self._material.texts(rows_N, self._spec.optimisation.context_tokens).lengths_N

    def cut(self) -> list[str]:
        """A text is cut where it and its answer do not fit together."""
        prepared, context = self._material.prepared, self._spec.optimisation.context_tokens
        rows_N, _ = self._learnt
        if self._prompt is not None:
            return prepared.ids(rows_N[self._asked(self._prompt, rows_N, context - self._max_tokens)[1]])
        return prepared.ids(rows_N[self._material.tokens.are_longer(rows_N, self._room_N)])

    def objective(self) -> Objective:
        """Cross-entropy of the answers' tokens."""
        return Writing(self.examples)

    def check(self, network: Network) -> dict[str, float]:
        """Compare what the network writes with the labels and with the truth, letter by letter."""
        rows_N, wanted = self._wanted
        written = self._written(network, rows_N, self._spec.optimisation.context_tokens)
        truth = self._material.prepared.others(rows_N)
        return {AGREEMENT: share_equal(written, wanted), ACCURACY: share_equal(written, truth)}

    def predict(self, network: Network, prediction: PredictionSpec) -> None:
        """Keep the answers, and whether the task's rule allows each; forbidden ones stay."""
        material = self._material
        rows_N = draw(material.prepared, prediction.split)
        written = self._written(network, rows_N, prediction.context_tokens)

        def keep() -> None:
            allowed_N = allowed(material.prepared, rows_N, written)
            material.store.write_answers(prediction, material.prepared.ids(rows_N), written, allowed_N)

        material.workers.led(keep)

    def keep_labels(self, folder: Path) -> None:
        """Answers are learnt as they were written."""
        raise AssertionError("answers have no transforms")

    @cached_property
    def _learnt(self) -> tuple[IntArray, list[TokenRow]]:
        """The rows that are learnt, and the tokens of their answers."""
        rows_N, answers = self._answers(self._spec.train)
        return rows_N, answer_tokens(self._material.tokenizer, answers)

    @cached_property
    def _room_N(self) -> IntArray:
        """Tokens that each answer leaves to its text."""
        _, ends = self._learnt
        return self._spec.optimisation.context_tokens - np.array([len(end) for end in ends], dtype=np.int64)

    @cached_property
    def _wanted(self) -> tuple[IntArray, list[str]]:
        """The rows of Vi, and the answers of its labels."""
        assert self._spec.validation is not None
        return self._answers((self._spec.validation,))

    def _written(self, network: Network, rows_N: IntArray, context: int) -> list[str]:
        material, room = self._material, context - self._max_tokens
        if self._prompt is None:
            rows = material.tokens.rows(rows_N, room)
        else:
            rows, _ = self._asked(self._prompt, rows_N, room)
        feeder = material.feeder(Examples(tokens=rows))
        return write_answers(network, feeder, material.tokenizer, self._max_tokens, sharded=material.sharded)

    def _asked(self, prompt: Prompt, rows_N: IntArray, room: int) -> tuple[list[TokenRow], npt.NDArray[np.bool_]]:
        """The rows' prompts, and which texts were cut for them."""
        return asked(self._material.tokenizer, prompt, self._shots, self._material.prepared.texts(rows_N), room)

    @cached_property
    def _max_tokens(self) -> int:
        """Of the task's longest answer."""
        every = self._material.prepared.distinct_others()
        longest = max(len(tokens) for tokens in answer_tokens(self._material.tokenizer, every))
        context = self._spec.optimisation.context_tokens
        if longest + len(self._material.tokens.before) >= context:
            raise DataError(
                f"the longest answer has {longest} tokens, optimisation.context_tokens is {context}",
                "a text and its answer stand in one context",
                "raise optimisation.context_tokens",
            )
        return longest

    @cached_property
    def _prompt(self) -> Prompt | None:
        """How nothing is trained, if nothing is; the texts themselves ask, so no cue is added."""
        trainable = self._spec.trainable
        return trainable.model_copy(update={"cue": ""}) if isinstance(trainable, Prompt) else None

    @cached_property
    def _shots(self) -> str:
        prompt, prepared = self._prompt, self._material.prepared
        if prompt is None or not prompt.num_shots:
            return ""
        rows_N, answers = self._answers(self._spec.train)
        return shots(prompt, prepared.ids(rows_N), prepared.texts(rows_N), answers, self._spec.order_seed)

    def _answers(self, parts: Sequence[LabelledSplit]) -> tuple[IntArray, list[str]]:
        found = [labels.answers(self._material.store, self._material.prepared, part) for part in parts]
        return np.concatenate([rows for rows, _ in found]), [answer for _, each in found for answer in each]
