"""What a study comes to, before anything is trained: its chains, its distinct stages, and what they will take."""

from collections.abc import Iterable, Mapping, Sequence

import pyarrow.compute as pc

from w2s_ray.data.prepare import load_prepared
from w2s_ray.planning import estimate
from w2s_ray.planning.fitting import LongestTexts, as_run, has_of, nearest_that_fits, need_of
from w2s_ray.planning.nodes import Node
from w2s_ray.planning.resolve import UNRESOLVED
from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution, distinct_stages, num_named
from w2s_ray.spec.points import count_chains, notices, uses_dropout
from w2s_ray.spec.stage import ZeroStage
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.record import Record, package_versions
from w2s_ray.store.search_result import every_chain, read_search_result

_UNKNOWN_CHARS = 400.0
"""Characters of an example of a task that could not be read."""


class StagePlan(Spec):
    """One distinct stage: who wants it, what is there, and what its workers need."""

    identity: str
    """Provisional where `Plan.unresolved` is not empty."""
    slug: str
    task: str
    level: str
    model: str
    arms: tuple[str, ...]
    loss: str
    """How it learns: its loss, and what is not the rule."""
    num_chains: int
    num_steps: int
    zero_stage: ZeroStage
    workers: int
    num_parameters: int | None
    state_bytes_per_worker: int | None
    """fp32 weights, gradients and Adam state under the stage's ZeRO stage."""
    peak_bytes_per_worker: int | None
    """The most that a worker holds from loading to saving; an estimate."""
    peak_parts: dict[str, int]
    """What the peak consists of."""
    available_bytes_per_worker: int | None
    """What a worker has where this command runs; None for GPUs that are not here."""
    remedy: str | None
    """Where a worker has less than the peak: the nearest setting that fits."""
    recomputes_activations: bool
    """Whether the workers compute activations again, asked or because they would not fit."""
    in_store: bool
    missing_predictions: int
    other_versions: tuple[str, ...]
    """Packages whose version differs from the one that the stored artifact was made with."""
    seconds: float | None
    """An estimate."""
    disk_bytes: int | None
    """An estimate."""
    checkpoint_bytes: int | None
    """An estimate of what it takes on disk until it is done."""


class ChainPlan(Spec):
    """One chain and the identities of its stages, in order."""

    name: str
    stages: tuple[str, ...]


class Plan(Spec):
    """All that `w2s plan` says."""

    study: str
    chains: tuple[ChainPlan, ...]
    stages: tuple[StagePlan, ...]
    num_chains_at_most: int
    """When a search has chosen, its winners' chains come to these; a sampler that learns adds its candidates'."""
    notices: tuple[str, ...]
    """What to know of the search and the data before anything begins."""
    num_chain_stages: int
    """Stages counted once for each chain that names them."""
    num_shared: int
    """Trainings saved because chains share stages."""
    num_to_train: int
    seconds: float | None
    """Estimated seconds of all stages that are still to be trained, one after another."""
    disk_bytes: int | None
    """Estimated bytes that those will add, with the largest one's checkpoints."""
    dropout: bool
    """Whether a model may be trained with dropout, so that results depend on workers and micro-batches."""
    unresolved: tuple[str, ...]
    """Files that could not be found; the study cannot run without them."""


def plan(study: Study, resolution: Resolution, store: ArtifactStore, nodes: Sequence[Node] = ()) -> Plan:
    """Compile the study and say what running it on `nodes` would take."""
    chains = every_chain(study, resolution, store)
    stages = distinct_stages(chains)
    chars = {name: _chars_per_example(store, task.fingerprint) for name, task in resolution.tasks.items()}
    longest = LongestTexts(store, resolution)
    rates = estimate.rates_by_model(store.records())
    users: dict[str, list[tuple[Chain, PlannedStage]]] = {identity: [] for identity in stages}
    for chain in chains:
        for stage in chain.stages:
            users[stage.identity].append((chain, stage))
    planned = tuple(
        _plan_stage(stage, users[identity], resolution, store, chars[stage.task], rates, nodes, longest(stage))
        for identity, stage in stages.items()
    )
    num_chain_stages = num_named(chains)
    is_through = study.search is None or study.search.choose_by is None or read_search_result(study, store) is not None
    waiting = [stage for stage in planned if not stage.in_store]
    return Plan(
        study=study.name,
        chains=tuple(ChainPlan(name=chain.name, stages=tuple(s.identity for s in chain.stages)) for chain in chains),
        stages=planned,
        num_chains_at_most=len(chains) if is_through else count_chains(study),
        notices=(*notices(study), *resolution.notices),
        num_chain_stages=num_chain_stages,
        num_shared=num_chain_stages - len(stages),
        num_to_train=len(waiting),
        seconds=_total(stage.seconds for stage in waiting),
        disk_bytes=_disk_bytes(waiting),
        dropout=uses_dropout(study),
        unresolved=resolution.unresolved,
    )


