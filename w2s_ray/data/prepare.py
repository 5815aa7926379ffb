"""A task in the store: one Arrow file of examples that every worker maps into memory.

The fingerprint names the examples: the task's source and how it is read, and the share kept for the test set. It knows
nothing of seeds, ladders, models or tokenizers.
"""

import functools
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ValidationError

from w2s_ray.errors import DataError, StoreError
from w2s_ray.spec.base import Spec
from w2s_ray.spec.identity import identity, short
from w2s_ray.spec.study import TaskSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import RECORD_NAME, check_files, digest_files, publish_folder, write_file
from w2s_ray.store.record import utc_now
from w2s_ray.tasks.related import merged_groups
from w2s_ray.tasks.task import POOL, SCHEMA, TEST, Kind, LeftOut, Task, TaskData, check_left_out

RECIPE = 3
"""Version of preparation and of the way splits are drawn; raised when the same task would give other splits."""
EXAMPLES_NAME = "examples.arrow"


class PreparedRecord(Spec):
    """What lies in a prepared task's folder."""

    fingerprint: str
    task: str
    """The name it was prepared under."""
    class_names: tuple[str, ...]
    kind: Kind
    judge: str | None = None
    """Name of the judge of its answers."""
    test_fraction: float
    num_examples: int
    left_out: tuple[LeftOut, ...] = ()
    revision: str | None = None
    prepared_at: str
    files: dict[str, str]


@dataclass(frozen=True)
class PreparedTask:
    """A task's examples in the store; equal fingerprints, equal examples."""

    fingerprint: str
    folder: Path
    class_names: tuple[str, ...]
    kind: Kind
    test_fraction: float
    """Share of the groups kept for the test set where no example has the origin `test`."""
    judge: str | None = None
    """Name of the judge of its answers; None for an exact match."""
    left_out: tuple[LeftOut, ...] = ()
    """Rows that became no example, by reason."""
    revision: str | None = None
    """What pins the rows on the hub: `branch@commit`."""

    @property
    def num_classes(self) -> int:
        """How many classes there are."""
        return len(self.class_names)

    @property
    def is_classified(self) -> bool:
        """Whether its examples have classes, which splits are balanced by."""
        return self.kind in ("classes", "pairs")

    @property
    def texts_per_example(self) -> int:
        """Two for pairs, one elsewhere."""
        return 2 if self.kind == "pairs" else 1

    def table(self) -> pa.Table:
        """Return all examples, mapped into memory: with the columns of `SCHEMA`."""
        with pa.memory_map(str(self.folder / EXAMPLES_NAME)) as source:
            return pa.ipc.open_file(source).read_all()

    def longest_texts(self, num: int) -> list[str]:
        """Return the `num` texts that have most bytes; of pairs, of both their texts."""
        columns = [self.table()[name] for name in ("text", "other")[: self.texts_per_example]]
        texts = pa.chunked_array([chunk for column in columns for chunk in column.chunks])
        order = pc.select_k_unstable(pc.binary_length(texts), k=num, sort_keys=[("", "descending")])
        return list(texts.take(order).to_pylist())

    def text_numbers(self, row_numbers: np.ndarray) -> np.ndarray:
        """Return where the texts of these rows stand among the task's tokens: of pairs, the second after the first."""
        places = range(self.texts_per_example)
        return np.concatenate([row_numbers + place * self.table().num_rows for place in places])

    def texts(self, row_numbers: np.ndarray) -> list[str]:
        """Return the (first) texts of these rows."""
        return list(self.table()["text"].take(pa.array(row_numbers)).to_pylist())

    def others(self, row_numbers: np.ndarray) -> list[str]:
        """Return the second texts, or the answers, of these rows."""
        return list(self.table()["other"].take(pa.array(row_numbers)).to_pylist())

    def distinct_others(self) -> list[str]:
        """Return every answer that there is, once."""
        return list(pc.unique(self.table()["other"]).to_pylist())

    def ids(self, row_numbers: np.ndarray) -> list[str]:
        """Return the example ids of these rows."""
        return list(self.table()["id"].take(pa.array(row_numbers)).to_pylist())

    def labels(self, row_numbers: np.ndarray) -> np.ndarray:
        """Return the ground truth of these rows, as class numbers."""
        return np.asarray(self.table()["label"].to_numpy()[row_numbers])


def prepare(store: ArtifactStore, name: str, spec: TaskSpec) -> PreparedTask:
    """Bring the task `spec` into the store, unless it is there, and return it.

    Raises:
        DataError: when its source is missing or its examples break a rule.
    """
    from w2s_ray.tasks.registry import open_task

    prepared = prepare_task(store, name, open_task(spec), spec.test_fraction)
    check_left_out(prepared.left_out, spec.max_skipped)  # the store may have them from a study that allowed more
    return prepared


