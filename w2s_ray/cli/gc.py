"""`w2s gc`: what in a store could go, removed only when told so."""

from collections.abc import Iterator
from pathlib import Path

from rich.table import Table

from w2s_ray.cli.amounts import bytes_text, count_text
from w2s_ray.cli.terminal import terminal
from w2s_ray.errors import StoreError, W2SError
from w2s_ray.spec.chain import distinct_stages
from w2s_ray.spec.load import STUDY_NAME, load_study
from w2s_ray.store.artifacts import ArtifactStore, existing_store
from w2s_ray.store.garbage import Waste, abandoned, remove, unreferenced
from w2s_ray.store.run_status import read_run_status
from w2s_ray.store.search_result import every_chain, read_search_result


def collect(store_folder: Path, *, yes: bool) -> None:
    """List what could go, ask, and remove it."""
    store = existing_store(store_folder)
    waste = _waste(store)
    if not waste:
        terminal.out.print("nothing to remove: everything belongs to a study in the store")
        return
    table = Table(box=None, pad_edge=False)
    for heading in ("path", "why", "size"):
        table.add_column(heading, justify="right" if heading == "size" else "left")
    for item in waste:
        table.add_row(str(item.path.relative_to(store.root)), item.reason, bytes_text(item.num_bytes))
    terminal.out.print(table)
    total = bytes_text(sum(item.num_bytes for item in waste))
    if not yes:
        if not _confirmed(f"remove {count_text(len(waste), 'entry')}, {total}? [y/N] "):
            terminal.out.print("nothing was removed")
            return
        still = {item.path for item in _waste(store)}  # runs may have begun or ended while the question stood
        waste = [item for item in waste if item.path in still]
    terminal.out.print(f"removed {bytes_text(remove(store, waste))}")


def _unreferenced(store: ArtifactStore) -> list[Waste]:
    """Artifacts that no study in the store names; none where it is not known what a study names."""
    keep: set[str] = set()
    for folder in sorted((store.root / "studies").glob("*")):
        if not folder.is_dir():
            continue
        try:
            keep.update(_named(store, folder))
        except W2SError as error:
            line = f"only abandoned work is listed, because of study {folder.name}: {error.value}; {error.remedy}"
            terminal.err.print(line, markup=False, soft_wrap=True)
            return []
    return unreferenced(store, keep)


def _named(store: ArtifactStore, folder: Path) -> Iterator[str]:
    """Identities and fingerprints that one study needs.

    Raises:
        W2SError: when the study cannot be read, or when that cannot be known yet.
    """
    from w2s_ray.planning.resolve import locked

    if not (folder / STUDY_NAME).is_file():
        return
    study = load_study(folder / STUDY_NAME)
    if read_run_status(study, store) is not None:
        raise StoreError(
            "a run of it is under way",
            "a run may want more than the study's file, which is that of its last start",
            "wait for its end",
        )
    searches = study.search is not None and study.search.choose_by is not None
    if searches and read_search_result(study, store) is None:
        raise StoreError(
            "its search is not through",
            "what a search has drawn is known when it is through",
            f"run the study again, or remove {folder} and with it the claim to what it has done",
        )
    resolution = locked(study, store)
    yield from (task.fingerprint for task in resolution.tasks.values())
    for stage in distinct_stages(every_chain(study, resolution, store)).values():
        yield stage.identity
        yield from (prediction.identity for prediction in stage.predicts)


def _waste(store: ArtifactStore) -> list[Waste]:
    return list({item.path: item for item in (*abandoned(store), *_unreferenced(store))}.values())


def _confirmed(question: str) -> bool:
    terminal.out.print(question, end="", markup=False)
    try:
        return input().strip().lower() in ("y", "yes")
    except EOFError:
        return False
