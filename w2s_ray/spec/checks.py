"""The rules across the parts of a study. Each function raises a StudyError that names the keys and the rule.

`check_study` checks a study as it was read; `check_together` the part of it that a search can change, so it is also run
at each point of a search. Rules of a single part are validators of its class.
"""

from collections.abc import Iterable
from itertools import product
from typing import get_args

from w2s_ray.errors import StudyError
from w2s_ray.spec.base import check_known, rounded_up
from w2s_ray.spec.chain import name_without_seed
from w2s_ray.spec.labels import KeepRandom, Knn, Relabelling, Topological, Transform
from w2s_ray.spec.losses import Loss, NaiveLoss
from w2s_ray.spec.report_checks import check_report
from w2s_ray.spec.search import Pbt, SearchSpec
from w2s_ray.spec.stage import Optimisation, Probe, Prompt
from w2s_ray.spec.study import LevelSpec, MethodSpec, StudentArm, Study

_FOR_LABELS = ("arms", "losses", "labels", "supervisors", "trainable", "score", "generative", "oracle")
"""Keys of a method that pretraining does not read."""
_SIZES = ("train_examples", "S", "T", "validation_examples", "test_examples")
"""Keys of a task that pretraining does not read either."""
_FROM_LEVEL_0 = ("chain", "direct", "pooled", "self")
"""Arms of students that learn from the first supervisors."""
_FIXED_KEYS = ("name", "search", "tracking", "report", "max_concurrent")
"""Keys of a study that change no chain."""
_OUTSIDE_KEYS = ("model", "revision", "pad_token", "architecture")
"""Keys of a level that name something to resolve before anything runs."""


def check_study(study: Study) -> None:
    """Refuse a study whose parts do not go together, or whose report or search does not fit it."""
    check_together(study)
    check_report(study)
    if study.search is not None:
        _check_search_tasks(study, study.search)
        for key in study.search.space:
            _check_searched_key(study, study.search, key)


def check_together(study: Study) -> None:
    """Refuse a study whose chains, ladder, methods and seeds do not go together."""
    _check_chains(study)
    _check_ladder(study)
    for name, method in study.methods.items():
        _check_names(study, f"methods.{name}", method)
        if method.objective == "next_token":
            _check_pretraining(study, name, method)
        _check_method(study, f"methods.{name}", method)
    _check_chain_names(study)
    if len(set(study.seeds)) < len(study.seeds):
        raise StudyError(f"duplicate seeds: {list(study.seeds)}")


def check_classes(loss: Loss, num_classes: int, *, key: str, task: str) -> None:
    """Refuse a loss whose formula is for two classes if the task has more.

    Args:
        loss: the loss to check.
        num_classes: how many classes the task has.
        key: the loss's key in the study.
        task: the task's name.
    """
    if num_classes > 2 and loss.two_classes_only:
        raise StudyError(
            f"{key} = {loss.label} is for two classes, and the task {task} has {num_classes}",
            f"use another loss, such as {{kind: confidence, prior: argmax}}, or list other tasks in "
            f"{key.split('.losses')[0]}.tasks",
        )


def least_examples(method: MethodSpec) -> int:
    """Return how many examples a Ti must have for a method's neighbours and shots."""
    least = [trainable.num_shots for trainable in method.trainable.values() if isinstance(trainable, Prompt)]
    for relabelling in method.labels.values():
        share = 1.0
        for transform in relabelling.transforms:
            least.append(rounded_up((num_neighbours(transform) + 1) / share))
            share *= transform.kept_share
    return max(least, default=1)


def _check_chains(study: Study) -> None:
    """Every chain is an increasing path over the ladder, with a supervisor and a student."""
    order = list(study.ladder)
    if not study.paths:
        raise StudyError("chains is empty", "list at least one chain, or leave it out for the whole ladder")
    if len(set(study.paths)) < len(study.paths):
        raise StudyError(f"duplicate chains: {', '.join('-'.join(path) for path in study.paths)}")
    is_pretraining = all(method.objective == "next_token" for method in study.methods.values())
    for path in study.paths:
        for level in path:
            check_known(level, order, "chains", "level")
        if [order.index(level) for level in path] != sorted({order.index(level) for level in path}):
            raise StudyError(
                f"chain {list(path)} must climb the ladder from weak to strong without a repeated level",
                f"the order is {', '.join(order)}",
            )
        if len(path) < 2 and not is_pretraining:
            raise StudyError(f"chain {list(path)} must have at least two levels: a supervisor and a student")


