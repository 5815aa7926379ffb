"""A task as a study names it: a known data set, one on the hub, or files of one's own, and how they are read."""

from typing import Self

from pydantic import Field, model_validator

from w2s_ray.spec.base import Fraction, Positive, Spec

_OWN_KEYS = ("text", "label", "classes", "answer", "chosen", "rejected", "group", "subset", "test_split")
"""What says how own data is read; a known data set has its own way."""


class TaskSpec(Spec):
    """A data set. Name exactly one of `builtin`, `hub`, `files`; with `builtin`, `files` are a known data set's own."""

    builtin: str | None = None
    """A task that comes with w2s_ray; `w2s tasks` lists them."""
    hub: str | None = None
    """A data set on the Hugging Face hub."""
    files: str | None = None
    """A local JSON, JSON-lines, CSV or Parquet file (compressed or not), or a folder of such; relative to the study
    file."""
    test_files: str | None = None
    """A file or folder of its own for the test set; without it the test set is drawn from the same rows."""
    subset: str | None = None
    """The hub data set's configuration."""
    revision: str | None = None
    """The hub data set's branch, its whole commit, or `branch@commit`; resolved once and locked where no commit is
    given."""
    split: str = "train"
    """The hub split that training and validation examples come from."""
    test_split: str | None = None
    """The hub split for the test set; without it the test set is drawn from `split`."""
    text: str | None = None
    """The column that holds the text, or a template such as "{question} {passage}"; of pairs, what stands before both
    answers. Text alone is for pretraining."""
    label: str | None = None
    """The column that holds the label: the examples have classes, two or more."""
    classes: tuple[str, ...] | None = None
    """Label values in class order; without it the sorted distinct values."""
    answer: str | None = None
    """The column that holds the answer to be written after the text."""
    chosen: str | None = None
    """The column that holds the better answer of a pair."""
    rejected: str | None = None
    """The column that holds the worse answer of a pair."""
    group: str | None = None
    """A column whose equal values mark related rows, which stay in one split."""
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of the groups kept for the test set where there is no test file or split."""
    test_examples: Positive | None = None
    """Size of the test set; all that there are, where it is not given."""
    train_examples: Positive | None = None
    """Size of S and of every Ti for this task; the study's where not given."""
    validation_examples: Positive | None = None
    """Size of every Vi for this task; the study's where not given."""
    max_skipped: Fraction = 0.05
    """Share of a file's or split's rows that may be no examples (no text, an unknown label …): they are counted,
    reported and left out. With more of them the data is refused."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [key for key in ("builtin", "hub", "files") if getattr(self, key) is not None]
        reads_files = given == ["builtin", "files"] and not self.own_keys
        if len(given) != 1 and not reads_files:
            found = ", ".join((*given, *self.own_keys)) or "none"
            raise ValueError(f"name exactly one of builtin, hub, files (or builtin and its files); found {found}")
        for source, keys in (("files", ("test_files",)), ("hub", ("subset", "split", "test_split"))):
            idle = [key for key in keys if getattr(self, key) not in (None, type(self).model_fields[key].default)]
            if idle and getattr(self, source) is None:
                raise ValueError(f"{idle[0]} belongs to `{source}:`, which is not given")
        if self.revision is not None and self.files is not None:
            raise ValueError("revision belongs to data on the hub; `files:` are read as they are")
        if self.builtin is None:
            self._check_columns()
        return self

    @property
    def own_keys(self) -> tuple[str, ...]:
        """The keys that say how own data is read, as far as they are given."""
        return tuple(key for key in _OWN_KEYS if getattr(self, key) is not None)

    def _check_columns(self) -> None:
        """Refuse own data whose columns make no kind of task."""
        if (self.chosen is None) != (self.rejected is None):
            raise ValueError("`chosen:` and `rejected:` name the two answers of a pair: give both")
        kinds = [key for key in ("label", "answer", "chosen") if getattr(self, key) is not None]
        if len(kinds) > 1:
            raise ValueError(f"own data has one of label, answer, chosen and rejected; found {', '.join(kinds)}")
        if self.text is None and self.chosen is None:
            raise ValueError("own data needs `text:`, the column to read, and for classes `label:`")
        if self.classes is not None and self.label is None:
            raise ValueError("`classes:` lists the values of `label:`, which is not given")
