"""Resolve a study: pin every outside name, once, before anything is trained.

Data is prepared and its sizes checked, models get their revisions, and all of it is written to `study.lock.yaml` in the
study's folder. Hub revisions are read back from there, so that a study that began with one commit ends with it.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import ValidationError

from w2s_ray.data.prepare import PreparedTask, prepare
from w2s_ray.data.splits import check_sizes, num_documents, num_test
from w2s_ray.errors import DataError, ModelError
from w2s_ray.hub import HubUnreachable
from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import Resolution, ResolvedModel, ResolvedTask
from w2s_ray.spec.checks import check_classes
from w2s_ray.spec.identity import identity
from w2s_ray.spec.load import STUDY_NAME
from w2s_ray.spec.points import largest, one_changed
from w2s_ray.spec.stage import Lora, Probe, Prompt
from w2s_ray.spec.study import LevelSpec, MethodSpec, SplitSizes, Study, TaskSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import write_file
from w2s_ray.tasks.registry import open_task
from w2s_ray.training.models.catalogue import resolve_model

LOCK_NAME = "study.lock.yaml"
UNRESOLVED = "unresolved"
"""Stands for a revision or fingerprint that could not be found; identities that hang on it are provisional."""


class Lock(Spec):
    """What a study's outside names came to when it was last resolved."""

    sources: str
    """Digest of the study's tasks and models as they are named in its file."""
    models: dict[str, str]
    """The model that each level named, with its revision where it named one."""
    tasks: dict[str, str]
    """Digest of each task as it is named in the study's file."""
    resolution: Resolution


def resolve(study: Study, store: ArtifactStore) -> Resolution:
    """Prepare the study's data, resolve its models, and lock both in the store.

    What cannot be reached is listed in the resolution's `unresolved`; what cannot be is an error. A lock that is there
    stays as it is, until a run has the study in hand: it says of which data and models the study's results are.

    Raises:
        W2SError: a DataError, ModelError or StoreError when the study cannot run as it stands.
    """
    store.prepare()
    lock = _read_lock(study, store)
    variants = tuple(one_changed(study))
    unresolved: list[str] = []
    models: dict[str, ResolvedModel] = {}
    for name, level in study.ladder.items():
        pinned, contexts, targets = _pinned(lock, name, level), _contexts(variants, name), _targets(variants, name)
        try:
            models[name] = resolve_model(level, pinned, contexts, targets)
        except HubUnreachable as error:
            unresolved += error.files
            models[name] = ResolvedModel(revision=UNRESOLVED, num_parameters=None)
    tasks: dict[str, ResolvedTask] = {}
    for name, task in study.tasks.items():
        try:
            tasks[name] = _resolve_task(study, variants, name, _prepared(store, name, task, lock))
        except HubUnreachable as error:
            unresolved += error.files
            tasks[name] = _unresolved_task(name, task)
    _check_distinct(study, tasks)
    resolution = Resolution(tasks=tasks, models=models, unresolved=tuple(dict.fromkeys(unresolved)))
    if not unresolved and lock is None:
        _write_lock(study, resolution, store)
    return resolution


def resolve_whole(study: Study, store: ArtifactStore) -> Resolution:
    """Resolve a study that is to run; `save_study` it once the run has it in hand.

    Raises:
        W2SError: like `resolve`, and a ModelError when a file that it needs could not be found.
    """
    resolution = resolve(study, store)
    if resolution.unresolved:
        raise ModelError(
            f"could not be resolved: {', '.join(resolution.unresolved)}",
            "a study runs when every model and data set is at hand; the hub cannot be reached and they are not cached",
            "connect to the hub, fetch them into its cache, or name local folders and files",
        )
    return resolution


