"""The study: all that one YAML file asks for.

tasks × ladder × chains × methods × seeds. Every field has its unit and meaning right below it; defaults suit a small
study on a laptop. `load.py` reads the file, `rules.py` says what goes together, `compile.py` compiles it.
"""

from itertools import combinations
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from w2s_ray.errors import StudyError
from w2s_ray.spec.base import Name, Positive, Spec
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.method import MethodSpec
from w2s_ray.spec.reporting import ReportSpec
from w2s_ray.spec.rules import check_chains, check_climb_names, check_ladder, check_method
from w2s_ray.spec.search import SearchSpec
from w2s_ray.spec.stage import Architecture, Optimisation
from w2s_ray.spec.task import TaskSpec

SPREAD_KEYS = ("optimisation", "execution")
"""Keys that may stand at the top of a study for every level of its ladder."""


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
    """Chains, or candidates of a search, that Tune keeps under way at once; a population (pbt) always is as a whole."""
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
        shared = {key: raw.pop(key) or {} for key in SPREAD_KEYS if key in raw}
        for key, value in shared.items():
            if not isinstance(value, dict):
                raise ValueError(f"{key} is {value!r}, and a mapping of keys stands there")
        ladder = {}
        for name, level in raw["ladder"].items():
            level = {"model": level} if isinstance(level, str) else level
            if isinstance(level, dict):
                own = {key: _merged(value, level.get(key) or {}) for key, value in shared.items()}
                level = {**level, **own}
            ladder[name] = level
        raw["ladder"] = ladder
        return raw

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        self.check_together()
        tasks = self.search.reported(self.tasks) if self.search is not None else self.tasks
        self.report.check_names(
            arms={name: method.arms for name, method in self.methods.items()},
            paths=self.paths,
            tasks={task: [name for name, one in self.methods.items() if one.serves(task)] for task in tasks},
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
            StudyError: naming the key.
        """
        check_chains(self)
        check_ladder(self)
        for name in self.methods:
            check_method(self, name)
        check_climb_names(self)
        if len(set(self.seeds)) != len(self.seeds):
            raise StudyError(
                f"seeds {list(self.seeds)} holds one twice", "each seed is another one", "drop one of the two"
            )


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Return both mappings in one, and the mappings inside them too; what `above` says stands."""
    inside = {
        key: _merged(value, above[key])
        for key, value in below.items()
        if isinstance(value, dict) and isinstance(above.get(key), dict)
    }
    return {**below, **above, **inside}
