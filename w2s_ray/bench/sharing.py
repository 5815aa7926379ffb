"""What does sharing save? A sweep of chains that differ only in their last student's loss, against each chain alone.

Both sides run through Tune, dispatcher and DeepSpeed as always, one after the other on one machine, every run in a
store of its own. A run's time is taken from its first optimizer step to its last result: cold starts are left out on
both sides. Sharing is perfect where the gain equals the seconds of the stages that all chains name over those of the
distinct ones.
"""

import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from w2s_ray.bench.local_task import write_task
from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import distinct_stages
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.load import parse_study
from w2s_ray.store.artifacts import ArtifactStore

_WORDS = {
    0: "warm bright gentle calm kind soft sunny glad".split(),
    1: "cold dark harsh wild bitter grim rough sad".split(),
}
_PLAIN = "the sea of a day in winter and its wind over our old house by some road or field with no one".split()


class Sharing(Spec):
    """The result."""

    num_chains: int
    num_stages: int
    """Distinct."""
    num_trainings: int
    """That the sweep began; one for each distinct stage, if nothing was trained twice."""
    shortest_stage_seconds: float
    distinct_seconds: float
    """Sum of the distinct stages' own times."""
    all_seconds: float
    """Sum of the stages' own times over all chains, each as often as it is named."""
    shared_wall_seconds: float
    alone_wall_seconds: float
    """Sum over the chains, each run by itself."""
    overhead: float
    """The sweep's time over the distinct stages' own times; on this machine one crew fits."""
    gain: float
    """Time alone over time shared."""
    gain_share: float
    """Of what perfect sharing would gain."""


def bench_sharing(num_chains: int = 12, epochs: float = 36.0) -> Sharing:
    """Run the sweep, then each of its chains alone."""
    from w2s_ray.api import run_study
    from w2s_ray.planning.resolve import locked

    with tempfile.TemporaryDirectory(prefix="w2s-bench-") as name:
        folder = Path(name)
        tasks = write_task(folder, _texts(), test_examples=200)
        alphas = [round(0.9 * number / max(1, num_chains - 1), 3) for number in range(num_chains)]
        study = parse_study(_study(tasks, epochs, alphas))
        shared = run_study(study, folder / "shared")
        assert not shared.failed, shared.failed
        alone = 0.0
        for number, alpha in enumerate(alphas):
            outcome = run_study(parse_study(_study(tasks, epochs, [alpha])), folder / f"alone-{number}")
            assert not outcome.failed, outcome.failed
            alone += outcome.working_seconds
        store = ArtifactStore(folder / "shared")
        chains = compile_study(study, locked(study, store))
        num_trainings = sum(store.num_attempts(identity) for identity in distinct_stages(chains))
    own = {identity: result.seconds["total"] for identity, result in shared.results.items()}
    distinct = sum(own.values())
    everything = sum(own[stage.identity] for chain in chains for stage in chain.stages)
    gain = alone / shared.working_seconds
    return Sharing(
        num_chains=num_chains,
        num_stages=len(own),
        num_trainings=num_trainings,
        shortest_stage_seconds=min(own.values()),
        distinct_seconds=distinct,
        all_seconds=everything,
        shared_wall_seconds=shared.working_seconds,
        alone_wall_seconds=alone,
        overhead=shared.working_seconds / distinct,
        gain=gain,
        gain_share=gain / (everything / distinct),
    )


def _texts() -> Iterator[str]:
    chance = random.Random(0)
    for number in range(4000):
        words = [chance.choice(_PLAIN) for _ in range(40)]
        words[chance.randrange(40)] = chance.choice(_WORDS[number % 2])
        yield f"{' '.join(words)} {number}"


def _study(tasks: dict[str, Any], epochs: float, alphas: list[float]) -> dict[str, Any]:
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
