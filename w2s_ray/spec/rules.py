"""What the parts of a study must be to go together; each function refuses with the key that is to be changed."""

from typing import TYPE_CHECKING, get_args

from w2s_ray.spec.label_rules import check_labels
from w2s_ray.spec.losses import Loss, NaiveLoss
from w2s_ray.spec.method import MethodSpec, StudentArm
from w2s_ray.spec.trainable import Prompt

if TYPE_CHECKING:
    from w2s_ray.spec.study import Study

_FOR_LABELS = ("arms", "losses", "labels", "supervisors", "trainable", "generative", "oracle")
"""Keys of a method that pretraining does not read."""


def check_chains(study: "Study") -> None:
    """Refuse climbs that are none.

    Raises:
        ValueError: naming the chain.
    """
    order = list(study.ladder)
    if not study.paths:
        raise ValueError("chains is empty; leave it out for the whole ladder, or name a chain")
    if len(set(study.paths)) != len(study.paths):
        raise ValueError("chains holds one twice")
    pretraining = all(method.objective == "next_token" for method in study.methods.values())
    for path in study.paths:
        for level in path:
            if level not in order:
                raise ValueError(f"chains names the level {level!r}; the ladder has {', '.join(order)}")
        if [order.index(level) for level in path] != sorted({order.index(level) for level in path}):
            raise ValueError(f"chain {list(path)} must climb: weak to strong, no level twice")
        if len(path) < 2 and not pretraining:
            raise ValueError(f"chain {list(path)} has one level; weak-to-strong needs a supervisor and a student")


def check_ladder(study: "Study") -> None:
    """Refuse levels that ask for what only a method may ask for.

    Raises:
        ValueError: naming the key.
    """
    for level, entry in study.ladder.items():
        stopping = entry.optimisation.early_stopping
        if stopping is not None and stopping.by == "oracle":
            raise ValueError(
                f"ladder.{level}.optimisation.early_stopping.by is oracle; methods say who reads the truth: name "
                f"{level} under methods.<name>.oracle"
            )


def check_method(study: "Study", name: str) -> None:
    """Refuse a method whose keys do not go together, or not with the study's tasks and ladder.

    Raises:
        ValueError: naming the key.
    """
    method, first = study.methods[name], {path[0] for path in study.paths}
    _check_names(study, f"methods.{name}", method)
    _check_objective(study, name, method)
    served = {task: study.splits_of(task).train_examples for task in study.tasks if method.serves(task)}
    smallest = min(served, key=served.__getitem__)
    check_labels(name, method, first, smallest, served[smallest])
    for level, loss in method.losses.items():
        _check_loss(study, name, method, level, loss)
    for level, own in method.generative.items():
        if own.early_stopping is not None:
            raise ValueError(f"methods.{name}.generative.{level}.early_stopping reads labels: texts have none")
    for level in method.oracle:
        if study.ladder[level].optimisation.early_stopping is None:
            raise ValueError(
                f"methods.{name}.oracle names {level}, and it never stops early; add "
                f"ladder.{level}.optimisation.early_stopping"
            )
    for key in ("generative", "random"):
        for level in method.levels_named[key]:
            if level in first:
                raise ValueError(
                    f"methods.{name}.{key} names {level}, and it is a first supervisor; this key is for students "
                    "and their ceilings"
                )
    students = {level for path in study.paths for level in path[0 if "self" in method.arms else 1 :]}
    for key in ("losses", "labels", "oracle"):
        for level in method.levels_named[key]:
            if level in first - students:
                raise ValueError(
                    f"methods.{name}.{key} names {level}, and it is never a student: a first supervisor learns "
                    "the truth by cross-entropy"
                )
    for level, trainable in method.trainable.items():
        if isinstance(trainable, Prompt) and trainable.num_shots > served[smallest]:
            raise ValueError(
                f"methods.{name}.trainable.{level}.num_shots is {trainable.num_shots}, and a level has "
                f"{served[smallest]} examples of the task {smallest} (train_examples)"
            )
    if "truth_chain" in method.arms and all(len(path) < 3 for path in study.paths):
        raise ValueError(
            f"methods.{name}.arms holds truth_chain, and no chain has a level between its first and its last; name a "
            "longer chain, or drop the arm"
        )


def _check_names(study: "Study", key: str, method: MethodSpec) -> None:
    if method.tasks == ():
        raise ValueError(f"{key}.tasks is empty; name one of {', '.join(study.tasks)}, or leave it out for all of them")
    for task in method.tasks or ():
        if task not in study.tasks:
            raise ValueError(f"{key}.tasks names {task!r}; the tasks are {', '.join(study.tasks)}")
    for part, levels in method.levels_named.items():
        for level in levels:
            if level not in study.ladder:
                raise ValueError(f"{key}.{part} names the level {level!r}; the ladder has {', '.join(study.ladder)}")
    if not method.arms:
        raise ValueError(f"{key}.arms is empty; name one of {', '.join(get_args(StudentArm))}")


def _check_loss(study: "Study", name: str, method: MethodSpec, level: str, loss: Loss) -> None:
    if isinstance(method.trainable_of(level), Prompt) and loss != NaiveLoss():
        raise ValueError(
            f"methods.{name}.losses.{level} is {loss.kind}, and a prompt trains nothing; drop the loss, or choose "
            f"another trainable.{level}"
        )
    if loss.least_batch > study.ladder[level].optimisation.examples_per_step:
        raise ValueError(
            f"methods.{name}.losses.{level} ({loss.label}) splits an optimizer batch by a threshold, and "
            f"ladder.{level}.optimisation.examples_per_step is 1; raise it, or choose prior: argmax"
        )


def _check_objective(study: "Study", name: str, method: MethodSpec) -> None:
    """Whoever learns text has no labels to learn from or to stop by, and a model from scratch learns nothing else."""
    for key in _FOR_LABELS if method.objective == "next_token" else ():
        if getattr(method, key) != MethodSpec.model_fields[key].get_default(call_default_factory=True):
            raise ValueError(
                f"methods.{name}.{key} is for those who learn labels, and methods.{name} trains all weights of every "
                f"level on text (objective: next_token); drop {key}"
            )
    for level, entry in study.ladder.items():
        if method.objective == "next_token" and entry.optimisation.early_stopping is not None:
            raise ValueError(
                f"ladder.{level}.optimisation.early_stopping reads labels of Vi, and methods.{name} has none "
                "(objective: next_token)"
            )
        if method.objective == "labels" and entry.architecture is not None:
            raise ValueError(
                f"ladder.{level}.architecture trains from scratch, and methods.{name} learns labels; a model from "
                "scratch learns next tokens (objective: next_token)"
            )
