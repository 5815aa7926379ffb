"""The memory of a stage's workers, computed from the model's shape and the settings. Loads no torch.

`footprint` adds up the memory of each phase of a stage. Terms that are not plain arithmetic (activations, memory that
the allocator keeps, the process itself) are fitted to measurements of `benchmarks/memory.py` (docs/memory.md).

Sizes are in bytes. Weights, gradients and moments are fp32 for every precision of the forward pass (zero.py).
"""

from dataclasses import dataclass

from w2s_ray.spec.chain import ModelShape, SettledStage
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import AllWeights, Lora, Precision, Probe, Prompt, StageSpec
from w2s_ray.training.memory.limits import limits_for, with_own_limits

CPU_PREDICTION_TOKENS = 2048
"""Padded tokens of one forward pass without gradients on CPUs, where 8,192 take 1.9 times as long (`w2s:large`)."""
_GPU_PREDICTION_TOKENS = 8192
"""The fewest on GPUs."""
_GPU_FACTOR = 8
FILE_BYTES = 5 * 10**9
"""Size of a saved model's files, as on the Hugging Face hub; a rank holds one at a time. A larger layer has its own."""
LARGE_MODEL = 50_000_000
"""Parameters from which on freed memory is returned to the kernel at once: the cost is then negligible."""

_FP32, _BF16 = 4, 2
_PROCESS = int(0.58 * 2**30)
"""The interpreter and libraries of a worker without a model."""
_UNFUSED, _UNFUSED_COPIES = ("gelu_new", "gelu_fast"), 6
"""Activations that PyTorch computes as separate operations, each of which saves its input."""
_CUDA_CONTEXT = int(0.6 * 2**30)


def prediction_tokens(spec: StageSpec, execution: Execution) -> int:
    """Return the padded tokens of a worker's forward pass without gradients, unless memory ran out before.

    It keeps no activations, so a GPU reads eight times the texts of a training step's micro-batch, where few hidden
    states of a text matter: one for a head, those of a class's name for its score. A language model that writes keeps
    all of them, and how many a pair's completions have is not known here.
    """
    if not execution.gpus_per_worker:
        return CPU_PREDICTION_TOKENS
    if spec.is_language_model and not _scores_names(spec):
        return _GPU_PREDICTION_TOKENS
    return max(_GPU_PREDICTION_TOKENS, _GPU_FACTOR * execution.tokens_per_micro_batch)


def _scores_names(spec: StageSpec) -> bool:
    """Return whether its completions are the names of classes, which have few tokens."""
    return spec.completion_score is not None and bool(spec.class_names)


@dataclass(frozen=True)
class Footprint:
    """Peak memory of one worker, in bytes; of rank 0 where ranks differ."""

    parts: dict[str, int]
    """Parts of the phase with the highest peak."""
    phases: dict[str, int]
    """The peak of each phase."""
    host: int = 0
    """Bytes that the worker of a GPU holds in the host's memory; those of a CPU worker are in `parts`."""
    files: int = 0
    """Bytes that the worker has in files of `nvme_folder`."""

    @property
    def peak(self) -> int:
        return max(self.phases.values())

    def exceeds(self, available: int | None, available_on_host: int | None) -> bool:
        """Return whether a worker needs more than it has; what is unknown is enough."""
        return (available is not None and self.peak > available) or (
            available_on_host is not None and self.host > available_on_host
        )


def num_trained(spec: StageSpec, num_parameters: int, shape: ModelShape) -> int:
    """Return the number of trained parameters; without those of a LoRA stage's head, which are few."""
    hidden = shape.hidden_size
    match spec.trainable:
        case AllWeights():
            return num_parameters
        case Probe():
            return hidden * spec.num_classes
        case Lora() as lora:
            attention = 4 * hidden + 2 * (hidden + shape.key_size)
            inner = (3 if shape.gated else 2) * (hidden + shape.inner_size)
            return shape.num_layers * lora.rank * (attention + inner)
        case Prompt():
            return 0


