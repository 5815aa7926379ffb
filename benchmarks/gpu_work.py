"""The measurements of `benchmarks/gpu.py`: a model, its texts, and each way of training and labelling with it."""

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from w2s_ray.science import IntArray
from w2s_ray.spec.base import Spec
from w2s_ray.spec.execution import Attention, Execution
from w2s_ray.spec.stage import AllWeights, Lora, ModelSource, Optimisation, StageSpec, Trainable
from w2s_ray.training.memory.usage import host_memory

if TYPE_CHECKING:
    from w2s_ray.spec.chain import SettledStage
    from w2s_ray.training.feed import Feeder, LabelledExamples
    from w2s_ray.training.memory.footprint import Footprint
    from w2s_ray.training.models.network import Network
    from w2s_ray.training.workers import Workers

PEAK_TFLOPS = {
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L4": 121.0,
    "A10": 125.0,
}
"""Dense bf16 of NVIDIA's data sheets, by a part of the device's name; the first that fits counts."""
QUANTILES = {
    "SciQ": (9, 25, 39, 53, 69, 84, 100, 122, 152, 231, 512),
    "SST-2": (2, 3, 4, 5, 7, 9, 12, 16, 20, 27, 68),
}
"""Deciles of the tokens of training texts: their words times 1.3, SciQ's with support and question, up to 512."""
CONTEXT = 512
ALL = AllWeights()
ROW_SECONDS = 8.0
"""Time that the measured steps of one row should take."""


@dataclass(frozen=True)
class Shape:
    """A Llama."""

    name: str
    layers: int
    hidden: int
    inner: int
    heads: int
    key_heads: int

    @property
    def matrix_weights(self) -> int:
        """Weights in the matrices of all layers (N)."""
        keys = self.hidden // self.heads * self.key_heads
        return self.layers * self.hidden * (2 * self.hidden + 2 * keys + 3 * self.inner)

    def operations(self, lengths_N: IntArray, work: Literal["all", "lora", "labelling"]) -> float:
        """Return the operations for texts of these lengths; the module's docstring has the formula."""
        per_weight, attention = {"all": (6, 6), "lora": (4, 6), "labelling": (2, 2)}[work]
        lengths = lengths_N.astype(np.float64)
        quadratic = attention * self.layers * self.hidden * float((lengths**2).sum())
        return per_weight * self.matrix_weights * float(lengths.sum()) + quadratic


class Row(Spec):
    """One measurement."""

    name: str
    tokens_per_second: float | None = None
    """Real tokens: padding counts nothing."""
    padding: float | None = None
    """Padded positions per real token."""
    mfu: float | None = None
    """Model FLOP utilisation; None on a device without a known peak."""
    peak_bytes: int | None = None
    planned_bytes: int | None = None
    ratio: float | None = None
    against: str = ""
    """What the ratio compares with."""
    note: str = ""
    """Why a row is empty, or what else was found."""


