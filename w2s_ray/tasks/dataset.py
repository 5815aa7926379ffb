"""Data sets: rows from any source, read by a format.

A *recipe* is a known data set: its format, its place on the hub, and its description. It reads the same columns from
local files (`builtin: sst2` with `files:`). For own data, a format is made from the study's keys (`own.py`). Both
become a `DatasetTask`.

Rows that give no example are counted by reason, reported with their numbers, and left out. If their share of the rows
exceeds `max_skipped`, the data is refused; no row is dropped silently.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from w2s_ray.errors import DataError
from w2s_ray.spec.identity import identity
from w2s_ray.spec.stage import DEFAULT_CUE
from w2s_ray.spec.study import TaskSpec
from w2s_ray.tasks.examples import Format
from w2s_ray.tasks.gather import RECIPE, gather
from w2s_ray.tasks.sources import PARQUET, HubRows, RowSource, local_rows, parse_revision
from w2s_ray.tasks.task import TaskData, TaskInfo


@dataclass(frozen=True)
class Recipe:
    """A known data set.

    Attributes:
        name: the value of `builtin:`.
        format: how its rows become examples.
        pairs: how its rows become pairs, for `form: pairs`; None if they do not.
        cue: what asks a language model for the class of a text, between text and class name.
        hub: its id on the Hugging Face hub.
        licence: its licence, as its authors or its page on the hub state it.
        citation: who made it.
        protocol: the question and how it is balanced, in one phrase.
        subset: its configuration on the hub.
        pool: the split that training, validation and (without `test`) test examples come from; `a+b` joins two.
        test: the split of the test set; None if the test set is drawn from the pool by group.
        branch: the hub's branch with the rows.
        commit: the commit of that branch; None for the newest one, which the first resolution of a study locks.
        num_rows: rows of the pool and the test split, where known.
        parts: folders of the hub's rows, or names of local files; each is a stratum.
        version: increased when the format would make different examples from the same rows.
    """

    name: str
    format: Format
    hub: str
    licence: str
    citation: str
    protocol: str
    pairs: Format | None = None
    cue: str = DEFAULT_CUE
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
        return TaskInfo(
            name=self.name,
            kind=self.format.kind,
            forms=() if self.pairs is None else ("pairs",),
            cue=self.cue,
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
        """Return the task for the files that `spec` names, or for the hub's rows, at `spec.revision` if given.

        Raises:
            DataError: when `spec.form` is one that the data set does not have.
        """
        format_ = self.format
        definition: list[object] = [self.name, self.version]
        if spec.form is not None:
            if self.pairs is None:
                raise DataError(
                    f"builtin: {self.name} is a task of {self.format.kind} without another form, so form: {spec.form} "
                    "cannot be made",
                    "remove `form:`; questions with one right answer have it (`w2s tasks` lists them)",
                )
            format_ = self.pairs
            definition.append(spec.form)
        if spec.sample is not None:
            definition.append(["sample", spec.sample])
        if spec.files is not None:
            rows: RowSource = local_rows(spec, format_.columns, self.pool, self.test, self.parts)
        else:
            branch, commit = parse_revision(spec.revision) if spec.revision else (self.branch, self.commit)
            rows = HubRows(
                self.hub, self.subset, branch or self.branch, self.pool, self.test, commit, self.parts, spec.sample
            )
        return DatasetTask(format_, rows, definition, spec.max_skipped, self.cue)


class DatasetTask:
    """Rows read by a format."""

    def __init__(
        self,
        format_: Format,
        rows: RowSource,
        definition: Sequence[object],
        max_skipped: float,
        cue: str = DEFAULT_CUE,
    ) -> None:
        self.kind = format_.kind
        self.cue = cue
        self._format = format_
        self.rows = rows
        self._definition = definition
        self._max_skipped = max_skipped

    @property
    def notices(self) -> tuple[str, ...]:
        """Notices about the choice of files, which is no part of the prepared data."""
        return tuple(self.rows.notices)

    def fingerprint(self) -> str:
        """Return the digest of the definition and of the rows' content.

        Raises:
            DataError: when the rows do not exist.
        """
        return identity("task", [RECIPE, *self._definition, self.rows.digest()])

    def read(self) -> TaskData:
        """Return the rows as examples, and which rows are left out.

        Raises:
            DataError: when the rows cannot be read, or too many of them are faulty.
        """
        data = gather(self._format, self.rows.read(), self._max_skipped)
        return replace(data, revision=self.rows.revision())
