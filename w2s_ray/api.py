"""The public functions: run a study, read its results."""

import functools
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore, existing_store

if TYPE_CHECKING:
    import pandas as pd

    from w2s_ray.scheduling.status import StudyView
    from w2s_ray.scheduling.study import RunSettings, StudyOutcome

DEFAULT_STORE = "w2s-store"


def run_study(
    study: Study,
    store: Path | str = DEFAULT_STORE,
    *,
    address: str | None = None,
    view: "StudyView | None" = None,
    interrupt: threading.Event | None = None,
) -> "StudyOutcome":
    """Run every chain of a study; stages in the store are not trained again.

    Args:
        study: from `load_study`.
        store: the folder of all artifacts.
        address: a Ray cluster (`auto` or `HOST:PORT`); None for this machine.
        view: receives the status twice a second; None shows nothing.
        interrupt: set it from another thread to stop at the next step with a checkpoint.

    Raises:
        W2SError: when the study cannot run or was interrupted. The outcome lists failed chains.
    """
    from w2s_ray.planning.resolve import resolve_whole
    from w2s_ray.scheduling.status import NullView
    from w2s_ray.scheduling.study import run_study as run

    opened = ArtifactStore(store)
    resolution = resolve_whole(study, opened)
    return run(
        study,
        resolution=resolution,
        store=opened,
        address=address,
        view=view or NullView(),
        interrupt=interrupt or threading.Event(),
        settings=settings_of(study, opened),
    )


def settings_of(study: Study, store: ArtifactStore) -> "RunSettings":
    """Return settings whose summary runs report each chain's results."""
    from w2s_ray.report.summary import chain_metrics
    from w2s_ray.scheduling.study import RunSettings

    return RunSettings(judge=functools.partial(chain_metrics, study, store))


def read_results(study: Study, store: Path | str = DEFAULT_STORE) -> "pd.DataFrame":
    """Return one row for each stage of each chain with results in the store.

    Raises:
        W2SError: when there is no store, or something in it cannot be read.
    """
    from w2s_ray.planning.resolve import locked
    from w2s_ray.report.results import read_results as read

    opened = existing_store(store)
    return read(study, locked(study, opened), opened)
