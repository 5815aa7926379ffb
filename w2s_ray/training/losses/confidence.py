"""The auxiliary confidence loss: labels mixed with what the student itself, hardened, says.

Its threshold is taken over the whole optimizer batch, because one per micro-batch degenerates: over a single example
it always picks class 0.
"""

from w2s_ray.spec.losses import ConfidenceLoss
from w2s_ray.training.feed import FloatArray
from w2s_ray.training.losses.formulas import above_threshold, alpha_at, balanced, most_probable
from w2s_ray.training.losses.naive import Naive
from w2s_ray.training.losses.protocol import OptimizerBatch


class Confidence(Naive):
    """CE((1 - α)·w + α·hardened p, p)."""

    reads_batch = True

    def __init__(self, spec: ConfidenceLoss, mean_label: float) -> None:
        """`mean_label` is the mean label of class 1 over all that the student learns from."""
        self._spec = spec
        self._mean_label = mean_label

    def targets(self, batch: OptimizerBatch) -> FloatArray:
        """Return the mixture at this point of the training."""
        spec = self._spec
        alpha = alpha_at(batch.progress, spec.alpha_max, spec.warmup_fraction, spec.schedule)
        labels_NC = balanced(batch.labels_NC) if spec.balance_labels else batch.labels_NC
        mixed_NC: FloatArray = ((1 - alpha) * labels_NC + alpha * self._hardened(batch)).astype("float32")
        return mixed_NC

    def _hardened(self, batch: OptimizerBatch) -> FloatArray:
        assert batch.probs_NC is not None, "the batch was not read"
        if self._spec.prior == "argmax" or len(batch.probs_NC) == 1:
            return most_probable(batch.probs_NC)
        return above_threshold(batch.probs_NC, batch.ties_N, self._share(batch))

    def _share(self, batch: OptimizerBatch) -> float:
        """Share of the batch above the threshold."""
        match self._spec.prior:
            case "weak":
                return self._mean_label
            case "batch":
                return float(batch.labels_NC[:, 1].mean())
        return 0.5
