"""The plan of a study: its chains, its distinct stages, and an estimate of what they need."""

from collections.abc import Iterable, Iterator, Sequence

import pyarrow.compute as pc

from w2s_ray.data.prepare import load_prepared
from w2s_ray.errors import W2SError
from w2s_ray.planning import estimate
from w2s_ray.planning.contexts import check_contexts, shot_notices
from w2s_ray.planning.memory import fit_memory, folder_fault, longest_text, nearest_that_fits
from w2s_ray.planning.nodes import Node, misfit
from w2s_ray.planning.resolve import UNRESOLVED, unresolved_names
from w2s_ray.planning.search_estimate import ToCome, estimate_to_come
from w2s_ray.planning.task_view import TaskView, view_tasks
from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import Chain, PlannedStage, Resolution, ResolvedTask, distinct_stages, num_named, point_labels
from w2s_ray.spec.execution import ZeroStage
from w2s_ray.spec.points import count_chains, notices, uses_dropout
from w2s_ray.spec.study import Study
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.record import Record, package_versions
from w2s_ray.store.search_result import every_chain, read_search_result

_UNKNOWN_CHARS = 400.0
"""Assumed characters per example of a task that could not be read."""


class StagePlan(Spec):
    """One distinct stage: who uses it, what exists of it, and what its workers need."""

    identity: str
    """Provisional where `Plan.unresolved` is not empty."""
    slug: str
    task: str
    level: str
    model: str
    arms: tuple[str, ...]
    loss: str
    """Its loss, and what else differs from the default."""
    point: str
    """The searched values that tell it from other stages; empty without a search."""
    num_chains: int
    num_steps: int
    zero_stage: ZeroStage
    workers: int
    num_parameters: int | None
    peak_bytes_per_worker: int | None
    """Estimate of the most memory that a worker uses."""
    peak_parts: dict[str, int]
    """Parts of the peak, in bytes."""
    available_bytes_per_worker: int | None
    """Memory of a worker on this machine; None for GPUs that it does not have."""
    host_bytes_per_worker: int | None
    """Estimate of what the worker of a GPU holds in the host's memory; None for workers on CPUs."""
    available_host_bytes_per_worker: int | None
    """The worker's share of the host's memory."""
    file_bytes: int | None
    """Estimate of what all its workers have in files of `nvme_folder` while it runs; None if nothing is there."""
    remedy: str | None
    """A setting that fits, or other advice, if a worker has less than the peak."""
    recomputes_activations: bool
    """Whether activations are recomputed in the backward pass, by setting or because they would not fit."""
    chosen: str | None
    """What `zero_stage: auto` chose for the memory of a worker; None without it."""
    in_store: bool
    missing_predictions: int
    other_versions: tuple[str, ...]
    """Packages whose version differs from that of the stored artifact."""
    seconds: float | None
    """An estimate."""
    disk_bytes: int | None
    """An estimate."""
    checkpoint_bytes: int | None
    """Estimate of the disk space of its checkpoints while it runs."""


class ChainPlan(Spec):
    """One chain and the identities of its stages, in order."""

    name: str
    point: str
    """The searched values; empty without a search."""
    stages: tuple[str, ...]


class Plan(Spec):
    """Everything that `w2s plan` prints."""

    study: str
    chains: tuple[ChainPlan, ...]
    stages: tuple[StagePlan, ...]
    num_chains_at_most: int
    """Chains including those that a search will choose; a sampler that learns adds its candidates."""
    notices: tuple[str, ...]
    """Notices for the user about the search, the data and shots that do not fit."""
    num_chain_stages: int
    """Stages counted once per chain that names them."""
    num_shared: int
    """Trainings saved because chains share stages."""
    num_to_train: int
    seconds: float | None
    """Estimate for a run that trains these one after another: its start, training, evaluation and labelling."""
    to_come: ToCome | None = None
    """Estimate of the stages that a search will add which has not chosen yet; None if there are none."""
    disk_bytes: int | None
    """Estimate of what those will add, with the checkpoints of the largest."""
    tasks: dict[str, ResolvedTask]
    """With the sizes of their splits."""
    task_views: dict[str, TaskView]
    """Rows, classes and examples of each task whose data is on this machine."""
    dropout: bool
    """Whether a model may be trained with dropout, so that results depend on workers and micro-batches."""
    unresolved: tuple[str, ...]
    """Files that were not found; the study cannot run without them."""


def plan(study: Study, resolution: Resolution, store: ArtifactStore, nodes: Sequence[Node] = ()) -> Plan:
    """Compile the study and estimate what running it on `nodes` needs.

    Raises:
        DataError: like `check_contexts`.
    """
    chains = every_chain(study, resolution, store)
    stages = distinct_stages(chains)
    check_contexts(stages.values(), resolution, store)
    estimates = _Estimates(resolution, store, nodes)
    users: dict[str, list[tuple[Chain, PlannedStage]]] = {identity: [] for identity in stages}
    for chain in chains:
        for stage in chain.stages:
            users[stage.identity].append((chain, stage))
    labels = point_labels(chains)
    planned = tuple(
        estimates.stage_plan(stage, users[identity], labels.get(identity, "")) for identity, stage in stages.items()
    )
    is_through = study.search is None or study.search.choose_by is None or read_search_result(study, store) is not None
    waiting = [stage for stage in planned if not stage.in_store]
    to_run = [stage for stage in planned if not stage.in_store or stage.missing_predictions]
    start = estimate.start_seconds(stages[stage.identity] for stage in to_run)
    views, view_notices = view_tasks(study, resolution, stages.values(), store)
    return Plan(
        study=study.name,
        chains=tuple(_plan_chain(chain) for chain in chains),
        stages=planned,
        num_chains_at_most=len(chains) if is_through else count_chains(study),
        notices=(
            *notices(study),
            *resolution.notices,
            *unresolved_names(study, resolution),
            *view_notices,
            *_misfits(stages.values(), nodes),
            *map(_refusal, estimates.faults.values()),
            *shot_notices(stages.values(), resolution, store),
        ),
        num_chain_stages=num_named(chains),
        num_shared=num_named(chains) - len(stages),
        num_to_train=len(waiting),
        seconds=_total((*(stage.seconds for stage in to_run), start)),
        to_come=None if is_through else estimate_to_come(study, resolution, stages, estimates.seconds),
        disk_bytes=_disk_bytes(waiting),
        tasks=resolution.tasks,
        task_views=views,
        dropout=uses_dropout(study),
        unresolved=resolution.unresolved,
    )


