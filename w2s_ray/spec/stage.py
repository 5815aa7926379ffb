"""A stage: one model trained once on one label source, and its predictions.

`StageSpec` holds everything that can change the trained weights and nothing else: no arm, no study, no worker count.
Its digest is the stage's identity. A stage names its supervisor only through the predictions that it learns from, so a
ceiling names none.
Predictions (a stage applied to a split) are work of their own with an identity of their own: they serve as weak labels
for the next level and every metric is computed from them, so a new metric trains nothing.
"""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from w2s_ray.spec.base import Fraction, Positive, Spec, Variant
from w2s_ray.spec.identity import identity, short
from w2s_ray.spec.labels import LabelledSplit, SplitSpec
from w2s_ray.spec.losses import Loss, NaiveLoss

RECIPE = 2
"""Version of the numerics. Raised when the same spec would no longer give the same weights."""

SHOTS_RECIPE = 2
"""Version of the choice of shots: 1 took the lowest hashes, 2 takes them from each class in turn."""

DEFAULT_CUE = "\nAnswer:"
"""Between a text and its class's name, for tasks without a cue of their own."""

_ON = "-on-"
"""Separates the stage's short identity from the split in the name of predictions."""
Precision = Literal["fp32", "bf16"]
Objective = Literal["classification", "preference", "answer", "next_token"]
"""Objective of a stage: a text's class, which of two texts is better, what to write after a text, or the next token."""


class AllWeights(Variant):
    """Train every weight, head included."""

    kind: Literal["all"] = "all"
    label_format: ClassVar[str] = ""


class Probe(Variant):
    """Train a linear head on the frozen model's last hidden states, which are read once and stored."""

    computed_as: ClassVar[int] = 2  # 1 read the body in the stage's precision at each step
    kind: Literal["probe"] = "probe"
    label_format: ClassVar[str] = "probe"


class Lora(Variant):
    """Train low-rank additions to the linear layers, merged into them at the end of the stage (Hu et al. 2021)."""

    kind: Literal["lora"] = "lora"
    rank: Positive = 8
    alpha: float = Field(default=16.0, gt=0)
    """The additions are scaled by alpha / rank."""
    dropout: Fraction = 0.0
    targets: tuple[str, ...] | None = None
    """Names of the modules that get additions; every linear layer but the head if not given."""
    label_format: ClassVar[str] = "lora{rank}"


class Prompt(Variant):
    """Train nothing: the pretrained language model reads some labelled texts, then the text, and names a class.

    A class's logit is its score (`Score`; by default the mean log-probability of its name's tokens). Burns et al. 2023
    prompt with weakly labelled shots from Ti; a ceiling's shots have their true label.
    """

    kind: Literal["prompt"] = "prompt"
    num_shots: int = Field(default=0, ge=0)
    """Labelled examples before each text: hard labels of the stage's own label source."""
    cue: str | None = None
    """Between a text and the class's name; the score's, or the task's own, if not given. Tasks of answers contain a
    question already, and get no cue."""
    label_format: ClassVar[str] = "{num_shots}-shot"


Trainable = Annotated[AllWeights | Probe | Lora | Prompt, Field(discriminator="kind")]
"""Which weights a stage trains. A student and its ceiling train the same ones, so a probe's PGR is measured against the
probe's own ceiling; the ceiling that trains all weights is reported beside it (Burns et al. 2023, linear probing)."""


class Score(Variant):
    """Score completions by a language model's own probabilities; the scores of an example are its logits.

    The completions of a pair are the ends of its two texts after their prompt; those of classes are the classes' names
    after the text and a cue. With T tokens y_1 … y_T of the completion y after the prompt x,

        score(x, y) = beta / T · Σ_t log P(y_t | x, y_1 … y_(t-1))

    the reward of SimPO without its margin (Meng et al. 2024); without `normalise` the sum is not divided by T.
    """

    kind: Literal["likelihood"] = "likelihood"
    beta: float = Field(default=1.0, gt=0)
    """Factor of the log-probabilities: the inverse temperature of the predictions."""
    normalise: bool = True
    """Take the mean over the completion's tokens instead of the sum."""
    calibrate: bool = False
    """Subtract the same score of the completion without its prompt, under the current model (Holtzman et al. 2021; for
    classes Zhao et al. 2021)."""
    reference: bool = False
    """Subtract the same score under the model that the stage starts from (DPO, Rafailov et al. 2023)."""
    cue: str | None = None
    """Between a text and its class's name; the task's own if not given. Pairs have none."""
    label_format: ClassVar[str] = "{kind}"
    label_changes: ClassVar[Mapping[str, str]] = {
        "beta": "beta{:g}",
        "normalise": "sum",
        "calibrate": "calibrated",
        "reference": "reference",
    }

    @model_validator(mode="before")
    @classmethod
    def _from_word(cls, raw: Any) -> Any:
        """Read the word `likelihood` as a mapping with this kind."""
        return {"kind": raw} if isinstance(raw, str) else raw


