"""Training speed on one worker, compared with a bare PyTorch loop over the same batches.

    python benchmarks/throughput.py w2s:medium w2s:large --pairs 9

Both sides use the same model, precision, threads, batches and gradient clipping. They alternate, because single pairs
vary by 15 %; the result is the median ratio of their tokens per second.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import numpy as np
import torch
import torch.distributed as dist
import typer
from pydantic_core import to_json
from transformers import PreTrainedTokenizerFast

from w2s_ray.data.batches import plan_steps
from w2s_ray.science import IntArray
from w2s_ray.spec.base import Spec
from w2s_ray.spec.labels import GroundTruth, LabelledSplit, SplitSpec
from w2s_ray.spec.stage import Execution, ModelSource, Optimisation, Precision, StageSpec
from w2s_ray.training.checkpoints import Checkpoints
from w2s_ray.training.feed import Feeder, LabelledExamples, MicroBatch
from w2s_ray.training.loop import Loop
from w2s_ray.training.losses import ClassBatchLoss
from w2s_ray.training.models.catalogue import model_folder
from w2s_ray.training.models.loading import load_network, load_tokenizer
from w2s_ray.training.models.network import Network
from w2s_ray.training.progress import Journal, NullObserver, TrainState
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine

EXECUTION = Execution(zero_stage=0, tokens_per_micro_batch=2048, checkpoint_every_seconds=3600)
SETTINGS = Optimisation(examples_per_step=32, precision="bf16", epochs=1.0)


class Throughput(Spec):
    """The result for one model."""

    model: str
    precision: Precision
    """bf16 if this machine has bf16 instructions, else fp32."""
    pairs: int
    threads: int
    ours_tokens_per_second: float
    """Median over the pairs."""
    bare_tokens_per_second: float
    median_ratio: float
    """Ours / bare of each pair."""
    lowest_ratio: float
    highest_ratio: float


def bench_throughput(models: Sequence[str], *, pairs: int, steps: int, threads: int) -> list[Throughput]:
    """Measure each of `models` (such as `w2s:large`) over `pairs` alternating pairs of `steps` optimizer steps."""
    torch.set_num_threads(threads)
    with single_worker() as workers, tempfile.TemporaryDirectory() as folder:
        return [measure(model, workers, Path(folder), pairs, steps, threads) for model in models]


def measure(model: str, workers: Workers, folder: Path, pairs: int, steps: int, threads: int) -> Throughput:
    case = case_of(model, workers, steps)
    ours, bare = our_side(case, folder), bare_side(case)
    ours(), bare()  # warm-up
    speeds: list[tuple[float, float]] = []
    for pair in range(pairs):
        sides = (ours, bare) if pair % 2 == 0 else (bare, ours)
        seconds = {side: seconds_of(side) for side in sides}
        speeds.append((case.num_tokens / seconds[ours], case.num_tokens / seconds[bare]))
    ratios = [ours_speed / bare_speed for ours_speed, bare_speed in speeds]
    return Throughput(
        model=model,
        precision=case.spec.optimisation.precision,
        pairs=pairs,
        threads=threads,
        ours_tokens_per_second=statistics.median(speed for speed, _ in speeds),
        bare_tokens_per_second=statistics.median(speed for _, speed in speeds),
        median_ratio=statistics.median(ratios),
        lowest_ratio=min(ratios),
        highest_ratio=max(ratios),
    )


@dataclass(frozen=True)
class Case:
    """A model, and batches to train it on."""

    spec: StageSpec
    examples: LabelledExamples
    feeder: Feeder[LabelledExamples]
    steps: list[IntArray]
    load: Callable[[], Network]

    @classmethod
    def of(
        cls, spec: StageSpec, examples: LabelledExamples, workers: Workers, tokenizer: PreTrainedTokenizerFast
    ) -> Self:
        settings = spec.optimisation
        steps = plan_steps(
            examples.lengths_N,
            epochs=1.0,
            examples_per_step=settings.examples_per_step,
            order_seed=0,
            bucketing_window=settings.bucketing_window,
        )
        feeder = Feeder(examples, workers, EXECUTION.tokens_per_micro_batch, tokenizer.pad_token_id)
        folder = model_folder(spec.starts_from.name, "")
        return cls(spec, examples, feeder, steps, lambda: load_network(spec, folder, tokenizer, EXECUTION))

    @property
    def num_tokens(self) -> int:
        return int(sum(self.examples.lengths_N[positions].sum() for positions in self.steps))


def case_of(model: str, workers: Workers, num_steps: int) -> Case:
    """Examples as long as the embedded task's, with random tokens: their values do not change the speed."""
    tokenizer = load_tokenizer(model_folder(model, "", tokenizer=True), None)
    rng = np.random.default_rng(0)
    lengths = rng.integers(35, 90, size=num_steps * SETTINGS.examples_per_step)
    tokens = [rng.integers(2, len(tokenizer), size=length).astype(np.int32) for length in lengths]
    targets = np.eye(2, dtype=np.float32)[rng.integers(0, 2, size=len(tokens))]
    examples = LabelledExamples(tokens=tokens, targets_NC=targets, ties_N=np.arange(len(tokens)))
    split = SplitSpec(task="bench", name="S", num_examples=len(tokens), num_levels=2, split_seed=0)
    spec = StageSpec(
        starts_from=ModelSource(name=model, revision=""),
        train=(LabelledSplit(split=split, labels=GroundTruth()),),
        optimisation=SETTINGS if workers.all_compute_bf16() else SETTINGS.model_copy(update={"precision": "fp32"}),
        init_seed=0,
        order_seed=0,
    )
    return Case.of(spec, examples, workers, tokenizer)


