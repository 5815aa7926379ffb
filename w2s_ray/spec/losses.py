"""What a weakly supervised student minimises; the formulas live here as text, their code in training/losses.py.

Notation, per example: w the label that the student gets, p its own prediction (a softmax), CE(w, p) = -Σ w·log p. The
loss of an optimizer batch is the mean over its examples. α is a share between label and own prediction that rises
during training; `x` is the share of training that is done.

Two classes may be told apart by a threshold on the probability of class 1. Where a formula needs that, a task of more
classes is refused before anything is trained.
"""

from typing import Annotated, Literal

from pydantic import Field

from w2s_ray.errors import StudyError
from w2s_ray.spec.base import Fraction, Spec

Prior = Literal["half", "weak", "batch", "argmax"]


class _Loss(Spec):
    """What all losses have."""

    @property
    def two_classes_only(self) -> bool:
        """Whether the formula means nothing for more than two classes."""
        return False

    @property
    def least_batch(self) -> int:
        """Examples of an optimizer batch below which the formula means nothing."""
        return 1


class NaiveLoss(_Loss):
    """CE(w, p): cross-entropy against the labels as they are (Burns et al. 2023, section 4.1)."""

    kind: Literal["naive"] = "naive"

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return "naive"


class HardLoss(_Loss):
    """CE(onehot(argmax w), p): the labels hardened to their most probable class, of equal ones the first."""

    kind: Literal["hard"] = "hard"

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return "hard"


class ConfidenceLoss(_Loss):
    """CE((1 - α)·w + α·h, p), h the student's own hardened prediction (Burns et al. 2023, section 4.3.2, appendix A.4).

    h is no target for gradients. For two classes it is class 1 for that share of the whole optimizer batch which
    `prior` names, the examples with the highest probability of class 1. A single example that is left over at an
    epoch's end hardens to its most probable class.
    """

    kind: Literal["confidence"] = "confidence"
    alpha_max: Fraction = 0.5
    warmup_fraction: Fraction = 0.2
    """Share of training over which α rises."""
    schedule: Literal["linear", "openai"] = "linear"
    """`linear`: α = alpha_max · min(1, x / warmup_fraction), the paper. `openai`: α = alpha_max · x, and all of
    alpha_max once x > warmup_fraction, which is what openai/weak-to-strong does: a jump."""
    prior: Prior = "half"
    """Share of the batch that hardens to class 1: one half (the paper); the mean label of class 1 over all that the
    student learns from (`weak`), or over this batch (`batch`, as openai and EleutherAI). `argmax` fixes no share: each
    example hardens to its most probable class, and it alone serves more than two classes."""
    balance_labels: bool = False
    """Shift the labels' log-odds so that they sum to 0 over each optimizer batch (EleutherAI/w2s, `balance_batch`,
    which goes with `prior: half`)."""

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return _label(
            f"confidence{self.alpha_max:g}",
            f"warmup{self.warmup_fraction:g}" if self.warmup_fraction != 0.2 else "",
            self.schedule if self.schedule != "linear" else "",
            self.prior if self.prior != "half" else "",
            "balanced" if self.balance_labels else "",
        )

    @property
    def two_classes_only(self) -> bool:
        """Whether the formula means nothing for more than two classes."""
        return self.prior != "argmax" or self.balance_labels

    @property
    def least_batch(self) -> int:
        """Examples of an optimizer batch below which the formula means nothing."""
        return 1 if self.prior == "argmax" else 2


class EntropyLoss(_Loss):
    """CE((1 - α)·w + α·p', p), p' being p without gradients: the confidence loss unhardened (EleutherAI/w2s).

    Its second part draws the student towards what it believes already, by its entropy at that moment.
    """

    kind: Literal["entropy"] = "entropy"
    alpha_max: Fraction = 0.5
    warmup_fraction: Fraction = 0.2
    """Share of training over which α rises linearly from 0 to `alpha_max`."""
    balance_labels: bool = False
    """Shift the labels' log-odds so that they sum to 0 over each optimizer batch (EleutherAI/w2s, `balance_batch`)."""

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return _label(
            f"entropy{self.alpha_max:g}",
            f"warmup{self.warmup_fraction:g}" if self.warmup_fraction != 0.2 else "",
            "balanced" if self.balance_labels else "",
        )

    @property
    def two_classes_only(self) -> bool:
        """Whether the formula means nothing for more than two classes."""
        return self.balance_labels


class ProductLoss(_Loss):
    """CE(q, p), q ∝ w^weak_power · p^student_power without gradients (openai/weak-to-strong, `product_loss_fn`)."""

    kind: Literal["product"] = "product"
    weak_power: float = Field(default=1.0, gt=0)
    student_power: float = Field(default=1.0, ge=0)

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return _label(
            "product",
            f"weak{self.weak_power:g}" if self.weak_power != 1 else "",
            f"student{self.student_power:g}" if self.student_power != 1 else "",
        )


class WindowLoss(_Loss):
    """CE(w, p) where max p < 1/2 + radius, and 0 elsewhere: only what the student is unsure of (EleutherAI/w2s).

    The sum is divided by all examples of the batch, those outside the window too.
    """

    kind: Literal["window"] = "window"
    radius: Annotated[float, Field(gt=0, le=0.5)] | Literal["midweak"] = 0.15
    """`midweak`: the median of |w - 1/2| over all that the student learns from."""

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return "window-midweak" if self.radius == "midweak" else f"window{self.radius:g}"

    @property
    def two_classes_only(self) -> bool:
        """Whether the formula means nothing for more than two classes."""
        return True


class KLLoss(_Loss):
    """The divergence between label and prediction, whose least value is 0 at perfect imitation.

    `forward`: KL(w ‖ p) = CE(w, p) - CE(w, w), the gradients of `naive` (EleutherAI/w2s). `reverse`: KL(p ‖ w), which
    weighs each class by the student's own belief in it (Yao et al. 2025, arXiv 2502.11107).
    """

    kind: Literal["kl"] = "kl"
    direction: Literal["forward", "reverse"] = "forward"

    @property
    def label(self) -> str:
        """Short name for tables and slugs."""
        return "kl" if self.direction == "forward" else "kl-reverse"


Loss = Annotated[
    NaiveLoss | HardLoss | ConfidenceLoss | EntropyLoss | ProductLoss | WindowLoss | KLLoss,
    Field(discriminator="kind"),
]


def check_classes(loss: Loss, num_classes: int, *, key: str, task: str) -> None:
    """Refuse a loss whose formula is for two classes where a task has more.

    Args:
        loss: the loss that is asked for.
        num_classes: how many classes the task has.
        key: where the study asks for it.
        task: the task's name.

    Raises:
        StudyError: naming both.
    """
    if num_classes > 2 and loss.two_classes_only:
        raise StudyError(
            f"{key} is {loss.label}, and the task {task} has {num_classes} classes",
            "its formula splits two classes at a probability",
            f"choose a loss for any number of classes, such as {{kind: confidence, prior: argmax}}, or name the tasks "
            f"that {key.split('.losses')[0]} is for (`tasks:`)",
        )


def _label(*parts: str) -> str:
    return "-".join(part for part in parts if part)