def _plan_stage(
    stage: PlannedStage,
    users: Sequence[tuple[Chain, PlannedStage]],
    resolution: Resolution,
    store: ArtifactStore,
    chars: float,
    rates: Mapping[tuple[str, str], float],
    nodes: Sequence[Node],
    longest_tokens: int | None,
) -> StagePlan:
    record = store.find(stage.identity)
    size = resolution.models[stage.level].num_parameters
    known_rate = estimate.rate_of(stage, rates)
    has = has_of(stage.execution, nodes)
    need = need_of(stage, resolution, longest_tokens)
    if need is not None:
        stage = as_run(stage, need, has)
        need = need_of(stage, resolution, longest_tokens)
    fits = need is None or has is None or need.peak <= has
    return StagePlan(
        identity=stage.identity,
        slug=stage.spec.slug,
        task=stage.task,
        level=stage.level,
        model=stage.spec.starts_from.name,
        arms=tuple(dict.fromkeys(own.arm for _, own in users)),
        loss=stage.spec.description,
        num_chains=len({chain.name for chain, _ in users}),
        num_steps=estimate.num_steps(stage, chars),
        zero_stage=stage.execution.zero_stage,
        workers=stage.execution.workers,
        num_parameters=size,
        state_bytes_per_worker=None if size is None else estimate.state_bytes_per_worker(stage, size),
        peak_bytes_per_worker=None if need is None else need.peak,
        peak_parts={} if need is None else need.parts,
        available_bytes_per_worker=has,
        remedy=None if fits else nearest_that_fits(stage, resolution, nodes, longest_tokens),
        recomputes_activations=stage.execution.activation_checkpointing is True,
        in_store=record is not None,
        missing_predictions=sum(store.find(prediction.identity) is None for prediction in stage.predicts),
        other_versions=_other_versions(record),
        seconds=None if size is None else estimate.seconds(stage, size, chars, known_rate),
        disk_bytes=None if size is None else estimate.disk_bytes(stage, size),
        checkpoint_bytes=None if size is None else estimate.checkpoint_bytes(stage, size),
    )


def _chars_per_example(store: ArtifactStore, fingerprint: str) -> float:
    if fingerprint.startswith(UNRESOLVED):
        return _UNKNOWN_CHARS
    table = load_prepared(store, fingerprint).table()
    lengths = pc.add(pc.utf8_length(table["text"]), pc.coalesce(pc.utf8_length(table["other"]), 0))
    return float(pc.mean(lengths).as_py() or _UNKNOWN_CHARS)


def _other_versions(record: Record | None) -> tuple[str, ...]:
    """Name the packages that differ; a suffix (`+cpu`) and our own version, which has a recipe, do not count."""
    if record is None:
        return ()
    now = package_versions()
    pairs = ((name, then, now.get(name, "absent")) for name, then in record.versions.items() if name != "w2s_ray")
    return tuple(
        f"{name} {then} → {here}" for name, then, here in pairs if then.partition("+")[0] != here.partition("+")[0]
    )


def _total(values: Iterable[float | None]) -> float | None:
    known = list(values)
    return None if any(value is None for value in known) else sum(value for value in known if value is not None)


def _disk_bytes(waiting: Sequence[StagePlan]) -> int | None:
    if any(stage.disk_bytes is None for stage in waiting):
        return None
    kept = sum(stage.disk_bytes or 0 for stage in waiting)
    return kept + max((stage.checkpoint_bytes or 0 for stage in waiting), default=0)
