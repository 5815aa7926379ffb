"""`w2s plan`: what a study comes to, before anything is trained."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from w2s_ray.cli.amounts import bytes_text, count_text, seconds_text
from w2s_ray.cli.opening import open_for_writing
from w2s_ray.cli.terminal import MOST_ROWS, terminal
from w2s_ray.spec.identity import short

if TYPE_CHECKING:
    from w2s_ray.planning.plan import Plan, StagePlan


def print_plan(path: Path, store_folder: Path, overrides: Sequence[str], *, as_json: bool) -> None:
    """Resolve the study and print its plan."""
    study, store = open_for_writing(path, store_folder, overrides, "plan")
    from w2s_ray.planning.nodes import this_machine
    from w2s_ray.planning.plan import plan
    from w2s_ray.planning.resolve import resolve

    found = plan(study, resolve(study, store), store, (this_machine(),))
    if as_json:
        terminal.out.print(found.model_dump_json(indent=2), markup=False, soft_wrap=True)
        return
    _print_chains(found)
    terminal.out.print(_stages(found))
    terminal.say_left_out(len(found.stages), "stage")
    for line in _summary(found):
        terminal.out.print(line, markup=False, soft_wrap=True)


def _print_chains(plan: "Plan") -> None:
    terminal.out.print(f"study {plan.study}: {count_text(len(plan.chains), 'chain')}", markup=False)
    for chain in plan.chains[:MOST_ROWS]:
        identities = " → ".join(short(identity) for identity in chain.stages)
        terminal.out.print(f"  {chain.name}: {identities}", markup=False, soft_wrap=True)
    terminal.say_left_out(len(plan.chains), "chain")


def _stages(plan: "Plan") -> Table:
    table = Table(title="distinct stages", title_justify="left", box=None, pad_edge=False)
    for heading in ("identity", "task", "level", "arm", "loss", "chains", "steps", "ZeRO × workers"):
        table.add_column(heading, no_wrap=heading in ("identity", "level"))
    for heading in ("parameters", "peak per worker", "about", "in store"):
        table.add_column(heading, justify="right")
    for stage in plan.stages[:MOST_ROWS]:
        table.add_row(*_row(stage, provisional=bool(plan.unresolved)))
    return table


def _row(stage: "StagePlan", *, provisional: bool) -> tuple[str, ...]:
    there = "yes" if stage.in_store else "no"
    if stage.in_store and stage.missing_predictions:
        there = f"yes, lacks {count_text(stage.missing_predictions, 'prediction')}"
    return (
        "unknown" if provisional else short(stage.identity),
        stage.task,
        stage.level,
        ", ".join(stage.arms),
        stage.loss,
        str(stage.num_chains),
        str(stage.num_steps),
        f"{stage.zero_stage} × {stage.workers}",
        "?" if stage.num_parameters is None else f"{stage.num_parameters:,}",
        bytes_text(stage.peak_bytes_per_worker) + (" *" if stage.recomputes_activations else ""),
        "–" if stage.in_store else seconds_text(stage.seconds),
        there,
    )


def _memory(stages: Sequence["StagePlan"]) -> list[str]:
    """Say what the largest stage of each level takes, and has here."""
    largest: dict[str, StagePlan] = {}
    for stage in stages:
        known = largest.get(stage.level)
        if stage.peak_bytes_per_worker and (known is None or stage.peak_bytes_per_worker > _peak(known)):
            largest[stage.level] = stage
    lines = []
    for level, stage in largest.items():
        parts = ", ".join(f"{name} {bytes_text(size)}" for name, size in stage.peak_parts.items())
        has = stage.available_bytes_per_worker
        here = f" of the {bytes_text(has)} that a worker has on this machine"
        if has is None:
            here = " (this machine has no room for its workers, so whether that fits is not known)"
        lines.append(f"memory of a worker of {level}: about {bytes_text(stage.peak_bytes_per_worker)}{here} ({parts})")
        if has is not None and _peak(stage) > has:
            lines.append(f"  `w2s run` would refuse {level} on this machine; what fits: {stage.remedy}")
    if any(stage.recomputes_activations for stage in stages):
        lines.append("* computes activations again in the backward pass (activation_checkpointing)")
    return lines


def _peak(stage: "StagePlan") -> int:
    return stage.peak_bytes_per_worker or 0


def _summary(plan: "Plan") -> list[str]:
    lines = [
        f"{plan.num_chain_stages} stages in all chains, {len(plan.stages)} distinct: "
        f"sharing saves {count_text(plan.num_shared, 'training')}",
    ]
    if plan.num_to_train:
        lines.append(
            f"to train: {count_text(plan.num_to_train, 'stage')}, about {seconds_text(plan.seconds)} one after another "
            f"and {bytes_text(plan.disk_bytes)} of disk (estimates)"
        )
    else:
        lines.append("nothing to train: every stage is in the store")
    lines += _memory(plan.stages)
    if plan.num_chains_at_most > len(plan.chains):
        more = f"{len(plan.chains)} of at most {count_text(plan.num_chains_at_most, 'chain')} are known"
        lines.append(f"the search has not chosen yet: {more}; the best run on the study's own seeds")
    lines += plan.notices
    if plan.dropout:
        lines.append("dropout is on: results will depend on the number of workers and the micro-batches")
    for stage in plan.stages:
        if stage.other_versions:
            lines.append(f"{short(stage.identity)} was made with other versions: {', '.join(stage.other_versions)}")
    if plan.unresolved:
        lines.append("could not be resolved, because the hub cannot be reached and they are not cached here:")
        lines += [f"  {file}" for file in plan.unresolved]
        lines.append("identities are unknown until then, and `w2s run` will refuse this study")
    return lines
