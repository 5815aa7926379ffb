"""Time that sharing saves: a sweep of chains that differ only in their last student's loss, and each chain run alone.

    python benchmarks/sharing.py --chains 12 --epochs 36     # about half an hour on two cores

Both sides run through Tune, the dispatcher and DeepSpeed, one run after another, each in its own store. A run's time
goes from its first optimizer step to its last result, so cold starts do not count. Sharing is perfect if the gain
equals (seconds of all stages, counted once per chain) / (seconds of the distinct stages).
"""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from local_task import write_task
from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import distinct_stages
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.load import parse_study
from w2s_ray.store.artifacts import ArtifactStore

CLASS_WORDS = {
    0: "warm bright gentle calm kind soft sunny glad".split(),
    1: "cold dark harsh wild bitter grim rough sad".split(),
}
FILLER = "the sea of a day in winter and its wind over our old house by some road or field with no one".split()


class Sharing(Spec):
    """The result of the benchmark."""

    num_chains: int
    num_stages: int
    """Distinct stages."""
    num_trainings: int
    """Trainings started by the sweep; equal to `num_stages` if nothing was trained twice."""
    shortest_stage_seconds: float
    distinct_seconds: float
    """Sum over the distinct stages."""
    all_seconds: float
    """Sum over the stages of all chains; a shared stage counts once per chain."""
    shared_wall_seconds: float
    alone_wall_seconds: float
    """Sum over the chains, each run alone."""
    overhead: float
    """`shared_wall_seconds` / `distinct_seconds`, on a machine with room for one worker group."""
    gain: float
    """`alone_wall_seconds` / `shared_wall_seconds`."""
    gain_share: float
    """`gain` divided by the gain of perfect sharing."""


def bench_sharing(num_chains: int, epochs: float) -> Sharing:
    """Run the sweep, then each of its chains alone."""
    from w2s_ray.api import run_study
    from w2s_ray.planning.resolve import locked

    with tempfile.TemporaryDirectory(prefix="w2s-bench-") as name:
        folder = Path(name)
        tasks = write_task(folder, texts(), test_examples=200)
        alphas = [round(0.9 * number / max(1, num_chains - 1), 3) for number in range(num_chains)]
        study = parse_study(study_of(tasks, epochs, alphas))
        shared = run_study(study, folder / "shared")
        assert not shared.failed, shared.failed
        alone = 0.0
        for number, alpha in enumerate(alphas):
            outcome = run_study(parse_study(study_of(tasks, epochs, [alpha])), folder / f"alone-{number}")
            assert not outcome.failed, outcome.failed
            alone += outcome.working_seconds
        store = ArtifactStore(folder / "shared")
        chains = compile_study(study, locked(study, store))
        num_trainings = sum(store.num_attempts(identity) for identity in distinct_stages(chains))
    seconds = {identity: result.seconds["total"] for identity, result in shared.results.items()}
    distinct = sum(seconds.values())
    everything = sum(seconds[stage.identity] for chain in chains for stage in chain.stages)
    gain = alone / shared.working_seconds
    return Sharing(
        num_chains=num_chains,
        num_stages=len(seconds),
        num_trainings=num_trainings,
        shortest_stage_seconds=min(seconds.values()),
        distinct_seconds=distinct,
        all_seconds=everything,
        shared_wall_seconds=shared.working_seconds,
        alone_wall_seconds=alone,
        overhead=shared.working_seconds / distinct,
        gain=gain,
        gain_share=gain / (everything / distinct),
    )


def texts() -> Iterator[str]:
    """4,000 texts of 40 words; one word of each gives its class away."""
    rng = random.Random(0)
    for number in range(4000):
        words = [rng.choice(FILLER) for _ in range(40)]
        words[rng.randrange(40)] = rng.choice(CLASS_WORDS[number % 2])
        yield f"{' '.join(words)} {number}"


def study_of(tasks: dict[str, Any], epochs: float, alphas: list[float]) -> dict[str, Any]:
    """Return the sweep over `alphas`, one chain each."""
    return {
        "name": "sharing",
        "tasks": tasks,
        "ladder": {
            "small": {"model": "w2s:small", "execution": {"zero_stage": 1}},
            "medium": {"model": "w2s:small", "execution": {"zero_stage": 2}},
            "large": {"model": "w2s:small", "execution": {"zero_stage": 2}},
        },
        "methods": {"confidence": {"losses": {"large": {"kind": "confidence"}}}},
        "search": {"space": {"methods.confidence.losses.large.alpha_max": alphas}},
        "execution": {"workers": 2, "checkpoint_every_seconds": 3600},
        "optimisation": {"examples_per_step": 32, "epochs": epochs, "context_tokens": 64},
        "splits": {"train_examples": 400, "validation_examples": 40},
        "max_concurrent": 12,
        "tracking": {"wandb": "disabled"},
    }


def main(
    chains: Annotated[int, typer.Option(min=2, help="Chains of the sweep.")] = 12,
    epochs: Annotated[float, typer.Option(help="Epochs of each stage; more make stages longer.")] = 36.0,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how long a sweep of chains takes together, and each chain alone."""
    result = bench_sharing(chains, epochs)
    if json:
        print(result.model_dump_json(indent=2))
        return
    print(f"{result.num_chains} chains, {result.num_stages} distinct stages, {result.num_trainings} trainings")
    print(f"shortest stage: {result.shortest_stage_seconds:.1f} s")
    print(
        f"together: {result.shared_wall_seconds:.0f} s, {result.overhead:.3f} times the {result.distinct_seconds:.0f} s"
        " of the distinct stages"
    )
    print(
        f"each chain alone: {result.alone_wall_seconds:.0f} s, {result.gain:.2f} times as long: "
        f"{result.gain_share:.3f} of the gain of perfect sharing"
    )


if __name__ == "__main__":
    typer.run(main)
