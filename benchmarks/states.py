"""Model-state bytes of each worker after a backward pass, for ZeRO 0 to 3 on 1, 2 and 4 workers, against theory.

    python benchmarks/states.py            # the table of docs/memory.md

Counted are the tensors that the engine holds: weights, their fp32 masters if these are copies, gradients and moments.
Each storage counts once. Theory: 4 bytes for a weight and for a gradient and 8 for the moments, divided by the workers
as the ZeRO stage shards them.
"""

import argparse
import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from w2s_ray.spec.execution import Execution, ZeroStage
from w2s_ray.training.processes import run_on_workers

if TYPE_CHECKING:
    import torch

    from w2s_ray.training.workers import Workers
    from w2s_ray.training.zero import Engine

ZERO_STAGES: tuple[ZeroStage, ...] = (0, 1, 2, 3)
SIZES = {"hidden_size": 512, "num_hidden_layers": 6, "num_attention_heads": 8, "intermediate_size": 1408}
"""A Llama of 23 M parameters with the vocabulary of 8,000."""


def held_bytes(engine: "Engine") -> dict[str, int]:
    """Return the bytes of model state that this rank holds, by kind; between a backward pass and the step."""
    optimizer: Any = engine._engine.optimizer
    for _ in engine._held():  # creates the moments
        pass
    kinds = {
        "weights": _weights(engine),
        "masters": (shard.tensors["weight"] for shard in engine._held()),
        "gradients": _gradients(engine, optimizer),
        "moments": (tensor for state in engine._optimizer.state.values() for tensor in state.values()),
    }
    seen: set[int] = set()
    return {kind: sum(_new_bytes(tensors, seen)) for kind, tensors in kinds.items()}


def _weights(engine: "Engine") -> "Iterator[torch.Tensor]":
    for parameter in engine.model.parameters():
        if hasattr(parameter, "ds_tensor"):
            yield parameter.ds_tensor
        yield parameter.data  # empty while it is sharded


def _gradients(engine: "Engine", optimizer: Any) -> "Iterator[torch.Tensor]":
    yield from (parameter.grad for parameter in engine.model.parameters() if parameter.grad is not None)
    if engine.zero_stage == 3:
        yield optimizer.grad_partitions_flat_buffer
    elif engine.zero_stage:
        yield from (gradient for group in optimizer.averaged_gradients.values() for gradient in group or ())


def _new_bytes(tensors: "Iterable[torch.Tensor]", seen: set[int]) -> Iterator[int]:
    for tensor in tensors:
        storage = tensor.untyped_storage()
        if storage._cdata not in seen:
            seen.add(storage._cdata)
            yield storage.nbytes()


def theory_bytes(num_parameters: int, zero_stage: int, workers: int) -> float:
    """Return the bytes of model state per worker if ZeRO shards perfectly and every weight is trained."""
    weights, gradients, moments = (workers if zero_stage >= stage else 1 for stage in (3, 2, 1))
    return num_parameters * (4 / weights + 4 / gradients + 8 / moments)


def count(workers: "Workers", sizes: dict[str, int]) -> dict[int, tuple[int, dict[str, int]]]:
    """Return the number of parameters and this rank's state, by ZeRO stage."""
    import torch
    from transformers import AutoModelForSequenceClassification, LlamaConfig

    from w2s_ray.spec.stage import Optimisation
    from w2s_ray.training.models.drawing import sharded_drawing
    from w2s_ray.training.models.network import Network
    from w2s_ray.training.zero import Engine

    config = LlamaConfig(**sizes, vocab_size=8000, num_labels=2, pad_token_id=0)
    held = {}
    for zero_stage in ZERO_STAGES:
        execution = Execution(workers=workers.size, zero_stage=zero_stage)
        with sharded_drawing(execution):
            model = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        engine = Engine(Network(model, "fp32"), execution, Optimisation())
        for number in range(2):
            loss = engine(torch.ones(2, 16, dtype=torch.long), torch.tensor([15, 15])).sum()
            engine.backward(loss, is_last=True)
            if number == 0:
                engine.step(1e-4)
        held[int(zero_stage)] = engine.num_parameters, held_bytes(engine)
        engine.destroy()
    return held


def measure(workers: int, sizes: dict[str, int], folder: Path) -> dict[int, tuple[float, dict[str, int]]]:
    """Return the state of the rank that holds most, and its ratio to theory, by ZeRO stage."""
    ranks = run_on_workers(partial(count, sizes=sizes), Execution(workers=workers), folder)
    found = {}
    for zero_stage in ZERO_STAGES:
        num_parameters, most = max((rank[zero_stage] for rank in ranks), key=lambda item: sum(item[1].values()))
        found[int(zero_stage)] = sum(most.values()) / theory_bytes(num_parameters, zero_stage, workers), most
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4])
    given = parser.parse_args()
    print("| workers | ZeRO | weights | masters | gradients | moments | together | ÷ theory |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory(prefix="w2s-states-") as name:
        for workers in given.workers:
            for zero_stage, (ratio, held) in measure(workers, SIZES, Path(name)).items():
                cells = [f"{size / 1e6:.1f}" for size in (*held.values(), sum(held.values()))]
                print(f"| {workers} | {zero_stage} | {' | '.join(cells)} | {ratio:.3f} |", flush=True)


if __name__ == "__main__":
    main()
