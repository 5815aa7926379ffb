"""How long a checkpoint stalls the training, beside DeepSpeed's own, and the interval that follows from it.

    python benchmarks/checkpoints.py                     # the cases of docs/results.md
    python benchmarks/checkpoints.py --model w2s:large --rounds 15

Both write the weights and moments of the same engine, in turns. DeepSpeed's checkpoint stalls until its files are
written and synced, as it has to before it may replace the one before; ours until they are in the page cache.
"""

import argparse
import statistics
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from memory import Case, make_model, stage_of
from w2s_ray.spec.execution import Execution
from w2s_ray.spec.stage import ModelSource
from w2s_ray.training.processes import run_on_workers

if TYPE_CHECKING:
    from w2s_ray.training.workers import Workers


def measure(workers: "Workers", stage_json: str, folder: str, rounds: int) -> list[tuple[float, float, float]]:
    """Return seconds by round: the stall of ours, the time until it is complete, the stall of DeepSpeed's."""
    import shutil

    import torch

    from w2s_ray.spec.chain import PlannedStage
    from w2s_ray.store.files import sync_tree
    from w2s_ray.training.checkpoints import Checkpoints
    from w2s_ray.training.memory.settle import settle
    from w2s_ray.training.models.catalogue import model_folder
    from w2s_ray.training.models.loading import load_network, load_tokenizer
    from w2s_ray.training.progress import TrainState
    from w2s_ray.training.zero import Engine

    stage, _ = settle(PlannedStage.model_validate_json(stage_json), None, None, None, lambda _: False)
    source = stage.spec.starts_from
    assert isinstance(source, ModelSource)
    tokenizer = load_tokenizer(model_folder(source.name, source.revision, tokenizer=True), None)
    network = load_network(stage.spec, model_folder(source.name, source.revision), tokenizer, stage.execution)
    engine = Engine(network, stage.execution, stage.spec.optimisation)
    tokens, last = torch.randint(2, 200, (2, 16)), torch.full((2,), 15)
    engine.backward(engine(tokens, last).sum(), is_last=True)
    engine.step(1e-5)
    ours, seconds = Checkpoints(Path(folder, "ours"), workers), []
    theirs = Path(folder, "theirs")
    for number in range(rounds):
        began = time.perf_counter()
        ours.save(engine, TrainState(step=number + 1))
        stall = time.perf_counter() - began
        ours.wait()
        complete = time.perf_counter() - began
        began = time.perf_counter()
        engine._engine.save_checkpoint(str(theirs), tag=f"step{number}", save_latest=False)
        workers.on_rank_0(partial(sync_tree, theirs))
        seconds.append((stall, complete, time.perf_counter() - began))
        workers.on_rank_0(partial(shutil.rmtree, theirs))
    ours.close()
    engine.destroy()
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--model", action="append", help="a model; the built-in large one and `qwen` if not given")
    parser.add_argument("--rounds", type=int, default=7)
    arguments = parser.parse_args()
    from w2s_ray.training.checkpoints import seconds_between

    print("| model | ZeRO × workers | stall | complete after | DeepSpeed's stall | ratio | interval | share |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with tempfile.TemporaryDirectory() as folder:
        for model in arguments.model or ("w2s:large", "qwen"):
            name = str(make_model(Path(folder, "qwen"))) if model == "qwen" else model
            for zero_stage, workers in ((0, 1), (1, 2), (3, 2)):
                execution = Execution(workers=workers, zero_stage=zero_stage)
                case = Case(model=name, zero_stage=zero_stage, workers=workers)
                stage_json, _ = stage_of(Path(folder, "store"), name, case)
                work = partial(measure, stage_json=stage_json, folder=folder, rounds=arguments.rounds)
                results = run_on_workers(work, execution, Path(folder))[0]
                stall, complete, theirs = (statistics.median(column) for column in zip(*results, strict=True))
                ratios = sorted(row[2] / row[0] for row in results)
                interval = seconds_between(stall)
                print(
                    f"| {model} | {zero_stage} × {workers} | {stall:.2f} s | {complete:.2f} s | {theirs:.2f} s | "
                    f"{statistics.median(ratios):.1f} ({ratios[0]:.1f}–{ratios[-1]:.1f}) | {interval:.0f} s | "
                    f"{stall / interval:.2%} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
