"""Prepared tasks: one Arrow file of examples in the store, which every worker maps into memory.

The fingerprint identifies the examples: the task's source, its format, and the share for the test set. It does not
depend on seeds, ladders, models or tokenizers.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from w2s_ray.errors import DataError, StoreError
from w2s_ray.science import BoolArray, IntArray
from w2s_ray.spec.base import Spec
from w2s_ray.spec.identity import identity, short
from w2s_ray.spec.study import TaskSpec
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.files import RECORD_NAME, check_files, digest_files, publish_folder, write_file
from w2s_ray.store.record import read_spec, utc_now
from w2s_ray.tasks.judges import open_judge
from w2s_ray.tasks.related import merged_groups
from w2s_ray.tasks.remarks import about_labels
from w2s_ray.tasks.task import POOL, SCHEMA, TEST, Kind, LeftOut, SourceRows, Task, TaskData, check_left_out

RECIPE = 3
"""Version of preparation and splitting; increase when the same task would give different splits."""
PAIRS_RECIPE = 4
"""The same of pairs, whose tables have prompts since version 4."""
EXAMPLES_NAME = "examples.arrow"


class PreparedRecord(Spec):
    """The record of a prepared task's folder."""

    fingerprint: str
    task: str
    """The study's name for the task that was first prepared."""
    class_names: tuple[str, ...]
    kind: Kind
    judge: str | None = None
    """Name of the judge of its answers."""
    test_fraction: float
    num_examples: int
    left_out: tuple[LeftOut, ...] = ()
    sources: tuple[SourceRows, ...] = ()
    notices: tuple[str, ...] = ()
    revision: str | None = None
    prepared_at: str
    files: dict[str, str]


@dataclass(frozen=True)
class PreparedTask:
    """A task's examples in the store; equal fingerprints mean equal examples."""

    fingerprint: str
    folder: Path
    class_names: tuple[str, ...]
    kind: Kind
    test_fraction: float
    """Share of the groups for the test set, if no example has the origin `test`."""
    judge: str | None = None
    """Name of the judge of its answers; None for an exact match."""
    left_out: tuple[LeftOut, ...] = ()
    """Rows that became no example, by reason."""
    sources: tuple[SourceRows, ...] = ()
    """The files or splits that were read, and their numbers of rows."""
    notices: tuple[str, ...] = ()
    """Properties of the data, or of how it was read, that a user would not expect."""
    revision: str | None = None
    """`branch@commit` of rows from the hub."""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def is_classified(self) -> bool:
        """Whether its examples have classes; splits are balanced by class."""
        return self.kind in ("classes", "pairs")

    @property
    def texts_per_example(self) -> int:
        """2 for pairs, 1 for other kinds."""
        return 2 if self.kind == "pairs" else 1

    def table(self) -> pa.Table:
        """Return all examples with the columns of `SCHEMA`, mapped into memory."""
        with pa.memory_map(str(self.folder / EXAMPLES_NAME)) as source:
            return pa.ipc.open_file(source).read_all()

    def longest_texts(self, num: int) -> list[str]:
        """Return the `num` texts with the most bytes; for pairs, among both texts."""
        columns = [self.table()[name] for name in ("text", "other")[: self.texts_per_example]]
        texts = pa.chunked_array([chunk for column in columns for chunk in column.chunks])
        order = pc.select_k_unstable(pc.binary_length(texts), k=num, sort_keys=[("", "descending")])
        return list(texts.take(order).to_pylist())

    def text_numbers(self, row_numbers: IntArray) -> IntArray:
        """Return the indices of these rows' texts in the task's `Tokens`; for pairs, all first texts come first."""
        places = range(self.texts_per_example)
        return np.concatenate([row_numbers + place * self.table().num_rows for place in places])

    def texts(self, row_numbers: IntArray) -> list[str]:
        """Return the (first) texts of these rows."""
        return list(self.table()["text"].take(pa.array(row_numbers)).to_pylist())

    def others(self, row_numbers: IntArray) -> list[str]:
        """Return the second texts, or the answers, of these rows."""
        return list(self.table()["other"].take(pa.array(row_numbers)).to_pylist())

    def prompts(self, row_numbers: IntArray) -> list[str]:
        """Return the prompts of these rows: the text that both texts of a pair begin with, "" where there is none."""
        assert self.kind == "pairs", f"{self.kind} have no prompts"
        return [prompt or "" for prompt in self.table()["prompt"].take(pa.array(row_numbers)).to_pylist()]

    def distinct_others(self) -> list[str]:
        """Return every distinct answer."""
        return list(pc.unique(self.table()["other"]).to_pylist())

    def ids(self, row_numbers: IntArray) -> list[str]:
        """Return the example ids of these rows."""
        return list(self.table()["id"].take(pa.array(row_numbers)).to_pylist())

    def labels(self, row_numbers: IntArray) -> IntArray:
        """Return the true classes of these rows."""
        return np.asarray(self.table()["label"].to_numpy()[row_numbers])

    def allowed(self, row_numbers: IntArray, answers: Sequence[str]) -> BoolArray:
        """Return, for the written answer to each row, whether the task's judge allows it, such as a legal move.

        Raises:
            DataError: when the judge's package is not installed.
        """
        judge = open_judge(self.judge)
        examples = zip(self.texts(row_numbers), answers, strict=True)
        return np.array([judge.allows(text, answer) for text, answer in examples], dtype=bool)

    def accepted(self, row_numbers: IntArray, answers: Sequence[str]) -> BoolArray:
        """Return, for the written answer to each row, whether it is as good as the target, such as another mate.

        Raises:
            DataError: when the judge's package is not installed.
        """
        judge = open_judge(self.judge)
        examples = zip(self.texts(row_numbers), self.others(row_numbers), answers, strict=True)
        return np.array([judge.accepts(text, target, answer) for text, target, answer in examples], dtype=bool)


