"""`w2s run --smoke`: the same study, so small that every stage takes two steps."""

from w2s_ray.spec.chain import Resolution
from w2s_ray.spec.study import LevelSpec, Study

SMOKE_STEPS = 2
_DOCUMENTS_PER_EXAMPLE = 2
"""Documents for one block of text, more than enough."""


def shrink(study: Study) -> Study:
    """Return the study with two optimizer steps to a stage, and test and validation sets of a few examples.

    Seeds, chains, methods, models and the way each stage is run stay as they are: those are what is tried.
    """
    most = max(level.optimisation.examples_per_step for level in study.ladder.values())
    train_examples = SMOKE_STEPS * most
    splits = study.splits.model_copy(update={"train_examples": train_examples, "validation_examples": 8})
    sizes = {"test_examples": 16, "train_examples": None, "validation_examples": None}
    tasks = {name: task.model_copy(update=sizes) for name, task in study.tasks.items()}
    ladder = {name: _shrink_level(level, train_examples) for name, level in study.ladder.items()}
    report = study.report.model_copy(update={"bootstrap_samples": 50})
    tracking = study.tracking.model_copy(update={"wandb": "disabled"})  # two steps are nobody's result
    update = {"tracking": tracking, "tasks": tasks, "ladder": ladder, "splits": splits, "report": report}
    return study.model_copy(update=update)


def shrink_text(resolution: Resolution, study: Study) -> Resolution:
    """Return the resolution with only as many documents as two steps of pretraining need."""
    most = max(level.optimisation.examples_per_step for level in study.ladder.values())
    limit = most * SMOKE_STEPS * _DOCUMENTS_PER_EXAMPLE
    tasks = {
        name: task.model_copy(
            update={"num_documents": min(task.num_documents, limit), "num_held_out": min(task.num_held_out, 16)}
        )
        for name, task in resolution.tasks.items()
    }
    return resolution.model_copy(update={"tasks": tasks})


def _shrink_level(level: LevelSpec, train_examples: int) -> LevelSpec:
    steps_per_epoch = train_examples / level.optimisation.examples_per_step
    update = {"epochs": SMOKE_STEPS / steps_per_epoch, "early_stopping": None}
    return level.model_copy(update={"optimisation": level.optimisation.model_copy(update=update)})