def _plan_chain(chain: Chain) -> ChainPlan:
    stages = tuple(stage.identity for stage in chain.stages)
    return ChainPlan(name=chain.name, point=chain.point.label if chain.point is not None else "", stages=stages)


def _misfits(stages: Iterable[PlannedStage], nodes: Sequence[Node]) -> Iterator[str]:
    """Yield a notice for each level whose workers do not fit into the nodes."""
    for level, shape in {stage.level: stage.execution.group_shape for stage in stages}.items():
        error = misfit(level, shape, nodes) if nodes else None
        if error is not None:
            yield _refusal(error)


def _refusal(error: W2SError) -> str:
    return f"`w2s run` on this machine will refuse the study: {error.message}; {error.hint}"


class _Estimates:
    """What stages need, from the sizes of models and texts and the rates in the store."""

    def __init__(self, resolution: Resolution, store: ArtifactStore, nodes: Sequence[Node]) -> None:
        self._resolution, self._store, self._nodes = resolution, store, nodes
        self._chars = {name: _chars_per_example(store, task.fingerprint) for name, task in resolution.tasks.items()}
        self._longest = longest_text(store, resolution)
        self.faults: dict[str, W2SError] = {}
        """Why the run would refuse the `nvme_folder` of a level."""
        self._rates = estimate.rates_by_model(store.records())

    def seconds(self, stage: PlannedStage, *, is_trained: bool = False) -> float | None:
        """Estimate the seconds of a stage, or of labelling with a trained one; None for a model of unknown size."""
        size = self._resolution.models[stage.level].num_parameters
        if size is None:
            return None
        chars, rate = self._chars[stage.task], estimate.rate_of(stage, self._rates)
        return estimate.seconds(stage, size, chars, rate, is_trained=is_trained) + estimate.overhead_seconds(size)

    def stage_plan(self, stage: PlannedStage, users: Sequence[tuple[Chain, PlannedStage]], point: str) -> StagePlan:
        """Return the plan of a stage that `users` name, each in its chain."""
        resolution, nodes, longest_tokens = self._resolution, self._nodes, self._longest(stage)
        record = self._store.find(stage.identity)
        size = resolution.models[stage.level].num_parameters
        fit = fit_memory(stage, resolution, nodes, longest_tokens)
        settled, on_gpu = fit.stage, fit.stage.execution.gpus_per_worker > 0
        fault = folder_fault(fit, nodes) if record is None else None
        if fault is not None:
            self.faults[settled.level] = fault
        return StagePlan(
            identity=settled.identity,
            slug=settled.spec.slug,
            task=settled.task,
            level=settled.level,
            model=settled.spec.starts_from.name,
            arms=tuple(dict.fromkeys(own.arm for _, own in users)),
            loss=settled.spec.description,
            point=point,
            num_chains=len({chain.name for chain, _ in users}),
            num_steps=estimate.num_steps(settled, self._chars[settled.task]),
            zero_stage=settled.execution.zero_stage,
            workers=settled.execution.workers,
            num_parameters=size,
            peak_bytes_per_worker=None if fit.need is None else fit.need.peak,
            peak_parts={} if fit.need is None else fit.need.parts,
            available_bytes_per_worker=fit.available,
            host_bytes_per_worker=fit.need.host if fit.need is not None and on_gpu else None,
            available_host_bytes_per_worker=fit.available_on_host,
            file_bytes=fit.file_bytes,
            remedy=None if fit.fits else nearest_that_fits(settled, resolution, nodes, longest_tokens),
            recomputes_activations=settled.execution.activation_checkpointing,
            chosen=settled.execution.memory_settings if stage.execution.zero_stage == "auto" else None,
            in_store=record is not None,
            missing_predictions=sum(self._store.find(prediction.identity) is None for prediction in settled.predicts),
            other_versions=_other_versions(record),
            seconds=self.seconds(settled, is_trained=record is not None),
            disk_bytes=None if size is None else estimate.disk_bytes(settled, size),
            checkpoint_bytes=None if size is None else estimate.checkpoint_bytes(settled, size),
        )


def _chars_per_example(store: ArtifactStore, fingerprint: str) -> float:
    if fingerprint.startswith(UNRESOLVED):
        return _UNKNOWN_CHARS
    table = load_prepared(store, fingerprint).table()
    lengths = pc.add(pc.utf8_length(table["text"]), pc.coalesce(pc.utf8_length(table["other"]), 0))
    return float(pc.mean(lengths).as_py() or _UNKNOWN_CHARS)


def _other_versions(record: Record | None) -> tuple[str, ...]:
    """Return packages whose version differs, except for a suffix (`+cpu`); our own version has recipes instead."""
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
