"""Training speed on pairs scored by likelihood, compared with the same texts read by a head.

    python benchmarks/likelihood.py w2s:medium --rounds 5

Three sides read the same random tokens with the same model, batches and optimizer: pairs whose completions are scored
(`score: likelihood`), pairs with a score head (reward modelling), and twice as many single texts that are classified.
They take turns, because single rounds vary by 15 %. The result is the median ratio of the likelihood's tokens per
second to those of each other side, with the lowest and the highest.
"""

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from pydantic_core import to_json

from throughput import SETTINGS, Case, Side, our_side, seconds_of, single_worker
from w2s_ray.spec.base import Spec
from w2s_ray.spec.labels import GroundTruth, LabelledSplit, SplitSpec
from w2s_ray.spec.stage import ModelSource, Objective, Score, StageSpec
from w2s_ray.training.feed import LabelledExamples
from w2s_ray.training.models.catalogue import model_folder
from w2s_ray.training.models.loading import load_tokenizer
from w2s_ray.training.workers import Workers

COMPLETION = (4, 20)
"""Tokens of a completion: as many as a line of code has."""
TEXT = (35, 90)
"""Tokens of a text, its completion included: as many as the embedded tasks' have."""


class PairThroughput(Spec):
    """The result for one model."""

    model: str
    rounds: int
    threads: int
    tokens_per_second: dict[str, float]
    """Median of each side."""
    ratios: dict[str, tuple[float, float, float]]
    """Likelihood / other side: median, lowest and highest over the rounds."""


def bench_pairs(models: Sequence[str], *, rounds: int, steps: int, threads: int) -> list[PairThroughput]:
    """Measure each model over `rounds` turns of `steps` optimizer steps for each side."""
    torch.set_num_threads(threads)
    with single_worker() as workers, tempfile.TemporaryDirectory() as folder:
        return [
            measure(model, workers, Path(folder) / str(n), rounds, steps, threads) for n, model in enumerate(models)
        ]


def measure(model: str, workers: Workers, folder: Path, rounds: int, steps: int, threads: int) -> PairThroughput:
    cases = cases_of(model, workers, steps)
    sides: dict[str, Side] = {}
    for name, case in cases.items():
        (folder / name).mkdir(parents=True)
        sides[name] = our_side(case, folder / name)
        sides[name]()  # warm-up
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in list(sides) if number % 2 == 0 else list(reversed(sides)):
            speeds[name].append(cases[name].num_tokens / seconds_of(sides[name]))
    first, *others = speeds
    ratios = {name: [a / b for a, b in zip(speeds[first], speeds[name], strict=True)] for name in others}
    return PairThroughput(
        model=model,
        rounds=rounds,
        threads=threads,
        tokens_per_second={name: statistics.median(values) for name, values in speeds.items()},
        ratios={name: (statistics.median(values), min(values), max(values)) for name, values in ratios.items()},
    )


def cases_of(model: str, workers: Workers, num_steps: int) -> dict[str, Case]:
    """The three sides; the likelihood comes first."""
    tokenizer = load_tokenizer(model_folder(model, "", tokenizer=True), None)
    rng = np.random.default_rng(0)
    num = num_steps * SETTINGS.examples_per_step
    lengths = rng.integers(*TEXT, size=num)
    first, second = (
        [rng.integers(2, len(tokenizer), size=length).astype(np.int32) for length in lengths] for _ in range(2)
    )
    starts = np.concatenate([lengths - rng.integers(*COMPLETION, size=num) for _ in range(2)])
    targets = np.eye(2, dtype=np.float32)[rng.integers(0, 2, size=num)]
    pairs = LabelledExamples(
        tokens=first + second, texts_per_example=2, targets_NC=targets, ties_N=np.arange(num), first=starts
    )
    rewarded = LabelledExamples(tokens=first + second, texts_per_example=2, targets_NC=targets, ties_N=np.arange(num))
    single = LabelledExamples(
        tokens=first + second, targets_NC=np.concatenate([targets, targets]), ties_N=np.arange(2 * num)
    )

    def case(examples: LabelledExamples, objective: Objective, score: Score | None) -> Case:
        settings = SETTINGS.model_copy(
            update={
                "examples_per_step": SETTINGS.examples_per_step * (2 // examples.texts_per_example),
                "precision": "bf16" if workers.all_compute_bf16() else "fp32",
            }
        )
        split = SplitSpec(task="bench", name="S", num_examples=len(examples), num_levels=2, split_seed=0)
        spec = StageSpec(
            objective=objective,
            score=score,
            starts_from=ModelSource(name=model, revision=""),
            train=(LabelledSplit(split=split, labels=GroundTruth()),),
            optimisation=settings,
            init_seed=0,
            order_seed=0,
        )
        return Case.of(spec, examples, workers, tokenizer)

    return {
        "likelihood": case(pairs, "preference", Score(beta=2.0)),
        "reward head": case(rewarded, "preference", None),
        "two texts": case(single, "classification", None),
    }


def main(
    models: Annotated[list[str] | None, typer.Argument(metavar="[MODEL ...]", help="As in a study's ladder.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each side.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of a turn.")] = 6,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure training speed on pairs scored by likelihood, and on the same texts read by a head."""
    results = bench_pairs(models or ["w2s:medium"], rounds=rounds, steps=steps, threads=threads)
    if json:
        print(to_json(results, indent=2).decode())
        return
    for result in results:
        speeds = ", ".join(f"{name} {speed:,.0f} tokens/s" for name, speed in result.tokens_per_second.items())
        print(f"{result.model}: {speeds}")
        for name, (median, lowest, highest) in result.ratios.items():
            print(f"  likelihood / {name}: {median:.3f} ({lowest:.3f} to {highest:.3f})")


if __name__ == "__main__":
    typer.run(main)
