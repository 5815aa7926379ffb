"""Training and labelling speed, compared with a bare PyTorch loop and with Hugging Face `Trainer`.

    python benchmarks/throughput.py                       # one worker: SST-2 and SciQ lengths, fp32 and bf16
    python benchmarks/throughput.py --workers 2           # two workers under ZeRO-2 and ZeRO-3, fp32

All sides have the same model, precision, threads, number of examples and gradient clipping, and count real tokens
(without padding). `Trainer` groups texts by length; under ZeRO it has our DeepSpeed configuration. The sides alternate
in every round, because single rounds vary by 15 %; a result is the median ratio over the rounds.
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import numpy as np
import torch
import torch.distributed as dist
import typer
from pydantic_core import to_json
from transformers import DataCollatorWithPadding, PreTrainedTokenizerFast

from peers import BareLoop, Clock, in_one_process, rows_of, trainer_of
from w2s_ray.data.batches import plan_steps
from w2s_ray.science import IntArray
from w2s_ray.spec.base import Spec
from w2s_ray.spec.execution import Execution, ZeroStage
from w2s_ray.spec.labels import GroundTruth, LabelledSplit, SplitSpec
from w2s_ray.spec.stage import ModelSource, Optimisation, Precision, StageSpec
from w2s_ray.training.checkpoints import Checkpoints
from w2s_ray.training.engine_config import engine_config
from w2s_ray.training.feed import Feeder, LabelledExamples
from w2s_ray.training.loop import Loop
from w2s_ray.training.losses import ClassBatchLoss
from w2s_ray.training.memory.footprint import CPU_PREDICTION_TOKENS
from w2s_ray.training.memory.limits import limits_for
from w2s_ray.training.models.catalogue import model_folder
from w2s_ray.training.models.loading import load_network, load_tokenizer
from w2s_ray.training.models.network import Network
from w2s_ray.training.objectives import class_outputs
from w2s_ray.training.processes import run_on_workers
from w2s_ray.training.progress import Journal, NullObserver, TrainState
from w2s_ray.training.workers import Workers
from w2s_ray.training.zero import Engine, count_parameters

SETTINGS = Optimisation(examples_per_step=32, precision="bf16", epochs=1.0, context_tokens=256)
EXECUTION = Execution(zero_stage=0, tokens_per_micro_batch=2048, checkpoint_every_seconds=3600)

Text = Literal["sst2", "sciq"]
LENGTHS: dict[Text, tuple[int, ...]] = {
    "sst2": (1, 4, 5, 6, 7, 9, 10, 11, 13, 14, 16, 18, 20, 23, 26, 30, 35, 40, 48, 59, 118),
    "sciq": (15, 33, 45, 58, 71, 84, 98, 112, 125, 139, 154, 168, 185, 202, 224, 247, 280, 329, 425, 596, 1507),
}
"""Tokens of the texts of SST-2 (a sentence) and SciQ (support, question and answer), under the built-in tokenizer, at
every twentieth of the training set. Longer texts are cut to `SETTINGS.context_tokens`."""
Side = Callable[[], float | None]
"""Runs once; returns the seconds if it measures them itself."""


class Throughput(Spec):
    """The result for one kind of text, precision and ZeRO stage."""

    text: Text
    precision: Precision
    workers: int
    zero_stage: ZeroStage
    rounds: int
    tokens_per_second: float
    """Real tokens of our training, median over the rounds."""
    ratios: dict[str, tuple[float, float, float]]
    """Median, lowest and highest ratio over the rounds: our training ÷ `bare loop` and ÷ `Trainer`, and our `labelling`
    ÷ our training."""


def bench_throughput(
    workers: Workers, *, model: str, text: Text, precision: Precision, zero_stage: ZeroStage, rounds: int, steps: int
) -> Throughput:
    """Measure all sides on these workers."""
    case = case_of(model, workers, steps, text, precision, zero_stage)
    with tempfile.TemporaryDirectory() as folder:
        engine = case.engine()
        sides: dict[str, Side] = {
            "ours": our_side(case, Path(folder), engine),
            "labelling": labelling_side(case, engine),
            "Trainer": trainer_side(case, Path(folder)),
        }
        if workers.size == 1:
            sides["bare loop"] = bare_side(case)
        for side in sides.values():
            side()  # warm-up
        seconds: dict[str, list[float]] = {name: [] for name in sides}
        for number in range(rounds):
            for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
                seconds[name].append(seconds_of(sides[name], workers))
        engine.destroy()
    ratios = {}
    for name in sorted(sides.keys() - {"ours"}):
        slow, fast = ("ours", name) if name == "labelling" else (name, "ours")
        ratios[name] = sorted(a / b for a, b in zip(seconds[slow], seconds[fast], strict=True))
    return Throughput(
        text=text,
        precision=precision,
        workers=workers.size,
        zero_stage=zero_stage,
        rounds=rounds,
        tokens_per_second=case.num_tokens / statistics.median(seconds["ours"]),
        ratios={name: (statistics.median(all_), all_[0], all_[-1]) for name, all_ in ratios.items()},
    )


@dataclass(frozen=True)
class Case:
    """A model, and batches to train it on."""

    spec: StageSpec
    execution: Execution
    examples: LabelledExamples
    feeder: Feeder[LabelledExamples]
    steps: list[IntArray]
    load: Callable[[Execution], Network]
    tokenizer: PreTrainedTokenizerFast

    @classmethod
    def of(
        cls,
        spec: StageSpec,
        examples: LabelledExamples,
        workers: Workers,
        tokenizer: PreTrainedTokenizerFast,
        execution: Execution = EXECUTION,
    ) -> Self:
        settings = spec.optimisation
        steps = plan_steps(
            examples.lengths_N,
            epochs=1.0,
            examples_per_step=settings.examples_per_step,
            order_seed=0,
            bucketing_window=settings.bucketing_window,
        )
        feeder = Feeder(examples, workers, execution.tokens_per_micro_batch, tokenizer.pad_token_id)
        folder = model_folder(spec.starts_from.name, "")
        return cls(spec, execution, examples, feeder, steps, partial(load_network, spec, folder, tokenizer), tokenizer)

    @property
    def num_tokens(self) -> int:
        return int(sum(self.examples.lengths_N[positions].sum() for positions in self.steps))

    def engine(self) -> Engine:
        return Engine(self.load(self.execution), self.execution, self.spec.optimisation)


def case_of(
    model: str, workers: Workers, num_steps: int, text: Text, precision: Precision, zero_stage: ZeroStage = 0
) -> Case:
    """Examples as long as real ones, with random tokens: their values do not change the speed."""
    tokenizer = load_tokenizer(model_folder(model, "", tokenizer=True), None)
    rng = np.random.default_rng(0)
    shares = rng.uniform(0, 1, size=num_steps * SETTINGS.examples_per_step)
    lengths = np.interp(shares, np.linspace(0, 1, len(LENGTHS[text])), LENGTHS[text]).round().astype(int)
    lengths = lengths.clip(max=SETTINGS.context_tokens)
    tokens = [rng.integers(2, len(tokenizer), size=length).astype(np.int32) for length in lengths]
    targets = np.eye(2, dtype=np.float32)[rng.integers(0, 2, size=len(tokens))]
    examples = LabelledExamples(tokens=tokens, targets_NC=targets, ties_N=np.arange(len(tokens)))
    split = SplitSpec(task="bench", name="S", num_examples=len(tokens), num_levels=2, split_seed=0)
    spec = StageSpec(
        starts_from=ModelSource(name=model, revision=""),
        train=(LabelledSplit(split=split, labels=GroundTruth()),),
        optimisation=SETTINGS.model_copy(update={"precision": precision}),
        init_seed=0,
        order_seed=0,
    )
    execution = EXECUTION.model_copy(update={"workers": workers.size, "zero_stage": zero_stage})
    return Case.of(spec, examples, workers, tokenizer, execution)


def our_side(case: Case, folder: Path, engine: Engine | None = None) -> Side:
    workers, engine = case.feeder.workers, engine or case.engine()

    def run() -> None:
        path = folder / "metrics.jsonl"
        if workers.is_rank_0:
            path.unlink(missing_ok=True)
        Loop(
            spec=case.spec,
            engine=engine,
            loss=ClassBatchLoss(case.spec.loss, case.examples, workers),
            feeder=case.feeder,
            validate=None,
            steps=case.steps,
            checkpoints=Checkpoints(folder / "checkpoints", workers),
            checkpoint_every_seconds=case.execution.checkpoint_every_seconds,
            journal=Journal("bench", path, NullObserver(), len(case.steps)),
            save_snapshot=lambda share: None,
            is_superseded=lambda: False,
            names=lambda positions: [],
        ).run(TrainState())

    return run


def labelling_side(case: Case, engine: Engine) -> Side:
    """Class probabilities of the same examples, in the precision of the training."""
    network: Any = engine.model
    feeder = Feeder(case.examples, case.feeder.workers, CPU_PREDICTION_TOKENS, case.feeder.pad, "predicting")

    def run() -> None:
        network.predicts_in = case.spec.optimisation.precision
        class_outputs(network, feeder, 2, partial(torch.softmax, dim=-1))

    return run


def bare_side(case: Case) -> Side:
    loop = BareLoop(case.load(EXECUTION), torch.from_numpy(case.examples.targets_NC), 1e-4)
    prepared = [case.feeder.micro_batches(positions) for positions in case.steps]

    def run() -> None:
        for batches in prepared:
            loop.step(batches)

    return run


def trainer_side(case: Case, folder: Path) -> Side:
    """Hugging Face's `Trainer` over the same examples, grouped by length; returns the seconds of its steps."""
    workers, settings = case.feeder.workers, case.spec.optimisation
    rows = rows_of(case.examples)

    def run() -> float:
        hf, clock = case.load(EXECUTION).hf, Clock()
        config = None
        if case.execution.zero_stage:
            limits = limits_for(count_parameters(hf.parameters()), hf.config.hidden_size)
            config = engine_config(case.execution, settings.max_grad_norm, limits)
            config["train_micro_batch_size_per_gpu"] = "auto"
        with in_one_process() if workers.size == 1 else nullcontext():
            trainer = trainer_of(
                hf,
                rows,
                DataCollatorWithPadding(case.tokenizer),
                folder,
                [clock],
                per_device_train_batch_size=settings.examples_per_step // workers.size,
                num_train_epochs=1,
                learning_rate=1e-4,
                max_grad_norm=settings.max_grad_norm,
                bf16=settings.precision == "bf16",
                train_sampling_strategy="group_by_length",
                deepspeed=config,
                use_cpu=True,
                ddp_backend="gloo",
            )
            trainer.train()
        if config is not None:
            trainer.model_wrapped.destroy()
        return clock.marks[-1] - clock.marks[0]

    return run


