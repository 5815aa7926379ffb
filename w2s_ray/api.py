"""The public functions: run a study, read its results."""

import functools
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Literal

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
    raise_on_failure: bool = True,
) -> "StudyOutcome":
    """Train and evaluate every stage of a study that is not in the store yet, and wait until all of it has ended.

    Data and models are prepared, then Ray runs the chains; models, predictions and records stay in the store, so the
    same call resumes a study that was stopped. Progress is printed on standard error: a line when a stage starts, one
    when it ends, and a last one with the counts. No report is written: `read_results` returns the results, and
    `w2s report` prints them.

    Args:
        study: from `load_study`.
        store: the folder of all artifacts.
        address: a Ray cluster (`auto` or `HOST:PORT`); None for this machine.
        view: receives the status twice a second instead of the printed lines; `NullView()` shows nothing.
        interrupt: set it from another thread to stop at the next step with a checkpoint.
        raise_on_failure: False returns the outcome of a study with failed chains instead of an error.

    Returns:
        How each chain ended (`chains`, `failed`), and which stages were trained now (`trained`).

    Raises:
        TrainingError: after everything else has ended, when a chain failed or a search could choose nothing.
        W2SError: when the study cannot run or was interrupted.
    """
    from w2s_ray.planning.model_checks import check_models
    from w2s_ray.planning.resolve import resolve_whole
    from w2s_ray.planning.versions import notice_of_change
    from w2s_ray.scheduling.status import PlainView
    from w2s_ray.scheduling.study import run_study as run

    opened = ArtifactStore(store)
    resolution = resolve_whole(study, opened)
    if change := notice_of_change(study, resolution, opened):
        _print(change)
    check_models(study, resolution, opened, _print)
    outcome = run(
        study,
        resolution=resolution,
        store=opened,
        address=address,
        view=view or PlainView(_print),
        interrupt=interrupt or threading.Event(),
        settings=settings_of(study, opened),
    )
    if view is None:
        _print(f"{study.name}: {outcome.counts}; store: {opened.root}")
    if raise_on_failure:
        outcome.raise_failures()
    return outcome


def _print(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def settings_of(study: Study, store: ArtifactStore) -> "RunSettings":
    """Return settings whose summary runs report each chain's results."""
    from w2s_ray.report.summary import chain_metrics
    from w2s_ray.scheduling.study import RunSettings

    return RunSettings(judge=functools.partial(chain_metrics, study, store))


def read_results(
    study: Study, store: Path | str = DEFAULT_STORE, *, per: Literal["student", "stage"] = "student"
) -> "pd.DataFrame":
    """Return the results in the store as a data frame.

    Args:
        study: from `load_study`.
        store: the folder of all artifacts.
        per: `student`: one row for each student of each chain, over all its seeds, with accuracy, floor, ceiling and
            PGR, each with its 95 % interval (`_low`, `_high`) and its standard deviation over seeds (`_sd`).
            `stage`: one row for each stage of each chain and seed.

    Raises:
        W2SError: when there is no store, or something in it cannot be read.
        KeyError: for another `per`.
    """
    from w2s_ray.planning.resolve import locked
    from w2s_ray.report import results

    read = {"student": results.read_results, "stage": results.read_stages}[per]
    opened = existing_store(store)
    return read(study, locked(study, opened), opened)
