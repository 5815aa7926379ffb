"""From a loss as the study names it to the class that computes it."""

from typing import assert_never

from w2s_ray.spec.losses import (
    ConfidenceLoss,
    EntropyLoss,
    HardLoss,
    KLLoss,
    Loss,
    NaiveLoss,
    ProductLoss,
    WindowLoss,
)
from w2s_ray.training.feed import FloatArray
from w2s_ray.training.losses.confidence import Confidence
from w2s_ray.training.losses.entropy import Entropy
from w2s_ray.training.losses.hard import Hard
from w2s_ray.training.losses.kl import KL
from w2s_ray.training.losses.naive import Naive
from w2s_ray.training.losses.product import Product
from w2s_ray.training.losses.protocol import StudentLoss
from w2s_ray.training.losses.window import Window


def student_loss(spec: Loss, labels_NC: FloatArray) -> StudentLoss:
    """Return the loss; `labels_NC` are all labels that the student learns from, of which some losses take a mean."""
    match spec:
        case NaiveLoss():
            return Naive()
        case HardLoss():
            return Hard()
        case ConfidenceLoss():
            return Confidence(spec, float(labels_NC[:, -1].mean()))
        case EntropyLoss():
            return Entropy(spec)
        case ProductLoss():
            return Product(spec)
        case WindowLoss():
            return Window(spec, labels_NC)
        case KLLoss():
            return KL(spec)
    assert_never(spec)