def save_study(study: Study, resolution: Resolution, store: ArtifactStore) -> None:
    """Put a study, as it is run, and what it came to into its folder in the store, in place of what ran before."""
    text = yaml.safe_dump(study.model_dump(mode="json", exclude_none=True), sort_keys=False, allow_unicode=True)
    write_file(store.study_folder(study.name) / STUDY_NAME, text.encode())
    _write_lock(study, resolution, store)


def locked(study: Study, store: ArtifactStore) -> Resolution:
    """Return the study's resolution as it last ran, without looking outside; resolve it where it never did.

    Raises:
        W2SError: like `resolve_whole`.
    """
    lock = _read_lock(study, store)
    if lock is not None and lock.sources == _sources(study):
        return lock.resolution
    return resolve_whole(study, store)


def lock_path(study: Study, store: ArtifactStore) -> Path:
    """Return where the study's lock lies."""
    return store.study_folder(study.name) / LOCK_NAME


def _prepared(store: ArtifactStore, name: str, task: TaskSpec, lock: Lock | None) -> PreparedTask:
    """Prepare a task; a hub data set that the study has locked is taken as it was then."""
    if lock is not None and lock.tasks.get(name) == identity("task", task):
        revision = lock.resolution.tasks[name].revision
        task = task if revision is None else task.model_copy(update={"revision": revision})
    return prepare(store, name, task)


def _check_distinct(study: Study, tasks: Mapping[str, ResolvedTask]) -> None:
    """Refuse two names for one data set with splits of one size: their stages are the same."""
    known: dict[tuple[str, SplitSizes], str] = {}
    for name, task in tasks.items():
        other = known.setdefault((task.fingerprint, study.splits_of(name)), name)
        if other != name:
            raise DataError(
                f"tasks {other} and {name} are one data set, with splits of one size",
                "what two tasks learn differs, or they are one task",
                f"drop tasks.{name}",
            )


def _resolve_task(study: Study, variants: Sequence[Study], name: str, prepared: PreparedTask) -> ResolvedTask:
    """Check a task against the study and all that its search changes, and say what it came to."""
    task = study.tasks[name]
    for variant in variants:
        _check_methods(variant, name, prepared)
    study = largest(study)
    sizes = study.splits_of(name)
    known = ResolvedTask(
        fingerprint=prepared.fingerprint,
        kind=prepared.kind,
        num_classes=prepared.num_classes,
        class_names=prepared.class_names,
        num_test=0,
        revision=prepared.revision,
        left_out=tuple(map(str, prepared.left_out)),
    )
    if prepared.kind == "text":
        documents, held_out = num_documents(prepared)
        return known.model_copy(update={"num_documents": documents, "num_held_out": held_out})
    try:
        check_sizes(
            prepared,
            num_levels=len(study.ladder),
            train_examples=sizes.train_examples,
            validation_examples=sizes.validation_examples,
            test_examples=task.test_examples,
            seeds=study.seeds,
            balance=sizes.balance_transfer,
        )
    except DataError as error:
        raise DataError(f"task {name}: {error.value}", error.rule, error.remedy) from None
    return known.model_copy(update={"num_test": num_test(prepared, task.test_examples)})


def _unresolved_task(name: str, task: TaskSpec) -> ResolvedTask:
    """Stand in for a task whose rows could not be fetched, so that the rest of the study can be planned."""
    kind = open_task(task).kind
    num_classes = 2 if kind in ("classes", "pairs") else 1
    num_test = 0 if kind == "text" else task.test_examples or 1
    return ResolvedTask(fingerprint=f"{UNRESOLVED} {name}", kind=kind, num_classes=num_classes, num_test=num_test)


