"""Run stages on several real processes, in one gloo process group."""

import json
import multiprocessing
import shutil
import sys
from collections.abc import Callable
from pathlib import Path


def run_cases(
    cases: dict[str, str], store_root: Path, size: int, out: Path, reset: bool, stop_at: int | None = None
) -> dict[str, list[float]]:
    """Run each case (a planned stage as JSON) on `size` processes; return the losses of its steps by case.

    A case whose name ends in `@SHARDING` runs with those limits of `tests.training.conftest`. With `stop_at` each is
    stopped at that step and resumed.
    """
    on_processes(_work, size, cases, str(store_root), str(out / f"meeting{size}"), str(out), reset, stop_at)
    return json.loads((out / f"losses{size}.json").read_text())


def on_processes(work: Callable[..., None], size: int, *arguments: object) -> None:
    """Run `work` with its rank, the number of processes and the arguments on each of them."""
    context = multiprocessing.get_context("spawn")
    ranks = [context.Process(target=work, args=(rank, size, *arguments)) for rank in range(size)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(600)
        assert process.exitcode == 0, f"a worker ended with {process.exitcode}"


def _work(
    rank: int,
    size: int,
    cases: dict[str, str],
    store_root: str,
    meeting: str,
    out: str,
    reset: bool,
    stop_at: int | None,
) -> None:
    import os

    os.environ["LOCAL_RANK"] = str(rank)
    import torch
    import torch.distributed as dist

    from tests.training.conftest import Onlooker, freeze_libraries, sharding
    from w2s_ray.spec.chain import PlannedStage
    from w2s_ray.store.artifacts import ArtifactStore
    from w2s_ray.training import placement
    from w2s_ray.training.stage import run_stage
    from w2s_ray.training.workers import Workers

    freeze_libraries()
    placement.device_has_own_memory = lambda: True  # offloads as for a GPU
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=size)
    losses = {}
    for name, text in cases.items():
        stage = PlannedStage.model_validate_json(text)
        store = ArtifactStore(store_root)
        workers = Workers(rank, size, torch.device("cpu"))
        with sharding(name.partition("@")[2]):
            for stop in (stop_at, None) if stop_at is not None else (None,):
                run_stage(stage, store=store, workers=workers, observer=Onlooker(stop))
        workers.barrier()
        if rank == 0:
            record = store.find(stage.identity)
            assert record is not None
            folder = store.verify(record)
            progress = folder / "metrics.jsonl"  # a prompt has none
            lines = map(json.loads, progress.read_text().splitlines() if progress.is_file() else ())
            losses[name] = [line["loss"] for line in lines if "loss" in line]
            if reset:
                (folder / "record.json").unlink()  # so that another execution trains the same identity again
                for features in (store.root / "data").glob("*/features-*"):
                    shutil.rmtree(features)
        workers.barrier()
    if rank == 0:
        (Path(out) / f"losses{size}.json").write_text(json.dumps(losses))
    dist.destroy_process_group()
    sys.stdout.flush()
