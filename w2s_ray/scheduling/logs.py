"""Where stages put what they and their libraries print."""

from pathlib import Path

from w2s_ray.spec.chain import PlannedStage
from w2s_ray.store.artifacts import ArtifactStore


def logs_folder(store: ArtifactStore, study: str) -> Path:
    """Return the folder of a study's logs."""
    return store.study_folder(study) / "logs"


def log_path(store: ArtifactStore, study: str, stage: PlannedStage) -> Path:
    """Return the log of one stage; each start of it adds to the end. It is named like the stage's folder."""
    return logs_folder(store, study) / f"{store.folder(stage.spec.slug, stage.identity).name}.log"
