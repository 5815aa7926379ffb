"""Labels: which examples a stage learns from, where their labels come from, and what is done to these labels.

A label source is the ground truth, or the combined predictions of one or more supervisors. Transforms then act on its
labels one after another, each on what the one before left: a filter drops examples, a relabelling changes labels, and
a control breaks one thing on purpose. Weak labels name their supervisors only through the identities of their
predictions, so everything that a student learns from is part of its identity, and nothing else of its supervisors is.

Notation of the transforms: p_i is the soft label of example i, y_i its true class, h_i the student's pretrained last
hidden state at the last token, and d(p, q) = ½ Σ_c |p_c − q_c|. Chance is a coin per example: hash(seed, kind, example
id). The functions are in science/relabelling.py; docs/methods.md compares each with public code.
"""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from w2s_ray.spec.base import Fraction, Positive, Spec, Variant

Combination = Literal["mean", "vote", "weighted"]
"""How the labels of several supervisors become one; s counts supervisors, K classes.

    mean      p_i = mean_s p_is
    vote      p_ic = the share of supervisors whose most probable class is c
    weighted  votes count α_s = max(0, log((1 − err_s) / err_s) + log(K − 1)), err_s being the share of the labelled
              validation examples of level 0 on which s is wrong (SAMME, Zhu et al. 2009)
"""
Mode = Literal["filter", "relabel"]
"""Treatment of labels that are not trusted: `filter` drops their examples, `relabel` uses the proposed label."""
Kept = Annotated[float, Field(gt=0.0, le=1.0)]
"""A share of examples to keep: more than none."""


class SplitSpec(Spec):
    """A set of examples: selected from a task by seed, never by model, arm or worker."""

    task: str
    """Fingerprint of the task's prepared data."""
    name: str
    """`S`, `T1` … `Tn`, `V0` … `Vn`, `test`; for unlabelled text `text` and `held_out`."""
    num_examples: Positive
    num_levels: Positive
    """Levels of the study's ladder: into how many slots the examples are divided."""
    split_seed: int
    balance: bool = True

    @property
    def is_test(self) -> bool:
        """Whether these examples are for metrics only."""
        return self.name == "test"


class _Transform(Variant):
    @property
    def needs_features(self) -> bool:
        """Whether it reads the student's hidden states."""
        return False

    @property
    def reads_truth(self) -> bool:
        """Whether it reads the true classes of the examples."""
        return False

    @property
    def kept_share(self) -> float:
        """The largest share of examples that it keeps."""
        return 1.0

    @property
    def for_validation(self) -> bool:
        """Whether it also applies to the labels of Vi: true of all but filters and what reads features."""
        return True


class Harden(_Transform):
    """All probability on the most probable class, argmax_c p_ic; between equal ones a coin decides."""

    kind: Literal["harden"] = "harden"
    label_format: ClassVar[str] = "hard"


class _Filter(_Transform):
    """Keeps some examples with their labels unchanged; validation examples are never dropped."""

    @property
    def for_validation(self) -> bool:
        """Never."""
        return False


class KeepConfident(_Filter):
    """Keep the `fraction` of examples with the highest max_c p_ic; a coin orders equal ones."""

    kind: Literal["keep_confident"] = "keep_confident"
    fraction: Kept
    label_format: ClassVar[str] = "confident{fraction:g}"

    @property
    def kept_share(self) -> float:
        """Its fraction."""
        return self.fraction


class _Trust(_Transform):
    """Proposes a label q_i from the features, and trusts the labels with the smallest d(p_i, q_i).

    No example of the group of i (a question with its right and its wrong answer, cuts of one file) contributes to q_i:
    such twins have nearly equal features, and often opposite labels.
    """

    computed_as: ClassVar[int] = 2  # 1 compared the examples of a group with each other
    mode: Mode
    fraction: Fraction
    """Share of the labels that is trusted; with `mode: relabel`, 0 relabels all."""

    @model_validator(mode="after")
    def _keeps_some(self) -> Self:
        if self.mode == "filter" and self.fraction == 0:
            raise ValueError("a filter with fraction 0 keeps no example; use a larger one, or mode: relabel")
        return self

    @property
    def needs_features(self) -> bool:
        """Always."""
        return True

    @property
    def kept_share(self) -> float:
        """Its fraction, if it filters."""
        return self.fraction if self.mode == "filter" else 1.0

    @property
    def for_validation(self) -> bool:
        """Never: it uses the training examples' features."""
        return False


