"""Whether a study's methods suit its tasks: their kinds, classes, and numbers of examples."""

from collections.abc import Iterator
from itertools import product

import numpy as np

from w2s_ray.data.prepare import PreparedTask
from w2s_ray.data.splits import num_outside_groups
from w2s_ray.errors import DataError
from w2s_ray.spec.chain import ResolvedTask
from w2s_ray.spec.checks import check_classes, num_neighbours
from w2s_ray.spec.level_splits import LevelSplits
from w2s_ray.spec.stage import Probe, Prompt
from w2s_ray.spec.study import MethodSpec, Study


def check_methods(study: Study, name: str, prepared: PreparedTask) -> None:
    """Refuse methods that need what the task's kind, or its number of classes, does not offer."""
    for method_name, method in study.methods.items():
        if not method.serves(name):
            continue
        wanted = "next_token" if prepared.kind == "text" else "labels"
        if method.objective != wanted:
            labels = "no labels" if prepared.kind == "text" else "labels"
            raise DataError(
                f"methods.{method_name}.objective is {method.objective}, but task {name} has {labels}",
                f"set the objective to {wanted}, or limit the method to other tasks (methods.{method_name}.tasks)",
            )
        for key in _unsupported_keys(method, prepared):
            raise DataError(
                f"methods.{method_name}.{key}, but task {name} has {prepared.kind}: {_KIND_RULES[prepared.kind]}",
                "remove it (or its value in search.space), or limit the method to other tasks "
                f"(methods.{method_name}.tasks)",
            )
        if method.score is not None and prepared.kind == "pairs":
            _check_completions(name, prepared)
        for level, loss in method.losses.items():
            check_classes(loss, prepared.num_classes, key=f"methods.{method_name}.losses.{level}", task=name)


def check_neighbours(study: Study, name: str, prepared: PreparedTask, known: ResolvedTask) -> None:
    """Refuse a k above the number of examples that a Ti has outside its largest group of related ones."""
    order = tuple(study.ladder)
    for method_name, method in study.methods.items():
        for level, relabelling in method.labels.items() if method.serves(name) else ():
            # These two arms also learn from other levels' examples.
            learns = order[1:] if {"pooled", "self"} & set(method.arms) else (level,)
            for place, k in enumerate(map(num_neighbours, relabelling.transforms)):
                for seed, other in product(study.seeds, learns) if k else ():
                    split = LevelSplits(known, study.sizes_of(name), order, seed).train(other)
                    most = num_outside_groups(prepared, split)
                    if k > most:
                        raise DataError(
                            f"methods.{method_name}.labels.{level}.transforms.{place}.k = {k} must be at most {most}, "
                            f"the examples of {split.name} (seed {seed}) outside its largest group of related ones, on "
                            f"the task {name}",
                            "lower k, raise train_examples, or limit the method to other tasks",
                        )


def _check_completions(name: str, prepared: PreparedTask) -> None:
    """Refuse pairs of which a completion is empty, or whose completions are alike."""
    rows = np.arange(prepared.table().num_rows)
    columns = (prepared.ids(rows), prepared.prompts(rows), prepared.texts(rows), prepared.others(rows))
    for id_, prompt, first, second in zip(*columns, strict=True):
        if first == second:
            raise DataError(f"task {name}: the completions of {id_!r} are alike", "remove it from the data")
        if prompt in (first, second):
            raise DataError(f"task {name}: a completion of {id_!r} has no tokens to score", "remove it from the data")


_KIND_RULES = {
    "answers": "answers are written token by token, without class probabilities and without a head",
    "pairs": "a pair is asked by the likelihood of its two completions, without shots and without a cue",
}


def _unsupported_keys(method: MethodSpec, prepared: PreparedTask) -> Iterator[str]:
    """Settings of a method that the task's kind does not support."""
    if prepared.kind == "answers":
        yield from (f"losses.{level} is {loss.kind}" for level, loss in method.losses.items() if loss.kind != "naive")
        yield from (f"trainable.{level} is probe" for level, own in method.trainable.items() if isinstance(own, Probe))
        yield from (f"labels.{level} has transforms" for level, own in method.labels.items() if own.transforms)
        if method.supervisors.num > 1:
            yield f"supervisors.num is {method.supervisors.num}"
        if method.score is not None:
            yield f"score is {method.score.kind}"
    prompts = {level: own for level, own in method.trainable.items() if isinstance(own, Prompt)}
    if prepared.kind == "pairs" and method.score is None:
        yield from (f"trainable.{level} is prompt without `score: likelihood`" for level in prompts)
        if "zero_shot" in method.arms:
            yield "arms has zero_shot without `score: likelihood`"
    elif prepared.kind == "pairs":
        shots = {level: own.num_shots for level, own in prompts.items() if own.num_shots}
        yield from (f"trainable.{level}.num_shots is {num_shots}" for level, num_shots in shots.items())
        if method.score is not None and method.score.cue is not None:
            yield f"score.cue is {method.score.cue!r}"
