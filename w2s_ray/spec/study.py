"""The study: everything that one YAML file can ask for.

tasks × ladder × chains × methods × seeds. Each field has its unit and meaning right below it; the defaults suit a small
study on a laptop. `load.py` reads the file, `checks.py` holds the rules across its parts, `compile.py` compiles it.
"""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, PrivateAttr, field_serializer, model_validator

from w2s_ray.spec.base import Fraction, Name, Positive, Spec, merged, split_key
from w2s_ray.spec.execution import ExecutionSpec
from w2s_ray.spec.labels import Relabelling, Supervisors
from w2s_ray.spec.losses import Loss, NaiveLoss
from w2s_ray.spec.reporting import ReportSpec
from w2s_ray.spec.search import SearchSpec
from w2s_ray.spec.stage import AllWeights, Architecture, Optimisation, Precision, Score, Trainable

SPREAD_KEYS = ("optimisation", "execution")
"""Keys that a study may give at its top, for every level of the ladder."""
_BY_LEVEL = ("losses", "labels", "trainable", "generative", "optimisation")
"""Keys of a method that are mappings from levels."""
_OWN_KEYS = ("text", "label", "classes", "labels", "answer", "chosen", "rejected", "group", "subset", "test_split")
"""How own data is read; a known data set has a format of its own."""

StudentArm = Literal["zero_shot", "chain", "truth_chain", "direct", "ceiling", "self", "pooled"]
Arm = Literal[StudentArm, "floor", "member", "generative", "reference", "full_ceiling", "pretraining"]
"""The supervision that a stage gets; the arms that are not a student's are added by the compiler."""


