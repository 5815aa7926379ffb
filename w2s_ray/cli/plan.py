"""`w2s plan`: the chains and stages of a study, and what running them would take."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.table import Table

from w2s_ray.cli.inputs import open_for_writing
from w2s_ray.cli.terminal import MAX_ROWS, bytes_text, count_text, seconds_text, terminal
from w2s_ray.spec.identity import short

if TYPE_CHECKING:
    from w2s_ray.planning.plan import Plan, StagePlan
    from w2s_ray.planning.search_estimate import ToCome
    from w2s_ray.planning.task_view import TaskView
    from w2s_ray.spec.chain import ResolvedTask


def print_plan(path: Path, store_folder: Path, overrides: Sequence[str], *, as_json: bool) -> None:
    """Resolve the study and print its plan."""
    study, store = open_for_writing(path, store_folder, overrides, "plan", as_json=as_json)
    from w2s_ray.planning.model_checks import check_models
    from w2s_ray.planning.nodes import this_machine
    from w2s_ray.planning.plan import plan
    from w2s_ray.planning.resolve import resolve
    from w2s_ray.planning.versions import notice_of_change

    resolution = resolve(study, store)
    check_models(study, resolution, store, lambda line: None if as_json else terminal.line(line))
    study_plan = plan(study, resolution, store, (this_machine(),))
    change = notice_of_change(study, resolution, store)
    if as_json:
        terminal.json(study_plan)
        return
    if change is not None:
        terminal.line(change)
    terminal.line(f"study {study_plan.study}: {count_text(len(study_plan.chains), 'chain')}")
    for chain in study_plan.chains[:MAX_ROWS]:
        name = f"{chain.name} ({chain.point})" if chain.point else chain.name
        terminal.line(f"  {name}: {' → '.join(short(identity) for identity in chain.stages)}")
    terminal.omitted(len(study_plan.chains), "chain")
    for name, task in list(study_plan.tasks.items())[:MAX_ROWS]:
        terminal.line(f"task {name}: {_sizes(task)}")
        for line in _view(study_plan.task_views[name]) if name in study_plan.task_views else ():
            terminal.line(f"  {line}")
    terminal.omitted(len(study_plan.tasks), "task")
    if study_plan.stages:
        terminal.out.print(_stage_table(study_plan))
    terminal.omitted(len(study_plan.stages), "stage")
    for line in _summary(study_plan):
        terminal.line(line)


def _sizes(task: "ResolvedTask") -> str:
    if task.kind == "text":
        return f"{count_text(task.num_documents, 'document')}, {task.num_held_out} held out"
    if task.sizes is None:
        return "sizes unknown"
    return f"S {task.sizes.S:,}, T {task.sizes.T:,}, V {task.sizes.V:,}, test {task.num_test:,} examples"


def _view(view: "TaskView") -> Iterator[str]:
    """Yield the lines of a task: rows, classes by split, what contexts cut, and examples as a model reads them."""
    if view.sources:
        names = [Path(source.name) for source in view.sources[:MAX_ROWS]]
        are_alike = len({name.name for name in names}) < len(names)
        shown = [f"{name.parent.name}/{name.name}" if are_alike else name.name for name in names]
        files = [f"{name} {source.num_rows:,}" for name, source in zip(shown, view.sources, strict=False)]
        files += [f"{len(view.sources) - MAX_ROWS} more"] if len(view.sources) > MAX_ROWS else []
        num_rows = sum(source.num_rows for source in view.sources)
        yield f"rows read: {num_rows:,} ({', '.join(files)}); examples: {view.num_examples:,}"
    for pool, use in (("pool", "training and validation"), ("test", "the test set")):
        yield f"available for {use}: {_counts(view.pools[pool])}"
    alike: dict[str, list[str]] = {}
    for split, counts in view.splits.items():
        alike.setdefault(f"{sum(counts.values()):,}: {_counts(counts)}", []).append(split)
    for counts_text, splits in alike.items():
        seed = "" if splits == ["test"] else f" (seed {view.seed})"
        yield f"{', '.join(splits)}{seed} {counts_text}"
    for cut in view.cuts:
        of = f"{cut.num_texts:,} texts" if cut.num_texts < view.num_examples else "the texts"
        yield f"{cut.level}: {cut.context_tokens} tokens cut {cut.share:.1%} of {of}, which keep their end"
    for example in view.examples:
        yield f"{f'{view.reader} reads' if view.reader else 'text'}: {example}"


def _counts(counts: Mapping[str, int]) -> str:
    shown = [f"{name} {num:,}" for name, num in list(counts.items())[:MAX_ROWS]]
    return ", ".join(shown) + (f" and {len(counts) - MAX_ROWS} more classes" if len(counts) > MAX_ROWS else "")


def _stage_table(plan: "Plan") -> Table:
    table = Table(title="distinct stages", title_justify="left", box=None, pad_edge=False)
    has_points = any(stage.point for stage in plan.stages)
    point = ("search",) if has_points else ()
    for heading in ("identity", "task", "level", "arm", "loss", *point, "chains", "steps", "ZeRO × workers"):
        table.add_column(heading, no_wrap=heading in ("identity", "level"))
    for heading in ("parameters", "peak per worker", "about", "in store"):
        table.add_column(heading, justify="right")
    for stage in plan.stages[:MAX_ROWS]:
        table.add_row(*_stage_cells(stage, has_points, provisional=bool(plan.unresolved)))
    return table


def _stage_cells(stage: "StagePlan", has_points: bool, *, provisional: bool) -> tuple[str, ...]:
    in_store = "yes" if stage.in_store else "no"
    if stage.in_store and stage.missing_predictions:
        in_store = f"yes, without {count_text(stage.missing_predictions, 'prediction')}"
    return (
        "unknown" if provisional else short(stage.identity),
        stage.task,
        stage.level,
        ", ".join(stage.arms),
        stage.loss,
        *((stage.point or "all",) if has_points else ()),
        str(stage.num_chains),
        str(stage.num_steps),
        f"{stage.zero_stage} × {stage.workers}" + (" (auto)" if stage.chosen else ""),
        "?" if stage.num_parameters is None else f"{stage.num_parameters:,}",
        bytes_text(stage.peak_bytes_per_worker) + (" *" if stage.recomputes_activations else ""),
        "–" if stage.in_store else seconds_text(stage.seconds),
        in_store,
    )


def _summary(plan: "Plan") -> list[str]:
    lines = [
        f"{plan.num_chain_stages} stages in all chains, {len(plan.stages)} distinct: "
        f"sharing saves {count_text(plan.num_shared, 'training')}",
    ]
    if plan.num_to_train:
        lines.append(
            f"to train: {count_text(plan.num_to_train, 'stage')}, about {seconds_text(plan.seconds)} with start-up, "
            f"evaluation and labelling, one after another, and {bytes_text(plan.disk_bytes)} of disk (estimates)"
        )
    elif any(stage.missing_predictions for stage in plan.stages):
        lines.append(f"nothing to train, but predictions are missing: about {seconds_text(plan.seconds)} (an estimate)")
    elif plan.to_come is None:
        lines.append("nothing to train: every stage is in the store")
    lines += _memory(plan.stages)
    if plan.num_chains_at_most > len(plan.chains):
        known = f"{len(plan.chains)} of at most {count_text(plan.num_chains_at_most, 'chain')} are known"
        lines.append(f"the search has not chosen yet: {known}; the best points run on the study's own seeds")
    if plan.to_come is not None:
        lines.append(_to_come(plan.to_come))
    lines += plan.notices
    if plan.dropout:
        lines.append("dropout is on: results will depend on the number of workers and the micro-batches")
    for stage in plan.stages:
        if stage.other_versions:
            lines.append(f"{short(stage.identity)} was made with other versions: {', '.join(stage.other_versions)}")
    if plan.unresolved:
        lines.append("not resolved, because the hub is unreachable and they are not in the local cache:")
        lines += [f"  {file}" for file in plan.unresolved]
        lines.append("identities are unknown until then, and `w2s run` will refuse this study")
    return lines


def _to_come(to_come: "ToCome") -> str:
    candidates = f"up to {count_text(to_come.num_candidates, 'candidate')} and " if to_come.num_candidates else ""
    points = f"{candidates}{count_text(to_come.num_winners, 'winner')}"
    return (
        f"to come: about {count_text(to_come.num_stages, 'stage')} of {points}, about {seconds_text(to_come.seconds)} "
        "one after another (estimates from a few points)"
    )


def _memory(stages: Sequence["StagePlan"]) -> list[str]:
    """Return the memory that the largest stage of each level needs per worker, and has on this machine."""
    largest: dict[str, StagePlan] = {}
    for stage in stages:
        other = largest.get(stage.level)
        if stage.peak_bytes_per_worker and (other is None or _need(stage) > _need(other)):
            largest[stage.level] = stage
    lines = []
    for level, stage in largest.items():
        parts = ", ".join(f"{name} {bytes_text(size)}" for name, size in stage.peak_parts.items())
        available = stage.available_bytes_per_worker
        of = f" of the {bytes_text(available)} available to a worker on this machine"
        if available is None:
            of = " (this machine has no room for its workers, so it is unknown whether that fits)"
        chosen = f" with {stage.chosen}, which auto chose" if stage.chosen else ""
        lines.append(
            f"memory per worker of {level}{chosen}: about {bytes_text(stage.peak_bytes_per_worker)}{of} ({parts})"
        )
        if stage.file_bytes:
            lines.append(f"  and {bytes_text(stage.file_bytes)} in files of nvme_folder while it runs, of all workers")
        if stage.host_bytes_per_worker is not None:
            on_host = stage.available_host_bytes_per_worker
            share = "" if on_host is None else f", of which its share is {bytes_text(on_host)}"
            lines.append(f"  and {bytes_text(stage.host_bytes_per_worker)} of the host's memory{share}")
        if stage.remedy is not None:
            lines.append(f"  `w2s run` would refuse {level} on this machine; to make it fit, {stage.remedy}")
    if any(stage.recomputes_activations for stage in stages):
        lines.append("* recomputes activations in the backward pass (activation_checkpointing)")
    return lines


def _need(stage: "StagePlan") -> tuple[bool, int]:
    """Return whether the stage would be refused, and its peak."""
    return stage.remedy is not None, stage.peak_bytes_per_worker or 0