def _check_chain_names(study: Study) -> None:
    """No two chains may get the same name."""
    known: dict[str, tuple[str, tuple[str, ...], str]] = {}
    chains = product(study.tasks, study.paths, study.methods)
    for chain in (chain for chain in chains if study.methods[chain[2]].serves(chain[0])):
        name = name_without_seed(*chain)
        other = known.setdefault(name, chain)
        if other != chain:
            both = (f"task {task}, chain {list(path)}, method {method}" for task, path, method in (other, chain))
            raise StudyError(
                f"{' and '.join(both)} would both be named {name}", "rename one of these tasks, levels or methods"
            )


def _check_ladder(study: Study) -> None:
    for level, entry in study.ladder.items():
        _check_optimisation(f"ladder.{level}.optimisation", level, entry, entry.optimisation)


def _check_optimisation(key: str, level: str, entry: LevelSpec, optimisation: Optimisation) -> None:
    stopping = optimisation.early_stopping
    if stopping is not None and stopping.by == "oracle":
        raise StudyError(
            f"{key}.early_stopping.by = oracle can only be set by methods.<name>.oracle",
            f"add {level} to methods.<name>.oracle",
        )
    shape, context = entry.architecture, optimisation.context_tokens
    if shape is not None and context > shape.context_tokens:
        raise StudyError(
            f"{key}.context_tokens = {context} must be at most ladder.{level}.architecture.context_tokens = "
            f"{shape.context_tokens}"
        )


def _check_names(study: Study, key: str, method: MethodSpec) -> None:
    if method.tasks == ():
        raise StudyError(f"{key}.tasks is empty", "list at least one task, or leave it out for all of them")
    for task in method.tasks or ():
        check_known(task, study.tasks, f"{key}.tasks", "task")
    for part, levels in method.levels_named.items():
        for level in levels:
            check_known(level, study.ladder, f"{key}.{part}", "level")
    if not method.arms:
        arms = ", ".join(get_args(StudentArm))
        raise StudyError(f"{key}.arms is empty", f"list some of {arms}, or leave it out for chain and ceiling")


def _check_pretraining(study: Study, name: str, method: MethodSpec) -> None:
    """Pretraining reads all of a task's text, without labels to learn from or to stop by."""
    for key in _FOR_LABELS:
        if getattr(method, key) != MethodSpec.model_fields[key].get_default(call_default_factory=True):
            raise StudyError(f"methods.{name}.{key} has no effect with objective: next_token", f"remove {key}")
    for task, source in study.tasks.items():
        sizes = [key for key in _SIZES if getattr(source, key)]
        if method.serves(task) and sizes:
            raise StudyError(
                f"tasks.{task}.{sizes[0]} has no effect on methods.{name} (objective: next_token): it reads all text",
                f"use tasks.{task}.test_fraction and the level's optimisation.epochs instead",
            )
    for level in study.ladder:
        if study.optimisation_of(method, level).early_stopping is not None:
            raise StudyError(
                f"{_key_of('early_stopping', f'methods.{name}', method, level)} needs labels, and methods.{name} "
                "(objective: next_token) has none"
            )


def _check_method(study: Study, key: str, method: MethodSpec) -> None:
    """Each key of a method must have an effect, on a student that it can apply to, with enough examples."""
    first = {path[0] for path in study.paths}
    for level, entry in study.ladder.items():
        if entry.architecture is not None and method.objective == "labels":
            raise StudyError(
                f"ladder.{level}.architecture needs objective: next_token, and {key} learns labels",
                "remove the architecture, or pretrain the model in a study of its own",
            )
    sizes = {task: study.sizes_of(task) for task in study.tasks if method.serves(task)}
    smallest = min(sizes, key=lambda task: sizes[task].T)
    for level, relabelling in method.labels.items():
        _check_labels(f"{key}.labels.{level}", level, method, relabelling)
        _check_neighbours(f"{key}.labels.{level}", relabelling, smallest, sizes[smallest].T)
    _check_supervisors(f"{key}.supervisors", method, first)
    _check_score(study, key, method)
    for level, loss in method.losses.items():
        _check_loss(study, f"{key}.losses.{level}", method, level, loss)
    for level, optimisation in method.generative.items():
        if optimisation.early_stopping is not None:
            raise StudyError(f"{key}.generative.{level}.early_stopping needs labels, and texts have none")
    for level, own in method.optimisation.items():
        optimisation = study.optimisation_of(method, level)
        _check_optimisation(f"{key}.optimisation.{level}", level, study.ladder[level], optimisation)
        unused = sorted(own.model_fields_set - {"context_tokens"})
        if isinstance(method.trainable_of(level), Prompt) and unused:
            raise StudyError(f"{key}.optimisation.{level}.{unused[0]} has no effect on a prompt, which is not trained")
    for level in method.oracle:
        if study.optimisation_of(method, level).early_stopping is None:
            raise StudyError(
                f"{key}.oracle names {level}, which never stops early",
                f"add ladder.{level}.optimisation.early_stopping",
            )
    for part in ("generative", "random"):
        for level in method.levels_named[part]:
            if level in first:
                raise StudyError(f"{key}.{part} names {level}, which is a first supervisor and not a student")
    students = {level for path in study.paths for level in path[0 if "self" in method.arms else 1 :]}
    for part in ("losses", "labels", "oracle"):
        for level in method.levels_named[part]:
            if level in first - students:
                raise StudyError(f"{key}.{part} names {level}, which is a first supervisor and never a student")
    for level, trainable in method.trainable.items():
        for task, size in sizes.items():
            most = min([size.S] * (level in first) + [size.T] * (level in students), default=size.T)
            if isinstance(trainable, Prompt) and trainable.num_shots > most:
                raise StudyError(
                    f"{key}.trainable.{level}.num_shots = {trainable.num_shots} must be at most {most}, the training "
                    f"examples of the task {task}"
                )
    if "truth_chain" in method.arms and all(len(path) < 3 for path in study.paths):
        raise StudyError(f"{key}.arms has truth_chain, which needs a chain of at least three levels")


