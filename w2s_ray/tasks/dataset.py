"""Data sets: a format reads the rows, wherever they lie.

A *recipe* is a known data set: its format, where its rows lie on the hub, and what a reader has to know of it. It reads
the same columns from local files (`builtin: sst2` with `files:`). Own data is a format made from the study's keys
(`own.py`). Both become a `DatasetTask`.

Rows that are no examples are counted by reason, reported with their numbers, and left out, up to a share of the rows
(`max_skipped`); above it the data is refused. Nothing goes silently.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from w2s_ray.spec.identity import identity
from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks.examples import Format
from w2s_ray.tasks.gather import RECIPE, gather
from w2s_ray.tasks.hub import PARQUET, HubRows, parse_revision
from w2s_ray.tasks.sources import Rows, local_rows
from w2s_ray.tasks.task import TaskData, TaskInfo


@dataclass(frozen=True)
class Recipe:
    """A known data set.

    Attributes:
        name: what `builtin:` calls it.
        format: how its rows become examples.
        hub: its id on the Hugging Face hub.
        licence: its licence, as its authors or its page on the hub state it.
        citation: who made it.
        protocol: what is asked and how it is balanced, in one phrase.
        subset: its configuration on the hub.
        pool: the split that training, validation and (without `test`) test examples come from; `a+b` joins two.
        test: the split of the test set; without one it is drawn from the pool by group.
        branch: the hub's branch with the rows.
        commit: the commit of that branch; where it is not known, the first resolution of a study locks it.
        num_rows: rows of the pool and the test split, where known.
        parts: folders of the hub's rows, or names of local files, by which results are also given.
        version: raised whenever the format would make other examples from the same rows.
    """

    name: str
    format: Format
    hub: str
    licence: str
    citation: str
    protocol: str
    subset: str | None = None
    pool: str = "train"
    test: str | None = None
    branch: str = PARQUET
    commit: str | None = None
    num_rows: int | None = None
    parts: tuple[str, ...] = ()
    version: int = 1

    @property
    def info(self) -> TaskInfo:
        """What a reader has to know of it."""
        return TaskInfo(
            name=self.name,
            kind=self.format.kind,
            class_names=self.format.class_names or (),
            pool=self.pool,
            test=self.test,
            num_rows=self.num_rows,
            licence=self.licence,
            source=self.hub if self.subset is None else f"{self.hub} ({self.subset})",
            citation=self.citation,
            protocol=self.protocol,
        )

    def open(self, spec: TaskSpec) -> "DatasetTask":
        """Return the task: of the files that `spec` names, or else of the hub's rows, at `spec.revision` if given."""
        definition = [self.name, self.version]
        if spec.files is not None:
            rows: Rows = local_rows(spec.files, spec.test_files, self.pool, self.test, self.parts)
        else:
            branch, commit = parse_revision(spec.revision) if spec.revision else (self.branch, self.commit)
            rows = HubRows(self.hub, self.subset, branch or self.branch, self.pool, self.test, commit, self.parts)
        return DatasetTask(self.format, rows, definition, spec.max_skipped)


class DatasetTask:
    """Rows read by a format."""

    def __init__(self, format_: Format, rows: Rows, definition: Sequence[object], max_skipped: float) -> None:
        self.kind = format_.kind
        self._format = format_
        self.rows = rows
        self._definition = definition
        self._max_skipped = max_skipped

    def fingerprint(self) -> str:
        """Return the digest of how the rows are read and of their content.

        Raises:
            DataError: when the rows cannot be found.
        """
        return identity("task", [RECIPE, *self._definition, self.rows.digest()])

    def read(self) -> TaskData:
        """Return the rows as examples, and which rows are left out.

        Raises:
            DataError: when the rows cannot be read, or too many of them are not as they should be.
        """
        data = gather(self._format, self.rows.read(), self._max_skipped)
        return replace(data, revision=self.rows.revision())
