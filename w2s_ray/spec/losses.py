"""Losses of weakly supervised students. The formulas are here; training/losses.py computes them.

Notation, per example: w is the label that the student gets, p its own prediction (a softmax over classes), and
CE(w, p) = -Σ_c w_c · log p_c. The loss of an optimizer batch is the mean over its examples. α weighs the student's own
prediction against the label and rises during training; x is the share of training that is done.

Some formulas split two classes at a probability of class 1. A study that asks for one of these on a task of more
classes is refused before anything is trained.
"""

from typing import Annotated, ClassVar, Literal, get_args

from pydantic import Field

from w2s_ray.spec.base import Fraction, Variant

Prior = Literal["half", "weak", "batch", "argmax"]


class _Loss(Variant):
    @property
    def two_classes_only(self) -> bool:
        """Whether the formula is defined for two classes only."""
        return False

    @property
    def least_batch(self) -> int:
        """The smallest optimizer batch, in examples, for which the formula is defined."""
        return 1


class NaiveLoss(_Loss):
    """CE(w, p): cross-entropy with the labels as they are (Burns et al. 2023, section 4.1)."""

    kind: Literal["naive"] = "naive"
    label_format: ClassVar[str] = "naive"


class HardLoss(_Loss):
    """CE(onehot(argmax w), p): the labels hardened to their most probable class; of equal ones the first."""

    kind: Literal["hard"] = "hard"
    label_format: ClassVar[str] = "hard"


class ConfidenceLoss(_Loss):
    """CE((1 - α)·w + α·h, p), h the student's own hardened prediction (Burns et al. 2023, section 4.3.2, appendix A.4).

    No gradient flows through h. For two classes h is class 1 for the share of the whole optimizer batch that `prior`
    names: the examples with the highest probability of class 1. A single example left over at an epoch's end hardens
    to its most probable class.
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
    example hardens to its most probable class. Only `argmax` works for more than two classes."""
    balance_labels: bool = False
    """Shift the labels' log-odds so that they sum to 0 over each optimizer batch (EleutherAI/w2s, `balance_batch`,
    which goes with `prior: half`)."""

    label_format: ClassVar[str] = "confidence{alpha_max:g}"
    label_changes: ClassVar = {
        "warmup_fraction": "warmup{:g}",
        "schedule": "{}",
        "prior": "{}",
        "balance_labels": "balanced",
    }

    @property
    def two_classes_only(self) -> bool:
        """All but `prior: argmax` without balanced labels."""
        return self.prior != "argmax" or self.balance_labels

    @property
    def least_batch(self) -> int:
        """Two, where a share of the batch hardens to class 1."""
        return 1 if self.prior == "argmax" else 2


class EntropyLoss(_Loss):
    """CE((1 - α)·w + α·p', p), p' being p without gradients: the confidence loss unhardened (EleutherAI/w2s).

    The value of its second part is the entropy of p.
    """

    kind: Literal["entropy"] = "entropy"
    alpha_max: Fraction = 0.5
    warmup_fraction: Fraction = 0.2
    """Share of training over which α rises linearly from 0 to `alpha_max`."""
    balance_labels: bool = False
    """Shift the labels' log-odds so that they sum to 0 over each optimizer batch (EleutherAI/w2s, `balance_batch`)."""

    label_format: ClassVar[str] = "entropy{alpha_max:g}"
    label_changes: ClassVar = {"warmup_fraction": "warmup{:g}", "balance_labels": "balanced"}

    @property
    def two_classes_only(self) -> bool:
        """With balanced labels."""
        return self.balance_labels


class ProductLoss(_Loss):
    """CE(q, p), q ∝ w^weak_power · p^student_power without gradients (openai/weak-to-strong, `product_loss_fn`)."""

    kind: Literal["product"] = "product"
    weak_power: float = Field(default=1.0, gt=0)
    student_power: float = Field(default=1.0, ge=0)

    label_format: ClassVar[str] = "product"
    label_changes: ClassVar = {"weak_power": "weak{:g}", "student_power": "student{:g}"}


class WindowLoss(_Loss):
    """CE(w, p) where max p < 1/2 + radius, and 0 elsewhere: only where the student is unsure (EleutherAI/w2s).

    The sum is divided by the number of all examples of the batch, also those outside the window.
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
        """Always."""
        return True


class KLLoss(_Loss):
    """The divergence between label and prediction, whose minimum is 0, at perfect imitation.

    `forward`: KL(w ‖ p) = CE(w, p) - CE(w, w), the gradients of `naive` (EleutherAI/w2s). `reverse`: KL(p ‖ w), which
    weighs each class by the student's own belief in it (Yao et al. 2025, arXiv 2502.11107).
    """

    kind: Literal["kl"] = "kl"
    direction: Literal["forward", "reverse"] = "forward"

    label_format: ClassVar[str] = "kl"
    label_changes: ClassVar = {"direction": "{}"}


Loss = Annotated[
    NaiveLoss | HardLoss | ConfidenceLoss | EntropyLoss | ProductLoss | WindowLoss | KLLoss,
    Field(discriminator="kind"),
]
LOSSES: tuple[type[Loss], ...] = get_args(get_args(Loss)[0])
"""Every class of `Loss`."""