def our_side(case: Case, folder: Path) -> Callable[[], None]:
    workers = case.feeder.workers
    engine = Engine(case.load(), EXECUTION, SETTINGS)

    def run() -> None:
        path = folder / "metrics.jsonl"
        path.unlink(missing_ok=True)
        Loop(
            spec=case.spec,
            engine=engine,
            loss=ClassBatchLoss(case.spec.loss, case.examples, workers),
            feeder=case.feeder,
            validate=None,
            steps=case.steps,
            checkpoints=Checkpoints(folder / "checkpoints", workers),
            checkpoint_every_seconds=EXECUTION.checkpoint_every_seconds,
            journal=Journal("bench", path, NullObserver(), len(case.steps)),
            names=lambda positions_N: [],
            save_snapshot=lambda share: None,
            is_superseded=lambda: False,
        ).run(TrainState())

    return run


def bare_side(case: Case) -> Callable[[], None]:
    """A plain loop over prepared batches, without logs and checks."""
    network = case.load().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    groups: list[tuple[int, list[tuple[MicroBatch, torch.Tensor]]]] = []
    for positions in case.steps:
        batches = [
            (batch, torch.from_numpy(case.examples.targets_NC[batch.positions]))
            for batch in case.feeder.micro_batches(positions)
        ]
        groups.append((len(positions), batches))

    def run() -> None:
        for count, batches in groups:
            for batch, target_BC in batches:
                logits_BC = network(batch.tokens_RT, batch.last_R)
                loss = -(target_BC * torch.log_softmax(logits_BC, dim=-1)).sum() / count
                loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)

    return run


def seconds_of(side: Callable[[], None]) -> float:
    began = time.perf_counter()
    side()
    return time.perf_counter() - began


@contextmanager
def single_worker() -> Iterator[Workers]:
    """A process group with one worker."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("LOCAL_RANK", "0")
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        try:
            yield Workers(0, 1, torch.device("cpu"))
        finally:
            dist.destroy_process_group()


def main(
    models: Annotated[list[str] | None, typer.Argument(metavar="[MODEL ...]", help="As in a study's ladder.")] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Number of alternating pairs.")] = 7,
    steps: Annotated[int, typer.Option(min=1, help="Optimizer steps of each side of a pair.")] = 8,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 2,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure training speed on one worker, ours and that of a bare PyTorch loop."""
    results = bench_throughput(models or ["w2s:medium", "w2s:large"], pairs=pairs, steps=steps, threads=threads)
    if json:
        print(to_json(results, indent=2).decode())
        return
    print(f"{'model':12} {'ours':>16} {'bare loop':>16} {'median ratio':>14} {'lowest':>8} {'highest':>8}")
    for result in results:
        speeds = (result.ours_tokens_per_second, result.bare_tokens_per_second)
        cells = " ".join(f"{speed:>7,.0f} tokens/s" for speed in speeds)
        ratios = f"{result.median_ratio:>14.3f} {result.lowest_ratio:>8.3f} {result.highest_ratio:>8.3f}"
        print(f"{result.model:12} {cells} {ratios}")


if __name__ == "__main__":
    typer.run(main)
