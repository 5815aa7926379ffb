"""`w2s bench`: the speed and memory of one level of a study on this machine."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from w2s_ray.cli.inputs import print_store
from w2s_ray.cli.terminal import bytes_text, count_text, terminal
from w2s_ray.spec.load import load_study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.search_result import every_chain


def bench(
    path: Path, level: str | None, store_folder: Path | None, overrides: Sequence[str], *, steps: int, as_json: bool
) -> None:
    """Measure `level`, or the largest level that is trained, and print the result.

    Prepared data is read from the store at `store_folder` and added to it; without one, everything is temporary.
    """
    study = load_study(path, overrides)
    if store_folder is not None:
        print_store(ArtifactStore(store_folder), as_json=as_json)
    terminal.capture(Path(tempfile.mkdtemp(prefix="w2s-")) / "bench.log")
    from w2s_ray.bench import bench_level, choose_stage, shorten
    from w2s_ray.planning.nodes import this_machine
    from w2s_ray.planning.plan import plan
    from w2s_ray.planning.resolve import resolve_whole

    with tempfile.TemporaryDirectory(prefix="w2s-bench-") as folder:
        store = ArtifactStore(store_folder or folder)
        store.prepare()
        if not as_json:
            terminal.line(f"preparing {', '.join(study.tasks)}")
        resolution = resolve_whole(study, store)
        chains = every_chain(study, resolution, store)
        stage = choose_stage(chains, resolution, level)
        stages = plan(study, resolution, store, (this_machine(),)).stages
        (peak,) = (entry.peak_bytes_per_worker for entry in stages if entry.identity == stage.identity)
        result = bench_level(shorten(stage, chains, steps), store, resolution, peak, steps)
    if as_json:
        terminal.json(result)
        return
    size = "?" if result.num_parameters is None else f"{result.num_parameters:,}"
    workers = count_text(result.workers, "worker")
    terminal.line(f"level {result.level}: {result.model}, {size} parameters, {workers}, ZeRO {result.zero_stage}")
    terminal.line(f"training   {result.train_tokens_per_second:,.0f} tokens/s ({result.precision})")
    if result.label_tokens_per_second is not None:
        terminal.line(f"labelling  {result.label_tokens_per_second:,.0f} tokens/s (fp32)")
    peaks = ", ".join(bytes_text(size) for size in result.peak_bytes)
    terminal.line(f"memory     peak per worker {peaks}; planned {bytes_text(result.planned_peak_bytes)}")
    shares = ", ".join(f"{phase} {share:.0%}" for phase, share in result.shares.items())
    terminal.line(f"step time  {shares}, other {max(0.0, 1 - sum(result.shares.values())):.0%}")