@dataclass(frozen=True)
class Job:
    """A stage to measure: a model, texts, and how it is trained."""

    shape: Shape
    lengths: str
    folder: Path
    workers: "Workers"
    is_small: bool
    attention: Attention = "auto"
    trainable: Trainable = ALL
    execution: tuple[tuple[str, Any], ...] = ()

    @property
    def examples_per_step(self) -> int:
        return 8 if self.is_small else 256

    @property
    def max_steps(self) -> int:
        return 4 if self.is_small else 40

    @property
    def stage(self) -> "SettledStage":
        from w2s_ray.spec.chain import SettledStage
        from w2s_ray.spec.labels import GroundTruth, LabelledSplit, SplitSpec

        num = self.examples_per_step * self.max_steps
        split = SplitSpec(task="bench", name="S", num_examples=num, num_levels=2, split_seed=0)
        in_bf16 = self.workers.all_compute_bf16()
        spec = StageSpec(
            starts_from=ModelSource(name=str(self.folder / self.shape.name), revision="", random=True),
            trainable=self.trainable,
            train=(LabelledSplit(split=split, labels=GroundTruth()),),
            optimisation=Optimisation(
                examples_per_step=self.examples_per_step,
                learning_rate=1e-5,
                precision="bf16" if in_bf16 else "fp32",
                context_tokens=CONTEXT,
            ),
            init_seed=0,
            order_seed=0,
        )
        on_gpu = self.workers.device.type == "cuda"
        asked = {"attention": self.attention, "tokens_per_micro_batch": 1024 if self.is_small else 16384}
        execution = Execution(**asked, gpus_per_worker=float(on_gpu), **dict(self.execution))
        return SettledStage(spec=spec, execution=execution, arm="ceiling", level=self.shape.name, task="bench")

    @cached_property
    def examples(self) -> "LabelledExamples":
        from w2s_ray.training.feed import LabelledExamples

        rng = np.random.default_rng(0)
        num = self.examples_per_step * self.max_steps
        deciles = QUANTILES[self.lengths]
        lengths = np.interp(rng.random(num) * 10, np.arange(11), deciles).round().astype(int)
        tokens = [rng.integers(5, 1000, size=length).astype(np.int32) for length in lengths]
        targets_NC = np.eye(2, dtype=np.float32)[rng.integers(0, 2, size=num)]
        return LabelledExamples(tokens=tokens, targets_NC=targets_NC, ties_N=np.arange(num))

    def load(self) -> "Network":
        """Return the network on the device, with random weights drawn there."""
        import torch

        from w2s_ray.training.models.attention import use_attention
        from w2s_ray.training.models.loading import load_network, load_tokenizer

        folder, stage = self.folder / self.shape.name, self.stage
        with torch.device("cpu" if stage.execution.zero_stage == 3 else self.workers.device):
            network = load_network(stage.spec, folder, load_tokenizer(folder, None), stage.execution)
        settings, asked = stage.spec.optimisation, stage.execution.attention
        network.attention = use_attention(network.hf, asked, settings, network.precision, self.workers)
        return network.to(self.workers.device)

    def feeder(self, network: "Network") -> "Feeder[LabelledExamples]":
        from w2s_ray.training.feed import Feeder

        return network.fed_by(Feeder(self.examples, self.workers, self.stage.execution.tokens_per_micro_batch, 0))

    def steps(self, feeder: "Feeder[LabelledExamples]") -> list[IntArray]:
        from w2s_ray.data.batches import plan_steps

        settings = self.stage.spec.optimisation
        return plan_steps(
            feeder.examples.lengths_N,
            epochs=1.0,
            examples_per_step=settings.examples_per_step,
            order_seed=0,
            bucketing_window=settings.bucketing_window,
        )

    @property
    def planned(self) -> "Footprint":
        from w2s_ray.training.memory.footprint import footprint
        from w2s_ray.training.models import files

        shape = files.shape_of(self.folder / self.shape.name)
        assert shape is not None
        num_parameters = self.shape.matrix_weights + shape.vocabulary * self.shape.hidden
        return footprint(self.stage, num_parameters, shape, CONTEXT)

    def row(self, name: str, positions: Sequence[IntArray], seconds: float, **more: Any) -> Row:
        """Return the row of a training over these steps."""
        lengths = np.concatenate([self.examples.lengths_N[step] for step in positions])
        work: Literal["all", "lora"] = "lora" if isinstance(self.trainable, Lora) else "all"
        operations = self.shape.operations(lengths, work)
        speed = float(lengths.sum()) / seconds
        return Row(name=name, tokens_per_second=speed, mfu=self.utilisation(operations / seconds), **more)

    def utilisation(self, operations_per_second: float) -> float | None:
        import torch

        if self.workers.device.type != "cuda":
            return None
        device = torch.cuda.get_device_name(self.workers.device)
        peak = next((peak for name, peak in PEAK_TFLOPS.items() if name in device), None)
        return None if peak is None else operations_per_second / (peak * 1e12)


def write_models(folder: Path, shapes: Sequence[Shape]) -> None:
    """Write the configuration and tokenizer of each model; the weights are drawn when it is loaded."""
    from transformers import LlamaConfig

    from w2s_ray.ladder.tokenizer import FOLDER
    from w2s_ray.training.models.loading import load_tokenizer

    tokenizer = load_tokenizer(FOLDER, None)
    for shape in shapes:
        config = LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=shape.hidden,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.key_heads,
            intermediate_size=shape.inner,
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            architectures=["LlamaForCausalLM"],
        )
        config.save_pretrained(folder / shape.name)
        tokenizer.save_pretrained(folder / shape.name)


def timed(work: Callable[[], Any], workers: "Workers") -> float:
    """Return the seconds that the work takes, until the device has done it."""
    import torch

    if workers.device.type == "cuda":
        torch.cuda.synchronize()
    began = time.perf_counter()
    work()
    if workers.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def measure_steps(take: Callable[[range], None], num_steps: int, workers: "Workers") -> tuple[range, float]:
    """Take a step to warm up, one to learn its time, then as many as `ROW_SECONDS` allow; return these, and seconds."""
    take(range(1))
    seconds = timed(lambda: take(range(1, 2)), workers)
    num = min(max(2, int(ROW_SECONDS / max(seconds, 1e-6))), num_steps - 2)
    measured = range(2, 2 + num)
    return measured, timed(lambda: take(measured), workers)