class Knn(_Trust):
    """q_i is the mean label of the `k` nearest examples of other groups by ‖h_i − h_j‖."""

    kind: Literal["knn"] = "knn"
    k: Positive = 20
    label_format: ClassVar[str] = "knn{k}-{mode}{fraction:g}"


class Logistic(_Trust):
    """q_i is the prediction of a logistic regression on standardised features, fitted without the group of example i.

    It minimises mean_i Σ_c −p_ic log q_ic + l2_penalty · ‖W‖² over four of five folds, to which groups are assigned by
    coins.
    """

    kind: Literal["logistic"] = "logistic"
    l2_penalty: float = Field(default=1e-3, gt=0)
    label_format: ClassVar[str] = "logistic-{mode}{fraction:g}"


class Topological(_Trust):
    """Trust the largest connected component of each hard class's mutual k-nearest-neighbour graph (Wu et al. 2020).

    Two examples are connected if they have one class and each is among the other's `k` nearest of other groups. q_i is
    the mean label of the k nearest members of other groups. Only members are trusted, and at most `fraction` of all
    examples.
    """

    kind: Literal["topological"] = "topological"
    k: Positive = 20
    fraction: Fraction = 1.0
    """At most this share of the labels is trusted; the size of the components is known only when it is applied."""
    label_format: ClassVar[str] = "topological{k}-{mode}{fraction:g}"


class KeepRandom(_Filter):
    """The control of every filter: keep as many examples, selected by coins."""

    kind: Literal["keep_random"] = "keep_random"
    fraction: Kept | None = None
    as_many_as: Topological | None = None
    """A filter whose size is known only when it is applied."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.fraction is None) == (self.as_many_as is None):
            raise ValueError("keep_random needs either `fraction:` or `as_many_as:`, the filter whose size it takes")
        if self.as_many_as is not None and self.as_many_as.mode != "filter":
            raise ValueError("keep_random.as_many_as must drop examples; give it `mode: filter`")
        return self

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return f"random-{self.as_many_as.label}" if self.as_many_as is not None else f"random{self.fraction:g}"

    @property
    def needs_features(self) -> bool:
        """Whether the filter whose size it takes does."""
        return self.as_many_as is not None

    @property
    def kept_share(self) -> float:
        """Its fraction, or that of the filter whose size it takes."""
        return self.as_many_as.kept_share if self.as_many_as is not None else self.fraction or 1.0


class _Truthful(_Transform):
    """Uses ground truth that a weakly supervised student does not have; tables mark it."""

    @property
    def reads_truth(self) -> bool:
        """Always."""
        return True


class MixGroundTruth(_Truthful):
    """The `fraction` of examples with the lowest coins get their true label."""

    kind: Literal["mix_ground_truth"] = "mix_ground_truth"
    fraction: Fraction
    label_format: ClassVar[str] = "truth{fraction:g}"


class SyntheticErrors(_Truthful):
    """Hard ground truth with as many errors of each kind as the supervisor makes, on examples selected by coins.

    As many examples of class c become class d as the supervisor's hard labels make d of c, so both label sets have the
    same confusion matrix (a control of Burns et al. 2023).
    """

    kind: Literal["synthetic_errors"] = "synthetic_errors"
    label_format: ClassVar[str] = "synthetic-errors"


class Permute(_Transform):
    """Each example gets the label of another, selected by coins: the same distribution of labels, nothing to learn."""

    kind: Literal["permute"] = "permute"
    label_format: ClassVar[str] = "permuted"


Transform = Annotated[
    Harden | KeepConfident | KeepRandom | Knn | Logistic | Topological | MixGroundTruth | SyntheticErrors | Permute,
    Field(discriminator="kind"),
]


class _Source(Spec):
    transforms: tuple[Transform, ...] = ()
    coin_seed: int = 0
    """Seeds the coins of the transforms; 0 where there are none."""

    @property
    def needs_features(self) -> bool:
        """Whether a transform reads the student's hidden states."""
        return any(transform.needs_features for transform in self.transforms)

    @property
    def kept_share(self) -> float:
        """The largest share of the split's examples that the filters keep."""
        share = 1.0
        for transform in self.transforms:
            share *= transform.kept_share
        return share

    def _label(self, source: str) -> str:
        return "-".join([source, *(transform.label for transform in self.transforms)])


