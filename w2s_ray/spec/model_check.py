"""The inputs of a model check (training/model_check.py), so that each way of using a model is checked once."""

from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.execution import ExecutionSpec
from w2s_ray.spec.labels import GroundTruth, LabelledSplit, SplitSpec
from w2s_ray.spec.losses import NaiveLoss
from w2s_ray.spec.stage import ModelSource, Optimisation

RECIPE = 1
"""Version of the check; increase when it would refuse other models."""
_NEITHER: dict[str, dict[str, float]] = {"prompt": {"num_shots": 0}, "lora": {"dropout": 0.0}}
"""Settings of trainable weights, by kind, that do not matter to the check."""


class CheckResult(Spec):
    """The outcome of a check: the largest difference that was found, or why the model is refused."""

    difference: float = 0.0
    """As a share of what is allowed."""
    message: str = ""
    """Empty for a model that can be used."""
    hint: str = ""
    lacks_memory: bool = False
    """Whether the machine's memory was not enough to try."""


class Checks(Spec):
    """The stages to check, or what became of them."""

    stages: tuple[PlannedStage, ...] = ()
    verdicts: tuple[CheckResult, ...] = ()
    """The verdicts on the first stages; the last may be a refusal."""


def to_check(stage: PlannedStage, source: ModelSource | None = None) -> PlannedStage:
    """Return the stage without what does not matter to the check; equal identities need one check.

    Args:
        stage: any stage.
        source: the model, for a stage that starts from another stage.
    """
    spec, own = stage.spec, stage.spec.optimisation
    context = max(own.context_tokens, *(prediction.context_tokens for prediction in stage.predicts), 1)
    trainable = spec.trainable
    whole = SplitSpec(task=spec.train[0].split.task, name="test", num_examples=1, num_levels=1, split_seed=0)
    update = {
        "starts_from": source or spec.starts_from,
        "trainable": trainable.model_copy(update=_NEITHER.get(trainable.kind, {})),
        "reference": None,
        "shots_recipe": 1,
        "train": (LabelledSplit(split=whole, labels=GroundTruth()),),
        "validation": None,
        "loss": NaiveLoss(),
        "optimisation": Optimisation(context_tokens=context),
        "init_seed": 0,
        "order_seed": 0,
    }
    checked = spec.model_copy(update=update)
    return PlannedStage(spec=checked, execution=ExecutionSpec(), arm=stage.arm, level=stage.level, task=stage.task)