def footprint(
    stage: SettledStage,
    num_parameters: int,
    shape: ModelShape,
    longest_tokens: int | None = None,
    precision: Precision | None = None,
) -> Footprint:
    """Return the memory of a worker of `stage`; on a GPU, of its device.

    Args:
        stage: what is trained and how.
        num_parameters: of the model.
        shape: of the model.
        longest_tokens: tokens of the task's longest text; None when unknown.
        precision: of the forward pass, if it differs from the stage's (a device without bf16).
    """
    terms = _Terms(stage, num_parameters, shape, longest_tokens, precision)
    phases = {name: sum(parts.values()) for name, parts in terms.phases.items()}
    worst = max(phases, key=lambda name: phases[name])
    parts = {name: size for name, size in terms.phases[worst].items() if size}
    return Footprint(parts=parts, phases=phases, host=terms.host, files=terms.files)


class _Terms:
    """The terms of a footprint, and the phases that they are part of."""

    def __init__(
        self,
        stage: SettledStage,
        num_parameters: int,
        shape: ModelShape,
        longest_tokens: int | None,
        precision: Precision | None,
    ) -> None:
        self._stage, self._spec, self._execution = stage, stage.spec, stage.execution
        self._precision = precision or stage.spec.optimisation.precision
        self._size, self._shape = num_parameters, shape
        self._on_gpu = self._execution.gpus_per_worker > 0
        contexts = [self._spec.optimisation.context_tokens]
        if isinstance(self._spec.trainable, Prompt):  # a reference reads at the contexts of the methods that share it
            contexts += [prediction.context_tokens for prediction in stage.predicts]
        self._context = max(contexts)
        if longest_tokens is not None and not self._fills_context:
            self._context = min(self._context, longest_tokens + self._added_tokens)
        self._limits = with_own_limits(limits_for(num_parameters, shape.hidden_size), stage.execution)
        self._is_large = num_parameters >= LARGE_MODEL
        self.phases: dict[str, dict[str, int]] = {
            "loading": self._process() | {"weights": self._weights, "loading": self._loading},
            "predicting": self._process() | {"weights": self._weights} | self._forward_alone(),
        }
        if self._spec.reads_once:
            self.phases = self._probing()
        elif self._trained:
            self.phases |= {"training": self._training(), "saving": self._saving()}
            if self._spec.optimisation.early_stopping is not None or stage.num_reports:
                self.phases["evaluating"] = self.phases["predicting"] | {"moments": self._moments}

    @property
    def _fills_context(self) -> bool:
        """Whether its texts are as long as the context: blocks, answers, and prompts, which may have shots."""
        return (self._spec.is_language_model and self._spec.score is None) or isinstance(self._spec.trainable, Prompt)

    @property
    def _added_tokens(self) -> int:
        """The most tokens that are added to a text: cue and class name, or one before a pair without a prompt."""
        score = self._spec.score
        if score is None:
            return 0
        return (
            1
            + len((score.cue or "").encode())
            + max((len(name.encode()) for name in self._spec.class_names), default=0)
        )

    def _process(self) -> dict[str, int]:
        return {"process": _CUDA_CONTEXT if self._on_gpu else _PROCESS}

    @property
    def _full(self) -> int:
        """All weights, gathered in the host's memory while they are read or saved."""
        return 0 if self._on_gpu else _FP32 * self._size

    @property
    def _loading(self) -> int:
        """Bytes held beside the weights while they are read: the mapped files on a CPU, and under ZeRO-3 the largest.

        The largest weight is held twice, gathered and as it is sharded. Weights that are drawn have no files.
        """
        if self._execution.zero_stage != 3:
            return self._full
        twice = 2 * _FP32 * min(self._size, self._largest)
        return twice if self._spec.starts_drawn else max(self._full, twice)

    @property
    def _largest(self) -> int:
        """Elements of the largest matrix."""
        return max(self._shape.vocabulary, self._shape.inner_size) * self._shape.hidden_size

    @property
    def _offloads(self) -> bool:
        """Whether a GPU's moments, and gradients as they arrive, go to the host; without ZeRO they stay."""
        return self._on_gpu and self._execution.offload_optimizer and self._execution.zero_stage > 0

    @property
    def _moments(self) -> int:
        in_files = self._execution.offload_optimizer and self._execution.nvme_folder is not None
        if self._offloads or (in_files and not self._on_gpu):
            return 0
        return 2 * _FP32 * self._trained // self._share(1)

    @property
    def host(self) -> int:
        """The host's memory for a GPU's worker: the process and what is offloaded, but not what is in files.

        DeepSpeed keeps offloaded gradients twice: under ZeRO-3 as they arrive and as the optimizer reads them, under
        ZeRO-2 as they arrive and, where the optimizer has read them, the updated weights on their way to the GPU.
        """
        if not self._on_gpu:
            return 0
        execution = self._execution
        in_files = execution.nvme_folder is not None
        copies = (2 if in_files else 4 if execution.offload_parameters else 5) if self._offloads else 0
        state = copies * _FP32 * self._trained // self._share(1)
        if execution.offload_parameters and not in_files:
            state += _FP32 * self._size // self._share(3)
        return _PROCESS + max(state, min(_FP32 * self._size, FILE_BYTES))

    @property
    def files(self) -> int:
        """Moments, masters that are no views of the weights, and shards of weights, in files of `nvme_folder`."""
        execution = self._execution
        if execution.nvme_folder is None:
            return 0
        copies = 3 if self._on_gpu and not execution.offload_parameters else 2
        state = copies * _FP32 * self._trained // self._share(1)
        weights = _FP32 * self._size // self._share(3)
        return state * execution.offload_optimizer + weights * execution.offload_parameters

    @property
    def _weights(self) -> int:
        execution = self._execution
        keeps_masters = self._on_gpu and self._trained and not execution.offload_optimizer
        if execution.offload_parameters and not keeps_masters and (self._on_gpu or execution.nvme_folder is not None):
            return 0
        return _FP32 * self._size // self._share(3)

    @property
    def _trained(self) -> int:
        return num_trained(self._spec, self._size, self._shape)

    def _share(self, from_stage: int) -> int:
        """Number of workers that share what ZeRO shards from `from_stage` on."""
        return self._execution.workers if self._execution.zero_stage >= from_stage else 1

    def _probing(self) -> dict[str, dict[str, int]]:
        """The phases of a probe: the frozen model is freed before training, and it is loaded again to be saved.

        Without ZeRO-3 rank 0 loads it alone, in the host's memory.
        """
        features = self._process() | {"features": self._features()}
        alone = self._forward_alone()
        forward = {"activations": alone["activations"], "head": alone["head"]}
        always = self._process() | {"weights": self._weights, "gathered weights": self._gathered(), "buckets": 0}
        return {
            "loading": self.phases["loading"],
            "reading": always | forward | {"kept by the allocator": self._kept(always, forward)},
            "training": features,
            "saving": features
            | ({"weights": self._weights} if self._execution.zero_stage == 3 else {})
            | {"collected weights": min(self._full, FILE_BYTES) if self._execution.zero_stage == 3 else self._full},
        }

    def _training(self) -> dict[str, int]:
        """The largest of three: the end of the forward pass, the end of the backward pass, the optimizer's step."""
        all_gradients = 0 if self._offloads else _FP32 * self._trained
        shard = all_gradients // self._execution.workers
        zero_stage = self._execution.zero_stage
        arriving = all_gradients if zero_stage <= 1 else shard
        forward = {
            "activations": self._activations(),
            "head": self._head(self._micro_tokens),
            "bf16 weights": self._cast_weights(),
            "gradients": arriving if self._num_micro_batches > 1 else 0,  # of earlier micro-batches
        }
        backward = {"gradients": arriving, "largest gradient": self._largest_gradient()}
        copies = {0: 0, 1: shard, 2: shard, 3: min(_FP32 * self._limits.sub_group, shard)}
        step = {"gradients": all_gradients if zero_stage == 0 else shard, "copied gradients": copies[zero_stage]}
        always = self._process() | {
            "weights": self._weights,
            "moments": self._moments,
            "gathered weights": self._gathered(),
            "buckets": self._buckets(),
        }
        worst = max((forward, backward, step), key=lambda parts: sum(parts.values()))
        return always | worst | {"kept by the allocator": self._kept(always, forward)}

    def _saving(self) -> dict[str, int]:
        return self._process() | {
            "weights": self._weights,
            "collected weights": min(self._full, FILE_BYTES),
            "gathered weights": self._gathered(),
            "buckets": self._buckets(),
        }

    def _forward_alone(self) -> dict[str, int]:
        tokens = min(prediction_tokens(self._spec, self._execution), self._most_read)
        layer = tokens * _FP32 * (3 * self._shape.inner_size + 6 * self._shape.hidden_size)
        return {"activations": layer, "head": self._head(tokens) * 3 // 4, "gathered weights": self._gathered()}

    def _features(self) -> int:
        """The features of the training examples and of the largest other split, in the host's memory."""
        if self._on_gpu:
            return 0
        examples = sum(part.split.num_examples for part in self._spec.train) + self._largest_split
        return _FP32 * self._shape.hidden_size * examples * (2 if self._spec.objective == "preference" else 1)

    @property
    def _largest_split(self) -> int:
        """Examples of the largest predicted split; for a probe, of the largest split that it reads."""
        splits = [prediction.split for prediction in self._stage.predicts]
        if self._spec.reads_once:
            splits += [part.split for part in self._spec.train]
        return max((split.num_examples for split in splits), default=0)

    @property
    def _most_read(self) -> int:
        """Padded tokens per worker of the largest split that is read without gradients."""
        rows = self._largest_split
        return max(rows // self._execution.workers, 1) * self._example

    @property
    def _micro_tokens(self) -> int:
        """Padded tokens of a worker's largest micro-batch."""
        examples = -(-self._spec.optimisation.examples_per_step // self._execution.workers)
        return max(min(examples * self._example, self._execution.tokens_per_micro_batch), self._example)

    @property
    def _num_micro_batches(self) -> int:
        examples = -(-self._spec.optimisation.examples_per_step // self._execution.workers)
        return -(-examples * self._example // self._micro_tokens)

    @property
    def _example(self) -> int:
        """Tokens of an example, all its texts together."""
        return self._context * self._spec.texts_per_example

    @property
    def _element(self) -> int:
        """Bytes of a number in the autocast forward pass."""
        return _BF16 if self._precision == "bf16" else _FP32

    def _activations(self) -> int:
        """Return the bytes that autograd saves for one micro-batch; docs/memory.md explains the terms."""
        shape, tokens, element = self._shape, self._micro_tokens, self._element
        if isinstance(self._spec.trainable, Probe):
            return tokens * _FP32 * (3 * shape.inner_size + 6 * shape.hidden_size)  # one layer, freed at once
        inner = 4 if shape.gated else _UNFUSED_COPIES if shape.activation in _UNFUSED else 2
        norms = 6 if shape.gated else 4
        attention = 2 * (shape.hidden_size + shape.key_size)
        layer = tokens * (element * (inner * shape.inner_size + attention) + _FP32 * norms * shape.hidden_size)
        if self._execution.activation_checkpointing:
            return shape.num_layers * tokens * _FP32 * shape.hidden_size + 2 * layer
        return shape.num_layers * layer

    def _head(self, tokens: int) -> int:
        """A language model's logits and the intermediates of cross-entropy; a classifier has next to none.

        Scored completions have logits for their own tokens only; how many tokens of a pair those are is not known here.
        """
        if not self._spec.is_language_model:
            return 0
        if _scores_names(self._spec):
            longest = max(len(name.encode()) for name in self._spec.class_names) + 1
            tokens = min(tokens, -(-tokens // self._context) * longest)
        return tokens * self._shape.vocabulary * 4 * _FP32

    def _cast_weights(self) -> int:
        """Without ZeRO-3 autocast keeps a bf16 copy of each matrix from the forward to the backward pass."""
        if self._element != _BF16 or self._execution.zero_stage == 3:
            return 0
        return _BF16 * (self._size if isinstance(self._spec.trainable, Lora) else self._trained)

    def _gathered(self) -> int:
        if self._execution.zero_stage != 3:
            return 0
        return _FP32 * min(self._size, self._largest + self._limits.prefetch + self._limits.reuse)

    def _largest_gradient(self) -> int:
        """ZeRO-3 reduces a gradient that is larger than a bucket by itself: whole, flat, and padded for the workers."""
        if self._execution.zero_stage != 3 or not isinstance(self._spec.trainable, AllWeights):
            return 0
        return 3 * _FP32 * max(0, self._largest - self._limits.bucket)

    def _buckets(self) -> int:
        """Gradients being reduced: the bucket, and under ZeRO the copy that the collective sends."""
        copies = 2 if self._execution.zero_stage else 1
        return _FP32 * min(self._limits.bucket, self._trained) * copies

    def _kept(self, always: dict[str, int], forward: dict[str, int]) -> int:
        """Fragments that a CPU worker's allocator keeps (docs/memory.md)."""
        if self._on_gpu:
            return 0
        if self._is_large:
            return (sum(always.values()) + sum(forward.values())) // 20
        return forward["activations"] + always["buckets"] + always["gathered weights"]
