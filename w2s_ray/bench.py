"""`w2s bench`: take one level of a study through a few dozen steps on this machine, and measure it.

The stage is the study's own, with the level's execution settings (workers, ZeRO stage, micro-batches), but it learns
from ground truth, so that it needs no supervisor, and stops after `num_steps` steps. It then makes one set of
predictions. Worker processes are started without Ray, on a gloo group (CPU) or a NCCL group (GPUs).

The steps fall into three parts: warm-up, plain steps for the speed, and timed steps for the shares. In a timed step the
device is synchronised wherever the phase changes, and every collective is waited for at once. Communication is then
never hidden behind computation, so its share is an upper bound, and timed steps do not count for the speed.
"""

import functools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2s_ray.errors import StudyError
from w2s_ray.planning.nodes import misfit, this_machine
from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution, distinct_stages
from w2s_ray.spec.execution import ZeroStage
from w2s_ray.spec.labels import GroundTruth
from w2s_ray.spec.losses import check_registered
from w2s_ray.spec.stage import Prompt, StageSource
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.training.processes import run_on_workers

if TYPE_CHECKING:
    import torch

    from w2s_ray.training.feed import Feeder, MicroBatch
    from w2s_ray.training.workers import Workers
    from w2s_ray.training.zero import Engine

PHASES = ("forward", "backward", "optimizer", "communication", "input")
COLLECTIVES = (
    "all_gather",
    "all_gather_into_tensor",
    "all_gather_object",
    "all_reduce",
    "barrier",
    "broadcast",
    "broadcast_object_list",
    "reduce",
    "reduce_scatter",
    "reduce_scatter_tensor",
)
"""Functions of torch.distributed, through which DeepSpeed and our code communicate."""
MIN_STEPS = 6
_NEVER = 1e9
"""Seconds between checkpoints: none is written while steps are timed."""


class Bench(Spec):
    """The result for one level; all speeds are over all workers together."""

    level: str
    model: str
    num_parameters: int | None
    workers: int
    zero_stage: ZeroStage
    precision: str
    num_steps: int
    train_tokens_per_second: float
    """Tokens of the examples, without padding; of a probe, those whose features its head learns."""
    label_tokens_per_second: float | None
    """The same while predicting; the time includes writing answers. None if the stage predicts nothing. For a probe it
    is the speed at which its frozen model reads the training examples."""
    peak_bytes: tuple[int, ...]
    """Peak memory of each worker, by rank."""
    planned_peak_bytes: int | None
    """Memory per worker according to `w2s plan`; None if it does not know the model."""
    shares: dict[str, float]
    """Share of the timed steps in each of `PHASES`, averaged over the workers; the remainder is bookkeeping."""


@dataclass
class Measurement:
    """Measurements of one worker."""

    train_tokens: int = 0
    """Tokens of the plain steps, over all workers."""
    train_seconds: float = 0.0
    label_tokens: int = 0
    label_seconds: float = 0.0
    timed_seconds: float = 0.0
    phase_seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PHASES, 0.0))
    peak_bytes: int = 0
    zero_stage: ZeroStage = 0
    precision: str = "fp32"


def bench_level(
    stage: PlannedStage, store: ArtifactStore, resolution: Resolution, planned_peak_bytes: int | None, num_steps: int
) -> Bench:
    """Measure a stage of a study on this machine.

    Args:
        stage: from `choose_stage`.
        store: has the prepared data; nothing but tokenised data and the features of a probe are added to it.
        resolution: of the study.
        planned_peak_bytes: memory per worker according to the plan.
        num_steps: optimizer steps, at least `MIN_STEPS`.

    Raises:
        StudyError: when the stage's loss is not registered in this process.
        ResourceError: when this machine has too few cores or GPUs for the level's workers.
        W2SError: when the stage fails.
    """
    check_registered(stage.spec.loss)
    if (error := misfit(stage.level, stage.execution.group_shape, (this_machine(),))) is not None:
        raise error
    with tempfile.TemporaryDirectory(prefix="w2s-bench-") as name:
        scratch = ArtifactStore(Path(name) / "store")
        scratch.root.mkdir()
        (scratch.root / "data").symlink_to((store.root / "data").resolve())
        work = functools.partial(measure, stage=stage, store=scratch, num_steps=num_steps)
        measurements = run_on_workers(work, stage.execution, Path(name))
    first = measurements[0]
    seconds = sum(measurement.timed_seconds for measurement in measurements)
    return Bench(
        level=stage.level,
        model=stage.spec.starts_from.name,
        num_parameters=resolution.models[stage.level].num_parameters,
        workers=stage.execution.workers,
        zero_stage=first.zero_stage,
        precision=first.precision,
        num_steps=num_steps,
        train_tokens_per_second=first.train_tokens / first.train_seconds,
        label_tokens_per_second=first.label_tokens / first.label_seconds if first.label_tokens else None,
        peak_bytes=tuple(measurement.peak_bytes for measurement in measurements),
        planned_peak_bytes=planned_peak_bytes,
        shares={phase: sum(worker.phase_seconds[phase] for worker in measurements) / seconds for phase in PHASES},
    )


