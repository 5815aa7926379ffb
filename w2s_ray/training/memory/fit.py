"""Fit a stage to its device's memory: recompute activations or not, size of micro-batches, and what to do on overflow.

When a stage runs out of memory, the size of its micro-batches is halved and remembered in the store
(store/micro_batches.py), so that the next attempt, and stages like it, start with what fits. Decisions are collective.
"""

from tokenizers import Tokenizer

from w2s_ray.data.tokens import longest_tokens
from w2s_ray.errors import DeviceFull, OutOfMemory, first_line
from w2s_ray.spec.chain import ModelShape
from w2s_ray.spec.stage import ModelSource
from w2s_ray.store.micro_batches import Circumstances, read_limit, write_limit
from w2s_ray.training.feed import Purpose
from w2s_ray.training.inputs import StageInputs
from w2s_ray.training.memory.footprint import LARGE_MODEL, PREDICTION_TOKENS, footprint
from w2s_ray.training.memory.usage import GIB, device_bytes, device_name, give_back_at_once, shortage_text

_HINT = (
    "raise execution.zero_stage or execution.workers, set activation_checkpointing: true, or end other processes that "
    "use this memory"
)


class MemorySettings:
    """How a stage uses its device's memory, chosen before it trains.

    Attributes:
        checkpoints_activations: whether activations are recomputed in the backward pass.
        training_tokens, prediction_tokens: padded tokens of a micro-batch.
    """

    def __init__(self, inputs: StageInputs, num_parameters: int, shape: ModelShape | None) -> None:
        self._inputs, self._stage, self._workers = inputs, inputs.stage, inputs.workers
        give_back_at_once(num_parameters >= LARGE_MODEL and self._workers.device.type == "cpu")
        self.notes: list[str] = []
        """Decisions that differ from what the study asks for, for the stage's log."""
        self.checkpoints_activations = self._choose_checkpointing(num_parameters, shape)
        self.training_tokens = self._micro_batch("training", self._stage.execution.tokens_per_micro_batch)
        self.prediction_tokens = self._micro_batch("predicting", PREDICTION_TOKENS)

    def _choose_checkpointing(self, num_parameters: int, shape: ModelShape | None) -> bool:
        """Follow the study; for `auto`, recompute activations when the stage would not fit otherwise."""
        asked = self._stage.execution.activation_checkpointing
        if asked != "auto":
            return asked
        if shape is None or self._stage.spec.reads_once:
            return False
        tokenizer: Tokenizer = self._inputs.tokenizer.backend_tokenizer
        tokens = longest_tokens(self._inputs.prepared, tokenizer)
        precision = self._stage.spec.optimisation.precision if self._workers.all_compute_bf16() else "fp32"
        need = footprint(self._stage, num_parameters, shape, tokens, precision).peak
        exceeds = self._workers.any(need > device_bytes(self._workers.device, self._workers_per_device))
        if exceeds:
            self.notes.append(f"activations are recomputed: kept, a worker would hold {need / GIB:.1f} GiB")
        return exceeds

    @property
    def _workers_per_device(self) -> int:
        """Workers that share this one's GPU, or its machine."""
        gpus = self._stage.execution.gpus_per_worker
        if self._workers.device.type == "cuda":
            return int(1 / gpus) if 0 < gpus < 1 else 1
        return self._workers.local_size

    def _micro_batch(self, purpose: Purpose, wanted: int) -> int:
        """Return `wanted`, or the number of tokens that was found to fit on every rank's device."""
        store = self._inputs.store
        tokens = self._workers.min(read_limit(store, self._circumstances(purpose)) or wanted)
        if tokens >= wanted:
            return wanted
        self.notes.append(f"micro-batches for {purpose} have {tokens} tokens: larger ones ran out of memory before")
        return tokens

    def _circumstances(self, purpose: Purpose) -> Circumstances:
        spec, execution = self._stage.spec, self._stage.execution
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
            activation_checkpointing=self.checkpoints_activations,
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
