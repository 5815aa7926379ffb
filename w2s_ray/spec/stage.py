"""A stage: one model trained once on one label source; and the predictions that hang on it.

`StageSpec` holds all that can change the trained weights and nothing else: no arm, no study, no worker count. A stage
names its supervisor only through the predictions that it learns from, so a ceiling names none. Predictions (a stage
applied to a split) are work of their own with an identity of their own: they serve as weak labels for the next level
and as the raw material of every metric, so a new metric trains nothing.
"""

from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from w2s_ray.spec.base import Fraction, Positive, Spec
from w2s_ray.spec.identity import identity, short
from w2s_ray.spec.labels import LabelledSplit, SplitSpec
from w2s_ray.spec.losses import Loss, NaiveLoss
from w2s_ray.spec.trainable import AllWeights, Prompt, Trainable

RECIPE = 2
"""Version of the numerics. Raised when the same spec would no longer give the same weights."""

_ON = "-on-"
Precision = Literal["fp32", "bf16"]
Objective = Literal["classification", "preference", "answer", "next_token"]
"""What a stage learns: a text's class, which of two texts is better, what to write after a text, or text itself."""


class Architecture(Spec):
    """A Llama-shaped decoder to be trained from scratch."""

    hidden_size: Positive
    num_layers: Positive
    num_heads: Positive
    intermediate_size: Positive
    context_tokens: Positive = 256

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size {self.hidden_size} does not split into {self.num_heads} heads of an even size; choose a "
                f"multiple of {2 * self.num_heads}"
            )
        return self


def is_path(model: str) -> bool:
    """Say whether a model's name is written as the path of a folder; a hub id has one slash at most."""
    return model.startswith(("/", "./", "../", "~")) or model.count("/") > 1


class ModelSource(Spec):
    """Where a model's weights come from.

    `name` is `w2s:<size>` for the ladder inside the package, a local folder, or a hub id; `revision` is the commit or
    content digest that it resolved to. Where a local folder lies is no part of an identity. With `architecture` the
    weights are drawn from the stage's seed and only the tokenizer is taken from `name`.
    """

    name: str
    revision: str
    architecture: Architecture | None = None
    pad_token: str | None = None
    random: bool = False
    """Take the model's shape and tokenizer, and draw its weights from the stage's seed."""


class StageSource(Spec):
    """Weights taken from another stage, by its identity."""

    stage: str
    name: str
    """The model that this stage began from; for people."""


class EarlyStopping(Spec):
    """Keep the weights that do best on Vi, and stop when they no longer improve."""

    every_steps: Positive = 20
    patience: Positive = 3
    """Evaluations without improvement before training ends."""
    by: Literal["agreement", "oracle"] = "agreement"
    """`agreement` with the labels of Vi, or the ground truth of Vi: an `oracle`, and marked as one everywhere."""


class Optimisation(Spec):
    """AdamW and its schedule. All of it is part of the identity."""

    learning_rate: float = Field(default=5e-4, gt=0)
    epochs: float = Field(default=1.0, gt=0)
    examples_per_step: Positive = 32
    """Examples of one optimizer update, over all workers and micro-batches."""
    warmup_fraction: Fraction = 0.1
    final_lr_fraction: Fraction = 0.0
    """The schedule falls as a cosine to this share of the peak."""
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    context_tokens: Positive = 128
    """Longer texts keep their last tokens."""
    bucketing_window: Positive = 16
    """Optimizer batches that are shuffled, sorted by length and cut together."""
    dropout: Fraction = 0.0
    precision: Precision = "fp32"
    """`bf16` autocasts the forward pass of training, where the workers' devices have instructions for it."""
    early_stopping: EarlyStopping | None = None
    keep_at: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Shares of training after which a snapshot of the model is kept, for example to serve as levels of a ladder."""


class StageSpec(Spec):
    """All that decides what a stage's weights become."""

    recipe: int = RECIPE
    objective: Objective = "classification"
    starts_from: ModelSource | StageSource
    num_classes: Positive = 2
    """Classes of a prediction; unused by `answer` and `next_token`."""
    class_names: tuple[str, ...] = ()
    """What a prompt calls the classes; empty elsewhere, because no other way of training reads them."""
    trainable: Trainable = AllWeights()
    train: tuple[LabelledSplit, ...] = Field(min_length=1)
    """One split as a rule; the `pooled` arm learns on several."""
    validation: LabelledSplit | None = None
    loss: Loss = NaiveLoss()
    optimisation: Optimisation = Optimisation()
    init_seed: int
    order_seed: int

    @cached_property
    def identity(self) -> str:
        """Digest of the whole spec, but for the place of a local model: its content's digest stands in it."""
        if not is_path(self.starts_from.name):
            return identity("stage", self)
        anywhere = self.starts_from.model_copy(update={"name": ""})
        return identity("stage", self.model_copy(update={"starts_from": anywhere}))

    @property
    def is_language_model(self) -> bool:
        """Whether its model is a language model; otherwise it has a head for classes or scores."""
        return self.objective in ("answer", "next_token") or isinstance(self.trainable, Prompt)

    @property
    def keeps_labels(self) -> bool:
        """Whether its artifact holds what it learned, because transforms changed what its label source said."""
        return any(part.labels.transforms for part in self.train)

    @property
    def description(self) -> str:
        """How the stage learns, for display: its loss, and what differs from the default otherwise."""
        labels, stopping = self.train[0].labels.label, self.optimisation.early_stopping
        is_random = isinstance(self.starts_from, ModelSource) and self.starts_from.random
        begun = "after reading" if isinstance(self.starts_from, StageSource) else "random" if is_random else ""
        parts = (
            self.loss.label,
            f"on {labels}" if labels not in ("gt", "weak") else "",
            self.trainable.label,
            begun,
            "oracle" if stopping is not None and stopping.by == "oracle" else "",
        )
        return " ".join(part for part in parts if part)

    @property
    def slug(self) -> str:
        """A readable name made from the spec alone: model, split, label source, loss."""
        model = self.starts_from.name.split(":")[-1].strip("/").split("/")[-1]
        splits = "+".join(part.split.name for part in self.train)
        return "-".join(
            part for part in (model, splits, self.train[0].labels.label, self.trainable.label, self.loss.label) if part
        )


class PredictionSpec(Spec):
    """A stage applied to a split: soft labels for the next level, or the raw material of metrics."""

    stage: str
    """Identity of the stage that predicts."""
    split: SplitSpec
    context_tokens: Positive

    @cached_property
    def identity(self) -> str:
        """Digest of the whole spec."""
        return identity("predictions", self)

    @property
    def slug(self) -> str:
        """A readable name: the predicting stage and the split."""
        return f"{short(self.stage)}{_ON}{self.split.name}"

    @staticmethod
    def stage_of(name: str) -> str | None:
        """Return the short identity of the predicting stage from a slug or a folder's name; None for other names."""
        stage, on, _ = name.partition(_ON)
        return stage if on else None
