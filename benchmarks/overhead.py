"""The cost of a stage besides training, evaluation and prediction, and of starting a worker group.

    python benchmarks/overhead.py --seeds 4

Runs a real study of tiny models on local text: one worker group of two workers runs every stage through Tune, the
dispatcher and DeepSpeed. A stage's overhead is the time from its assignment to its result, minus the seconds spent in
forward, backward, optimizer, evaluation and prediction. Memory is rank 0's resident set between stages.
"""

import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from local_task import write_task
from w2s_ray.spec.base import Spec
from w2s_ray.spec.load import parse_study

WORDS = (("warm", "bright", "gentle", "calm"), ("cold", "dark", "harsh", "wild"))
MEMORY_AFTER = (2, 10)
"""Numbers of stages after which memory is compared."""


class StageOverhead(Spec):
    """One stage, in the order in which they ran."""

    identity: str
    assigned_seconds: float
    """From assignment to result."""
    busy_seconds: float
    """In training, evaluation and prediction."""
    overhead_seconds: float
    memory_bytes: int
    """Resident set after the stage."""


class Overhead(Spec):
    """The result of the benchmark."""

    stages: tuple[StageOverhead, ...]
    median_seconds: float
    """Overhead of a stage; the group's first stage is left out."""
    worst_seconds: float
    memory_growth: float
    """Memory after ten stages divided by memory after two."""
    cold_start_seconds: float | None
    """From the first request to the first optimizer step."""


def bench_overhead(num_seeds: int) -> Overhead:
    """Run the tiny study with `num_seeds` seeds, three stages each, in a temporary store."""
    from w2s_ray.api import run_study

    with tempfile.TemporaryDirectory(prefix="w2s-bench-") as folder:
        study = parse_study(study_of(Path(folder), num_seeds))
        outcome = run_study(study, Path(folder) / "store")
    assert not outcome.failed, outcome.failed
    stages = []
    for identity, seconds_taken in outcome.seconds.items():
        seconds = outcome.results[identity].seconds
        busy = sum(seconds.get(activity, 0.0) for activity in ("training", "evaluation", "labelling"))
        stages.append(
            StageOverhead(
                identity=identity,
                assigned_seconds=seconds_taken,
                busy_seconds=busy,
                overhead_seconds=seconds_taken - busy,
                memory_bytes=outcome.results[identity].memory_bytes,
            )
        )
    later = [stage.overhead_seconds for stage in stages[1:]]
    early, late = (stages[count - 1].memory_bytes for count in MEMORY_AFTER)
    return Overhead(
        stages=tuple(stages),
        median_seconds=statistics.median(later),
        worst_seconds=max(later),
        memory_growth=late / early,
        cold_start_seconds=outcome.cold_start_seconds,
    )


def study_of(folder: Path, num_seeds: int) -> dict[str, Any]:
    """Return the study; its task's rows are written to `folder`."""
    texts = (f"the {WORDS[number % 2][number % 4]} sea of day {number}" for number in range(2000))
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


def main(
    seeds: Annotated[int, typer.Option(min=4, help="Seeds of the study; each has three stages.")] = 4,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure the overhead of a stage, the growth of memory and the cold start of a worker group."""
    result = bench_overhead(seeds)
    if json:
        print(result.model_dump_json(indent=2))
        return
    print(f"{'stage':12} {'assigned':>10} {'busy':>10} {'overhead':>10} {'memory':>10}")
    for stage in result.stages:
        seconds = (stage.assigned_seconds, stage.busy_seconds, stage.overhead_seconds)
        cells = [*(f"{value:.2f} s" for value in seconds), f"{stage.memory_bytes / 2**20:.0f} MiB"]
        print(f"{stage.identity[:12]} " + " ".join(f"{cell:>10}" for cell in cells))
    print(f"overhead after the first stage: median {result.median_seconds:.2f} s, worst {result.worst_seconds:.2f} s")
    print(f"memory after ten stages: {result.memory_growth:.3f} times that after two")
    if result.cold_start_seconds is not None:
        print(f"cold start, from decision to first optimizer step: {result.cold_start_seconds:.1f} s")


if __name__ == "__main__":
    typer.run(main)
