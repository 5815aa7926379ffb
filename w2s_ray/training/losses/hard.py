"""Cross-entropy against hardened labels: what is left of a supervisor that says only which class."""

from w2s_ray.training.feed import FloatArray
from w2s_ray.training.losses.formulas import most_probable
from w2s_ray.training.losses.naive import Naive
from w2s_ray.training.losses.protocol import OptimizerBatch


class Hard(Naive):
    """CE(onehot(argmax w), p)."""

    def targets(self, batch: OptimizerBatch) -> FloatArray:
        """Return each label's most probable class."""
        return most_probable(batch.labels_NC)
