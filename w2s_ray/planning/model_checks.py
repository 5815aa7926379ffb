"""Which models of a study are checked before it runs (training/model_check.py), and the verdicts in its lock.

A check loads torch, so it runs in a process of its own, and only for models without a verdict. The built-in models are
checked by the tests. A hub model whose weights are not here yet is checked by the first stage that trains it.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from w2s_ray.errors import ModelError, ResourceError
from w2s_ray.planning.resolve import UNRESOLVED, locked_checks, save_checks
from w2s_ray.spec.chain import PlannedStage, Resolution, distinct_stages
from w2s_ray.spec.model_check import Checks, to_check
from w2s_ray.spec.stage import ModelSource
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.search_result import every_chain
from w2s_ray.store.verdicts import check_key, read_verdict
from w2s_ray.training.models.catalogue import has_weights, is_builtin

_SECONDS = 1200.0
"""Time after which a check is given up."""


def check_models(
    study: Study, resolution: Resolution, store: ArtifactStore, notify: Callable[[str], None] = lambda line: None
) -> int:
    """Check every model of the study that is at hand and has no verdict yet; return how many checks were made.

    Args:
        study: the study.
        resolution: its models and tasks.
        store: holds its tasks and its lock.
        notify: gets a line before and after the checks, and one for each model that this machine is too small to try;
            its workers may be larger.

    Raises:
        ModelError: for the first model that is refused.
    """
    stages = tuple(_distinct(study, resolution, store))
    new = tuple(stage for stage in stages if read_verdict(store, stage) is None)
    checks = Checks()
    if new:
        names = ", ".join(dict.fromkeys(stage.spec.starts_from.name for stage in new))
        notify(f"checking {names}")
        try:
            checks = _run(new, store)
        except ResourceError as error:
            notify(f"not checked: {error.message}")
    for stage, verdict in zip(new, checks.verdicts, strict=False):
        if verdict.lacks_memory:
            notify(f"level {stage.level} is not checked: {verdict.message}")
    _lock_verdicts(study, stages, store)
    for stage, verdict in zip(new, checks.verdicts, strict=False):
        if verdict.message and not verdict.lacks_memory:
            raise ModelError(f"level {stage.level}: {verdict.message}", verdict.hint)
    differences = [verdict.difference for verdict in checks.verdicts if not verdict.message]
    if differences:
        largest = max(differences)
        notify(f"models predict what their exports predict (largest difference: {largest:.1%} of what is allowed)")
    return len(differences)


def _lock_verdicts(study: Study, stages: Iterable[PlannedStage], store: ArtifactStore) -> None:
    """Add the verdicts on these stages to the study's lock, unless it has them."""
    verdicts: dict[str, dict[str, float]] = {}
    for stage in stages:
        source, difference = stage.spec.starts_from, read_verdict(store, stage)
        if difference is not None:
            assert isinstance(source, ModelSource)
            verdicts.setdefault(source.revision, {})[check_key(stage)] = difference
    known = locked_checks(study, store)
    if any(not ways.items() <= known.get(revision, {}).items() for revision, ways in verdicts.items()):
        save_checks(study, store, verdicts)


def _distinct(study: Study, resolution: Resolution, store: ArtifactStore) -> Iterable[PlannedStage]:
    """Yield each distinct check of the stages that are not trained yet, from weak to strong."""
    known: set[str] = set()
    stages = distinct_stages(every_chain(study, resolution, store)).values()
    for stage in stages:
        entry, model = study.ladder[stage.level], resolution.models[stage.level]
        is_known = UNRESOLVED not in (model.revision, resolution.tasks[stage.task].fingerprint.split()[0])
        if is_builtin(entry.model) or not is_known or store.find(stage.identity) is not None:
            continue
        if entry.architecture is None and not has_weights(entry.model, model.revision):
            continue
        source = stage.spec.starts_from
        if not isinstance(source, ModelSource):
            source = ModelSource(
                name=entry.model,
                revision=model.revision,
                architecture=entry.architecture,
                pad_token=entry.pad_token,
                trust_remote_code=entry.trust_remote_code,
            )
        check = to_check(stage, source)
        if check.identity not in known:
            known.add(check.identity)
            yield check


def _run(stages: tuple[PlannedStage, ...], store: ArtifactStore) -> Checks:
    """Run the checks in a process of their own."""
    with tempfile.TemporaryDirectory(prefix="w2s-check-") as folder:
        asked, answered = Path(folder) / "asked.json", Path(folder) / "answered.json"
        asked.write_text(Checks(stages=stages).model_dump_json(), encoding="utf-8")
        # -P: a file of the user's folder that is named like a library is not imported.
        module = ["-P", "-m", "w2s_ray.training.model_check"]
        command = [sys.executable, *module, str(asked), str(answered), str(store.root)]
        names = ", ".join(dict.fromkeys(stage.spec.starts_from.name for stage in stages))
        try:
            ended = subprocess.run(
                command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            raise ResourceError(
                f"the check of {names} took longer than {_SECONDS:.0f} s", "use a machine with more cores"
            ) from None
        if answered.is_file():
            return Checks.model_validate_json(answered.read_bytes())
    if ended.returncode < 0:
        raise ResourceError(
            f"the process that checked {names} was killed (signal {-ended.returncode}), most often for its memory",
            "use a machine with more memory, or a smaller model",
        )
    lines = ended.stderr.strip().splitlines() or ["no output"]
    raise ModelError(f"the check of {names} ended with exit code {ended.returncode}: {lines[-1]}")
