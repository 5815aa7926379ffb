"""A stage of a model that no machine here can hold: what one worker holds, sends, receives and writes.

    python benchmarks/dry_run.py                                   # the shape of Llama 3 70B on 32 workers
    python benchmarks/dry_run.py --shape qwen2-72b --workers 16

The model, DeepSpeed's engine, and one forward and backward pass are those of a real stage under ZeRO-3. They run as
rank 0 of a process group whose other ranks do not exist (torch's `fake` backend), with fake tensors, which have a shape
and no memory. Counted are the bytes of all tensors that are alive, of the model state, and of all collectives. The
optimizer's step is not run: it reads the norm of the gradients, which fake tensors do not have.

The forward pass is that of a CPU (padded, with `sdpa`); `w2s plan` computes the peak of a GPU. Times follow from the
rates that are given as arguments, for each worker.
"""

import argparse
import os
import tempfile
import weakref
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from states import theory_bytes
from w2s_ray.spec.chain import PlannedStage, Resolution, ResolvedModel, ResolvedTask, SettledStage
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.load import parse_study
from w2s_ray.spec.stage import Optimisation
from w2s_ray.training.memory.footprint import Footprint
from w2s_ray.training.memory.settle import settle
from w2s_ray.training.models import files

if TYPE_CHECKING:
    from w2s_ray.training.zero import Engine

SHAPES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama-3-70b": (
        "llama",
        {
            "vocab_size": 128_256,
            "hidden_size": 8192,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "intermediate_size": 28_672,
        },
    ),
    "qwen2-72b": (
        "qwen2",
        {
            "vocab_size": 152_064,
            "hidden_size": 8192,
            "num_hidden_layers": 80,
            "num_attention_heads": 64,
            "num_key_value_heads": 8,
            "intermediate_size": 29_568,
        },
    ),
}
CONTEXT, TOKENS = 512, 4096


@dataclass
class Counts:
    """What rank 0 held and exchanged."""

    num_parameters: int = 0
    state: dict[str, int] = field(default_factory=dict)
    """Bytes of model state by kind, after the backward pass."""
    peak: int = 0
    """Bytes of all tensors at once, at most."""
    exchanged: dict[str, int] = field(default_factory=dict)
    """Bytes that rank 0 receives in all-gathers and sends in reductions, of one micro-batch."""
    checkpoint: int = 0
    """Bytes that rank 0 writes into a checkpoint."""
    export: int = 0
    """Bytes of the exported model, over all ranks."""


def count(config: Any, workers: int, *, recomputes: bool = True) -> Counts:
    """Build the engine as rank 0 of `workers` and run one micro-batch; starts a process group in this process.

    Args:
        config: of a transformers model.
        workers: ranks.
        recomputes: whether activations are recomputed.
    """
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": str(workers)}
    import torch
    import torch.distributed as dist
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.testing._internal.distributed.fake_pg import FakeStore
    from transformers import AutoModelForSequenceClassification

    from states import held_bytes
    from w2s_ray.training.models.drawing import sharded_drawing
    from w2s_ray.training.models.network import Network, checkpoint_activations
    from w2s_ray.training.zero import Engine

    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=workers)
    counts = Counts()
    execution = Execution(workers=workers, zero_stage=3, activation_checkpointing=recomputes)
    with FakeTensorMode(allow_non_fake_inputs=True), _tracker(counts, workers):
        with sharded_drawing(execution):
            model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        network = Network(model, "bf16")
        if recomputes:
            checkpoint_activations(network)
        engine = Engine(network, execution, Optimisation(precision="bf16"))
        counts.num_parameters = engine.num_parameters
        rows = TOKENS // CONTEXT
        held_bytes(engine)  # creates the moments
        counts.exchanged.clear()  # those of construction
        loss = engine(torch.ones(rows, CONTEXT, dtype=torch.long), torch.full((rows,), CONTEXT - 1)).sum()
        engine.backward(loss, is_last=True)
        counts.state = held_bytes(engine)
        counts.checkpoint = _checkpoint_bytes(engine)
        counts.export = sum(engine.saved_bytes.values())
        engine.destroy()
    dist.destroy_process_group()
    return counts


def _checkpoint_bytes(engine: "Engine") -> int:
    return sum(tensor.nbytes for shard in engine.shards() for tensor in shard.tensors.values())


