"""Which transforms and supervisors go with which students: what would change nothing, or could not run, is refused."""

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

from w2s_ray.errors import StudyError
from w2s_ray.spec.labels import Relabelling
from w2s_ray.spec.trainable import Prompt
from w2s_ray.spec.transforms import KeepRandom, Knn, Topological, Transform

if TYPE_CHECKING:
    from w2s_ray.spec.method import MethodSpec

_FROM_LEVEL_0 = ("chain", "direct", "pooled", "self")
"""Arms of students that learn from the first supervisors."""


def check_labels(name: str, method: "MethodSpec", first_levels: Collection[str], task: str, num_examples: int) -> None:
    """Refuse what a method does to labels where it could not be done, or would change nothing.

    Args:
        name: the method's.
        method: what is asked for.
        first_levels: the levels of first supervisors.
        task: the one with the fewest examples of those that the method is for.
        num_examples: the size of its every Ti.

    Raises:
        StudyError: naming the key.
    """
    for level, relabelling in method.labels.items():
        key = f"methods.{name}.labels.{level}"
        own = method.trainable_of(level)
        if isinstance(own, Prompt) and own.num_shots == 0:
            rule = "a prompt without shots reads no labels"
            raise StudyError(f"{key} changes nothing", rule, f"give methods.{name}.trainable.{level} `num_shots:`")
        if level in method.random and any(each.needs_features for each in relabelling.transforms):
            rule = "features of random weights say nothing"
            raise StudyError(f"{key} looks at features", rule, f"drop it, or {level} from methods.{name}.random")
        _check_neighbours(key, relabelling, task, num_examples)
    _check_supervisors(name, method, first_levels)


def least_examples(method: "MethodSpec") -> int:
    """Return how many examples a Ti must have for a method's neighbours and shots."""
    least = [own.num_shots for own in method.trainable.values() if isinstance(own, Prompt)]
    for relabelling in method.labels.values():
        left = 1.0
        for transform in relabelling.transforms:
            least.append(math.ceil((_neighbours(transform) + 1) / left))
            left *= transform.kept_share
    return max(least, default=1)


def _check_neighbours(key: str, relabelling: Relabelling, task: str, num_examples: int) -> None:
    """An example needs k others, after all that filters before may drop."""
    left: float = num_examples
    for place, transform in enumerate(relabelling.transforms):
        k = _neighbours(transform)
        if k >= round(left):
            raise StudyError(
                f"{key}.transforms.{place}.k = {k}",
                f"each example has k neighbours among at most {round(left)} examples of the task {task} "
                "(train_examples, less what filters before it drop)",
                f"lower k, raise train_examples, or leave {task} out of the method's `tasks:`",
            )
        left *= transform.kept_share


def _neighbours(transform: Transform) -> int:
    match transform:
        case Knn() | Topological():
            return transform.k
        case KeepRandom(as_many_as=Topological() as other):
            return other.k
    return 0


def _check_supervisors(name: str, method: "MethodSpec", first_levels: Collection[str]) -> None:
    if method.supervisors.num == 1:
        return
    key = f"methods.{name}.supervisors"
    if not set(_FROM_LEVEL_0) & set(method.arms):
        rule = "supervisors are of those who learn from level 0"
        raise StudyError(f"{key} serve nobody", rule, f"add one of {', '.join(_FROM_LEVEL_0)} to methods.{name}.arms")
    for level in first_levels:
        own = method.trainable_of(level)
        if isinstance(own, Prompt) and own.num_shots == 0:
            rule = f"prompts of {level} without shots are all alike"
            raise StudyError(f"{key}.num = {method.supervisors.num}", rule, "drop it, or give the prompts `num_shots:`")
