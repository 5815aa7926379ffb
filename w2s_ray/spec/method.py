"""A method: how the students of each level learn from labels, and which arms are compared."""

from typing import Literal

from pydantic import Field

from w2s_ray.spec.base import Name, Spec
from w2s_ray.spec.labels import Relabelling, Supervisors
from w2s_ray.spec.losses import Loss, NaiveLoss
from w2s_ray.spec.stage import Optimisation
from w2s_ray.spec.trainable import AllWeights, Trainable

Arm = Literal[
    "floor",
    "member",
    "zero_shot",
    "generative",
    "chain",
    "truth_chain",
    "direct",
    "ceiling",
    "full_ceiling",
    "self",
    "pooled",
    "pretraining",
]
StudentArm = Literal["zero_shot", "chain", "truth_chain", "direct", "ceiling", "self", "pooled"]


class MethodSpec(Spec):
    """How students learn from labels, and which arms to compare."""

    objective: Literal["labels", "next_token"] = "labels"
    """`labels`: what the task's labels say. `next_token` pretrains every level on its text; there are no arms then."""
    tasks: tuple[Name, ...] | None = None
    """The tasks that it is for; all of them where not given."""
    arms: tuple[StudentArm, ...] = ("chain", "ceiling")
    """Which supervisions each student gets, on the same examples. `truth_chain` trains the students between the first
    and the last on ground truth; `zero_shot` asks every level's pretrained model without any training."""
    losses: dict[Name, Loss] = Field(default_factory=dict)
    """Loss by level, for the weakly supervised arms; `naive` where a level is not named. Ceilings always use naive."""
    labels: dict[Name, Relabelling] = Field(default_factory=dict)
    """What is done to labels, by level, for the weakly supervised arms; nothing where a level is not named."""
    supervisors: Supervisors = Supervisors()
    """Of those who learn from level 0."""
    trainable: dict[Name, Trainable] = Field(default_factory=dict)
    """Which weights are trained, by level; all of them where a level is not named. Ceilings train alike, and a student
    that does not train all its weights is also held against the ceiling that does."""
    generative: dict[Name, Optimisation] = Field(default_factory=dict)
    """Levels whose students, and their ceilings, first learn the texts of Ti without labels, and how (Burns et al.
    2023, generative supervision)."""
    oracle: tuple[Name, ...] = ()
    """Levels whose weakly supervised students stop early by the ground truth of Vi instead of its weak labels: a bound
    on what stopping can do, and no weak-to-strong learning."""
    random: tuple[Name, ...] = ()
    """Levels whose students, and their ceilings, begin with random weights instead of pretrained ones: a control."""

    @property
    def levels_named(self) -> dict[str, tuple[str, ...]]:
        """The levels that each of its keys names, by key."""
        return {
            "losses": tuple(self.losses),
            "labels": tuple(self.labels),
            "trainable": tuple(self.trainable),
            "generative": tuple(self.generative),
            "random": self.random,
            "oracle": self.oracle,
        }

    def serves(self, task: str) -> bool:
        """Say whether the method is for `task`."""
        return self.tasks is None or task in self.tasks

    def loss_of(self, level: str) -> Loss:
        """Return the loss of a weakly supervised student on `level`."""
        return self.losses.get(level, NaiveLoss())

    def relabelling_of(self, level: str) -> Relabelling:
        """Return what is done to the labels of a weakly supervised student on `level`."""
        return self.labels.get(level, Relabelling())

    def trainable_of(self, level: str) -> Trainable:
        """Return which weights a model on `level` trains."""
        return self.trainable.get(level, AllWeights())