def choose_stage(chains: Sequence[Chain], resolution: Resolution, level: str | None) -> PlannedStage:
    """Return the stage to measure: of `level`, or of the largest level that is trained.

    Raises:
        StudyError: when the study trains no such level.
    """
    trained = [stage for stage in distinct_stages(chains).values() if not isinstance(stage.spec.trainable, Prompt)]
    levels = tuple(dict.fromkeys(stage.level for stage in trained))
    if not levels:
        raise StudyError("the study trains no level")
    if level is None:
        level = max(levels, key=lambda name: resolution.models[name].num_parameters or 0)
    if level not in levels:
        raise StudyError(f"the study trains no level {level!r}", f"one of: {', '.join(levels)}")
    own = [stage for stage in trained if stage.level == level]
    return min(own, key=lambda stage: (not stage.predicts, len(stage.requires)))


def shorten(stage: PlannedStage, chains: Sequence[Chain], num_steps: int) -> PlannedStage:
    """Return a stage that can run alone: ground truth, no reference, `num_steps` steps or more, at most one prediction.

    It starts from a model of the ladder and predicts as many examples as it trains on.
    """
    spec, settings = stage.spec, stage.spec.optimisation
    source = spec.starts_from
    while isinstance(source, StageSource):
        source = distinct_stages(chains)[source.stage].spec.starts_from
    num_examples = sum(part.split.num_examples for part in spec.train)
    epochs = max(settings.epochs, num_steps * settings.examples_per_step / num_examples)
    optimisation = settings.model_copy(update={"epochs": epochs, "early_stopping": None, "keep_at": ()})
    train = tuple(part.model_copy(update={"labels": GroundTruth()}) for part in spec.train)
    score = None if spec.score is None else spec.score.model_copy(update={"reference": False})
    update = {"starts_from": source, "optimisation": optimisation, "train": train, "validation": None}
    spec = spec.model_copy(update={**update, "score": score, "reference": None})
    planned = sorted(stage.predicts, key=lambda prediction: prediction.split.is_test)
    predicts = tuple(
        prediction.model_copy(
            update={
                "stage": spec.identity,
                "split": prediction.split.model_copy(
                    update={"num_examples": min(prediction.split.num_examples, num_examples)}
                ),
            }
        )
        for prediction in planned[:1]
    )
    execution = stage.execution.model_copy(update={"checkpoint_every_seconds": _NEVER})
    update = {"spec": spec, "execution": execution, "predicts": predicts, "supervisors": (), "num_reports": 0}
    return stage.model_copy(update=update)


def measure(workers: "Workers", *, stage: PlannedStage, store: ArtifactStore, num_steps: int) -> Measurement:
    """Run the stage on this worker and measure it. Collective."""
    from w2s_ray.training import stage as stage_module
    from w2s_ray.training.memory.usage import Meter
    from w2s_ray.training.progress import NullObserver

    meter = Meter(workers.device)
    recorder = Recorder(workers.device, num_steps)
    with _recorded(recorder):
        result = stage_module.run_stage(stage, store=store, workers=workers, observer=NullObserver(), meter=meter)
    found = recorder.measurement
    found.label_seconds = result.seconds.get("labelling", 0.0) + result.seconds.get("evaluation", 0.0)
    if "read_tokens" in result.metrics:  # a probe predicts from features
        found.label_tokens, found.label_seconds = int(result.metrics["read_tokens"]), result.metrics["read_seconds"]
    found.peak_bytes = max(meter.peaks.values())
    is_fp32 = stage.spec.reads_once or result.metrics["fell_back_to_fp32"]
    found.precision = "fp32" if is_fp32 else stage.spec.optimisation.precision
    return found


