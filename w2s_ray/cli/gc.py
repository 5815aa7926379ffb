"""`w2s gc`: list what no study needs, and remove it after a confirmation."""

from collections.abc import Iterator
from pathlib import Path

from w2s_ray.cli.inputs import print_store
from w2s_ray.cli.terminal import bytes_text, count_text, plain_table, terminal
from w2s_ray.errors import StoreError, W2SError
from w2s_ray.spec.chain import distinct_stages
from w2s_ray.spec.identity import short
from w2s_ray.store.artifacts import CHECKPOINTS, ArtifactStore, existing_store
from w2s_ray.store.files import folder_bytes
from w2s_ray.store.garbage import Waste, abandoned, remove, unreferenced
from w2s_ray.store.run_status import read_run_status
from w2s_ray.store.search_result import every_chain, read_search_result


def collect(store_folder: Path, *, yes: bool, former: bool = False) -> None:
    """List the garbage, with `former` also former versions of studies; ask unless `yes`, and remove it."""
    store = existing_store(store_folder)
    print_store(store)
    garbage, kept = _garbage(store, former)
    if kept:
        unfinished = f"{count_text(len(kept), 'unfinished stage')}, {bytes_text(sum(item.num_bytes for item in kept))}"
        terminal.line(f"kept: {unfinished}; `w2s run` of the study continues them")
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
        still = {item.path for item in _garbage(store, former)[0]}  # a run may have started or ended since the question
        garbage = [item for item in garbage if item.path in still]
    terminal.line(f"removed {bytes_text(remove(store, garbage))}")


def _garbage(store: ArtifactStore, former: bool) -> tuple[list[Waste], list[Waste]]:
    """Return abandoned work and artifacts that no study needs, and unfinished work that a study may continue.

    Unless all that is needed is known, only abandoned work without checkpoints is garbage.
    """
    work = abandoned(store)
    try:
        needed = _needed(store, former)
        garbage = [*unreferenced(store, needed), *(_versions(store) if former else ())]
        digests = {short(identity) for identity in needed}
        kept = [item for item in work if item.is_unfinished and item.path.name.rpartition("-")[2] in digests]
    except W2SError as error:
        terminal.err.print(f"only abandoned work is listed: {error}", markup=False, soft_wrap=True)
        garbage = []
        kept = [item for item in work if item.is_unfinished and (item.path / CHECKPOINTS).exists()]
    paths = {item.path for item in kept}
    return list({item.path: item for item in (*work, *garbage) if item.path not in paths}.values()), kept


def _versions(store: ArtifactStore) -> list[Waste]:
    """Return the folders of former versions of studies."""
    from w2s_ray.planning.versions import is_former, stored_studies

    return [
        Waste(folder, "a former version", folder_bytes(folder)) for folder in stored_studies(store) if is_former(folder)
    ]


def _needed(store: ArtifactStore, former: bool) -> set[str]:
    """Return the identities and fingerprints that the studies in the store need; `former` versions do not count then.

    Raises:
        W2SError: when a study cannot be read, or may still need artifacts that its file does not name.
    """
    from w2s_ray.planning.versions import is_former, stored_studies

    needed: set[str] = set()
    for folder in stored_studies(store):
        if former and is_former(folder):
            continue
        try:
            needed.update(_needed_by(store, folder))
        except W2SError as error:
            name = folder.relative_to(store.root / "studies")
            raise StoreError(f"study {name}: {error.message}", error.hint) from error
    return needed


def _needed_by(store: ArtifactStore, folder: Path) -> Iterator[str]:
    from w2s_ray.planning.resolve import locked
    from w2s_ray.planning.versions import load_stored

    study = load_stored(folder, store)
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
