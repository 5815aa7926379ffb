"""Losses of weakly supervised students. The formulas are here; training/losses.py computes them.

Notation, per example: w is the label that the student gets, p its own prediction (a softmax over classes), and
CE(w, p) = -Σ_c w_c · log p_c. The loss of an optimizer batch is the mean over its examples. α weighs the student's own
prediction against the label and rises during training; x is the share of training that is done.

Some formulas split two classes at a probability of class 1. A study that asks for one of these on a task of more
classes is refused before anything is trained.
"""

import hashlib
import inspect
from collections.abc import Callable
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import Field, field_serializer, model_validator

from w2s_ray.errors import StudyError
from w2s_ray.spec.base import Fraction, Name, Variant
from w2s_ray.spec.own_code import source_of

_NUM_TENSORS = 3
"""Arguments of an own loss before its settings."""
_LABEL_DIGITS = 4

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


LossFunction = Callable[..., Any]
"""Maps (logits_BC, labels_BC, progress, **settings) to loss_B: tensors of B examples and C classes, and the share of
training that is done."""
_own: dict[str, LossFunction] = {}


def register_loss(name: str, function: LossFunction) -> None:
    """Register a loss of your own, so that studies can name it as `{kind: own, name: …, settings: {…}}`.

    `function(logits_BC, labels_BC, progress, **settings)` returns a loss for each example; it has to be finite for
    certain labels, and may use no other example. Its source, with what it uses of its own file, is part of the
    identities of the stages that learn with it, and is sent to their workers: an edited formula trains again. Register
    it in the process that runs the study, before `load_study`.

    Raises:
        StudyError: when the name is taken by another loss, or the function is not defined at the top level of a file.
    """
    source = source_of(function)
    known = _own.get(name)
    if known is not None and source_of(known) != source:
        raise StudyError(f"another loss is registered as {name!r}", "choose another name")
    _own[name] = function


def check_registered(loss: "Loss") -> None:
    """Refuse to train with an own loss whose source is not that of a function registered in this process.

    A study file, which may be anyone's, never brings code of its own.
    """
    if isinstance(loss, OwnLoss) and (loss.name not in _own or source_of(_own[loss.name]) != loss.source):
        raise StudyError(
            f"loss {loss.name} of the study is not the one that this process has registered",
            "call register_loss before load_study in the program that runs the study, or in the FILE.py of "
            "`w2s --import FILE.py run …`",
        )


Setting = bool | int | float | str


class OwnLoss(_Loss):
    """A loss that the program registered with `register_loss`: the sum of its values over examples."""

    kind: Literal["own"] = "own"
    name: Name
    """The name under which it is registered."""
    settings: tuple[tuple[str, Setting], ...] = ()
    """Keyword arguments of the function; a mapping in the study."""
    function: str
    """The function's name; set when the study is read."""
    source: str
    """Its source; set when the study is read."""

    @property
    def label(self) -> str:
        """Short name for tables and slugs: the name, the settings, and digits that change with the formula."""
        settings = [f"{key}{value:g}" if isinstance(value, float) else f"{key}{value}" for key, value in self.settings]
        digits = hashlib.sha256(self.source.encode()).hexdigest()[:_LABEL_DIGITS]
        return "-".join([self.name, *settings, digits])

    @model_validator(mode="before")
    @classmethod
    def _with_source(cls, raw: Any) -> Any:
        if not isinstance(raw, dict):
            return raw
        settings = raw.get("settings") or {}
        if isinstance(settings, dict):
            raw = {**raw, "settings": tuple(sorted(settings.items()))}
        if "source" in raw:
            return raw
        name = raw.get("name")
        if name not in _own:
            known = ", ".join(_own) or "none"
            raise ValueError(
                f"no loss is registered as {name!r} (registered: {known}); call register_loss before load_study, or "
                "name the file that does in `w2s --import FILE.py …`; status, logs and export also take the study.yaml "
                "in the store"
            )
        function = _own[name]
        parameters = list(inspect.signature(function).parameters.values())[_NUM_TENSORS:]
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters)
        named = {parameter.name: parameter for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD}
        for key in settings:
            if key not in named and not takes_any:
                raise ValueError(f"loss {name} has no setting {key}; it has {', '.join(named) or 'none'}")
        for key, parameter in named.items():
            if key not in settings and parameter.default is parameter.empty:
                raise ValueError(f"loss {name} needs the setting {key}")
        return {**raw, "function": function.__name__, "source": source_of(function)}

    @field_serializer("settings")
    def _as_mapping(self, settings: tuple[tuple[str, Setting], ...]) -> dict[str, Setting]:
        return dict(settings)


Loss = Annotated[
    NaiveLoss | HardLoss | ConfidenceLoss | EntropyLoss | ProductLoss | WindowLoss | KLLoss | OwnLoss,
    Field(discriminator="kind"),
]
LOSSES: tuple[type[Loss], ...] = get_args(get_args(Loss)[0])[:-1]
"""Every class of `Loss` but `OwnLoss`."""
