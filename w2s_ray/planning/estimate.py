"""Estimates of a stage's steps, tokens, time and disk space before it runs."""

import math
import statistics
from collections.abc import Iterable, Mapping

from w2s_ray.data import batches
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.execution import ExecutionSpec
from w2s_ray.spec.stage import AllWeights, Probe, Prompt
from w2s_ray.store.record import Record

ASSUMED_FLOPS_PER_CPU = 1e11
"""Floating-point operations per second of a CPU worker, used if the store has no measured rate."""
ASSUMED_FLOPS_PER_GPU = 1e14
RUN_SECONDS = 18.0
"""Time of a run besides its worker groups and stages: imports, Ray's and Tune's start and end, and the report."""
GROUP_SECONDS = 18.0
"""Time from the request of a worker group to its first step."""
STAGE_SECONDS = 0.6
"""Time of a stage besides its optimizer steps and the texts that it reads."""
STEP_SECONDS = 0.02
"""Time of an optimizer step besides its tokens; a measured rate includes it."""
DISK_BYTES_PER_SECOND = 200e6
"""Speed at which weights are read, and written with their checksums."""
CHARS_PER_TOKEN = 3.0
"""Assumed until a task is tokenised."""
WEIGHT_BYTES, ADAM_BYTES = 4, 8
"""fp32 weights, and Adam's two moments, per parameter."""


def num_examples(stage: PlannedStage) -> int:
    """Return the most examples (for pretraining: documents) that filters leave for one epoch."""
    return sum(max(round(part.split.num_examples * part.labels.kept_share), 1) for part in stage.spec.train)


def num_steps(stage: PlannedStage, chars_per_example: float) -> int:
    """Return the optimizer steps of a training that does not stop early."""
    if isinstance(stage.spec.trainable, Prompt):
        return 0
    optimisation = stage.spec.optimisation
    examples: float = num_examples(stage)
    if stage.spec.objective == "next_token":
        examples *= chars_per_example / CHARS_PER_TOKEN / optimisation.context_tokens
    return batches.num_steps(
        math.ceil(examples), epochs=optimisation.epochs, examples_per_step=optimisation.examples_per_step
    )


def train_tokens(stage: PlannedStage, chars_per_example: float) -> int:
    """Estimate the tokens that the model reads in a whole training; a probe reads its examples once."""
    if isinstance(stage.spec.trainable, Prompt):
        return 0
    optimisation = stage.spec.optimisation
    tokens = chars_per_example / CHARS_PER_TOKEN
    if stage.spec.objective != "next_token":
        tokens = min(tokens, optimisation.context_tokens)
    return math.ceil(num_examples(stage) * tokens * _readings(stage) * stage.spec.num_readings)


def predicted_tokens(stage: PlannedStage, chars_per_example: float) -> int:
    """Estimate the tokens of all predictions of the stage."""
    tokens = min(chars_per_example / CHARS_PER_TOKEN, stage.spec.optimisation.context_tokens)
    num_predicted = sum(prediction.split.num_examples for prediction in stage.predicts)
    return math.ceil(tokens * _readings(stage) * num_predicted)


def validation_tokens(stage: PlannedStage, chars_per_example: float) -> int:
    """Estimate the tokens that all evaluations of the stage on its validation examples read."""
    validation = stage.spec.validation
    if validation is None or isinstance(stage.spec.trainable, Prompt):
        return 0
    num_evaluations = 1 + stage.num_reports
    stopping = stage.spec.optimisation.early_stopping
    if stopping is not None:
        num_evaluations += num_steps(stage, chars_per_example) // stopping.every_steps
    tokens = min(chars_per_example / CHARS_PER_TOKEN, stage.spec.optimisation.context_tokens)
    return math.ceil(tokens * _readings(stage) * validation.split.num_examples * num_evaluations)


def _readings(stage: PlannedStage) -> int:
    """Return how often a scored stage reads the tokens of an example: once for each class's name.

    A pair's tokens include both texts. Completions without their prompts, for calibration, are counted like those with.
    """
    if stage.spec.score is None:
        return 1
    per_example = stage.spec.texts_per_example
    return per_example // 2 if stage.spec.objective == "preference" else per_example


