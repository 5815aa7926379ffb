"""Verdicts of model checks (training/model_check.py) that models passed, in the store: each check is made once.

A verdict is that of a model's digest, a way of using it, and the versions of the libraries.
"""

from pathlib import Path

from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.identity import identity, short
from w2s_ray.spec.model_check import RECIPE, CheckResult
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import write_file, writing
from w2s_ray.store.record import package_versions

_LIBRARIES = ("torch", "transformers", "tokenizers", "peft")


def check_key(stage: PlannedStage) -> str:
    """Return the key of the check of a stage made by `to_check`."""
    versions = {name: version for name, version in package_versions().items() if name in _LIBRARIES}
    return short(identity("model check", {"recipe": RECIPE, "versions": versions, "stage": stage.identity}))


def read_verdict(store: ArtifactStore, stage: PlannedStage) -> float | None:
    """Return the largest difference that the check of this stage found; None if it was not made."""
    try:
        return CheckResult.model_validate_json(_path(store, stage).read_bytes()).difference
    except (OSError, ValueError):
        return None


def write_verdict(store: ArtifactStore, stage: PlannedStage, difference: float) -> None:
    """Keep the largest difference that the check of this stage found."""
    path = _path(store, stage)
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, CheckResult(difference=difference).model_dump_json().encode())


def _path(store: ArtifactStore, stage: PlannedStage) -> Path:
    return store.root / "checks" / f"{check_key(stage)}.json"
