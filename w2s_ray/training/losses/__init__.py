"""What a student minimises: one file and one class for each kind of loss; `student_loss` finds the one asked for.

A loss has two parts, because of what each can see. `targets` sees the whole optimizer batch, all ranks and
micro-batches, without gradients: a threshold taken over less would depend on how the batch was cut. `value` sees one
micro-batch, with gradients. `Naive` is the plain case, and every other class says only in which part it differs.

The formulas and their sources stand in spec/losses.py. Shapes: B examples of a micro-batch, N of an optimizer batch,
C classes.
"""

from w2s_ray.training.losses.choice import student_loss
from w2s_ray.training.losses.formulas import soft_cross_entropy
from w2s_ray.training.losses.protocol import OptimizerBatch, StudentLoss

__all__ = [
    "OptimizerBatch",
    "StudentLoss",
    "soft_cross_entropy",
    "student_loss",
]