def seconds(
    stage: PlannedStage,
    num_parameters: int,
    chars_per_example: float,
    known_rate: float | None,
    *,
    is_trained: bool = False,
) -> float:
    """Estimate the seconds in which the stage trains, evaluates and labels.

    The rate is `known_rate` (tokens per second) or, if None, an assumed one. A stage that `is_trained` only labels.
    """
    # A token costs a third of its training in a forward pass, which is all that predictions and probes need.
    is_forward = isinstance(stage.spec.trainable, Probe)
    rate = known_rate or _assumed_rate(num_parameters, stage.execution) * (3 if is_forward else 1)
    if stage.execution.activation_checkpointing is True and known_rate is None:
        rate *= 0.75  # a second forward pass
    labelling = predicted_tokens(stage, chars_per_example) / (1 if is_forward else 3) / rate
    if is_trained:
        return labelling
    evaluation = validation_tokens(stage, chars_per_example) / (1 if is_forward else 3) / rate
    fixed = 0.0 if known_rate is not None or is_forward else STEP_SECONDS * num_steps(stage, chars_per_example)
    return train_tokens(stage, chars_per_example) / rate + fixed + evaluation + labelling


def overhead_seconds(num_parameters: int) -> float:
    """Estimate what a stage takes besides `seconds`: it loads a model, and writes it with its checksum."""
    return STAGE_SECONDS + 2 * WEIGHT_BYTES * num_parameters / DISK_BYTES_PER_SECOND


def start_seconds(stages: Iterable[PlannedStage]) -> float:
    """Estimate what a run of these stages takes besides them: each size of worker group is started once."""
    shapes = {stage.execution.group_shape for stage in stages}
    return RUN_SECONDS + GROUP_SECONDS * len(shapes) if shapes else 0.0


def disk_bytes(stage: PlannedStage, num_parameters: int) -> int:
    """Estimate the disk space of the finished stage and its predictions, without adapters, which are small."""
    rows = sum(prediction.split.num_examples for prediction in stage.predicts)
    settings = stage.spec.optimisation
    stores_none = isinstance(stage.spec.trainable, Prompt) or stage.keeps_adapters
    models = 0 if stores_none else 1 + len(settings.keep_at)
    weight_bytes = WEIGHT_BYTES // (2 if settings.saved_precision == "bf16" else 1)
    return models * num_parameters * weight_bytes + rows * (32 + 4 * stage.spec.num_classes)


def checkpoint_bytes(stage: PlannedStage, num_parameters: int) -> int:
    """Return the most disk space of the running stage's checkpoints, which hold trained weights and their moments.

    Two are kept, and under early stopping as many times the best weights. A head or LoRA weights are not counted.
    """
    if not isinstance(stage.spec.trainable, AllWeights):
        return 0
    best = 0 if stage.spec.optimisation.early_stopping is None else WEIGHT_BYTES
    return 2 * num_parameters * (WEIGHT_BYTES + ADAM_BYTES + best)


def rates_by_model(records: Iterable[Record]) -> dict[tuple[str, str], float]:
    """Return the median tokens per second in the store's records, by model name and kind of trainable.

    The kind matters: a probe's rate is that of reading without gradients, and LoRA computes fewer gradients.
    """
    seen: dict[tuple[str, str], list[float]] = {}
    for record in records:
        metrics = record.metrics
        if metrics.get("read_seconds", 0.0) > 0:
            rate = metrics["read_tokens"] / metrics["read_seconds"]
        else:
            rate = metrics.get("tokens_per_second", 0.0)
        if record.kind == "stage" and rate > 0:
            seen.setdefault((record.spec["starts_from"]["name"], record.spec["trainable"]["kind"]), []).append(rate)
    return {key: statistics.median(rates) for key, rates in seen.items()}


def rate_of(stage: PlannedStage, rates: Mapping[tuple[str, str], float]) -> float | None:
    """Return the rate of `rates_by_model` for a stage, or None.

    A prompt trains nothing; its predictions are as fast as those of the whole model.
    """
    trainable = stage.spec.trainable
    return rates.get((stage.spec.starts_from.name, "all" if isinstance(trainable, Prompt) else trainable.kind))


def _assumed_rate(num_parameters: int, execution: ExecutionSpec) -> float:
    gpus, cpus = execution.gpus_per_worker, execution.cpus_per_worker
    flops = gpus * ASSUMED_FLOPS_PER_GPU if gpus else cpus * ASSUMED_FLOPS_PER_CPU
    return execution.workers * flops / (6 * max(num_parameters, 1))
