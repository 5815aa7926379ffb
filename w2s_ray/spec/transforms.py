"""What is done to a label source's labels before a student learns from them: filters, relabellings, controls.

Transforms act one after another, each on what the one before it left. A filter drops examples; a relabelling changes
labels; a control breaks one thing on purpose, so that a reader can see what the rest is worth. All chance is a coin
from hash(seed, kind, example id), so it depends on no order and no worker.

Notation: p_i is the soft label of example i, y_i its truth, h_i the student's pretrained last hidden state at the last
token, and d(p, q) = ½ Σ_c |p_c − q_c|, which for two classes is the difference of the probabilities. What each method
is measured against in public code stands in docs/methods.md.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from w2s_ray.spec.base import Fraction, Positive, Spec

Mode = Literal["filter", "relabel"]
"""What becomes of labels that are not trusted: their examples are dropped, or they get the label that is proposed."""
Kept = Annotated[float, Field(gt=0.0, le=1.0)]
"""A share of examples that is kept: never none of them."""


class _Transform(Spec):
    """What is true of most transforms."""

    @property
    def needs_features(self) -> bool:
        """Whether it looks at the student's hidden states."""
        return False

    @property
    def reads_truth(self) -> bool:
        """Whether it looks at the ground truth of the examples."""
        return False

    @property
    def kept_share(self) -> float:
        """The largest share of examples that it keeps."""
        return 1.0

    @property
    def for_validation(self) -> bool:
        """Whether the labels of Vi get it too: whatever changes what labels are, and neither filters nor features."""
        return True


class Harden(_Transform):
    """All probability on the most probable class, argmax_c p_ic; between equal ones a coin decides."""

    kind: Literal["harden"] = "harden"

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return "hard"


class _Filter(_Transform):
    """Keeps some examples and their labels as they are; validation examples are never dropped."""

    @property
    def for_validation(self) -> bool:
        """Never."""
        return False


class KeepConfident(_Filter):
    """Keep the `fraction` of examples with the highest max_c p_ic, equal ones in the order of a coin."""

    kind: Literal["keep_confident"] = "keep_confident"
    fraction: Kept

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return f"confident{self.fraction:g}"

    @property
    def kept_share(self) -> float:
        """What it is told to keep."""
        return self.fraction


class _Trust(_Transform):
    """Ranks labels by d(p_i, q_i), q_i being proposed from the features; trusts those that differ least."""

    mode: Mode
    fraction: Fraction
    """Share of the labels that is trusted; with `mode: relabel`, 0 relabels all."""

    @model_validator(mode="after")
    def _keeps_some(self) -> Self:
        if self.mode == "filter" and self.fraction == 0:
            raise ValueError("a filter with fraction 0 keeps no example; `mode: relabel` keeps all")
        return self

    @property
    def needs_features(self) -> bool:
        """Always."""
        return True

    @property
    def kept_share(self) -> float:
        """What it trusts, where it filters."""
        return self.fraction if self.mode == "filter" else 1.0

    @property
    def for_validation(self) -> bool:
        """Never: it is made from the training examples' features."""
        return False


class Knn(_Trust):
    """q_i is the mean label of the `k` nearest other examples by ‖h_i − h_j‖."""

    kind: Literal["knn"] = "knn"
    k: Positive = 20

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return f"knn{self.k}-{self.mode}{self.fraction:g}"


class Logistic(_Trust):
    """q_i is what a logistic regression on standardised features says that was fitted without example i.

    It minimises mean_i Σ_c −p_ic log q_ic + l2_penalty · ‖W‖² over four of five folds, which a coin draws.
    """

    kind: Literal["logistic"] = "logistic"
    l2_penalty: float = Field(default=1e-3, gt=0)

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return f"logistic-{self.mode}{self.fraction:g}"


class Topological(_Trust):
    """Trust the largest connected component of each hard class's mutual k-nearest-neighbour graph (Wu et al. 2020).

    Two examples are joined where they have one class and each is among the other's `k` nearest. q_i is the mean label
    of the k nearest other members of the components. Of the members, at most `fraction` of all examples are trusted.
    """

    kind: Literal["topological"] = "topological"
    k: Positive = 20
    fraction: Fraction = 1.0
    """At most this share of the labels is trusted; how many lie in the components is known only then."""

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return f"topological{self.k}-{self.mode}{self.fraction:g}"


class KeepRandom(_Filter):
    """The control of every filter: as many examples, drawn by a coin."""

    kind: Literal["keep_random"] = "keep_random"
    fraction: Kept | None = None
    as_many_as: Topological | None = None
    """A filter whose size is known only when it is applied."""

    @model_validator(mode="after")
    def _one_size(self) -> Self:
        if (self.fraction is None) == (self.as_many_as is None):
            raise ValueError("keep_random takes either `fraction:` or `as_many_as:`, the filter that it is to match")
        if self.as_many_as is not None and self.as_many_as.mode != "filter":
            raise ValueError("keep_random.as_many_as relabels and drops nothing; give it `mode: filter`")
        return self

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return f"random-{self.as_many_as.label}" if self.as_many_as is not None else f"random{self.fraction:g}"

    @property
    def needs_features(self) -> bool:
        """Whether the filter that it matches does."""
        return self.as_many_as is not None

    @property
    def kept_share(self) -> float:
        """What it keeps at most."""
        return self.as_many_as.kept_share if self.as_many_as is not None else self.fraction or 1.0


class _Truthful(_Transform):
    """Made from ground truth that a weakly supervised student does not have; tables mark it."""

    @property
    def reads_truth(self) -> bool:
        """Always."""
        return True


class MixGroundTruth(_Truthful):
    """For the `fraction` of examples with the lowest coins the label is the truth."""

    kind: Literal["mix_ground_truth"] = "mix_ground_truth"
    fraction: Fraction

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return f"truth{self.fraction:g}"


class SyntheticErrors(_Truthful):
    """Hard ground truth with the supervisor's errors in number and kind, and on examples that a coin draws.

    Of the examples of class c, as many become class d as the supervisor's hard labels make d of c, so both label sets
    have one confusion matrix (a control of Burns et al. 2023).
    """

    kind: Literal["synthetic_errors"] = "synthetic_errors"

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return "synthetic-errors"


class Permute(_Transform):
    """Each example gets the label of another that a coin draws: the labels' distribution, and nothing to learn."""

    kind: Literal["permute"] = "permute"

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return "permuted"


Transform = Annotated[
    Harden | KeepConfident | KeepRandom | Knn | Logistic | Topological | MixGroundTruth | SyntheticErrors | Permute,
    Field(discriminator="kind"),
]
