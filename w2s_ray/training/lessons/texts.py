"""Lessons of text alone."""

from functools import cached_property
from pathlib import Path

import numpy as np

from w2s_ray.data.splits import draw
from w2s_ray.errors import DataError
from w2s_ray.spec.labels import SplitSpec
from w2s_ray.spec.stage import PredictionSpec
from w2s_ray.training.feed import IntArray, Written
from w2s_ray.training.language import held_out_loss
from w2s_ray.training.lessons.protocol import HELD_OUT, Material
from w2s_ray.training.models.network import Network
from w2s_ray.training.objectives import Objective, Writing

_HELD_OUT_BLOCKS = 256
"""Blocks of held-out text on which pretraining is judged."""


class TextLesson:
    """Blocks of text, every token of which is learnt: pretraining, or a student's own reading of Ti."""

    def __init__(self, material: Material) -> None:
        self._material, self._spec = material, material.spec

    @cached_property
    def examples(self) -> Written:
        """The documents end to end, in full blocks."""
        return self._blocks(self._spec.train[0].split)

    @property
    def planned_lengths_N(self) -> IntArray:
        """Of full blocks."""
        return self.examples.lengths_N

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