def seconds_of(side: Side, workers: Workers | None = None) -> float:
    """Return the time of a side."""
    if workers is not None:
        workers.barrier()
    began = time.perf_counter()
    own = side()
    return own or time.perf_counter() - began


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
    model: Annotated[str, typer.Option(help="As in a study's ladder.")] = "w2s:large",
    rounds: Annotated[int, typer.Option(min=1, help="In each of them every side runs once.")] = 7,
    steps: Annotated[int, typer.Option(min=2, help="Optimizer steps of each side in a round.")] = 6,
    workers: Annotated[int, typer.Option(min=1, help="Worker processes; several train under ZeRO-2 and ZeRO-3.")] = 1,
    text: Annotated[Text | None, typer.Option(help="Whose lengths the texts have; all if not given.")] = None,
    precision: Annotated[Precision | None, typer.Option(help="fp32, and bf16 on one worker, if not given.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure training and labelling speed, ours and that of a bare PyTorch loop and of Hugging Face `Trainer`."""
    zero_stages: list[ZeroStage] = [0] if workers == 1 else [2, 3]
    precisions: list[Precision] = [precision] if precision else ["fp32", "bf16"] if workers == 1 else ["fp32"]
    cores = max(1, (os.cpu_count() or 1) // workers)
    group = Execution(workers=workers, cpus_per_worker=cores)
    if not json:
        print("text precision workers ZeRO     ours tokens/s   median ratio (lowest-highest)")
    results = []
    for kind in [text] if text else LENGTHS:
        for own in precisions:
            for zero_stage in zero_stages:
                work = partial(
                    bench_throughput,
                    model=model,
                    text=kind,
                    precision=own,
                    zero_stage=zero_stage,
                    rounds=rounds,
                    steps=steps,
                )
                with tempfile.TemporaryDirectory() as folder:
                    result = run_on_workers(work, group, Path(folder))[0]
                results.append(result)
                if not json:
                    ratios = "   ".join(
                        f"{name} {m:.2f} ({a:.2f}-{b:.2f})" for name, (m, a, b) in result.ratios.items()
                    )
                    print(
                        f"{kind} {own:9} {workers:7} {zero_stage:4} {result.tokens_per_second:17,.0f}   {ratios}",
                        flush=True,
                    )
    if json:
        print(to_json(results, indent=2).decode())


if __name__ == "__main__":
    typer.run(main)