def _label(value: Any) -> Any:
    """Return a label value of YAML as text: truth as JSON writes it, numbers as Python does."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return str(value)
    if value is None:
        raise ValueError("a label is text, a number, true or false; put the word in quotation marks if it is text")
    return value


def _listed(value: Any) -> Any:
    """Return label values as a list, in which a whole float has both its forms; one value is a list of one."""
    values = value if isinstance(value, list | tuple) else [value]
    forms = ((str(int(item)), item) if isinstance(item, float) and item.is_integer() else (item,) for item in values)
    return tuple(form for of_item in forms for form in of_item)


def _named(value: Any) -> Any:
    """Return a mapping whose names are written like label values."""
    if not isinstance(value, dict):
        return value
    names = [_label(name) for name in value]
    repeated = [name for name in names if names.count(name) > 1]
    if repeated:
        raise ValueError(f"the class {repeated[0]!r} is there twice, once as text and once as a number or truth")
    return dict(zip(names, value.values(), strict=True))


_Path = Annotated[str, Field(min_length=1)]
Paths = _Path | Annotated[tuple[_Path, ...], Field(min_length=1)]
"""A path or pattern, or a list of them."""
Label = Annotated[str, BeforeValidator(_label)]
"""A label value, or the name of a class."""
Values = Annotated[tuple[Label, ...], BeforeValidator(_listed), Field(min_length=1)]
"""Label values."""


class TaskSpec(Spec):
    """A data set. Name exactly one of `builtin`, `hub`, `files`; with `builtin`, `files` are a known data set's own."""

    later_fields = frozenset({"S", "T", "form", "strip", "sample", "quoting", "labels"})

    builtin: str | None = None
    """A task that comes with w2s_ray; `w2s tasks` lists them."""
    form: Literal["pairs"] | None = None
    """`pairs`: each question of a known task is one example, whose right answer is compared with one wrong answer."""
    hub: str | None = None
    """A data set on the Hugging Face hub."""
    files: Paths | None = None
    """A local file of rows (docs/data.md), a folder of such, a pattern such as `data/*.csv`, or a list of these. Paths
    are relative to the study file."""
    test_files: Paths | None = None
    """The same for the test set; without it, it is the folder's files that are named so, or a part of `files`."""
    quoting: bool | None = None
    """Whether fields of CSV and TSV files may be in double quotes; if not given, unless a tab separates them."""
    subset: str | None = None
    """The hub data set's configuration."""
    revision: str | None = None
    """The hub data set's branch, full commit, or `branch@commit`; resolved once and locked if no commit is given."""
    split: str = "train"
    """The hub split that training and validation examples come from."""
    test_split: str | None = None
    """The hub split with the test set; without it the test set is a part of `split`."""
    text: str | None = None
    """The column with the text, or a template such as "{question} {passage}"; for pairs, the text before both answers.
    Text alone is for pretraining."""
    label: str | None = None
    """The column with the label, for examples of two or more classes."""
    classes: tuple[Label, ...] | None = None
    """Label values in class order; the sorted distinct values if not given."""
    labels: Annotated[dict[str, Values], BeforeValidator(_named)] | None = None
    """Label values that mean the same class, by the class's name: `{positive: [Positive, pos]}`."""
    answer: str | None = None
    """The column with the answer to write after the text."""
    chosen: str | None = None
    """The column with the better answer of a pair."""
    rejected: str | None = None
    """The column with the worse answer of a pair."""
    strip: bool = True
    """Remove white space at both ends of texts; `false` keeps it, such as the last line end of code."""
    sample: float | None = Field(default=None, gt=0, le=1)
    """Share of the rows to read, chosen by the hash of each row before it is parsed; all of them if not given."""
    group: str | None = None
    """A column whose equal values mark related rows, which stay in one split."""
    test_fraction: float = Field(default=0.2, gt=0, lt=1)
    """Share of the groups in the test set if there is no test file or split."""
    test_examples: Positive | None = None
    """Size of the test set; all of its examples if not given."""
    train_examples: Positive | None = None
    """Size of S and of every Ti for this task; the study's if not given."""
    S: Positive | None = None
    """Size of S for this task, where it differs from that of the Ti."""
    T: Positive | None = None
    """Size of every Ti for this task, where it differs from that of S."""
    validation_examples: Positive | None = None
    """Size of every Vi for this task; the study's if not given."""
    max_skipped: Fraction = 0.05
    """Share of a file's or split's rows that may be unusable (no text, an unknown label …): they are counted, reported
    and left out. Data with more of them is refused."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        sources = [key for key in ("builtin", "hub", "files") if getattr(self, key) is not None]
        is_known_with_files = sources == ["builtin", "files"] and not self.own_keys
        if len(sources) != 1 and not is_known_with_files:
            given = ", ".join((*sources, *self.own_keys)) or "none"
            raise ValueError(f"name exactly one of builtin, hub, files (or builtin and its files), not {given}")
        for source, keys in (("files", ("test_files", "quoting")), ("hub", ("subset", "split", "test_split"))):
            unused = [key for key in keys if getattr(self, key) not in (None, type(self).model_fields[key].default)]
            if unused and getattr(self, source) is None:
                raise ValueError(f"{unused[0]} needs `{source}:`, which is not given")
        if self.revision is not None and self.files is not None:
            raise ValueError("revision is for data on the hub; `files:` have none")
        if self.builtin is None:
            if self.form is not None:
                raise ValueError("form is for known tasks (`builtin:`); own pairs name `chosen:` and `rejected:`")
            self._check_columns()
        elif not self.strip:
            raise ValueError("strip is for own data; a known task has its own format")
        return self

    @property
    def own_keys(self) -> tuple[str, ...]:
        """The given keys of those that say how own data is read."""
        return tuple(key for key in _OWN_KEYS if getattr(self, key) is not None)

    def _check_columns(self) -> None:
        """Refuse own data whose columns do not make one kind of task."""
        if (self.chosen is None) != (self.rejected is None):
            raise ValueError("a pair needs both `chosen:` and `rejected:`")
        kinds = [key for key in ("label", "answer", "chosen") if getattr(self, key) is not None]
        if len(kinds) > 1:
            raise ValueError(f"own data needs one of label, answer, or chosen and rejected, not {', '.join(kinds)}")
        if self.text is None and self.chosen is None:
            raise ValueError("own data needs `text:`, the column to read, and for classes `label:`")
        if self.classes is not None and self.label is None:
            raise ValueError("`classes:` needs `label:`, the column with these values")
        if self.labels is not None:
            self._check_labels(self.labels)

    def _check_labels(self, labels: Mapping[str, tuple[str, ...]]) -> None:
        """Refuse a label value that belongs to two classes."""
        if self.label is None:
            raise ValueError("`labels:` needs `label:`, the column with these values")
        owner: dict[str, str] = {}
        for name, values in labels.items():
            for value in {name, *values}:
                if owner.setdefault(value, name) != name:
                    raise ValueError(f"labels: the value {value!r} belongs to both {owner[value]!r} and {name!r}")


class LevelSpec(Spec):
    """One model of the ladder, its optimisation, and how it is computed."""

    model: str
    """`w2s:small`, `w2s:medium`, `w2s:large`, a local folder, or a hub id."""
    revision: str | None = None
    """The hub model's commit; resolved once and locked if not given."""
    pad_token: str | None = None
    """The padding token, for tokenizers without one."""
    trust_remote_code: bool = False
    """Run the Python code in the model's folder, for models whose class is not part of transformers."""
    architecture: Architecture | None = None
    """Train from scratch in this shape; only the tokenizer comes from `model`."""
    optimisation: Optimisation = Optimisation()
    execution: ExecutionSpec = ExecutionSpec()


