"""Resolve a study: pin every external name, once, before anything is trained.

Data is prepared and its sizes are checked, models get their revisions, and the result is written to `study.lock.yaml`
in the study's folder. Later runs read hub revisions from there, so a study uses the same commits to its end.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml
from pydantic import Field, ValidationError

from w2s_ray.data.prepare import PreparedTask, prepare
from w2s_ray.data.splits import TooFewExamples, check_sizes, num_documents, num_test, other_hint, sizes_hint
from w2s_ray.errors import DataError, ModelError
from w2s_ray.hub import HubUnreachable
from w2s_ray.planning.task_checks import check_methods, check_neighbours
from w2s_ray.planning.versions import LOCK_NAME, write_study
from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import Resolution, ResolvedModel, ResolvedTask
from w2s_ray.spec.identity import identity
from w2s_ray.spec.points import largest, one_changed
from w2s_ray.spec.stage import Lora, Optimisation, Prompt
from w2s_ray.spec.study import LevelSpec, Study, TaskSizes, TaskSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import exclusive, write_file
from w2s_ray.tasks.registry import cue_of, open_task
from w2s_ray.tasks.remarks import about_labels
from w2s_ray.training.models.catalogue import no_folder, resolve_model

UNRESOLVED = "unresolved"
"""In place of a revision or fingerprint that was not found; identities that depend on it are provisional."""


class Lock(Spec):
    """A study's resolution, and the names that it was made for."""

    sources: str
    """Digest of the tasks and models in the study file."""
    models: dict[str, str]
    """Model of each level, with its revision if the file has one."""
    tasks: dict[str, str]
    """Digest of each task in the study file."""
    resolution: Resolution
    checks: dict[str, dict[str, float]] = Field(default_factory=dict)
    """By a model's revision and the digest of a way of using it: the largest difference that its check found, as a
    share of what is allowed."""


def resolve(study: Study, store: ArtifactStore) -> Resolution:
    """Prepare the study's data, resolve its models, and lock both in the store.

    What cannot be reached is listed in the resolution's `unresolved`. An existing lock is not replaced here, because it
    describes the data and models of the study's results; `save_study` replaces it when a run has the study's lease.

    Raises:
        W2SError: a DataError, ModelError or StoreError when the study cannot run.
    """
    store.prepare()
    lock = _read_lock(study, store)
    variants = tuple(one_changed(study))
    unresolved: list[str] = []
    models: dict[str, ResolvedModel] = {}
    for name, level in study.ladder.items():
        pinned, settings, targets = _pinned(lock, name, level), _settings(variants, name), _targets(variants, name)
        try:
            models[name] = resolve_model(level, pinned, settings, targets, _language_key(variants, name))
        except HubUnreachable as error:
            unresolved += error.files
            models[name] = ResolvedModel(revision=UNRESOLVED, num_parameters=None)
        except ModelError as error:
            raise ModelError(f"level {name}: {error.message}", error.hint) from None
    tasks: dict[str, ResolvedTask] = {}
    short: dict[str, TooFewExamples] = {}
    for name, task in study.tasks.items():
        try:
            tasks[name] = _resolve_task(study, variants, name, _prepared(store, name, task, lock))
        except HubUnreachable as error:
            unresolved += error.files
            tasks[name] = _unresolved_task(name, task)
        except TooFewExamples as error:
            short[name] = error
    if short:
        raise _too_few(study, short)
    _check_distinct(study, tasks)
    resolution = Resolution(tasks=tasks, models=models, unresolved=tuple(dict.fromkeys(unresolved)))
    if not unresolved and lock is None:
        with exclusive(store.study_folder(study.name)):
            if _read_lock(study, store) is None:
                _write_lock(study, resolution, store, {})
    return resolution


def resolve_whole(study: Study, store: ArtifactStore) -> Resolution:
    """Resolve a study that will run.

    Raises:
        W2SError: like `resolve`, and a ModelError when a file that it needs was not found.
    """
    resolution = resolve(study, store)
    if resolution.unresolved:
        advice = "connect to the hub, download them into its cache, or use local folders and files"
        raise ModelError(
            f"neither cached nor reachable on the hub: {', '.join(resolution.unresolved)}",
            "; ".join((advice, *unresolved_names(study, resolution))),
        )
    return resolution


def unresolved_names(study: Study, resolution: Resolution) -> tuple[str, ...]:
    """Return, for each model that was not found, why its name is taken for a hub id."""
    names = (level.model for name, level in study.ladder.items() if resolution.models[name].revision == UNRESOLVED)
    return tuple(map(no_folder, dict.fromkeys(names)))


