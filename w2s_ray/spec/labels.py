"""Labels: which examples a stage learns on, and who says what is true of them.

A label source is ground truth, or the predictions of one or more supervisors combined; then come its transforms
(transforms.py). Weak labels name their supervisors only through the identities of their predictions, so whatever a
student learns from is part of its identity, and nothing else of its supervisors is.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from w2s_ray.spec.base import Positive, Spec
from w2s_ray.spec.transforms import Transform

Combination = Literal["mean", "vote", "weighted"]
"""How the labels of several supervisors become one; s counts supervisors, K classes.

    mean      p_i = mean_s p_is
    vote      p_ic = the share of supervisors whose most probable class is c
    weighted  votes count α_s = max(0, log((1 − err_s) / err_s) + log(K − 1)), err_s being the share of the labelled
              validation examples of level 0 on which s is wrong (SAMME, Zhu et al. 2009)
"""


class SplitSpec(Spec):
    """A set of examples: drawn from a task by seed, never by model, arm or worker."""

    task: str
    """Fingerprint of the task's prepared data."""
    name: str
    """`S`, `T1` … `Tn`, `V0` … `Vn`, `test`, or `text` for unlabelled pretraining text."""
    num_examples: Positive
    num_levels: Positive
    """Levels of the study's longest ladder: into how many slots the pool is cut."""
    split_seed: int
    balance: bool = True

    @property
    def is_test(self) -> bool:
        """Whether these examples are for metrics only."""
        return self.name == "test"


class _Source(Spec):
    """What both label sources have."""

    transforms: tuple[Transform, ...] = ()
    coin_seed: int = 0
    """Seeds the coins of the transforms; 0 where there are none."""

    @property
    def needs_features(self) -> bool:
        """Whether a transform looks at the student's hidden states."""
        return any(each.needs_features for each in self.transforms)

    @property
    def kept_share(self) -> float:
        """The largest share of the split's examples that the filters keep."""
        share = 1.0
        for each in self.transforms:
            share *= each.kept_share
        return share

    def _label(self, source: str) -> str:
        return "-".join([source, *(each.label for each in self.transforms)])


class GroundTruth(_Source):
    """Labels that the task itself carries (for `next_token`: the text)."""

    kind: Literal["ground_truth"] = "ground_truth"

    @property
    def sources(self) -> tuple[str, ...]:
        """No predictions are needed."""
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
    """What says how good each supervisor is: labelled examples that no student of theirs learns on."""

    split: SplitSpec
    predictions: tuple[str, ...] = Field(min_length=1)
    """Identities of the supervisors' predictions for `split`."""


class WeakLabels(_Source):
    """Soft labels of one or more supervisors on this very split."""

    kind: Literal["weak"] = "weak"
    predictions: tuple[str, ...] = Field(min_length=1)
    """Identities of the supervisors' predictions for the split."""
    combine: Combination = "mean"
    weighing: Weighing | None = None
    """For `weighted` alone; its supervisors stand in the same order."""

    @model_validator(mode="after")
    def _all_are_weighed(self) -> Self:
        given = len(self.weighing.predictions) if self.weighing is not None else 0
        wanted = len(self.predictions) if self.combine == "weighted" else 0
        if given != wanted:
            raise ValueError(f"combine: {self.combine} of {len(self.predictions)} supervisors with {given} weights")
        return self

    @property
    def sources(self) -> tuple[str, ...]:
        """Identities of all predictions that it takes to know these labels."""
        return (*self.predictions, *(self.weighing.predictions if self.weighing is not None else ()))

    @property
    def reads_truth(self) -> bool:
        """Whether a transform looks at the ground truth of the examples."""
        return any(each.reads_truth for each in self.transforms)

    @property
    def label(self) -> str:
        """Short name for slugs."""
        several = f"{self.combine}{len(self.predictions)}" if len(self.predictions) > 1 else "weak"
        return self._label(several)


Labels = Annotated[GroundTruth | WeakLabels, Field(discriminator="kind")]


class LabelledSplit(Spec):
    """Examples and who labels them."""

    split: SplitSpec
    labels: Labels


class Relabelling(Spec):
    """What a study does to the labels that a level's weakly supervised students get."""

    transforms: tuple[Transform, ...] = ()
    """One after another; ceilings learn on all examples, with their truth."""


class Supervisors(Spec):
    """The first supervisors of a chain: several models of level 0 that differ in their seeds."""

    num: Positive = 1
    """The first one is the floor; the others differ from it in the order of batches, and in their heads where those are
    drawn: a head that begins as rows of the unembedding (classes that are one token each) is the same for all."""
    bagging: bool = False
    """Each but the first learns a share of S, 1 − 1/e, that coins of its own draw: as many distinct examples as a
    bootstrap sample holds."""
    combine: Combination = "mean"

    @model_validator(mode="after")
    def _several(self) -> Self:
        if self.num == 1 and (self.bagging or self.combine != "mean"):
            raise ValueError("`bagging:` and `combine:` are for several supervisors; raise `num:`")
        return self