class Architecture(Spec):
    """A Llama decoder to train from scratch."""

    hidden_size: Positive
    num_layers: Positive
    num_heads: Positive
    intermediate_size: Positive
    context_tokens: Positive = 256

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden_size % (2 * self.num_heads):
            raise ValueError(
                f"hidden_size = {self.hidden_size} must be a multiple of {2 * self.num_heads}: {self.num_heads} "
                "heads of an even size"
            )
        return self


def is_path(model: str) -> bool:
    """Return whether a model's name is the path of a folder; a hub id has at most one slash."""
    return model.startswith(("/", "./", "../", "~")) or model.count("/") > 1


class ModelSource(Spec):
    """Where a model's weights come from.

    `name` is `w2s:<size>` for the ladder inside the package, a local folder, or a hub id; `revision` is the commit or
    content digest that it resolved to. The path of a local folder is not part of an identity. With `architecture` the
    weights are random, from the stage's seed, and only the tokenizer comes from `name`.
    """

    later_fields: ClassVar[frozenset[str]] = frozenset(("trust_remote_code",))

    name: str
    revision: str
    architecture: Architecture | None = None
    pad_token: str | None = None
    random: bool = False
    """Use the model's shape and tokenizer with random weights, from the stage's seed."""
    trust_remote_code: bool = False
    """Run the Python code in the model's folder, which its configuration names."""


class StageSource(Spec):
    """Weights taken from another stage, by its identity."""

    later_fields: ClassVar[frozenset[str]] = frozenset(("trust_remote_code",))

    stage: str
    name: str
    """The model that this stage started from; for display."""
    trust_remote_code: bool = False
    """Run the Python code in that model's folder."""


class EarlyStopping(Spec):
    """Keep the weights that are best on Vi, and stop when they no longer improve."""

    every_steps: Positive = 20
    patience: Positive = 3
    """Evaluations without improvement before training ends."""
    by: Literal["agreement", "oracle"] = "agreement"
    """`agreement` with the labels of Vi, or the ground truth of Vi: an `oracle`, marked as one in every table."""


class Optimisation(Spec):
    """AdamW and its schedule. All of it is part of the identity."""

    later_fields: ClassVar[frozenset[str]] = frozenset(("saved_precision",))

    learning_rate: float = Field(default=5e-4, gt=0)
    epochs: float = Field(default=1.0, gt=0)
    examples_per_step: Positive = 32
    """Examples of one optimizer update, over all workers and micro-batches."""
    warmup_fraction: Fraction = 0.1
    final_lr_fraction: Fraction = 0.0
    """The learning rate falls as a cosine to this share of its peak."""
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    context_tokens: Positive = 128
    """Longer texts keep their last tokens."""
    bucketing_window: Positive = 16
    """Optimizer batches whose examples are shuffled, sorted by length and cut into batches together."""
    dropout: Fraction = 0.0
    precision: Precision = "fp32"
    """`bf16` autocasts the forward pass of training, on devices with instructions for it."""
    saved_precision: Precision = "fp32"
    """Precision of the model's file; the final validation and predictions are made with the weights in the file."""
    early_stopping: EarlyStopping | None = None
    keep_at: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = ()
    """Shares of training after which a snapshot of the model is kept too, for instance for the levels of a ladder."""