def save_study(study: Study, resolution: Resolution, store: ArtifactStore) -> None:
    """Write a study and its resolution into its folder in the store, in place of those of the last run.

    Those are kept as a former version if their results differ (versions.py).
    """
    with exclusive(store.study_folder(study.name)):
        write_study(study, resolution, store)
        _write_lock(study, resolution, store, locked_checks(study, store))


def locked(study: Study, store: ArtifactStore) -> Resolution:
    """Return the resolution of the study's last run, without network access; resolve the study if it never ran.

    Raises:
        W2SError: like `resolve_whole`.
    """
    lock = _read_lock(study, store)
    if lock is not None and lock.sources == _sources(study):
        return lock.resolution
    return resolve_whole(study, store)


def locked_checks(study: Study, store: ArtifactStore) -> dict[str, dict[str, float]]:
    """Return the verdicts of model checks in the study's lock."""
    lock = _read_lock(study, store)
    return {} if lock is None else {revision: dict(ways) for revision, ways in lock.checks.items()}


def save_checks(study: Study, store: ArtifactStore, checks: dict[str, dict[str, float]]) -> None:
    """Add verdicts of model checks to the study's lock; a run that changes the lock meanwhile keeps its changes."""
    with exclusive(store.study_folder(study.name)):
        lock = _read_lock(study, store)
        if lock is not None:
            known = {revision: lock.checks.get(revision, {}) | ways for revision, ways in checks.items()}
            _save(study, store, lock.model_copy(update={"checks": lock.checks | known}))


def lock_path(study: Study, store: ArtifactStore) -> Path:
    """Return the path of the study's lock."""
    return store.study_folder(study.name) / LOCK_NAME


def _prepared(store: ArtifactStore, name: str, task: TaskSpec, lock: Lock | None) -> PreparedTask:
    """Prepare a task; a hub data set keeps its locked revision."""
    if lock is not None and lock.tasks.get(name) == identity("task", task):
        revision = lock.resolution.tasks[name].revision
        task = task if revision is None else task.model_copy(update={"revision": revision})
    return prepare(store, name, task)


def _check_distinct(study: Study, tasks: Mapping[str, ResolvedTask]) -> None:
    """Refuse two names for the same data with splits of the same size, because their stages are identical."""
    known: dict[tuple[str, TaskSizes], str] = {}
    for name, task in tasks.items():
        other = known.setdefault((task.fingerprint, study.sizes_of(name)), name)
        if other != name:
            raise DataError(
                f"tasks {other} and {name} have the same data and split sizes, so they are one task",
                f"remove tasks.{name}",
            )


def _resolve_task(study: Study, variants: Sequence[Study], name: str, prepared: PreparedTask) -> ResolvedTask:
    """Check a task against the study and every variant of its search, and return it resolved."""
    task = study.tasks[name]
    for variant in variants:
        check_methods(variant, name, prepared)
    study = largest(study)
    sizes = study.sizes_of(name)
    known = ResolvedTask(
        fingerprint=prepared.fingerprint,
        kind=prepared.kind,
        num_classes=prepared.num_classes,
        class_names=prepared.class_names,
        num_test=0,
        revision=prepared.revision,
        left_out=tuple(map(str, prepared.left_out)),
        notices=prepared.notices,
        cue=cue_of(task),
    )
    if prepared.kind == "text":
        documents, held_out = num_documents(prepared)
        return known.model_copy(update={"num_documents": documents, "num_held_out": held_out})
    try:
        check_sizes(
            prepared,
            num_levels=len(study.ladder),
            train_examples=sizes.T,
            supervisor_examples=sizes.S,
            validation_examples=sizes.V,
            test_examples=task.test_examples,
            seeds=study.seeds,
            balance=sizes.balance,
        )
    except TooFewExamples as error:
        error.hint = "; ".join(about_labels(prepared.notices))
        raise
    except DataError as error:
        hint = "; ".join(filter(None, (*about_labels(prepared.notices), error.hint)))
        raise DataError(f"task {name}: {error.message}", hint) from None
    for variant in variants:
        check_neighbours(variant, name, prepared, known)
    return known.model_copy(update={"num_test": num_test(prepared, task.test_examples), "sizes": sizes})