class SplitSizes(Spec):
    """How many examples each level gets."""

    later_fields = frozenset({"S", "T"})

    train_examples: Positive = 2000
    """Size of S and of every Ti."""
    S: Positive | None = None
    """Size of S, where it differs from that of the Ti."""
    T: Positive | None = None
    """Size of every Ti, where it differs from that of S."""
    validation_examples: Positive = 400
    """Size of every Vi."""
    balance_transfer: bool = True
    """Balance S, Ti and Vi by class. This uses ground truth; `false` leaves the classes as they are."""


class TaskSizes(Spec):
    """The sizes of one task's splits, in examples."""

    S: int
    T: int
    """The size of every Ti."""
    V: int
    """The size of every Vi."""
    balance: bool
    """Whether they are balanced by class."""


class MethodSpec(Spec):
    """How students learn from labels, and which arms to compare."""

    objective: Literal["labels", "next_token"] = "labels"
    """`labels`: learn the task's labels. `next_token` pretrains every level on the task's text, and has no arms."""
    tasks: tuple[Name, ...] | None = None
    """The tasks to use the method on; all of them if not given."""
    arms: tuple[StudentArm, ...] = ("chain", "ceiling")
    """Which supervisions each student gets, on the same examples. `truth_chain` trains the students between the first
    and the last on ground truth; `zero_shot` prompts every level's pretrained model without any training."""
    losses: dict[Name, Loss] = Field(default_factory=dict)
    """Loss by level, for the weakly supervised arms; `naive` for levels not named. Ceilings always use `naive`."""
    labels: dict[Name, Relabelling] = Field(default_factory=dict)
    """Transforms of the labels by level, for the weakly supervised arms; none for levels that are not named."""
    supervisors: Supervisors = Supervisors()
    """The supervisors of students that learn from level 0."""
    trainable: dict[Name, Trainable] = Field(default_factory=dict)
    """Which weights are trained, by level; all of them for levels that are not named. Ceilings train the same weights,
    and a student that does not train all of its weights is also compared with the ceiling that does."""
    score: Score | None = None
    """How every level's model judges an example. The word `likelihood`, or a mapping of its settings, scores
    completions by the language model's own probabilities; without it a linear head is trained."""
    generative: dict[Name, Optimisation] = Field(default_factory=dict)
    """Levels whose students and ceilings first learn the texts of Ti without labels, and how (Burns et al. 2023,
    generative supervision)."""
    optimisation: dict[Name, Optimisation] = Field(default_factory=dict)
    """By level, the keys that the method sets itself; those that are not given are the level's (see
    `Study.optimisation_of`)."""
    oracle: tuple[Name, ...] = ()
    """Levels whose weakly supervised students stop early by the ground truth of Vi instead of its weak labels: an upper
    bound for early stopping, and not weak-to-strong learning."""
    random: tuple[Name, ...] = ()
    """Levels whose students and ceilings start with random weights instead of pretrained ones: a control."""

    @property
    def levels_named(self) -> dict[str, tuple[str, ...]]:
        """The levels that each of its keys names, by key."""
        return {
            "losses": tuple(self.losses),
            "labels": tuple(self.labels),
            "trainable": tuple(self.trainable),
            "generative": tuple(self.generative),
            "optimisation": tuple(self.optimisation),
            "random": self.random,
            "oracle": self.oracle,
        }

    def serves(self, task: str) -> bool:
        """Return whether the study uses the method on `task`."""
        return self.tasks is None or task in self.tasks

    def loss_of(self, level: str) -> Loss:
        """Return the loss of a weakly supervised student on `level`."""
        return self.losses.get(level, NaiveLoss())

    def relabelling_of(self, level: str) -> Relabelling:
        """Return what is done to the labels of a weakly supervised student on `level`."""
        return self.labels.get(level, Relabelling())

    def trainable_of(self, level: str) -> Trainable:
        """Return which weights a model on `level` trains."""
        return self.trainable.get(level, AllWeights())

    @field_serializer("optimisation")
    def _given_keys(self, by_level: dict[str, Optimisation]) -> dict[str, dict[str, Any]]:
        return {level: own.model_dump(exclude_unset=True) for level, own in by_level.items()}


class TrackingSpec(Spec):
    """Where progress is sent besides the store."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto` is online if a key is found and offline otherwise."""
    project: Name = "w2s_ray"
    entity: str | None = None


