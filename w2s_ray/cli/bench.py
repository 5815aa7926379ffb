"""`w2s bench`: what a stage costs besides its training, and our speed beside a bare PyTorch loop's."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from pydantic_core import to_json
from rich.table import Table

from w2s_ray.cli.amounts import bytes_text, count_text, seconds_text
from w2s_ray.cli.terminal import terminal
from w2s_ray.spec.base import Spec
from w2s_ray.spec.identity import short


def print_overhead(num_seeds: int, *, as_json: bool) -> None:
    """Measure a crew's overhead per stage, its memory and its cold start."""
    _capture()
    from w2s_ray.bench.overhead import bench_overhead

    found = bench_overhead(num_seeds)
    if as_json:
        _print_json(found)
        return
    table = _table("stage", "in hand", "training and predictions", "overhead", "memory after")
    for stage in found.stages:
        seconds = (stage.in_hand_seconds, stage.busy_seconds, stage.overhead_seconds)
        memory = bytes_text(stage.memory_bytes)
        table.add_row(short(stage.identity), *(f"{value:.2f} s" for value in seconds), memory)
    terminal.out.print(table)
    terminal.out.print(f"overhead of a stage after the first: median {found.median_seconds:.2f} s", end="")
    terminal.out.print(
        f", worst {found.worst_seconds:.2f} s; memory after ten stages over two: {found.memory_growth:.3f}"
    )
    if found.cold_start_seconds is not None:
        terminal.out.print(f"cold start, from decision to first optimizer step: {found.cold_start_seconds:.1f} s")


def print_throughput(models: Sequence[str], pairs: int, steps: int, threads: int, *, as_json: bool) -> None:
    """Measure training speed on one worker, ours and a bare loop's in turn."""
    _capture()
    from w2s_ray.bench.throughput import bench_throughput

    found = bench_throughput(models, pairs=pairs, steps=steps, threads=threads)
    if as_json:
        _print_json(found)
        return
    table = _table("model", "ours", "bare loop", "median ratio", "from", "to")
    for result in found:
        speeds = (result.ours_tokens_per_second, result.bare_tokens_per_second)
        ratios = (result.median_ratio, result.lowest_ratio, result.highest_ratio)
        table.add_row(result.model, *(f"{v:,.0f} tokens/s" for v in speeds), *(f"{v:.3f}" for v in ratios))
    terminal.out.print(table)
    terminal.out.print(f"{count_text(pairs, 'pair')} of {count_text(steps, 'step')}, {count_text(threads, 'thread')}")


def print_submissions(num_chains: int, *, as_json: bool) -> None:
    """Compile a sweep and submit it to a dispatcher."""
    _capture()
    from w2s_ray.bench.submissions import bench_submissions

    found = bench_submissions(num_chains)
    if as_json:
        _print_json(found)
        return
    lines = (
        f"{found.num_chains:,} chains of {found.num_distinct:,} distinct stages: compiled in "
        f"{found.compile_seconds:.2f} s",
        f"{found.num_stages:,} stage submissions in {found.seconds:.2f} s: {found.stages_per_second:,.0f} a second",
    )
    for line in lines:
        terminal.out.print(line, markup=False, soft_wrap=True)


def print_sharing(num_chains: int, epochs: float, *, as_json: bool) -> None:
    """Run a sweep, and each of its chains by itself."""
    _capture()
    from w2s_ray.bench.sharing import bench_sharing

    found = bench_sharing(num_chains, epochs)
    if as_json:
        _print_json(found)
        return
    stages = count_text(found.num_stages, "distinct stage")
    lines = (
        f"{count_text(found.num_chains, 'chain')}, {stages}, {count_text(found.num_trainings, 'training')}; "
        f"the shortest stage took {found.shortest_stage_seconds:.1f} s",
        f"together {found.shared_wall_seconds:.0f} s: {found.overhead:.3f} times the distinct stages' own "
        f"{found.distinct_seconds:.0f} s",
        f"each alone {found.alone_wall_seconds:.0f} s: {found.gain:.2f} times as long, {found.gain_share:.3f} of what "
        "perfect sharing gains",
    )
    for line in lines:
        terminal.out.print(line, markup=False, soft_wrap=True)


def print_schedule(names: Sequence[str], num_gpus: int | None, num_seeds: int | None, *, as_json: bool) -> None:
    """Simulate workloads under the policy, first in first out, and without sharing."""
    from w2s_ray.bench.schedule import bench_schedule
    from w2s_ray.bench.workload import committed_workloads, load_workload

    ours = committed_workloads()
    paths = {Path(name).stem: ours.get(name, Path(name)) for name in names or ours}
    found = [bench_schedule(name, load_workload(path, num_gpus, num_seeds)) for name, path in paths.items()]
    if as_json:
        _print_json(found)
        return
    headings = ("policy", "makespan", "over bound", "busy", "crews", "failures", "decisions/s")
    for result in found:
        chains = f"{result.num_chains:,} chains on {count_text(result.num_gpus, 'GPU')}"
        bound = f"no schedule is shorter than {seconds_text(result.lower_bound_seconds)}"
        terminal.out.print(f"{result.workload}: {chains}; {bound}", markup=False, soft_wrap=True)
        table = _table(*headings)
        for each in result.schedules:
            table.add_row(
                each.policy,
                seconds_text(each.makespan_seconds),
                f"{each.ratio:.3f}",
                f"{each.utilisation:.0%}",
                str(each.num_crews),
                str(each.num_failures),
                f"{each.decisions_per_second:,.0f}",
            )
        terminal.out.print(table)


def _print_json(found: Spec | Sequence[Spec]) -> None:
    terminal.out.print(to_json(found, indent=2).decode(), markup=False, soft_wrap=True)


def _table(first: str, *others: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(first)
    for heading in others:
        table.add_column(heading, justify="right")
    return table


def _capture() -> None:
    terminal.capture(Path(tempfile.mkdtemp(prefix="w2s-")) / "bench.log")
