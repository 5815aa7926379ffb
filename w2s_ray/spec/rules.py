"""What the parts of a study must be to go together; each function refuses with the key that is to be changed."""

from itertools import product
from typing import TYPE_CHECKING, get_args

from w2s_ray.errors import StudyError
from w2s_ray.spec.chain import climb_name
from w2s_ray.spec.label_rules import check_labels
from w2s_ray.spec.losses import Loss, NaiveLoss
from w2s_ray.spec.method import MethodSpec, StudentArm
from w2s_ray.spec.nearest import nearest
from w2s_ray.spec.trainable import Prompt

if TYPE_CHECKING:
    from w2s_ray.spec.study import Study

_FOR_LABELS = ("arms", "losses", "labels", "supervisors", "trainable", "generative", "oracle")
"""Keys of a method that pretraining does not read."""


def check_chains(study: "Study") -> None:
    """Refuse climbs that are none.

    Raises:
        StudyError: naming the chain.
    """
    order = list(study.ladder)
    if not study.paths:
        raise StudyError(
            "chains is empty", "a study has one chain or more", "name one, or leave it out for the whole ladder"
        )
    if len(set(study.paths)) != len(study.paths):
        raise StudyError("chains holds one twice", "each chain is another one", "drop one of the two")
    pretraining = all(method.objective == "next_token" for method in study.methods.values())
    for path in study.paths:
        for level in path:
            if level not in order:
                rule = f"the ladder has {', '.join(order)}"
                raise StudyError(f"chains names the level {level!r}", rule, nearest(level, order, "levels"))
        if [order.index(level) for level in path] != sorted({order.index(level) for level in path}):
            rule = "a chain must climb: weak to strong, no level twice"
            raise StudyError(f"chain {list(path)}", rule, f"order its levels as the ladder does: {', '.join(order)}")
        if len(path) < 2 and not pretraining:
            rule = "weak-to-strong needs a supervisor and a student"
            raise StudyError(f"chain {list(path)} has one level", rule, "name two levels or more")


def check_climb_names(study: "Study") -> None:
    """Refuse two climbs of one name: their chains would be taken for each other.

    Raises:
        StudyError: naming the name.
    """
    known: dict[str, tuple[str, tuple[str, ...], str]] = {}
    for climb in product(study.tasks, study.paths, study.methods):
        task, _, method = climb
        if not study.methods[method].serves(task):
            continue
        called = climb_name(*climb)
        other = known.setdefault(called, climb)
        if other != climb:
            both = (f"task {task}, chain {list(path)}, method {method}" for task, path, method in (other, climb))
            raise StudyError(
                f"{' and '.join(both)} are both called {called}",
                "each climb of a study has a name of its own, joined by hyphens",
                "give one of these tasks, levels or methods another name",
            )


def check_ladder(study: "Study") -> None:
    """Refuse levels that ask for what only a method may ask for, or for more than their own shape has.

    Raises:
        StudyError: naming the key.
    """
    for level, entry in study.ladder.items():
        stopping = entry.optimisation.early_stopping
        if stopping is not None and stopping.by == "oracle":
            raise StudyError(
                f"ladder.{level}.optimisation.early_stopping.by is oracle",
                "methods say who reads the truth",
                f"name {level} under methods.<name>.oracle",
            )
        shape, context, key = entry.architecture, entry.optimisation.context_tokens, f"ladder.{level}"
        if shape is not None and context > shape.context_tokens:
            raise StudyError(
                f"{key}.optimisation.context_tokens is {context}",
                f"a model from scratch reads as far as {key}.architecture.context_tokens, {shape.context_tokens}",
                "raise that one, or lower this",
            )