def prepare(store: ArtifactStore, name: str, spec: TaskSpec) -> PreparedTask:
    """Write the task `spec` to the store, unless it is there, and return it.

    Raises:
        DataError: when its source is missing, or its examples are not valid.
    """
    from w2s_ray.tasks.registry import open_task

    task = open_task(spec)
    prepared = prepare_task(store, name, task, spec.test_fraction)
    check_left_out(prepared.left_out, spec.max_skipped)  # another study may have prepared them with a higher limit
    return replace(prepared, notices=(*getattr(task, "notices", ()), *prepared.notices))


def prepare_task(store: ArtifactStore, name: str, task: Task, test_fraction: float) -> PreparedTask:
    """Write an opened task to the store, unless it is there, and return it."""
    recipe = PAIRS_RECIPE if task.kind == "pairs" else RECIPE
    content = {"source": task.fingerprint(), "test_fraction": test_fraction, "recipe": recipe}
    fingerprint = identity("task", content)
    prepared = _find(store, fingerprint)
    if prepared is not None:
        return prepared
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
            sources=data.sources,
            notices=data.notices,
            revision=data.revision,
            prepared_at=utc_now(),
            files=digest_files(folder),
        )
        write_file(folder / RECORD_NAME, record.model_dump_json(indent=2).encode())

    publish_folder(store.data_folder(name, fingerprint), fill)
    return load_prepared(store, fingerprint)


def load_prepared(store: ArtifactStore, fingerprint: str) -> PreparedTask:
    """Return a prepared task after checking its file; called by workers.

    Raises:
        StoreError: when it is not in the store, or its file fails its checksum.
    """
    prepared = _find(store, fingerprint)
    if prepared is None:
        raise StoreError(f"no prepared task {short(fingerprint)} in {store.root}", "run the study again to prepare it")
    return prepared


