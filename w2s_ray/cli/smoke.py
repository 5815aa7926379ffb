"""`w2s run --smoke`: the same study, so small that every stage takes two steps."""

from w2s_ray.spec.chain import Resolution
from w2s_ray.spec.checks import least_examples
from w2s_ray.spec.search import SearchSpec
from w2s_ray.spec.stage import Optimisation
from w2s_ray.spec.study import LevelSpec, MethodSpec, Study

SMOKE_STEPS = 2
_SIZES = {"splits", "epochs", "examples_per_step", "every_steps"}
"""Parts of a key that says how much is trained."""
_DOCUMENTS_PER_EXAMPLE = 2
"""Documents for one block of text, more than enough."""


def shrink(study: Study) -> Study:
    """Return the study with two optimizer steps to a stage, and test and validation sets of a few examples.

    Seeds, chains, methods, models and the way each stage is run stay as they are: those are what is tried. Where
    filters drop examples or splits are pooled it is fewer or more steps.
    """
    most = max(level.optimisation.examples_per_step for level in study.ladder.values())
    needed = max(least_examples(method) for method in study.methods.values())
    train_examples = max(SMOKE_STEPS * most, 2 * needed)  # neighbours may lack where classes are balanced
    splits = study.splits.model_copy(update={"train_examples": train_examples, "validation_examples": 8})
    sizes = {"test_examples": 16, "train_examples": None, "validation_examples": None}
    labelled = [method for method in study.methods.values() if method.objective == "labels"]
    tasks = {
        name: task.model_copy(update=sizes) if any(method.serves(name) for method in labelled) else task
        for name, task in study.tasks.items()
    }
    ladder = {name: _shrink_level(level, train_examples) for name, level in study.ladder.items()}
    methods = {name: _shrink_method(method, train_examples) for name, method in study.methods.items()}
    report = study.report.model_copy(update={"bootstrap_samples": 50})
    tracking = study.tracking.model_copy(update={"wandb": "disabled"})  # two steps are nobody's result
    update = {"tracking": tracking, "tasks": tasks, "ladder": ladder, "methods": methods, "splits": splits}
    return study.model_copy(update={**update, "report": report, "search": _shrink_search(study.search)})


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
    return level.model_copy(update={"optimisation": _shrink_optimisation(level.optimisation, train_examples)})


def _shrink_method(method: MethodSpec, train_examples: int) -> MethodSpec:
    reading = {level: _shrink_optimisation(own, train_examples) for level, own in method.generative.items()}
    return method.model_copy(update={"generative": reading})


def _shrink_optimisation(optimisation: Optimisation, train_examples: int) -> Optimisation:
    epochs = SMOKE_STEPS * optimisation.examples_per_step / train_examples
    stopping = optimisation.early_stopping
    if stopping is not None:  # it is tried as well, but stops nothing before its second step
        stopping = stopping.model_copy(update={"every_steps": 1, "patience": SMOKE_STEPS})
    return optimisation.model_copy(update={"epochs": epochs, "early_stopping": stopping})


def _shrink_search(search: SearchSpec | None) -> SearchSpec | None:
    """Return the search without the keys that say how much is trained; nothing where it has no others."""
    if search is None:
        return None
    space = {key: domain for key, domain in search.space.items() if not _SIZES & set(key.split("."))}
    return search.model_copy(update={"space": space}) if space else None