def check_method(study: "Study", name: str) -> None:
    """Refuse a method whose keys do not go together, or not with the study's tasks and ladder.

    Raises:
        StudyError: naming the key.
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
            key = f"methods.{name}.generative.{level}.early_stopping"
            raise StudyError(f"{key} reads labels", "texts have none", f"drop {key}")
    for level in method.oracle:
        if study.ladder[level].optimisation.early_stopping is None:
            raise StudyError(
                f"methods.{name}.oracle names {level}, and it never stops early",
                "an oracle says when training stops",
                f"add ladder.{level}.optimisation.early_stopping",
            )
    for key in ("generative", "random"):
        for level in method.levels_named[key]:
            if level in first:
                raise StudyError(
                    f"methods.{name}.{key} names {level}, and it is a first supervisor",
                    "this key is for students and their ceilings",
                    f"drop {level} from it, or the chains that begin with {level}",
                )
    students = {level for path in study.paths for level in path[0 if "self" in method.arms else 1 :]}
    for key in ("losses", "labels", "oracle"):
        for level in method.levels_named[key]:
            if level in first - students:
                raise StudyError(
                    f"methods.{name}.{key} names {level}, and it is never a student",
                    "a first supervisor learns the truth by cross-entropy",
                    f"drop {level} from it, or add a chain or an arm in which it is a student",
                )
    for level, trainable in method.trainable.items():
        if isinstance(trainable, Prompt) and trainable.num_shots > served[smallest]:
            raise StudyError(
                f"methods.{name}.trainable.{level}.num_shots is {trainable.num_shots}",
                f"a level has {served[smallest]} examples of the task {smallest} (train_examples)",
                f"lower it, raise train_examples, or leave {smallest} out of methods.{name}.tasks",
            )
    if "truth_chain" in method.arms and all(len(path) < 3 for path in study.paths):
        raise StudyError(
            f"methods.{name}.arms holds truth_chain, and no chain has a level between its first and its last",
            "a truth chain has levels between that learn the truth",
            "name a longer chain, or drop the arm",
        )


def _check_names(study: "Study", key: str, method: MethodSpec) -> None:
    if method.tasks == ():
        rule = "a method is for one task or more"
        raise StudyError(f"{key}.tasks is empty", rule, "name one, or leave it out for all of them")
    for task in method.tasks or ():
        if task not in study.tasks:
            rule = f"the tasks are {', '.join(study.tasks)}"
            raise StudyError(f"{key}.tasks names {task!r}", rule, nearest(task, study.tasks, "tasks"))
    for part, levels in method.levels_named.items():
        for level in levels:
            if level not in study.ladder:
                rule = f"the ladder has {', '.join(study.ladder)}"
                raise StudyError(
                    f"{key}.{part} names the level {level!r}", rule, nearest(level, study.ladder, "levels")
                )
    if not method.arms:
        rule = f"the arms are {', '.join(get_args(StudentArm))}"
        raise StudyError(f"{key}.arms is empty", rule, "name one, or leave it out for chain and ceiling")


def _check_loss(study: "Study", name: str, method: MethodSpec, level: str, loss: Loss) -> None:
    if isinstance(method.trainable_of(level), Prompt) and loss != NaiveLoss():
        raise StudyError(
            f"methods.{name}.losses.{level} is {loss.kind}, and methods.{name}.trainable.{level} is a prompt",
            "a prompt trains nothing",
            f"drop the loss, or choose another trainable.{level}",
        )
    if loss.least_batch > study.ladder[level].optimisation.examples_per_step:
        raise StudyError(
            f"ladder.{level}.optimisation.examples_per_step is 1",
            f"methods.{name}.losses.{level} ({loss.label}) splits an optimizer batch by a threshold",
            "raise it, or choose prior: argmax",
        )


def _check_objective(study: "Study", name: str, method: MethodSpec) -> None:
    """Whoever learns text has no labels to learn from or to stop by, and a model from scratch learns nothing else."""
    for key in _FOR_LABELS if method.objective == "next_token" else ():
        if getattr(method, key) != MethodSpec.model_fields[key].get_default(call_default_factory=True):
            raise StudyError(
                f"methods.{name}.{key} is for those who learn labels, and methods.{name} learns text",
                "objective: next_token trains all weights of every level on its text, and nothing else",
                f"drop {key}",
            )
    for task, source in study.tasks.items() if method.objective == "next_token" else ():
        sizes = [key for key in ("train_examples", "validation_examples", "test_examples") if getattr(source, key)]
        if method.serves(task) and sizes:
            raise StudyError(
                f"tasks.{task}.{sizes[0]} counts examples, and methods.{name} reads all the text that there is",
                "of text (objective: next_token) a share of the documents is held out, and the rest is read",
                f"drop {sizes[0]}, or set tasks.{task}.test_fraction and the level's optimisation.epochs",
            )
    for level, entry in study.ladder.items():
        if method.objective == "next_token" and entry.optimisation.early_stopping is not None:
            raise StudyError(
                f"ladder.{level}.optimisation.early_stopping reads labels of Vi, and methods.{name} has none",
                "text (objective: next_token) has no labels",
                "drop early_stopping",
            )
        if method.objective == "labels" and entry.architecture is not None:
            raise StudyError(
                f"ladder.{level}.architecture trains from scratch, and methods.{name} learns labels",
                "a model from scratch learns next tokens",
                f"drop the architecture, or set methods.{name}.objective to next_token",
            )