def _find(store: ArtifactStore, fingerprint: str) -> PreparedTask | None:
    for folder in store.data_folders(fingerprint):
        path = folder / RECORD_NAME
        record = read_spec(path, PreparedRecord, f"remove {folder}; the next run makes it again")
        if record is not None and record.fingerprint == fingerprint:
            _check_once(folder, path.stat().st_mtime_ns)
            return PreparedTask(
                fingerprint=fingerprint,
                folder=folder,
                class_names=record.class_names,
                kind=record.kind,
                test_fraction=record.test_fraction,
                judge=record.judge,
                left_out=record.left_out,
                sources=record.sources,
                notices=record.notices,
                revision=record.revision,
            )
    return None


@functools.lru_cache(maxsize=64)
def _check_once(folder: Path, written_ns: int) -> None:
    """Check a prepared folder's files once per process and modification time."""
    del written_ns  # part of the cache's key
    record = PreparedRecord.model_validate_json((folder / RECORD_NAME).read_bytes())
    check_files(folder, record.files)


def _checked(name: str, data: TaskData, kind: Kind) -> pa.Table:
    """Return a task's table as it is stored, after validation."""
    table = data.table.select(SCHEMA.names).cast(SCHEMA).combine_chunks()
    where = f"task {name}"
    if not table.num_rows:
        raise DataError(f"{where} has no examples", "check its files and columns")
    bundles = pc.coalesce(table["bundle"], table["id"])
    table = table.set_column(SCHEMA.get_field_index("bundle"), SCHEMA.field("bundle"), bundles)
    optional = {"stratum", "prompt"} if kind in ("pairs", "answers") else {"stratum", "prompt", "other"}
    for column in (name for name in SCHEMA.names if name not in optional):
        if table[column].null_count:
            raise DataError(f"{where}: {table[column].null_count} rows have no {column!r}", "remove those rows")
    _check_ids(where, table["id"])
    origins = set(pc.unique(table["origin"]).to_pylist())
    assert origins <= {POOL, TEST}, origins
    if kind == "text":
        return table
    if kind != "answers":
        _check_labels(where, table["label"], data)
    if kind == "pairs":
        _check_prompts(where, table)
    others = table["other"].to_pylist() if kind == "pairs" else ()
    groups = merged_groups(table["group"].to_pylist(), table["text"].to_pylist(), others)
    return table.set_column(SCHEMA.get_field_index("group"), SCHEMA.field("group"), pa.array(groups, pa.string()))


def _check_ids(where: str, ids: pa.ChunkedArray) -> None:
    counts = pc.value_counts(ids.combine_chunks())
    doubled = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(doubled):
        raise DataError(
            f"{where}: {len(doubled)} ids occur more than once, the first is {doubled[0]['values'].as_py()!r}",
            "remove the duplicates or give them other ids",
        )


def _check_prompts(where: str, table: pa.Table) -> None:
    for row in table.select(["id", "text", "other", "prompt"]).to_pylist():
        prompt = row["prompt"] or ""
        if not row["text"].startswith(prompt) or not row["other"].startswith(prompt):
            raise DataError(f"{where}: a text of the pair {row['id']!r} does not begin with its prompt {prompt!r}")


def _check_labels(where: str, labels: pa.ChunkedArray, data: TaskData) -> None:
    class_names, remarks = data.class_names, about_labels(data.notices)
    counts = np.bincount(labels.to_numpy(), minlength=len(class_names))
    assert len(counts) == len(class_names), f"{where}: a label is outside of {class_names}"
    present = [name for name, count in zip(class_names, counts, strict=True) if count]
    if len(present) < 2:
        raise DataError(
            f"{where}: every example has the class {present[0]!r}, and a classification task needs two classes",
            "; ".join((*remarks, "check `label:` and `classes:`")),
        )
    empty = [name for name, count in zip(class_names, counts, strict=True) if not count]
    if empty:
        hint = "; ".join((*remarks, "correct `classes:`"))
        raise DataError(f"{where}: no example has the class {empty[0]!r}", hint)