def _check_labels(key: str, level: str, method: MethodSpec, relabelling: Relabelling) -> None:
    trainable = method.trainable_of(level)
    if isinstance(trainable, Prompt) and trainable.num_shots == 0:
        raise StudyError(f"{key} has no effect on a prompt without shots", f"set trainable.{level}.num_shots")
    if level in method.random and any(transform.needs_features for transform in relabelling.transforms):
        raise StudyError(f"{key} compares features, which are meaningless for a level with random weights")


def _check_neighbours(key: str, relabelling: Relabelling, task: str, num_examples: int) -> None:
    """Each example needs k others, after the filters before."""
    num_left: float = num_examples
    for place, transform in enumerate(relabelling.transforms):
        k = num_neighbours(transform)
        if k >= round(num_left):
            raise StudyError(
                f"{key}.transforms.{place}.k = {k} must be below {round(num_left)}, the examples of the task {task} "
                "left by the filters before it",
                f"lower k, raise train_examples, or do not use the method on {task}",
            )
        num_left *= transform.kept_share


def num_neighbours(transform: Transform) -> int:
    """Return k of a transform that compares neighbours; 0 for any other."""
    matched = transform.as_many_as if isinstance(transform, KeepRandom) else transform
    return matched.k if isinstance(matched, Knn | Topological) else 0


def _check_supervisors(key: str, method: MethodSpec, first_levels: Iterable[str]) -> None:
    if method.supervisors.num == 1:
        return
    if not set(_FROM_LEVEL_0) & set(method.arms):
        raise StudyError(
            f"{key} has no effect without an arm that learns from level 0", f"add one of {', '.join(_FROM_LEVEL_0)}"
        )
    for level in first_levels:
        trainable = method.trainable_of(level)
        if isinstance(trainable, Prompt) and trainable.num_shots == 0:
            raise StudyError(
                f"{key}.num = {method.supervisors.num}, but prompts of {level} without shots are all the same",
                f"set trainable.{level}.num_shots, or remove {key}",
            )


def _check_score(study: Study, key: str, method: MethodSpec) -> None:
    """A score has no head to probe, and its reference must be a pretrained model that the stage changes."""
    if method.score is None:
        return
    for level, trainable in method.trainable.items():
        if isinstance(trainable, Probe):
            raise StudyError(
                f"{key}.trainable.{level} is probe, but {key}.score = likelihood has no head to train",
                "use lora, or use the probe in a method without score",
            )
        if method.score.reference and isinstance(trainable, Prompt):
            raise StudyError(
                f"{key}.score.reference = true, but {key}.trainable.{level} is prompt, which is the reference itself",
                f"remove {key}.score.reference, or train {level}",
            )
    levels = {level for path in study.paths for level in path}
    for level in sorted(levels & set(method.random)):
        if method.score.reference:
            raise StudyError(
                f"{key}.score.reference = true compares with the model that a stage starts from, and {key}.random "
                f"names {level}, which starts from random weights",
                f"remove {key}.score.reference, or {level} from {key}.random",
            )


