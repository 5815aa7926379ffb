"""How fast is the training loop beside a bare PyTorch loop over the same batches?

One worker, same model, precision, threads, batches and clipping. The two sides take turns, because single pairs swing
by 15 %; the figure is the median ratio of their tokens per second.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist

from w2s_ray.data.batches import plan_steps
from w2s_ray.spec.base import Spec
from w2s_ray.spec.labels import GroundTruth, LabelledSplit, SplitSpec
from w2s_ray.spec.stage import Execution, ModelSource, Optimisation, Precision, StageSpec
from w2s_ray.training.catalogue import model_folder
from w2s_ray.training.checkpoints import Checkpoints, Progress
from w2s_ray.training.feed import Feeder, IntArray, Labelled, MicroBatch
from w2s_ray.training.journal import Journal
from w2s_ray.training.loop import Loop
from w2s_ray.training.models import Network, load_network, load_tokenizer
from w2s_ray.training.objectives import Classification
from w2s_ray.training.progress import NullObserver
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine

_EXECUTION = Execution(zero_stage=0, tokens_per_micro_batch=2048, checkpoint_every_seconds=3600)
_SETTINGS = Optimisation(examples_per_step=32, precision="bf16", epochs=1.0)


class Throughput(Spec):
    """The result for one model."""

    model: str
    precision: Precision
    """bf16 where this machine has instructions for it."""
    pairs: int
    threads: int
    ours_tokens_per_second: float
    """Median."""
    bare_tokens_per_second: float
    median_ratio: float
    """Ours over bare, pair by pair."""
    lowest_ratio: float
    highest_ratio: float


def bench_throughput(models: Sequence[str], *, pairs: int = 7, steps: int = 8, threads: int = 2) -> list[Throughput]:
    """Measure each of `models` (such as `w2s:large`) over `pairs` alternating pairs of `steps` optimizer steps."""
    torch.set_num_threads(threads)
    with _alone() as workers, tempfile.TemporaryDirectory() as folder:
        return [_measure(model, workers, Path(folder), pairs, steps, threads) for model in models]


def _measure(model: str, workers: Workers, folder: Path, pairs: int, steps: int, threads: int) -> Throughput:
    case = _case(model, workers, steps)
    ours, bare = _ours(case, folder), _bare(case)
    ours(), bare()  # the first pass of each warms its caches
    speeds: list[tuple[float, float]] = []
    for pair in range(pairs):
        sides = (ours, bare) if pair % 2 == 0 else (bare, ours)
        seconds = {side: _seconds(side) for side in sides}
        speeds.append((case.num_tokens / seconds[ours], case.num_tokens / seconds[bare]))
    ratios = [our / their for our, their in speeds]
    return Throughput(
        model=model,
        precision=case.spec.optimisation.precision,
        pairs=pairs,
        threads=threads,
        ours_tokens_per_second=statistics.median(our for our, _ in speeds),
        bare_tokens_per_second=statistics.median(their for _, their in speeds),
        median_ratio=statistics.median(ratios),
        lowest_ratio=min(ratios),
        highest_ratio=max(ratios),
    )


@dataclass(frozen=True)
class _Case:
    spec: StageSpec
    examples: Labelled
    feeder: Feeder[Labelled]
    steps: list[IntArray]
    load: Callable[[], Network]

    @property
    def num_tokens(self) -> int:
        return int(sum(self.examples.lengths_N[positions].sum() for positions in self.steps))


def _case(model: str, workers: Workers, num_steps: int) -> _Case:
    """Examples of the embedded task's lengths, with arbitrary tokens: speed does not read them."""
    tokenizer = load_tokenizer(model_folder(model, "", tokenizer=True), None)
    dice = np.random.default_rng(0)
    lengths = dice.integers(35, 90, size=num_steps * _SETTINGS.examples_per_step)
    tokens = [dice.integers(2, len(tokenizer), size=length).astype(np.int32) for length in lengths]
    targets = np.eye(2, dtype=np.float32)[dice.integers(0, 2, size=len(tokens))]
    examples = Labelled(tokens=tokens, targets_NC=targets, ties_N=np.arange(len(tokens)))
    split = SplitSpec(task="bench", name="S", num_examples=len(tokens), num_levels=2, split_seed=0)
    spec = StageSpec(
        starts_from=ModelSource(name=model, revision=""),
        train=(LabelledSplit(split=split, labels=GroundTruth()),),
        optimisation=_SETTINGS if workers.compute_bf16() else _SETTINGS.model_copy(update={"precision": "fp32"}),
        init_seed=0,
        order_seed=0,
    )
    steps = plan_steps(
        examples.lengths_N,
        epochs=1.0,
        examples_per_step=_SETTINGS.examples_per_step,
        order_seed=0,
        bucketing_window=_SETTINGS.bucketing_window,
    )
    feeder = Feeder(examples, workers, _EXECUTION.tokens_per_micro_batch, tokenizer.pad_token_id)
    return _Case(
        spec, examples, feeder, steps, lambda: load_network(spec, model_folder(model, ""), tokenizer, _EXECUTION)
    )


def _ours(case: _Case, folder: Path) -> Callable[[], None]:
    workers = case.feeder.workers
    engine = Engine(case.load(), _EXECUTION, _SETTINGS)

    def run() -> None:
        path = folder / "metrics.jsonl"
        path.unlink(missing_ok=True)
        Loop(
            spec=case.spec,
            engine=engine,
            objective=Classification(case.spec, case.examples, workers),
            feeder=case.feeder,
            check=None,
            steps=case.steps,
            checkpoints=Checkpoints(folder / "checkpoints", _EXECUTION, workers),
            checkpoint_every_seconds=_EXECUTION.checkpoint_every_seconds,
            journal=Journal("bench", path, NullObserver(), len(case.steps)),
            keep=lambda share: None,
            taken_up=lambda: False,
        ).run(Progress())

    return run


def _bare(case: _Case) -> Callable[[], None]:
    """What one would write without us: the batches lie ready, nothing is logged, nothing is checked."""
    network = case.load().train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    groups: list[tuple[int, list[tuple[MicroBatch, torch.Tensor]]]] = []
    for positions in case.steps:
        batches = [
            (batch, torch.from_numpy(case.examples.targets_NC[batch.positions]))
            for batch in case.feeder.group(positions)
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


def _seconds(side: Callable[[], None]) -> float:
    began = time.perf_counter()
    side()
    return time.perf_counter() - began


@contextmanager
def _alone() -> Iterator[Workers]:
    """A process group of one."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ.setdefault("LOCAL_RANK", "0")
        dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=0, world_size=1)
        try:
            yield Workers(0, 1, torch.device("cpu"))
        finally:
            dist.destroy_process_group()