def prepare_task(store: ArtifactStore, name: str, task: Task, test_fraction: float) -> PreparedTask:
    """Bring an opened task into the store, unless it is there, and return it."""
    known = {"source": task.fingerprint(), "test_fraction": test_fraction, "recipe": RECIPE}
    fingerprint = identity("task", known)
    found = _find(store, fingerprint)
    if found is not None:
        return found
    data = task.read()
    table = _checked(name, data, task.kind)

    def fill(folder: Path) -> None:
        with pa.OSFile(str(folder / EXAMPLES_NAME), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
        record = PreparedRecord(
            fingerprint=fingerprint,
            task=name,
            class_names=data.class_names,
            kind=task.kind,
            judge=data.judge,
            test_fraction=test_fraction,
            num_examples=table.num_rows,
            left_out=data.left_out,
            revision=data.revision,
            prepared_at=utc_now(),
            files=digest_files(folder),
        )
        write_file(folder / RECORD_NAME, record.model_dump_json(indent=2).encode())

    publish_folder(store.data_folder(name, fingerprint), fill)
    return load_prepared(store, fingerprint)


def load_prepared(store: ArtifactStore, fingerprint: str) -> PreparedTask:
    """Return a task that was prepared before, its file checked; what workers call.

    Raises:
        StoreError: when it is not in the store or its file fails its checksum.
    """
    found = _find(store, fingerprint)
    if found is None:
        raise StoreError(
            f"no prepared task {short(fingerprint)} in {store.root}",
            "a task is prepared before a stage reads it",
            "run the study again: it prepares what is missing",
        )
    return found


def _find(store: ArtifactStore, fingerprint: str) -> PreparedTask | None:
    for folder in store.data_folders(fingerprint):
        path = folder / RECORD_NAME
        try:
            record = PreparedRecord.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            continue
        except OSError as error:
            found = f"cannot read {path}: {error.strerror}"
            raise StoreError(found, "the store must be readable", "check the folder's permissions") from error
        except ValidationError as error:
            found = f"{path} is not a record of this version"
            raise StoreError(found, "a record is JSON with known keys", f"remove {folder}") from error
        if record.fingerprint == fingerprint:
            _check_once(folder, path.stat().st_mtime_ns)
            return PreparedTask(
                fingerprint=fingerprint,
                folder=folder,
                class_names=record.class_names,
                kind=record.kind,
                test_fraction=record.test_fraction,
                judge=record.judge,
                left_out=record.left_out,
                revision=record.revision,
            )
    return None


@functools.lru_cache(maxsize=64)
def _check_once(folder: Path, written_ns: int) -> None:
    """Check a prepared folder's files, once in a process for each time that it was written."""
    del written_ns  # part of the key alone
    record = PreparedRecord.model_validate_json((folder / RECORD_NAME).read_bytes())
    check_files(folder, record.files)


def _checked(name: str, data: TaskData, kind: Kind) -> pa.Table:
    """Return a task's table in the stored shape, after every rule that no task may break."""
    table = data.table.select(SCHEMA.names).cast(SCHEMA).combine_chunks()
    where = f"task {name}"
    if not table.num_rows:
        raise DataError(f"{where} has no examples", "a task has examples", "check its files and columns")
    bundles = pc.coalesce(table["bundle"], table["id"])
    table = table.set_column(SCHEMA.get_field_index("bundle"), SCHEMA.field("bundle"), bundles)
    optional = {"stratum"} if kind in ("pairs", "answers") else {"stratum", "other"}
    for column in (name for name in SCHEMA.names if name not in optional):
        lacking = table[column].null_count
        if lacking:
            raise DataError(f"{where}: {lacking} rows lack {column!r}", "no value is missing", "drop those rows")
    _check_ids(where, table["id"])
    origins = set(pc.unique(table["origin"]).to_pylist())
    assert origins <= {POOL, TEST}, origins
    if kind == "text":
        return table
    if kind != "answers":
        _check_labels(where, table["label"], data.class_names)
    others = table["other"].to_pylist() if kind == "pairs" else ()
    groups = merged_groups(table["group"].to_pylist(), table["text"].to_pylist(), others)
    return table.set_column(SCHEMA.get_field_index("group"), SCHEMA.field("group"), pa.array(groups, pa.string()))


def _check_ids(where: str, ids: pa.ChunkedArray) -> None:
    counts = pc.value_counts(ids.combine_chunks())
    doubled = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(doubled):
        raise DataError(
            f"{where}: {len(doubled)} ids stand more than once, the first is {doubled[0]['values'].as_py()!r}",
            "an id names one example",
            "remove the doubles or give them ids of their own",
        )


def _check_labels(where: str, labels: pa.ChunkedArray, class_names: tuple[str, ...]) -> None:
    counts = np.bincount(labels.to_numpy(), minlength=len(class_names))
    assert len(counts) == len(class_names), f"{where}: a label lies outside {class_names}"
    present = [name for name, count in zip(class_names, counts, strict=True) if count]
    if len(present) < 2:
        raise DataError(
            f"{where}: every example is of class {present[0]!r}",
            "a classification task has examples of two classes or more",
            "check `label:` and `classes:`",
        )
    empty = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if empty:
        raise DataError(f"{where}: no example of class {empty[0]!r}", "every class has examples", "correct `classes:`")
