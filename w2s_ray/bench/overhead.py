"""What does a stage cost beside its training, evaluation and labelling, and what does a crew's start cost?

A real study of tiny models on local text: one crew of two workers runs every stage, one after another, through Tune,
dispatcher and DeepSpeed as always. Overhead is the time from handing a stage out to having its result, less the seconds
in forward, backward, optimizer, evaluation and labelling. Memory is rank 0's resident set between stages.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Any

from w2s_ray.bench.local_task import write_task
from w2s_ray.spec.base import Spec
from w2s_ray.spec.load import parse_study

_WORDS = (("warm", "bright", "gentle", "calm"), ("cold", "dark", "harsh", "wild"))
_MEMORY_AFTER = (2, 10)
"""Stages after which memory is compared."""


class StageOverhead(Spec):
    """One stage, in the order in which they ran."""

    identity: str
    in_hand_seconds: float
    """From hand-out to result."""
    busy_seconds: float
    """In training, evaluation and labelling."""
    overhead_seconds: float
    memory_bytes: int
    """Resident, after the stage."""


class Overhead(Spec):
    """The result."""

    stages: tuple[StageOverhead, ...]
    median_seconds: float
    """Overhead of a stage after the crew's first."""
    worst_seconds: float
    memory_growth: float
    """Memory after ten stages over memory after two."""
    cold_start_seconds: float | None
    """From the decision to open the crew to its first optimizer step."""


def bench_overhead(num_seeds: int = 4) -> Overhead:
    """Run the tiny study with `num_seeds` seeds, three stages each, in a throwaway store."""
    from w2s_ray.api import run_study

    with tempfile.TemporaryDirectory(prefix="w2s-bench-") as folder:
        study = parse_study(_study(Path(folder), num_seeds))
        outcome = run_study(study, Path(folder) / "store")
    assert not outcome.failed, outcome.failed
    stages = []
    for identity, in_hand in outcome.seconds_in_hand.items():
        seconds = outcome.results[identity].seconds
        busy = sum(seconds.get(activity, 0.0) for activity in ("training", "evaluation", "labelling"))
        stages.append(
            StageOverhead(
                identity=identity,
                in_hand_seconds=in_hand,
                busy_seconds=busy,
                overhead_seconds=in_hand - busy,
                memory_bytes=outcome.results[identity].memory_bytes,
            )
        )
    later = [stage.overhead_seconds for stage in stages[1:]]
    early, late = (stages[count - 1].memory_bytes for count in _MEMORY_AFTER)
    return Overhead(
        stages=tuple(stages),
        median_seconds=statistics.median(later),
        worst_seconds=max(later),
        memory_growth=late / early,
        cold_start_seconds=outcome.cold_start_seconds,
    )


def _study(folder: Path, num_seeds: int) -> dict[str, Any]:
    texts = (f"the {_WORDS[number % 2][number % 4]} sea of day {number}" for number in range(2000))
    return {
        "name": "overhead",
        "tasks": write_task(folder, texts, test_examples=100),
        "ladder": {
            "small": {"model": "w2s:small", "execution": {"zero_stage": 1}},
            "large": {"model": "w2s:small", "execution": {"zero_stage": 3}},
        },
        "execution": {"workers": 2, "checkpoint_every_seconds": 3600},
        "optimisation": {"examples_per_step": 16},
        "splits": {"train_examples": 64, "validation_examples": 16},
        "seeds": list(range(num_seeds)),
        "tracking": {"wandb": "disabled"},
    }