class GroundTruth(_Source):
    """The labels of the task itself (for `next_token`: the text)."""

    kind: Literal["ground_truth"] = "ground_truth"

    @property
    def sources(self) -> tuple[str, ...]:
        """Ground truth needs no predictions."""
        return ()

    @property
    def reads_truth(self) -> bool:
        """Always."""
        return True

    @property
    def label(self) -> str:
        """Short name for slugs."""
        return self._label("gt")


class Weighing(Spec):
    """Tells how good each supervisor is: labelled examples from which none of their students learns."""

    split: SplitSpec
    predictions: tuple[str, ...] = Field(min_length=1)
    """Identities of the supervisors' predictions for `split`."""


class WeakLabels(_Source):
    """Soft labels of one or more supervisors for this split."""

    kind: Literal["weak"] = "weak"
    predictions: tuple[str, ...] = Field(min_length=1)
    """Identities of the supervisors' predictions for the split."""
    combine: Combination = "mean"
    weighing: Weighing | None = None
    """For `weighted` alone; its supervisors are in the same order."""

    @model_validator(mode="after")
    def _all_are_weighed(self) -> Self:
        num_weighed = len(self.weighing.predictions) if self.weighing is not None else 0
        num_needed = len(self.predictions) if self.combine == "weighted" else 0
        if num_weighed != num_needed:
            raise ValueError(
                f"combine: {self.combine} of {len(self.predictions)} supervisors with {num_weighed} weights"
            )
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """Identities of all predictions that these labels are made from."""
        return (*self.predictions, *(self.weighing.predictions if self.weighing is not None else ()))

    @property
    def reads_truth(self) -> bool:
        """Whether a transform reads the true classes of the examples."""
        return any(transform.reads_truth for transform in self.transforms)

    @property
    def label(self) -> str:
        """Short name for slugs."""
        return self._label(f"{self.combine}{len(self.predictions)}" if len(self.predictions) > 1 else "weak")


Labels = Annotated[GroundTruth | WeakLabels, Field(discriminator="kind")]


class LabelledSplit(Spec):
    """Examples and the source of their labels."""

    split: SplitSpec
    labels: Labels


class Relabelling(Spec):
    """Changes to the labels of a level's weakly supervised students."""

    transforms: tuple[Transform, ...] = ()
    """Applied one after another. Ceilings learn from all examples, with their true labels."""


class Supervisors(Spec):
    """The first supervisors of a chain: several models of level 0 that differ in their seeds."""

    num: Positive = 1
    """The first one is the floor. The others differ from it in the order of batches, and in their heads where these
    are random: a head that starts as rows of the unembedding (classes of one token each) is the same for all."""
    bagging: bool = False
    """Each but the first learns from a share of S, 1 − 1/e, selected by coins of its own: as many distinct examples as
    a bootstrap sample has."""
    combine: Combination = "mean"

    @model_validator(mode="after")
    def _several(self) -> Self:
        if self.num == 1 and (self.bagging or self.combine != "mean"):
            raise ValueError("`bagging:` and `combine:` need several supervisors; raise `num:`")
        return self
