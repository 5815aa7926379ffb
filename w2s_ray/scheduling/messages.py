"""What the dispatcher, the crews, the trials and the run tell one another: plain values that pickle."""

from dataclasses import dataclass, field

from w2s_ray.scheduling.status import StudyStatus, Turn
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.stage import GroupShape
from w2s_ray.training.progress import StageProgress


@dataclass(frozen=True)
class CrewCard:
    """With what a crew introduces itself each time it speaks."""

    crew: str
    shape: GroupShape
    incarnation: str
    """Another one for each start of its workers."""


@dataclass(frozen=True)
class Order:
    """What a crew is to do next: run a stage, leave for good, or (neither) ask again."""

    stage: PlannedStage | None = None
    leave: bool = False


WAIT = Order()
LEAVE = Order(leave=True)


@dataclass(frozen=True)
class CrewRequest:
    """A crew that the run should start."""

    crew: str
    shape: GroupShape


@dataclass(frozen=True)
class CrewEnd:
    """How a crew came to its end."""

    error: str | None = None
    """What ended it; None where it left of itself."""
    found_room: bool = True
    """False where Ray did not place its workers in time, because others have the room."""


@dataclass(frozen=True)
class TrialReport:
    """How the chains of a trial stand."""

    version: int
    """Grows with every change; a trial waits for one newer than it has seen."""
    status: str
    """`running`, `done`, `failed` or `interrupted`."""
    stages_done: int
    stages: int
    metrics: dict[str, float] = field(default_factory=dict)
    """`<arm>/<level>/<name>` → value, of the stages that are done; of the trial's first chain."""
    judged: dict[str, tuple[StageProgress, ...]] = field(default_factory=dict)
    """Reports on the validation examples, by identity of the stages that were asked for some."""
    error: str | None = None

    @property
    def ended(self) -> bool:
        """Whether there is nothing left to wait for."""
        return self.status != "running"


@dataclass(frozen=True)
class Bulletin:
    """What the dispatcher tells the run at each visit."""

    dispatcher: str
    """Which start of the dispatcher this is."""
    status: StudyStatus
    requests: tuple[CrewRequest, ...]
    """Crews to be started: all that are on their way and have not spoken. To start one twice is the run's to avoid."""
    turns: tuple[Turn, ...]
    """Those that the run has not heard of, however short the stage was."""
    is_opening: bool
    """Whether there are crews and none of them has spoken yet."""
    cold_start_seconds: float | None
    """From the decision to open the first crew to its first optimizer step, as far as the dispatcher saw it."""
    working_seconds: float
    """From the first optimizer step to the newest result, as far as the dispatcher saw them."""
