"""What every lesson is, and the material that it is made from."""

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

from transformers import PreTrainedTokenizerFast

from w2s_ray.data import labels
from w2s_ray.data.prepare import PreparedTask
from w2s_ray.data.tokens import Tokens
from w2s_ray.spec.stage import PredictionSpec, StageSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.training.feed import Examples, Feeder, IntArray, LastGroup, Purpose
from w2s_ray.training.models.network import Network
from w2s_ray.training.objectives import Objective
from w2s_ray.training.workers import Workers

Some = TypeVar("Some", bound=Examples)

AGREEMENT, ACCURACY, HELD_OUT = "validation_agreement", "validation_accuracy", "held_out_loss"
"""With the labels of Vi; with its truth, which only reports and oracles look at; of language."""


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
    prediction_tokens: int
    """Padded tokens of one forward pass without gradients."""
    last: LastGroup
    """Told of every group of micro-batches."""
    features: labels.Features
    """What the model that the stage starts from makes of rows."""

    def texts(self, rows_N: IntArray, context: int) -> Examples:
        """Return the rows' texts, each cut to its last `context` tokens."""
        return Examples(
            tokens=self.tokens.rows(self.prepared.text_numbers(rows_N), context),
            texts_per_example=self.prepared.texts_per_example,
        )

    def feeder(self, examples: Some, tokens_per_micro_batch: int | None = None) -> Feeder[Some]:
        """Return what cuts these examples into micro-batches, those of predictions where no other size is given."""
        purpose: Purpose = "predicting" if tokens_per_micro_batch is None else "training"
        tokens = tokens_per_micro_batch or self.prediction_tokens
        return Feeder(examples, self.workers, tokens, self.tokenizer.pad_token_id, purpose, self.last)


class Lesson(Protocol):
    """A stage's data as its objective reads it."""

    @property
    def examples(self) -> Examples:
        """What is learnt."""
        ...

    @property
    def planned_lengths_N(self) -> IntArray:
        """The lengths that optimizer batches are planned by: the same ones whoever labelled the examples."""
        ...

    def cut(self) -> list[str]:
        """Return the ids of the stage's own examples that do not fit into the context and keep their last tokens.

        A prompt learns none; those that its shots are drawn from say how many it cuts.
        """
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