class Recorder:
    """Wraps the functions that a training step consists of, and adds the time to the current phase.

    The order of a step is: waiting for its micro-batches (input), then forward and `backward` for each micro-batch,
    then `step` (optimizer). A collective interrupts the phase in which it is called.
    """

    def __init__(self, device: "torch.device", max_steps: int) -> None:
        self.measurement = Measurement()
        self._device, self._max_steps = device, max_steps
        self._step = 0
        self._is_timed = False
        self._phase: str | None = None
        self._since = 0.0
        """Start of the current phase, or of the plain steps."""

    def plan_steps(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """End the training after `max_steps` steps."""
        steps = original(*args, **kwargs)[: self._max_steps]
        self.divide(len(steps))
        return steps

    def divide(self, num_steps: int) -> None:
        """Divide the steps into warm-up (a sixth, at least 2), plain steps and timed steps (equally many)."""
        if num_steps < MIN_STEPS:
            raise StudyError(f"the level's training has {num_steps} steps, a measurement needs {MIN_STEPS}")
        self._num_steps = num_steps
        self._first_plain = 1 + max(2, num_steps // 6)
        self._first_timed = self._first_plain + (num_steps - self._first_plain + 2) // 2

    def in_advance(
        self, original: Callable[..., Any], feeder: "Feeder[Any]", steps: Sequence[Any]
    ) -> Iterator["list[MicroBatch]"]:
        prepared = original(feeder, steps)
        for positions_N in steps:
            num_tokens = int(feeder.examples.lengths_N[positions_N].sum())
            if feeder.purpose == "predicting":
                self.measurement.label_tokens += num_tokens
                yield next(prepared)
                continue
            self.begin_step(num_tokens)
            self.switch("input")
            batches = next(prepared)
            self.switch("forward")
            yield batches

    def backward(self, original: Callable[..., Any], engine: "Engine", loss: Any, *, is_last: bool) -> None:
        self.switch("backward")
        original(engine, loss, is_last=is_last)
        self.switch(None if is_last else "forward")

    def step(self, original: Callable[..., Any], engine: "Engine", learning_rate: float) -> Any:
        self.switch("optimizer")
        self.measurement.zero_stage = engine.zero_stage
        norm = original(engine, learning_rate)
        self.switch(None)
        self.end_step()
        return norm

    def collective(self, original: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Wait for the collective in a timed step, also if it is asynchronous."""
        if not self._is_timed:
            return original(*args, **kwargs)
        previous = self.switch("communication")
        work = original(*args, **kwargs)
        if hasattr(work, "wait"):
            work.wait()
        self.switch(previous)
        return work

    def begin_step(self, num_tokens: int) -> None:
        self._step += 1
        if self._step == self._first_plain:
            self._since = self._now()
        if self._first_plain <= self._step < self._first_timed:
            self.measurement.train_tokens += num_tokens
        if self._step == self._first_timed:
            now = self._now()
            self.measurement.train_seconds = now - self._since
            self._timed_since = self._since = now
            self._is_timed = True

    def end_step(self) -> None:
        if self._step == self._num_steps:
            self.measurement.timed_seconds = self._now() - self._timed_since
            self._is_timed = False

    def switch(self, phase: str | None) -> str | None:
        """Start a phase (None for no phase) if the step is timed; return the phase before."""
        previous = self._phase
        if self._is_timed:
            now = self._now()
            if previous is not None:
                self.measurement.phase_seconds[previous] += now - self._since
            self._since, self._phase = now, phase
        return previous

    def _now(self) -> float:
        if self._device.type == "cuda":
            import torch

            torch.cuda.synchronize(self._device)
        return time.perf_counter()


@contextmanager
def _recorded(recorder: Recorder) -> Iterator[None]:
    """Send the calls of the training loop and of torch.distributed inside the block through the recorder."""
    import torch.distributed

    from w2s_ray.training import stage as stage_module
    from w2s_ray.training.feed import Feeder
    from w2s_ray.training.zero import Engine

    wrappers: list[tuple[Any, str, Callable[..., Any]]] = [
        (stage_module, "plan_steps", recorder.plan_steps),
        (Feeder, "in_advance", recorder.in_advance),
        (Engine, "backward", recorder.backward),
        (Engine, "step", recorder.step),
        *((torch.distributed, name, recorder.collective) for name in COLLECTIVES),
    ]
    with ExitStack() as patches:
        for owner, name, wrapper in wrappers:
            original = getattr(owner, name)
            patches.callback(setattr, owner, name, original)
            setattr(owner, name, _wrapped(original, wrapper))
        yield


def _wrapped(original: Callable[..., Any], wrapper: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that calls `wrapper` with the original function first."""

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        return wrapper(original, *args, **kwargs)

    return call