def _check_loss(study: Study, key: str, method: MethodSpec, level: str, loss: Loss) -> None:
    if isinstance(method.trainable_of(level), Prompt) and loss != NaiveLoss():
        raise StudyError(f"{key} = {loss.kind} has no effect on a prompt, which is not trained")
    if loss.least_batch > study.optimisation_of(method, level).examples_per_step:
        step = _key_of("examples_per_step", key.partition(".losses.")[0], method, level)
        raise StudyError(
            f"{step} = 1 must be at least {loss.least_batch} for {key} "
            f"({loss.label}), which splits a batch at a threshold",
            "raise it, or use prior: argmax",
        )


def _key_of(name: str, key: str, method: MethodSpec, level: str) -> str:
    """Return the key of the study that sets one key of a method's optimisation of a level."""
    own = method.optimisation.get(level)
    is_own = own is not None and name in own.model_fields_set
    return f"{key}.optimisation.{level}.{name}" if is_own else f"ladder.{level}.optimisation.{name}"


def _check_search_tasks(study: Study, search: SearchSpec) -> None:
    """Candidates and winners need tasks, methods and seeds to run on."""

    def is_served(tasks: Iterable[str]) -> bool:
        return any(method.serves(task) for task in tasks for method in study.methods.values())

    for task in search.development_tasks:
        check_known(task, study.tasks, "search.development_tasks", "task")
    others = search.reported(study.tasks)
    if search.development_tasks and not others:
        raise StudyError("search.development_tasks must leave at least one task of the study for the winners")
    if search.development_tasks and not is_served(search.development_tasks):
        raise StudyError(f"no method is for the search.development_tasks {', '.join(search.development_tasks)}")
    if search.development_tasks and not is_served(others):
        raise StudyError(f"no method is for the tasks on which winners run, {', '.join(others)}")
    if search.choose_by is None:
        return
    shared = [seed for seed in search.seeds if seed in study.seeds]
    if shared:
        raise StudyError(f"search.seeds and seeds share {shared[0]}, but winners must run on other seeds")
    for name, method in study.methods.items():
        if "chain" not in method.arms or method.objective != "labels":
            raise StudyError(f"methods.{name}.arms must have chain, whose last student decides a candidate's score")
    if isinstance(search.scheduler, Pbt) and len(study.paths) > 1:
        raise StudyError(f"pbt compares trials level by level and needs one chain, not {len(study.paths)}")


def _check_searched_key(study: Study, search: SearchSpec, key: str) -> None:
    """A searched key must change results, and `choose_by` must be able to rank its values."""
    where, parts = f"search.space.{key}", study.key_parts(key)
    if parts[0] in _FIXED_KEYS:
        raise StudyError(f"{where}: {parts[0]} changes no result")
    if parts[0] == "tasks":
        raise StudyError(f"{where}: tasks cannot be searched", "declare each variant as a task of its own")
    if parts[0] == "ladder" and len(parts) > 1:
        check_known(parts[1], study.ladder, where, "level")
    if parts[0] == "ladder" and (len(parts) < 3 or parts[2] in _OUTSIDE_KEYS):
        raise StudyError(
            f"{where}: models cannot be searched",
            "declare each model as a level and search over `chains`, or over one key of a level",
        )
    if parts[0] == "seeds":
        raise StudyError(f"{where}: seeds cannot be searched", "list them under search.seeds and seeds")
    if parts == ["splits"]:
        raise StudyError(f"{where}: sizes are searched one by one", "for example splits.train_examples")
    if parts[0] == "splits" and parts[1] in type(study.splits).model_fields:
        resized = [study.model_copy(update={"splits": study.splits.model_copy(update={parts[1]: n})}) for n in (1, 2)]
        if all(resized[0].sizes_of(task) == resized[1].sizes_of(task) for task in study.tasks):
            raise StudyError(f"{where} has no effect: every task has its own {parts[1]}")
    if parts[0] == "chains" and study.report.compare:
        raise StudyError(
            f"{where} and report.compare exclude each other: a comparison is between the study's chains",
            "list the chains under `chains:` instead",
        )
    last, lower = {path[-1] for path in study.paths}, {level for path in study.paths for level in path[:-1]}
    is_of_last = parts[2:3] == ["optimisation"] and study.level_of(key) in last - lower
    if search.choose_by == "agreement" and not is_of_last:
        raise StudyError(
            f"{where}: agreement with weak labels can only rank optimisation keys of the last student, under one "
            "supervisor (a constant supervisor is easily imitated, and the confidence loss is meant to disagree)",
            f"search over ladder.{min(last)}.optimisation.*, or choose by development_tasks or oracle",
        )
    if isinstance(search.scheduler, Pbt) and study.level_of(key) is None:
        raise StudyError(
            f"{where} must belong to one level, because pbt changes a trial between stages",
            "for example ladder.<level>.optimisation.* or methods.<method>.losses.<level>.*",
        )