class StageSpec(Spec):
    """Everything that can change a stage's weights."""

    later_fields: ClassVar[frozenset[str]] = frozenset(("score", "reference", "shots_recipe"))

    recipe: int = RECIPE
    objective: Objective = "classification"
    starts_from: ModelSource | StageSource
    num_classes: Positive = 2
    """Classes of a prediction; unused by `answer` and `next_token`."""
    class_names: tuple[str, ...] = ()
    """The names of the classes that are scored; empty for a stage that does not read them."""
    trainable: Trainable = AllWeights()
    score: Score | None = None
    """How completions are scored; None for a linear head, for answers, and for prompts with the default score."""
    reference: str | None = None
    """Identity of the untrained stage whose scores are subtracted from this one's."""
    shots_recipe: int = 1
    """Version of the choice and number of shots; `SHOTS_RECIPE` for a prompt that has any."""
    train: tuple[LabelledSplit, ...] = Field(min_length=1)
    """One split; several for the `pooled` arm."""
    validation: LabelledSplit | None = None
    loss: Loss = NaiveLoss()
    optimisation: Optimisation = Optimisation()
    init_seed: int
    order_seed: int

    @cached_property
    def identity(self) -> str:
        """Digest of the whole spec, without the path of a local model: `revision` is the digest of its content."""
        if not is_path(self.starts_from.name):
            return identity("stage", self)
        without_path = self.starts_from.model_copy(update={"name": ""})
        return identity("stage", self.model_copy(update={"starts_from": without_path}))

    @property
    def is_language_model(self) -> bool:
        """Whether its model is a language model; otherwise it has a head for classes or scores."""
        return self.objective in ("answer", "next_token") or self.completion_score is not None

    @property
    def completion_score(self) -> Score | None:
        """How it scores completions; None for a head, and for objectives without classes."""
        if self.objective not in ("classification", "preference"):
            return None
        return Score() if self.score is None and isinstance(self.trainable, Prompt) else self.score

    @property
    def starts_drawn(self) -> bool:
        """Whether it starts from random weights, so that its source has no files of weights."""
        source = self.starts_from
        return isinstance(source, ModelSource) and (source.random or source.architecture is not None)

    @property
    def trusts_code(self) -> bool:
        """Whether the Python code in its model's folder may run."""
        return self.starts_from.trust_remote_code

    @property
    def texts_per_example(self) -> int:
        """Texts that its model reads for one example."""
        score = self.completion_score
        if score is None:
            return 2 if self.objective == "preference" else 1
        return self.num_classes * (2 if score.calibrate else 1)

    def reference_prediction(self, split: SplitSpec, context_tokens: int) -> "PredictionSpec":
        """Return the prediction of `split` by the stage's reference, which must exist; in fp32, as it is subtracted."""
        assert self.reference is not None, "the stage has no reference"
        return PredictionSpec(stage=self.reference, split=split, context_tokens=context_tokens)

    @property
    def splits_read(self) -> Iterator[SplitSpec]:
        """The splits that it learns and is validated on."""
        yield from (part.split for part in self.train)
        if self.validation is not None:
            yield self.validation.split

    @property
    def reads_once(self) -> bool:
        """Whether it is a probe whose frozen model reads each text once, and whose head trains on stored features.

        Dropout gives a text other features in every epoch.
        """
        return isinstance(self.trainable, Probe) and not self.optimisation.dropout

    @property
    def num_readings(self) -> float:
        """How many times its model reads the training examples."""
        return 1.0 if self.reads_once else self.optimisation.epochs

    @property
    def keeps_labels(self) -> bool:
        """Whether its artifact holds the labels that it learned, because transforms changed those of its source."""
        return any(part.labels.transforms for part in self.train)

    @property
    def description(self) -> str:
        """How it learns, for display: its loss, and its labels, weights, start and stopping where these are unusual."""
        labels, stopping = self.train[0].labels.label, self.optimisation.early_stopping
        is_random = isinstance(self.starts_from, ModelSource) and self.starts_from.random
        start = "after reading" if isinstance(self.starts_from, StageSource) else "random" if is_random else ""
        parts = (
            self.loss.label,
            f"on {labels}" if labels not in ("gt", "weak") else "",
            self.trainable.label,
            self.score.label if self.score is not None else "",
            start,
            "oracle" if stopping is not None and stopping.by == "oracle" else "",
        )
        return " ".join(part for part in parts if part)

    @property
    def slug(self) -> str:
        """A readable name made from the spec alone: model, split, label source, loss."""
        model = self.starts_from.name.split(":")[-1].strip("/").split("/")[-1]
        splits = "+".join(part.split.name for part in self.train)
        score = self.score.label if self.score is not None else ""
        ways = (self.train[0].labels.label, self.trainable.label, score, self.loss.label)
        return "-".join(part for part in (model, splits, *ways) if part)


class PredictionSpec(Spec):
    """A stage applied to a split: soft labels for the next level, and the input of every metric."""

    later_fields: ClassVar[frozenset[str]] = frozenset(("precision",))

    stage: str
    """Identity of the stage that predicts."""
    split: SplitSpec
    context_tokens: Positive
    precision: Precision = "fp32"
    """With `bf16` the model's body is autocast; the head computes in fp32 from its hidden states, so that rounding
    makes no ties."""

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
