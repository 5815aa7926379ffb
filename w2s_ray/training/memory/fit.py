"""Fit a stage to its device's memory: what `auto` chooses, size of micro-batches, and what to do on overflow.

When a stage runs out of memory, the size of its micro-batches is halved and remembered in the store
(store/micro_batches.py), so that the next attempt, and stages like it, start with what fits. Decisions are collective.
"""

from tokenizers import Tokenizer

from w2s_ray.data.tokens import longest_tokens
from w2s_ray.errors import DeviceFull, OutOfMemory, first_line
from w2s_ray.spec.chain import ModelShape
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import ModelSource
from w2s_ray.store.micro_batches import Circumstances, read_limit, write_limit
from w2s_ray.training.feed import Purpose
from w2s_ray.training.inputs import StageInputs
from w2s_ray.training.memory.footprint import LARGE_MODEL, Footprint, prediction_tokens
from w2s_ray.training.memory.settle import settle
from w2s_ray.training.memory.usage import (
    GIB,
    device_bytes,
    device_name,
    give_back_at_once,
    host_memory,
    share_of_host,
    shortage_text,
)

_HINT = (
    "raise execution.zero_stage or execution.workers, set activation_checkpointing: true, or end other processes that "
    "use this memory"
)


class MemorySettings:
    """How a stage uses its device's memory, chosen before it trains.

    Attributes:
        execution: of the stage, with nothing left to choose.
        training_tokens, prediction_tokens: padded tokens of a micro-batch.
    """

    def __init__(self, inputs: StageInputs, num_parameters: int, shape: ModelShape | None) -> None:
        self._inputs, self._stage, self._workers = inputs, inputs.stage, inputs.workers
        give_back_at_once(num_parameters >= LARGE_MODEL and self._workers.device.type == "cpu")
        self.notes: list[str] = []
        """Decisions that differ from what the study asks for, for the stage's log."""
        self.execution = self._settle(num_parameters, shape)
        self.training_tokens = self._micro_batch("training", self.execution.tokens_per_micro_batch)
        self.prediction_tokens = self._micro_batch("predicting", prediction_tokens(inputs.spec, self.execution))

    def _settle(self, num_parameters: int, shape: ModelShape | None) -> Execution:
        """Choose what the study leaves to `auto` for the memory of this group's devices; collective."""
        asked, workers = self._stage.execution, self._workers
        keeps = asked.activation_checkpointing != "auto" or self._stage.spec.reads_once
        if keeps and asked.zero_stage != "auto":
            return settle(self._stage, None, None, None, lambda _: False)[0].execution
        tokenizer: Tokenizer = self._inputs.tokenizer.backend_tokenizer
        tokens = None if shape is None else longest_tokens(self._inputs.prepared, tokenizer)
        precision = self._stage.spec.optimisation.precision if workers.all_compute_bf16() else "fp32"
        on_gpu = workers.device.type == "cuda"
        available = device_bytes(workers.device, asked.workers_per_gpu if on_gpu else workers.local_size)
        on_host = share_of_host(host_memory().total, workers.local_size)
        refused: list[Footprint] = []

        def exceeds(need: Footprint) -> bool:
            if not workers.any(need.exceeds(available, on_host)):
                return False
            refused.append(need)
            return True

        settled, need = settle(self._stage, num_parameters, shape, tokens, exceeds, precision)
        execution = settled.execution
        if asked.zero_stage == "auto":
            why = "the model's shape is unknown"
            if need is not None:
                why = f"about {need.peak / GIB:.1f} of {available / GIB:.1f} GiB per worker"
            self.notes.append(f"auto chose {execution.memory_settings}: {why}")
        elif execution.activation_checkpointing and asked.activation_checkpointing == "auto":
            self.notes.append(f"activations are recomputed: kept, a worker would hold {refused[-1].peak / GIB:.1f} GiB")
        return execution

    def _micro_batch(self, purpose: Purpose, wanted: int) -> int:
        """Return `wanted`, or the number of tokens that was found to fit on every rank's device."""
        store = self._inputs.store
        tokens = self._workers.min(read_limit(store, self._circumstances(purpose)) or wanted)
        if tokens >= wanted:
            return wanted
        self.notes.append(f"micro-batches for {purpose} have {tokens} tokens: larger ones ran out of memory before")
        return tokens

    def _circumstances(self, purpose: Purpose) -> Circumstances:
        spec, execution = self._stage.spec, self.execution
        source = spec.starts_from
        return Circumstances(
            model=source.name,
            revision=source.revision if isinstance(source, ModelSource) else "",
            architecture=source.architecture if isinstance(source, ModelSource) else None,
            trainable=spec.trainable.kind,
            device=device_name(self._workers.device),
            context_tokens=spec.optimisation.context_tokens,
            precision=spec.optimisation.precision,
            workers=self._workers.size,
            zero_stage=execution.zero_stage,
            offload_optimizer=execution.offload_optimizer,
            offload_parameters=execution.offload_parameters,
            activation_checkpointing=execution.activation_checkpointing,
            purpose=purpose,
        )

    def shrink(self, error: Exception) -> DeviceFull:
        """Halve the micro-batches for the next attempt.

        Returns:
            OutOfMemory, after which the stage can run again, or DeviceFull when smaller micro-batches cannot help.
        """
        largest = self._inputs.largest
        halved = largest.tokens // 2
        if largest.examples <= 1 or halved >= largest.allowed_tokens:
            return device_full(self._inputs, error, f"one example of {largest.tokens} tokens at a time")
        write_limit(self._inputs.store, self._circumstances(largest.purpose), halved)
        return OutOfMemory(
            f"{self._stage.spec.slug} ran out of memory with micro-batches of {largest.tokens} tokens: "
            f"{first_line(error)}; {shortage_text(self._workers.device)}",
            f"it resumes from its last checkpoint with micro-batches of {halved} tokens, and so do stages like it",
        )


def device_full(inputs: StageInputs, error: Exception, activity: str) -> DeviceFull:
    """Return the error of a stage that ran out of memory where smaller micro-batches would not help."""
    device = inputs.workers.device
    return DeviceFull(
        f"{inputs.spec.slug} ran out of memory with {activity}: {first_line(error)}; {shortage_text(device)}", _HINT
    )
