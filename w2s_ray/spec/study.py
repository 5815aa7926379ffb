"""The study: all that one YAML file asks for.

tasks × ladder × chains × methods × seeds. Every field has its unit and meaning right below it; defaults suit a small
study on a laptop. `load.py` reads the file, `compile.py` compiles it.
"""

from itertools import combinations
from typing import Any, Literal, Self, get_args

from pydantic import Field, model_validator

from w2s_ray.spec.base import Fraction, Name, Positive, Spec
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.label_rules import check_labels
from w2s_ray.spec.labels import Relabelling, Supervisors
from w2s_ray.spec.losses import Loss, NaiveLoss
from w2s_ray.spec.reporting import ReportSpec
from w2s_ray.spec.search import SearchSpec
from w2s_ray.spec.stage import Architecture, Optimisation
from w2s_ray.spec.trainable import AllWeights, Prompt, Trainable

Arm = Literal[
    "floor",
    "member",
    "zero_shot",
    "generative",
    "chain",
    "truth_chain",
    "direct",
    "ceiling",
    "full_ceiling",
    "self",
    "pooled",
    "pretraining",
]
StudentArm = Literal["zero_shot", "chain", "truth_chain", "direct", "ceiling", "self", "pooled"]

SPREAD_KEYS = ("optimisation", "execution")
"""Keys that may stand at the top of a study for every level of its ladder."""


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


class LevelSpec(Spec):
    """One model of the ladder, with its optimisation and the way it is run."""

    model: str
    """`w2s:small`, `w2s:medium`, `w2s:large`, a local folder, or a hub id."""
    revision: str | None = None
    """The hub model's commit; resolved once and locked where it is not given."""
    pad_token: str | None = None
    """The padding token, for tokenizers that have none."""
    architecture: Architecture | None = None
    """Train from scratch in this shape; only the tokenizer is taken from `model`."""
    optimisation: Optimisation = Optimisation()
    execution: Execution = Execution()


class MethodSpec(Spec):
    """How students learn from labels, and which arms to compare."""

    objective: Literal["labels", "next_token"] = "labels"
    """`labels`: what the task's labels say. `next_token` pretrains every level on its text; there are no arms then."""
    tasks: tuple[Name, ...] | None = None
    """The tasks that it is for; all of them where not given."""
    arms: tuple[StudentArm, ...] = ("chain", "ceiling")
    """Which supervisions each student gets, on the same examples. `truth_chain` trains the students between the first
    and the last on ground truth; `zero_shot` asks every level's pretrained model without any training."""
    losses: dict[Name, Loss] = Field(default_factory=dict)
    """Loss by level, for the weakly supervised arms; `naive` where a level is not named. Ceilings always use naive."""
    labels: dict[Name, Relabelling] = Field(default_factory=dict)
    """What is done to labels, by level, for the weakly supervised arms; nothing where a level is not named."""
    supervisors: Supervisors = Supervisors()
    """Of those who learn from level 0."""
    trainable: dict[Name, Trainable] = Field(default_factory=dict)
    """Which weights are trained, by level; all of them where a level is not named. Ceilings train alike, and a student
    that does not train all its weights is also held against the ceiling that does."""
    generative: dict[Name, Optimisation] = Field(default_factory=dict)
    """Levels whose students, and their ceilings, first learn the texts of Ti without labels, and how (Burns et al.
    2023, generative supervision)."""
    oracle: tuple[Name, ...] = ()
    """Levels whose weakly supervised students stop early by the ground truth of Vi instead of its weak labels: a bound
    on what stopping can do, and no weak-to-strong learning."""
    random: tuple[Name, ...] = ()
    """Levels whose students, and their ceilings, begin with random weights instead of pretrained ones: a control."""

    def serves(self, task: str) -> bool:
        """Say whether the method is for `task`."""
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


class SplitSizes(Spec):
    """How many examples each level gets."""

    train_examples: Positive = 2000
    """Size of S and of every Ti."""
    validation_examples: Positive = 400
    """Size of every Vi."""
    balance_transfer: bool = True
    """Balance S, Ti and Vi by class. This uses ground truth; `false` leaves the classes as they fall."""


class TrackingSpec(Spec):
    """Where points go besides the store."""

    wandb: Literal["auto", "online", "offline", "disabled"] = "auto"
    """`auto` is online where a key is found and offline elsewhere."""
    project: Name = "w2s_ray"
    entity: str | None = None