def _tracker(counts: Counts, workers: int) -> Any:
    """Return a mode that counts the storages that are alive, and the bytes of collectives."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    class Tracker(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __init__(self) -> None:
            super().__init__()  # type: ignore[no-untyped-call]
            self.alive = 0
            self.known: set[int] = set()

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func.namespace == "c10d":
                self.exchange(func.name().split("::")[1].split(".")[0], args)
            result = func(*args, **(kwargs or {}))
            for leaf in tree_leaves(result):
                if isinstance(leaf, torch.Tensor):
                    self.add(leaf.untyped_storage())
            return result

        def add(self, storage: Any) -> None:
            place, size = storage._cdata, storage.nbytes()
            if place in self.known:
                return
            self.known.add(place)
            self.alive += size
            counts.peak = max(counts.peak, self.alive)
            weakref.finalize(storage, self.remove, place, size)

        def remove(self, place: int, size: int) -> None:
            self.known.discard(place)
            self.alive -= size

        def exchange(self, name: str, args: Any) -> None:
            """Add what rank 0 receives or sends: all but its own share."""
            tensors = [leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)]
            largest = max((tensor.nbytes for tensor in tensors), default=0)
            passes = 2 if "allreduce" in name else 1
            size = passes * largest * (workers - 1) // workers
            counts.exchanged[name.strip("_")] = counts.exchanged.get(name.strip("_"), 0) + size

    return Tracker()


def plan(
    config: Any, num_parameters: int, workers: int, gib: int, zero_stage: Any = 3
) -> tuple[SettledStage, Footprint]:
    """Return the stage as `w2s plan` settles it for GPUs with this memory, and its footprint."""
    execution = {
        "workers": workers,
        "gpus_per_worker": 1,
        "zero_stage": zero_stage,
        "tokens_per_micro_batch": TOKENS,
    }
    study = parse_study(
        {
            "name": "dry-run",
            "tasks": {"task": {"files": "unused.jsonl", "text": "text", "label": "label"}},
            "ladder": {"small": "w2s:small", "large": {"model": "some/model", "execution": execution}},
            "optimisation": {"context_tokens": CONTEXT, "precision": "bf16", "examples_per_step": 256},
            "splits": {"train_examples": 10_000, "validation_examples": 400},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        shape = files.shape_of(Path(folder))
    models = {
        "small": ResolvedModel(revision="one", num_parameters=400_000),
        "large": ResolvedModel(revision="two", num_parameters=num_parameters, shape=shape),
    }
    task = ResolvedTask(fingerprint="0" * 64, num_classes=2, num_test=1000)
    (chain,) = compile_study(study, Resolution(tasks={"task": task}, models=models))
    stage: PlannedStage | None = chain.find("chain", "large")
    assert stage is not None
    settled, need = settle(stage, num_parameters, shape, CONTEXT, lambda need: need.peak > gib * 2**30)
    assert need is not None
    return settled, need


def config_of(name: str, **changes: Any) -> Any:
    """Return the configuration of a shape, with changes to it."""
    from transformers import AutoConfig

    kind, sizes = SHAPES[name]
    return AutoConfig.for_model(kind, **sizes | changes, num_labels=2, pad_token_id=0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=SHAPES, default="llama-3-70b")
    parser.add_argument("--workers", type=int, default=32)
    parser.add_argument("--gib", type=int, default=131, help="memory of a GPU, in GiB (141 GB are 131 GiB)")
    parser.add_argument("--network", type=float, default=50e9, help="bytes per second of a worker's link")
    parser.add_argument("--disk", type=float, default=1e9, help="bytes per second that a worker writes")
    parser.add_argument("--hash", type=float, default=1.5e9, help="bytes per second that a worker hashes")
    given = parser.parse_args()
    config = config_of(given.shape)
    counts = count(config, given.workers)
    chosen, _ = plan(config, counts.num_parameters, given.workers, given.gib, "auto")
    _, need = plan(config, counts.num_parameters, given.workers, given.gib)
    state, theory = sum(counts.state.values()), theory_bytes(counts.num_parameters, 3, given.workers)
    exchanged = sum(counts.exchanged.values())
    print(f"{given.shape}: {counts.num_parameters / 1e9:.1f} B parameters, {given.workers} workers, ZeRO-3")
    print(f"auto chooses {chosen.execution.memory_settings} for {given.gib} GiB")
    print("model state per worker, GB: " + ", ".join(f"{kind} {size / 1e9:.2f}" for kind, size in counts.state.items()))
    print(f"  counted {state / 1e9:.2f}, theory {theory / 1e9:.2f}")
    print(f"peak of all tensors {counts.peak / 1e9:.1f} GB; planned peak of a GPU {need.peak / 1e9:.1f} GB")
    print(f"on the wire per micro-batch and worker: {exchanged / 1e9:.1f} GB, {exchanged / given.network:.1f} s")
    print("  " + ", ".join(f"{name} {size / 1e9:.1f}" for name, size in counts.exchanged.items() if size > 1e6))
    whole, stalled = counts.checkpoint * given.workers, counts.checkpoint / given.disk
    print(
        f"checkpoint: {whole / 1e9:.0f} GB, {counts.checkpoint / 1e9:.1f} per worker; training waits "
        f"{stalled:.0f} s at most, complete after {stalled + counts.checkpoint / given.hash:.0f} s"
    )
    share = counts.export / given.workers
    print(f"export: {counts.export / 1e9:.0f} GB in fp32, {share * (1 / given.disk + 1 / given.hash):.0f} s")


if __name__ == "__main__":
    main()
