"""What a running stage tells the outside, and what it is told: plain values, no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

Activity = Literal["loading", "training", "predicting"]


@dataclass(frozen=True)
class StageProgress:
    """One moment of a running stage: where it is, and the numbers it measured there."""

    identity: str
    activity: Activity
    step: int
    num_steps: int
    values: Mapping[str, float] = field(default_factory=dict)
    seconds_left: float | None = None
    report: int = 0
    """Which of the asked-for reports on the validation examples this is, from 1; 0 for other points."""
    saved_step: int = 0
    """Step of the last whole checkpoint: where another attempt would go on."""


@dataclass(frozen=True)
class StageResult:
    """How a stage ended on its workers: finished, or stopped.

    It stops with a checkpoint because that was asked, or with nothing because another run has taken it up.
    """

    identity: str
    stopped: bool
    attempts_trained: bool
    """Whether this run took optimizer steps (False: everything was in the store, or only predictions lacked)."""
    seconds: Mapping[str, float] = field(default_factory=dict)
    """Wall seconds by what they went to: total, training, evaluation, labelling."""
    metrics: Mapping[str, float] = field(default_factory=dict)
    memory_bytes: int = 0
    """Resident in rank 0's process after the stage; 0 where nobody measured."""


class Observer(Protocol):
    """The ear and the voice of a stage; only rank 0 uses it."""

    def should_stop(self) -> bool:
        """Say whether the stage should stop at its next step; polled every step, so it never blocks."""
        ...

    def report(self, point: StageProgress) -> None:
        """Pass a point on without waiting for anyone, and never raise."""
        ...


class NullObserver:
    """An observer whom nobody asks and nobody hears."""

    def should_stop(self) -> bool:
        """Never."""
        return False

    def report(self, point: StageProgress) -> None:
        """Let the point go."""