class Study(Spec):
    """One YAML file."""

    name: Name
    tasks: dict[Name, TaskSpec] = Field(min_length=1)
    ladder: dict[Name, LevelSpec] = Field(min_length=1)
    """Levels from weak to strong."""
    chains: Literal["all"] | tuple[tuple[Name, ...], ...] | None = None
    """Climbs over levels of the ladder; the whole ladder where it is not given, with `all` every climb from its first
    level to its last."""
    methods: dict[Name, MethodSpec] = Field(default={"naive": MethodSpec()}, min_length=1)
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Each seeds splits, heads and batch order."""
    splits: SplitSizes = SplitSizes()
    max_concurrent: Positive = 8
    """Chains that Tune keeps under way at once."""
    search: SearchSpec | None = None
    """Settings to be tried, and how the best are chosen."""
    tracking: TrackingSpec = TrackingSpec()
    report: ReportSpec = ReportSpec()

    def splits_of(self, task: str) -> SplitSizes:
        """Return the sizes of a task's splits: its own, or the study's."""
        own = self.tasks[task]
        return self.splits.model_copy(
            update={
                "train_examples": own.train_examples or self.splits.train_examples,
                "validation_examples": own.validation_examples or self.splits.validation_examples,
            }
        )

    @property
    def paths(self) -> tuple[tuple[str, ...], ...]:
        """The climbs that are asked for; of all climbs, the shortest come first."""
        levels = tuple(self.ladder)
        if self.chains == "all":
            between = [some for num in range(len(levels) - 1) for some in combinations(levels[1:-1], num)]
            return tuple((levels[0], *some, levels[-1]) for some in between)
        return self.chains if self.chains is not None else (levels,)

    @model_validator(mode="before")
    @classmethod
    def _spread_defaults(cls, raw: Any) -> Any:
        """Let `optimisation:` and `execution:` at the top stand for every level that does not say otherwise."""
        if not isinstance(raw, dict) or not isinstance(raw.get("ladder"), dict):
            return raw
        raw = dict(raw)
        shared = {key: raw.pop(key) for key in SPREAD_KEYS if isinstance(raw.get(key), dict)}
        ladder = {}
        for name, level in raw["ladder"].items():
            level = {"model": level} if isinstance(level, str) else level
            if isinstance(level, dict):
                own = {key: {**value, **(level.get(key) or {})} for key, value in shared.items()}
                level = {**level, **own}
            ladder[name] = level
        raw["ladder"] = ladder
        return raw

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.check_together()
        self.report.check_names(
            arms={name: method.arms for name, method in self.methods.items()},
            paths=self.paths,
            tasks=tuple(self.tasks),
            num_points=self._num_points(),
        )
        return self

    def _num_points(self) -> int:
        """How many points of the search, if there is one, the report shows."""
        if self.search is None:
            return 1
        return self.search.num_points if self.search.choose_by is None else self.search.num_winners

    def check_together(self) -> None:
        """Refuse parts that do not go together.

        Raises:
            ValueError: naming the key.
        """
        order = list(self.ladder)
        pretraining = all(method.objective == "next_token" for method in self.methods.values())
        for path in self.paths:
            for level in path:
                if level not in self.ladder:
                    raise ValueError(f"chains names the level {level!r}; the ladder has {', '.join(order)}")
            if [order.index(level) for level in path] != sorted({order.index(level) for level in path}):
                raise ValueError(f"chain {list(path)} must climb: weak to strong, no level twice")
            if len(path) < 2 and not pretraining:
                raise ValueError(f"chain {list(path)} has one level; weak-to-strong needs a supervisor and a student")
        for name, method in self.methods.items():
            for task in method.tasks or ():
                if task not in self.tasks:
                    raise ValueError(f"methods.{name}.tasks names {task!r}; the tasks are {', '.join(self.tasks)}")
            patient = [level for level, own in method.generative.items() if own.early_stopping is not None]
            if patient:
                raise ValueError(f"methods.{name}.generative.{patient[0]}.early_stopping reads labels: texts have none")
            for key in ("losses", "labels", "trainable", "generative", "random", "oracle"):
                for level in getattr(method, key):
                    if level not in self.ladder:
                        raise ValueError(
                            f"methods.{name}.{key} names the level {level!r}; the ladder has {', '.join(order)}"
                        )
            smallest = min(self.splits_of(task).train_examples for task in self.tasks)
            check_labels(name, method, {path[0] for path in self.paths if path}, smallest)
            for level in method.oracle:
                if self.ladder[level].optimisation.early_stopping is None:
                    raise ValueError(
                        f"methods.{name}.oracle names {level}, and it never stops early; add "
                        f"ladder.{level}.optimisation.early_stopping"
                    )
            for level, loss in method.losses.items():
                if isinstance(method.trainable_of(level), Prompt) and loss != NaiveLoss():
                    raise ValueError(
                        f"methods.{name}.losses.{level} is {loss.kind}, and a prompt trains nothing; drop the loss, or "
                        f"choose another trainable.{level}"
                    )
                if loss.least_batch > self.ladder[level].optimisation.examples_per_step:
                    raise ValueError(
                        f"methods.{name}.losses.{level} ({loss.label}) splits an optimizer batch by a threshold, and "
                        f"ladder.{level}.optimisation.examples_per_step is 1; raise it, or choose prior: argmax"
                    )
            for level in (*method.generative, *method.random):
                if level in {path[0] for path in self.paths}:
                    raise ValueError(
                        f"methods.{name} names {level} under generative or random, and it is a first supervisor; these "
                        "are for students and their ceilings"
                    )
            for level, entry in self.ladder.items():
                if entry.optimisation.early_stopping is not None and entry.optimisation.early_stopping.by == "oracle":
                    raise ValueError(
                        f"ladder.{level}.optimisation.early_stopping.by is oracle; methods say who reads the truth: "
                        f"name {level} under methods.{name}.oracle"
                    )
            if not method.arms:
                raise ValueError(f"methods.{name}.arms is empty; name one of {', '.join(get_args(StudentArm))}")
            if method.objective == "next_token":
                patient = [level for level, entry in self.ladder.items() if entry.optimisation.early_stopping]
                if patient:
                    raise ValueError(
                        f"ladder.{patient[0]}.optimisation.early_stopping reads labels of Vi, and methods.{name} has "
                        "none (objective: next_token)"
                    )
            if method.objective == "labels":
                scratch = [level for level, entry in self.ladder.items() if entry.architecture is not None]
                if scratch:
                    raise ValueError(
                        f"ladder.{scratch[0]}.architecture trains from scratch, and methods.{name} learns labels; "
                        "a model from scratch learns next tokens (objective: next_token)"
                    )
        if not self.paths:
            raise ValueError("chains is empty; leave it out for the whole ladder, or name a chain")
        if len(set(self.paths)) != len(self.paths):
            raise ValueError("chains holds one twice")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds {list(self.seeds)} holds one twice")
