"""How many stage submissions per second the dispatcher handles, and how fast a sweep compiles.

    python benchmarks/submissions.py --chains 2000

A real dispatcher actor with an empty store receives one call per chain, each with all of the chain's stages, as from a
trial. Nothing is trained and no worker group is opened.
"""

import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import Resolution, ResolvedModel, ResolvedTask, distinct_stages
from w2s_ray.spec.compile import compile_study
from w2s_ray.spec.load import parse_study
from w2s_ray.store.artifacts import ArtifactStore


class Submissions(Spec):
    """The result of the benchmark."""

    num_chains: int
    num_stages: int
    """Submitted stages; a shared stage counts once per chain."""
    num_distinct: int
    compile_seconds: float
    seconds: float
    """From the first call to the last reply."""
    stages_per_second: float


def bench_submissions(num_chains: int) -> Submissions:
    """Compile a sweep of `num_chains` chains and submit all of them."""
    import ray

    from w2s_ray.scheduling.dispatcher.dispatcher import Dispatcher
    from w2s_ray.scheduling.dispatcher.leases import StageLeases
    from w2s_ray.scheduling.session import ray_session

    study = parse_study(study_of(num_chains))
    task = ResolvedTask(fingerprint="0" * 64, num_classes=2, num_test=100)
    models = {name: ResolvedModel(revision="0", num_parameters=None) for name in study.ladder}
    began = time.perf_counter()
    chains = compile_study(study, Resolution(tasks={"any": task}, models=models))
    compile_seconds = time.perf_counter() - began
    num_stages = sum(len(chain.stages) for chain in chains)
    with tempfile.TemporaryDirectory(prefix="w2s-bench-") as folder, ray_session(None, num_cpus=1):
        store = ArtifactStore(Path(folder) / "store")
        store.prepare()
        leases = StageLeases(store, "a benchmark")
        dispatcher = ray.remote(Dispatcher).options(num_cpus=0)
        dispatcher = dispatcher.remote(study=study.name, nodes=(), leases=leases, launcher=None)
        ray.get(dispatcher.trial_report.remote("any"))  # the actor is up
        began = time.perf_counter()
        ray.get([dispatcher.request.remote(chain.name, (chain,)) for chain in chains])
        seconds = time.perf_counter() - began
        ray.kill(dispatcher)
    return Submissions(
        num_chains=len(chains),
        num_stages=num_stages,
        num_distinct=len(distinct_stages(chains)),
        compile_seconds=compile_seconds,
        seconds=seconds,
        stages_per_second=num_stages / seconds,
    )


def study_of(num_chains: int) -> dict[str, object]:
    """Return a sweep of `num_chains` chains that differ in their last student's loss."""
    alphas = [number / num_chains for number in range(num_chains)]
    return {
        "name": "submissions",
        "tasks": {"any": {"builtin": "code_continuation"}},
        "ladder": {name: {"model": f"w2s:{name}"} for name in ("small", "medium", "large")},
        "methods": {
            "confidence": {"arms": ["chain", "direct", "ceiling"], "losses": {"large": {"kind": "confidence"}}}
        },
        "search": {"space": {"methods.confidence.losses.large.alpha_max": alphas}},
    }


def main(
    chains: Annotated[int, typer.Option(min=1, help="Chains to compile and submit.")] = 2000,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Measure how fast a sweep compiles and how many stage submissions per second the dispatcher handles."""
    result = bench_submissions(chains)
    if json:
        print(result.model_dump_json(indent=2))
        return
    print(f"{result.num_chains:,} chains, {result.num_distinct:,} distinct stages: compiled in", end="")
    print(f" {result.compile_seconds:.2f} s")
    print(
        f"{result.num_stages:,} stage submissions in {result.seconds:.2f} s: {result.stages_per_second:,.0f} per second"
    )


if __name__ == "__main__":
    typer.run(main)
