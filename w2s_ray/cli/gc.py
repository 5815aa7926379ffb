"""`w2s gc`: list what no study needs, and remove it after a confirmation."""

from collections.abc import Iterator
from pathlib import Path

from w2s_ray.cli.terminal import bytes_text, count_text, plain_table, terminal
from w2s_ray.errors import StoreError, W2SError
from w2s_ray.spec.chain import distinct_stages
from w2s_ray.spec.load import STUDY_NAME, load_study
from w2s_ray.store.artifacts import ArtifactStore, existing_store
from w2s_ray.store.garbage import Waste, abandoned, remove, unreferenced
from w2s_ray.store.run_status import read_run_status
from w2s_ray.store.search_result import every_chain, read_search_result


def collect(store_folder: Path, *, yes: bool) -> None:
    """List the garbage, ask for confirmation unless `yes`, and remove it."""
    store = existing_store(store_folder)
    garbage = _garbage(store)
    if not garbage:
        terminal.line("nothing to remove: everything belongs to a study in the store")
        return
    table = plain_table("path", "why", "size", right=("size",))
    for item in garbage:
        table.add_row(str(item.path.relative_to(store.root)), item.reason, bytes_text(item.num_bytes))
    terminal.out.print(table)
    total = bytes_text(sum(item.num_bytes for item in garbage))
    if not yes:
        if not _confirmed(f"remove {count_text(len(garbage), 'entry')}, {total}? [y/N] "):
            terminal.line("nothing was removed")
            return
        still = {item.path for item in _garbage(store)}  # a run may have started or ended since the question
        garbage = [item for item in garbage if item.path in still]
    terminal.line(f"removed {bytes_text(remove(store, garbage))}")


def _garbage(store: ArtifactStore) -> list[Waste]:
    """Return abandoned work, and artifacts that no study needs if all that is needed is known."""
    garbage = abandoned(store)
    try:
        garbage = [*garbage, *unreferenced(store, _needed(store))]
    except W2SError as error:
        terminal.err.print(f"only abandoned work is listed: {error}", markup=False, soft_wrap=True)
    return list({item.path: item for item in garbage}.values())


def _needed(store: ArtifactStore) -> set[str]:
    """Return the identities and fingerprints that the studies in the store need.

    Raises:
        W2SError: when a study cannot be read, or may still need artifacts that its file does not name.
    """
    needed: set[str] = set()
    for folder in sorted((store.root / "studies").glob("*")):
        if not (folder / STUDY_NAME).is_file():
            continue
        try:
            needed.update(_needed_by(store, folder))
        except W2SError as error:
            raise StoreError(f"study {folder.name}: {error.message}", error.hint) from error
    return needed


def _needed_by(store: ArtifactStore, folder: Path) -> Iterator[str]:
    from w2s_ray.planning.resolve import locked

    study = load_study(folder / STUDY_NAME)
    if read_run_status(study, store) is not None:
        raise StoreError("a run of it is in progress and may need any artifact", "wait until the run ends")
    searches = study.search is not None and study.search.choose_by is not None
    if searches and read_search_result(study, store) is None:
        raise StoreError(
            "its search has not finished and may need any artifact",
            f"run the study again, or delete {folder} if you do not need its results",
        )
    resolution = locked(study, store)
    yield from (task.fingerprint for task in resolution.tasks.values())
    for stage in distinct_stages(every_chain(study, resolution, store)).values():
        yield stage.identity
        yield from (prediction.identity for prediction in stage.predicts)


def _confirmed(question: str) -> bool:
    terminal.out.print(question, end="", markup=False)
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:
        return False