def _check_methods(study: Study, name: str, prepared: PreparedTask) -> None:
    """Refuse methods that ask of a task what its kind, or its number of classes, does not have."""
    for method_name, method in study.methods.items():
        if not method.serves(name):
            continue
        wanted = "next_token" if prepared.kind == "text" else "labels"
        if method.objective != wanted:
            raise DataError(
                f"methods.{method_name}.objective is {method.objective}, and the task {name} has "
                f"{'no labels' if prepared.kind == 'text' else 'labels'}",
                "next_token learns from tasks without labels, `labels` from tasks with them",
                f"give the method the objective {wanted}, or name the tasks it is for (methods.{method_name}.tasks)",
            )
        for key in _asked_in_vain(method, prepared):
            raise DataError(
                f"methods.{method_name}.{key}, and the examples of the task {name} are {prepared.kind}",
                _KIND_RULES[prepared.kind],
                "drop it, or the value of search.space that asks for it, or name the tasks that the method is for "
                f"(methods.{method_name}.tasks)",
            )
        for level, loss in method.losses.items():
            check_classes(loss, prepared.num_classes, key=f"methods.{method_name}.losses.{level}", task=name)


_KIND_RULES = {
    "answers": "answers are written token by token: no class probabilities to mix, sort or combine, no head to probe",
    "pairs": "a prompt names a class of one text; a pair is compared by its two scores",
}


def _asked_in_vain(method: MethodSpec, prepared: PreparedTask) -> Iterator[str]:
    """Keys of a method that the task's kind cannot serve."""
    if prepared.kind == "answers":
        yield from (f"losses.{level} is {loss.kind}" for level, loss in method.losses.items() if loss.kind != "naive")
        yield from (f"trainable.{level} is probe" for level, own in method.trainable.items() if isinstance(own, Probe))
        yield from (f"labels.{level} has transforms" for level, own in method.labels.items() if own.transforms)
        if method.supervisors.num > 1:
            yield f"supervisors.num is {method.supervisors.num}"
    if prepared.kind == "pairs":
        yield from (
            f"trainable.{level} is prompt" for level, own in method.trainable.items() if isinstance(own, Prompt)
        )
        if "zero_shot" in method.arms:
            yield "arms holds zero_shot"


def _pinned(lock: Lock | None, name: str, level: LevelSpec) -> str | None:
    """Return the revision that the lock holds for a level, if it still names the same model."""
    if lock is None or lock.models.get(name) != _named(level):
        return None
    return lock.resolution.models[name].revision


def _named(level: LevelSpec) -> str:
    return level.model if level.revision is None else f"{level.model}@{level.revision}"


def _contexts(variants: Sequence[Study], level: str) -> tuple[int, ...]:
    """Return the contexts in which a level learns, and in which methods let it read texts first."""
    own = [variant.ladder[level].optimisation.context_tokens for variant in variants]
    methods = (method for variant in variants for method in variant.methods.values())
    reading = [method.generative[level].context_tokens for method in methods if level in method.generative]
    return tuple(dict.fromkeys(own + reading))


def _targets(variants: Sequence[Study], level: str) -> tuple[str, ...]:
    """Return the modules of a level that methods make low-rank additions to, where they name any."""
    found = (method.trainable_of(level) for variant in variants for method in variant.methods.values())
    return tuple(dict.fromkeys(name for each in found if isinstance(each, Lora) for name in each.targets or ()))


def _sources(study: Study) -> str:
    levels = {name: [level.model, level.revision, level.architecture] for name, level in study.ladder.items()}
    return identity("sources", {"tasks": study.tasks, "levels": levels, "splits": study.splits})


def _read_lock(study: Study, store: ArtifactStore) -> Lock | None:
    """Return the lock; None where there is none, or one of another version of w2s_ray."""
    path = lock_path(study, store)
    if not path.is_file():
        return None
    try:
        return Lock.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError):
        return None


def _write_lock(study: Study, resolution: Resolution, store: ArtifactStore) -> None:
    models = {name: _named(level) for name, level in study.ladder.items()}
    tasks = {name: identity("task", task) for name, task in study.tasks.items()}
    lock = Lock(sources=_sources(study), models=models, tasks=tasks, resolution=resolution)
    text = yaml.safe_dump(lock.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_file(lock_path(study, store), text.encode())