class Study(Spec):
    """One YAML file."""

    name: Name
    tasks: dict[Name, TaskSpec] = Field(min_length=1)
    ladder: dict[Name, LevelSpec] = Field(min_length=1)
    """Levels from weak to strong."""
    chains: Literal["all"] | tuple[tuple[Name, ...], ...] | None = None
    """Paths over levels of the ladder, weak to strong; the whole ladder if not given, with `all` every path from its
    first level to its last."""
    methods: dict[Name, MethodSpec] = Field(default={"naive": MethodSpec()}, min_length=1)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Each one seeds splits, heads and batch order."""
    splits: SplitSizes = SplitSizes()
    prediction_precision: Precision = "fp32"
    """Precision in which trained models label and are evaluated; part of the identity of predictions alone."""
    max_concurrent: Positive = 8
    """Chains, or candidates of a search, that Tune runs at once; a population (pbt) always runs as a whole."""
    search: SearchSpec | None = None
    """Settings to try, and how to choose the best."""
    tracking: TrackingSpec = TrackingSpec()
    report: ReportSpec = ReportSpec()

    _source: str = PrivateAttr("")

    @property
    def source(self) -> str:
        """The path of its file, which is no part of its content; empty if unknown."""
        return self._source

    def read_from(self, path: Path) -> Self:
        """Return the study with its file's path."""
        copied = self.model_copy()
        copied._source = str(path)
        return copied

    def sizes_of(self, task: str) -> TaskSizes:
        """Return the sizes of a task's splits: its own, or the study's."""
        own, shared = self.tasks[task], self.splits
        return TaskSizes(
            S=own.S or own.train_examples or shared.S or shared.train_examples,
            T=own.T or own.train_examples or shared.T or shared.train_examples,
            V=own.validation_examples or shared.validation_examples,
            balance=shared.balance_transfer,
        )

    def optimisation_of(self, method: MethodSpec, level: str) -> Optimisation:
        """Return a level's optimisation with the method's own keys in it."""
        shared, own = self.ladder[level].optimisation, method.optimisation.get(level)
        if own is None:
            return shared
        return Optimisation.model_validate(merged(shared.model_dump(), own.model_dump(exclude_unset=True)))

    def optimisations(self, method: MethodSpec, level: str) -> tuple[Optimisation, ...]:
        """Return every optimisation that a method's stages on a level have: its own, the level's, that of its texts."""
        reading = (method.generative[level],) if level in method.generative else ()
        return (self.optimisation_of(method, level), self.ladder[level].optimisation, *reading)

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """The levels of each chain; of all possible chains, the shortest come first."""
        levels = tuple(self.ladder)
        if self.chains == "all":
            between = [some for num in range(len(levels) - 1) for some in combinations(levels[1:-1], num)]
            return tuple((levels[0], *some, levels[-1]) for some in between)
        return self.chains if self.chains is not None else (levels,)

    def key_parts(self, key: str) -> list[str]:
        """Split a dotted key of this study, such as `ladder.large.model`, into its parts."""
        return split_key(key, {*self.tasks, *self.ladder, *self.methods})

    def level_of(self, key: str) -> str | None:
        """Return the level that a dotted key belongs to; None if it concerns the whole chain."""
        match self.key_parts(key):
            case ["ladder", level, *_] if level in self.ladder:
                return level
            case ["methods", _, part, level, *_] if part in _BY_LEVEL and level in self.ladder:
                return level
        return None

    @classmethod
    def known_keys(cls) -> tuple[str, ...]:
        """Return the keys that a file may give."""
        return (*super().known_keys(), *SPREAD_KEYS)

    @model_validator(mode="before")
    @classmethod
    def _spread_defaults(cls, raw: Any) -> Any:
        """Apply `optimisation:` and `execution:` at the top to every level that does not give a value of its own."""
        if not isinstance(raw, dict) or not isinstance(raw.get("ladder"), dict):
            return raw
        raw = dict(raw)
        shared = {key: raw.pop(key) or {} for key in SPREAD_KEYS if key in raw}
        for key, value in shared.items():
            if not isinstance(value, dict):
                raise ValueError(f"{key} = {value!r} must be a mapping of keys")
        ladder = {}
        for name, level in raw["ladder"].items():
            level = {"model": level} if isinstance(level, str) else level
            if isinstance(level, dict):
                level = {**level, **{key: merged(value, level.get(key) or {}) for key, value in shared.items()}}
            ladder[name] = level
        raw["ladder"] = ladder
        return raw