def ours(name: str, job: Job, *, labels: bool = False) -> list[Row]:
    """Train with our loop; with `labels` also predict the same texts, without gradients."""
    from w2s_ray.training.checkpoints import Checkpoints
    from w2s_ray.training.loop import Loop
    from w2s_ray.training.losses import ClassBatchLoss
    from w2s_ray.training.memory.usage import peak_bytes, reset_peak
    from w2s_ray.training.progress import Journal, NullObserver, TrainState
    from w2s_ray.training.zero import Engine

    network, stage = job.load(), job.stage
    feeder = job.feeder(network)
    steps = job.steps(feeder)
    engine = Engine(network, stage.execution, stage.spec.optimisation)
    reset_peak(job.workers.device)
    try:
        with tempfile.TemporaryDirectory() as scratch:

            def take(numbers: range) -> None:
                journal = Journal("bench", Path(scratch) / "metrics.jsonl", NullObserver(), len(numbers))
                Loop(
                    spec=stage.spec,
                    engine=engine,
                    loss=ClassBatchLoss(stage.spec.loss, feeder.examples, job.workers),
                    feeder=feeder,
                    validate=None,
                    steps=[steps[number] for number in numbers],
                    checkpoints=Checkpoints(Path(scratch) / "checkpoints", job.workers),
                    checkpoint_every_seconds=3600,
                    journal=journal,
                    names=lambda positions: [str(position) for position in positions],
                    save_snapshot=lambda share: None,
                    is_superseded=lambda: False,
                ).run(TrainState())

            numbers, seconds = measure_steps(take, len(steps), job.workers)
        measured = [steps[number] for number in numbers]
        padded = sum(batch.tokens_RT.numel() for step in measured for batch in feeder.micro_batches(step))
        real = sum(int(feeder.examples.lengths_N[step].sum()) for step in measured)
        row = job.row(
            name,
            measured,
            seconds,
            padding=padded / real - 1,
            peak_bytes=peak_bytes(job.workers.device),
            planned_bytes=job.planned.phases["training"],
            note=f"{network.attention}, {len(measured)} steps",
        )
        assert row.tokens_per_second is not None
        if not labels:
            return [row]
        return [row, label(job, network, engine, row.tokens_per_second)]
    finally:
        engine.destroy()


def label(job: Job, network: "Network", engine: Any, training_speed: float) -> Row:
    """Predict texts with a trained network."""
    from w2s_ray.training.feed import Feeder, LabelledExamples
    from w2s_ray.training.objectives import class_outputs

    engine.forget_moments()
    network.predicts_in = network.precision
    everything = job.examples
    num = min(len(everything), 16 if job.is_small else 8192)
    examples = LabelledExamples(
        tokens=everything.tokens[:num], targets_NC=everything.targets_NC[:num], ties_N=everything.ties_N[:num]
    )
    tokens = 1024 if job.is_small else 32768
    predict = partial(
        class_outputs, network, Feeder(examples, job.workers, tokens, 0, "predicting"), 2, lambda logits: logits
    )
    predict()
    seconds = timed(predict, job.workers)
    speed = float(examples.lengths_N.sum()) / seconds
    return Row(
        name=f"{job.shape.name}, labelling, {job.lengths}",
        tokens_per_second=speed,
        mfu=job.utilisation(job.shape.operations(examples.lengths_N, "labelling") / seconds),
        ratio=speed / training_speed,
        against="labelling ÷ training",
        note=f"{network.attention}, {network.predicts_in}",
    )


def bare(name: str, job: Job) -> list[Row]:
    """Train with a plain PyTorch loop over the same micro-batches, prepared before."""
    import torch

    from peers import BareLoop

    network = job.load()
    feeder = job.feeder(network)
    steps = job.steps(feeder)
    prepared = [feeder.micro_batches(step) for step in steps]
    loop = BareLoop(network, torch.from_numpy(feeder.examples.targets_NC).to(job.workers.device), 1e-5)

    def take(numbers: range) -> None:
        for number in numbers:
            loop.step(prepared[number])

    numbers, seconds = measure_steps(take, len(steps), job.workers)
    measured = [steps[number] for number in numbers]
    return [job.row(name, measured, seconds, note=f"{network.attention}, {len(measured)} steps")]


def offload(name: str, job: Job) -> list[Row]:
    """Train with the optimizer and the parameters in the host's memory, if it has room: 20 bytes per weight."""
    need, available = job.planned.host, host_memory().available
    if need > available:
        return [
            Row(name=name, note=f"skipped: the host has {available / 1e9:.0f} GB free, and it needs {need / 1e9:.0f}")
        ]
    return ours(name, job)