def _too_few(study: Study, short: Mapping[str, TooFewExamples]) -> DataError:
    """Return one error for all tasks that are too small, with sizes that fit each of them for every seed.

    The hint begins with the remarks on labels: a class that is short is often one that should not be there.
    """
    fitting: dict[str, int] = {}
    for name, error in short.items():
        sizes = largest(study).sizes_of(name)
        wanted = {"S": sizes.S, "T": sizes.T, "V": sizes.V, "test": study.tasks[name].test_examples or 0}
        for split, key in _size_keys(study, name).items():
            if wanted[split] > error.largest[split]:
                fitting[key] = min(error.largest[split], fitting.get(key, error.largest[split]))
    message = "; ".join(f"task {name}: {error.message}" for name, error in short.items())
    is_enough = all(size > 0 for size in fitting.values())
    longest = [error.num_levels for error in short.values() if error.num_levels is not None]
    other = other_hint(min(longest) if len(longest) == len(short) else None)
    advice = f"{sizes_hint(fitting)}; or {other}" if is_enough else other
    where = {name: f"task {name}: " if len(study.tasks) > 1 else "" for name in short}
    remarks = [f"{where[name]}{error.hint}" for name, error in short.items() if error.hint]
    return DataError(message, "; ".join((*remarks, f"otherwise {advice}" if remarks else advice)))


def _size_keys(study: Study, name: str) -> dict[str, str]:
    """Return the key that gives the size of each of a task's splits."""
    own, shared = study.tasks[name], study.splits
    keys = {"test": f"tasks.{name}.test_examples"}
    for split, names in (
        ("S", ("S", "train_examples")),
        ("T", ("T", "train_examples")),
        ("V", ("validation_examples",)),
    ):
        given = [f"tasks.{name}.{key}" for key in names if getattr(own, key) is not None]
        given += [f"splits.{key}" for key in names if getattr(shared, key) is not None]
        keys[split] = given[0]
    return keys


def _unresolved_task(name: str, task: TaskSpec) -> ResolvedTask:
    """Return a placeholder for a task whose rows could not be fetched, so that the study can be planned."""
    kind = open_task(task).kind
    num_classes = 2 if kind in ("classes", "pairs") else 1
    num_test = 0 if kind == "text" else task.test_examples or 1
    return ResolvedTask(
        fingerprint=f"{UNRESOLVED} {name}", kind=kind, num_classes=num_classes, num_test=num_test, cue=cue_of(task)
    )


def _pinned(lock: Lock | None, name: str, level: LevelSpec) -> str | None:
    """Return the locked revision of a level, if its model is still the same."""
    if lock is None or lock.models.get(name) != _named(level):
        return None
    return lock.resolution.models[name].revision


def _named(level: LevelSpec) -> str:
    return level.model if level.revision is None else f"{level.model}@{level.revision}"


def _settings(variants: Sequence[Study], level: str) -> list[Optimisation]:
    """Return the settings with which a level's model is trained, or reads texts."""
    methods = ((variant, method) for variant in variants for method in variant.methods.values())
    return [own for variant, method in methods for own in variant.optimisations(method, level)]


def _targets(variants: Sequence[Study], level: str) -> tuple[str, ...]:
    """Return the modules of a level that methods name as LoRA targets."""
    found = (method.trainable_of(level) for variant in variants for method in variant.methods.values())
    return tuple(dict.fromkeys(name for each in found if isinstance(each, Lora) for name in each.targets or ()))


def _language_key(variants: Sequence[Study], level: str) -> str:
    """Return a key by which a method uses a level's model as a language model; empty if none does."""
    for name, method in ((name, method) for variant in variants for name, method in variant.methods.items()):
        if method.score is not None:
            return f"methods.{name}.score"
        if isinstance(method.trainable_of(level), Prompt):
            return f"methods.{name}.trainable.{level}"
        if "zero_shot" in method.arms:
            return f"methods.{name}.arms (zero_shot)"
        if level in method.generative:
            return f"methods.{name}.generative.{level}"
    return ""


def _sources(study: Study) -> str:
    levels = {
        name: [level.model, level.revision, level.architecture, *([True] if level.trust_remote_code else [])]
        for name, level in study.ladder.items()
    }
    return identity("sources", {"tasks": study.tasks, "levels": levels, "splits": study.splits})


def _read_lock(study: Study, store: ArtifactStore) -> Lock | None:
    """Return the lock; None if there is none that this version can read."""
    path = lock_path(study, store)
    if not path.is_file():
        return None
    try:
        return Lock.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except (yaml.YAMLError, ValidationError, UnicodeDecodeError):
        return None


def _write_lock(
    study: Study, resolution: Resolution, store: ArtifactStore, checks: dict[str, dict[str, float]]
) -> None:
    models = {name: _named(level) for name, level in study.ladder.items()}
    tasks = {name: identity("task", task) for name, task in study.tasks.items()}
    lock = Lock(sources=_sources(study), models=models, tasks=tasks, resolution=resolution, checks=checks)
    _save(study, store, lock)


def _save(study: Study, store: ArtifactStore, lock: Lock) -> None:
    text = yaml.safe_dump(lock.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    write_file(lock_path(study, store), text.encode())
