"""How close the scheduling policy comes to the best possible schedule, simulated on a virtual clock.

    python benchmarks/schedule.py                       # every file of benchmarks/workloads
    python benchmarks/schedule.py sweep_64 --gpus 128 --seeds 4

The simulator takes the dispatcher's place: it sends events to the same `Scheduler` and carries out its actions in
virtual time. It compares the policy with first-in-first-out, and with trials that do not share stages. No schedule can
be shorter than the longest chain, or than the total work divided by the number of devices: that is the lower bound,
without start-up and failures.
"""

import heapq
import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from pydantic_core import to_json

from w2s_ray.scheduling.core.policy import Assign, OpenGroup, RetireGroup
from w2s_ray.scheduling.core.queue import Queue, QueuedStage, StageState
from w2s_ray.scheduling.core.scheduler import (
    Event,
    GroupEnded,
    GroupStarted,
    Requested,
    Scheduler,
    StageLost,
    StageReturned,
    TrialChanged,
)
from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import Chain, PlannedStage, distinct_stages
from w2s_ray.spec.identity import seeded_hash
from w2s_ray.spec.labels import LabelledSplit, WeakLabels
from w2s_ray.spec.stage import StageSource
from workload import WORKLOADS, Failures, Workload, load_workload

_SEED = 0


class Schedule(Spec):
    """One simulated run."""

    policy: str
    makespan_seconds: float
    ratio: float
    """Makespan over the workload's lower bound (that of the shared stages, for every policy)."""
    utilisation: float
    """Share of all device seconds in which a stage was worked on that was not lost later."""
    num_stages: int
    num_groups: int
    """Opened in all."""
    num_failures: int
    num_failed_stages: int
    decisions_per_second: float
    """Per second of real time, with all bookkeeping."""


class ScheduleBench(Spec):
    """The result for one workload."""

    workload: str
    num_gpus: int
    num_chains: int
    lower_bound_seconds: float
    critical_path_seconds: float
    schedules: tuple[Schedule, ...]


def bench_schedule(name: str, workload: Workload) -> ScheduleBench:
    """Simulate the workload under each policy."""
    chains = workload.chains()
    path, bound = lower_bound(workload, chains)
    schedules = (
        simulate("w2s", workload, chains, Queue(workload.seconds), bound),
        simulate("first in, first out", workload, chains, FirstInFirstOut(workload.seconds), bound),
        simulate("every trial its own", workload, own_stages(chains), Queue(workload.seconds), bound),
    )
    return ScheduleBench(
        workload=name,
        num_gpus=workload.cluster.num_gpus,
        num_chains=len(chains),
        lower_bound_seconds=bound,
        critical_path_seconds=path,
        schedules=schedules,
    )


def lower_bound(workload: Workload, chains: Sequence[Chain]) -> tuple[float, float]:
    """Return the longest path of stages, and the lower bound of every schedule, in seconds."""
    stages = distinct_stages(chains)
    seconds = {identity: workload.seconds(stage) for identity, stage in stages.items()}
    ends: dict[str, float] = {}
    for identity, stage in stages.items():  # suppliers come first
        end = max((ends[each] for each in stage.requires), default=0.0) + seconds[identity]
        ends |= dict.fromkeys(stage.products, end)
    work = sum(seconds[identity] * stage.execution.workers for identity, stage in stages.items())
    path = max(ends.values())
    return path, max(path, work / workload.cluster.num_gpus)


class FirstInFirstOut(Queue):
    """A queue that knows no urgency."""

    def urgency_key(self, queued: QueuedStage) -> tuple[float, int, int, str]:
        return (0.0, 0, queued.order, queued.stage.identity)


def own_stages(chains: Sequence[Chain]) -> tuple[Chain, ...]:
    """Return the chains as if each trained all of its stages itself."""
    return tuple(_own(chain, number) for number, chain in enumerate(chains))


def _own(chain: Chain, number: int) -> Chain:
    renamed: dict[str, str] = {}
    stages = []
    for stage in chain.stages:
        train, start = tuple(_relabelled(part, renamed) for part in stage.spec.train), stage.spec.starts_from
        if isinstance(start, StageSource):
            start = start.model_copy(update={"stage": renamed[start.stage]})
        seed = seeded_hash(stage.spec.order_seed, number)
        own = {"order_seed": seed, "train": train, "starts_from": start, "validation": None}
        spec = stage.spec.model_copy(update=own)
        predicts = tuple(each.model_copy(update={"stage": spec.identity}) for each in stage.predicts)
        renamed[stage.identity] = spec.identity
        renamed |= {old.identity: new.identity for old, new in zip(stage.predicts, predicts, strict=True)}
        stages.append(stage.model_copy(update={"spec": spec, "predicts": predicts}))
    return chain.model_copy(update={"stages": tuple(stages)})


def _relabelled(part: LabelledSplit, renamed: dict[str, str]) -> LabelledSplit:
    if not isinstance(part.labels, WeakLabels):
        return part
    own: dict[str, object] = {"predictions": tuple(renamed[each] for each in part.labels.predictions)}
    weighing = part.labels.weighing
    if weighing is not None:
        predictions = tuple(renamed[each] for each in weighing.predictions)
        own["weighing"] = weighing.model_copy(update={"predictions": predictions})
    return part.model_copy(update={"labels": part.labels.model_copy(update=own)})


def simulate(name: str, workload: Workload, chains: Sequence[Chain], queue: Queue, bound: float) -> Schedule:
    """Run the chains on a virtual clock, from the moment at which all are submitted."""
    return _Simulation(name, workload, Scheduler(workload.cluster.all_nodes, queue), bound).run(chains)


@dataclass(frozen=True)
class _Assignment:
    stage: PlannedStage
    started_at: float


class _Simulation:
    def __init__(self, name: str, workload: Workload, scheduler: Scheduler, bound: float) -> None:
        self.name, self.workload, self.scheduler, self.bound = name, workload, scheduler, bound
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.random = random.Random(_SEED)
        self.assignments: dict[str, _Assignment] = {}
        """By group."""
        self.saved: dict[str, float] = {}
        """Seconds of training in a stage's last checkpoint, by identity."""
        self.useful = 0.0
        """Device seconds."""
        self.num_groups = self.num_failures = self.num_actions = self.num_left = 0

    def run(self, chains: Sequence[Chain]) -> Schedule:
        if self.workload.failures is not None:
            self._schedule_failure(self.workload.failures)
        began = time.perf_counter()
        self._handle(*(Requested(chain.name, chain.stages) for chain in chains))
        self._count_left()
        while self.num_left:
            self.now, _, happens = heapq.heappop(self.events)
            happens()
        seconds = time.perf_counter() - began
        return Schedule(
            policy=self.name,
            makespan_seconds=self.now,
            ratio=self.now / self.bound,
            utilisation=self.useful / (self.now * self.workload.cluster.num_gpus),
            num_stages=len(self.scheduler.queue.stages),
            num_groups=self.num_groups,
            num_failures=self.num_failures,
            num_failed_stages=self.scheduler.queue.num[StageState.FAILED],
            decisions_per_second=self.num_actions / seconds,
        )

    def _handle(self, *events: Event) -> None:
        device = self.workload.device
        for action in self.scheduler.handle(*events):
            self.num_actions += not isinstance(action, TrialChanged)
            match action:
                case Assign(group, stage, _):
                    assignment = self.assignments[group] = _Assignment(stage, self.now)
                    left = self.workload.seconds(stage) - self.saved.get(stage.identity, 0.0)
                    self._after(left, partial(self._finish, group, assignment))
                case OpenGroup(group, _, _):
                    self.num_groups += 1
                    self._after(device.group_start_seconds, partial(self._handle, GroupStarted(group)))
                case RetireGroup(group, _):
                    self._after(device.group_end_seconds, partial(self._handle, GroupEnded(group)))
                case StageLost() | TrialChanged():
                    pass
                case _:
                    raise AssertionError(f"{action}: every stage is wanted here")

    def _finish(self, group: str, assignment: _Assignment) -> None:
        if self.assignments.get(group) is not assignment:
            return  # the group has failed meanwhile
        del self.assignments[group]
        self.useful += self.workload.seconds(assignment.stage) * assignment.stage.execution.workers
        self.num_left -= 1
        self._handle(StageReturned(group, assignment.stage.identity))

    def _schedule_failure(self, failures: Failures) -> None:
        rate = self.workload.cluster.num_gpus / (failures.gpu_hours_between * 3600)
        self._after(self.random.expovariate(rate), lambda: self._fail(failures))

    def _fail(self, failures: Failures) -> None:
        """One GPU fails; the group that uses it, if any, is lost, and its stage falls back to a checkpoint."""
        self._schedule_failure(failures)
        gpu = self.random.randrange(self.workload.cluster.num_gpus)
        for group in self.scheduler.groups.by_id.values():
            gpu -= group.shape.workers
            if gpu < 0:
                break
        else:
            return
        self.num_failures += 1
        assignment = self.assignments.pop(group.id, None)
        if assignment is not None:
            identity = assignment.stage.identity
            done = self.now - assignment.started_at + self.saved.get(identity, 0.0)
            self.saved[identity] = done - done % failures.checkpoint_seconds
        self._handle(GroupEnded(group.id, "its GPU failed"))
        self._count_left()

    def _count_left(self) -> None:
        num = self.scheduler.queue.num
        self.num_left = num[StageState.WAITING] + num[StageState.RUNNING]

    def _after(self, seconds: float, happens: Callable[[], None]) -> None:
        heapq.heappush(self.events, (self.now + seconds, next(self.numbers), happens))


def main(
    workloads: Annotated[
        list[str] | None, typer.Argument(metavar="[WORKLOAD ...]", help="Names in benchmarks/workloads, or YAML files.")
    ] = None,
    gpus: Annotated[int | None, typer.Option(min=1, help="Another number of GPUs.")] = None,
    seeds: Annotated[int | None, typer.Option(min=1, help="Another number of seeds, and so of chains.")] = None,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Simulate workloads under the policy, first in first out, and without sharing."""
    paths = {Path(name).stem: WORKLOADS.get(name, Path(name)) for name in workloads or WORKLOADS}
    results = [bench_schedule(name, load_workload(path, gpus, seeds)) for name, path in paths.items()]
    if json:
        print(to_json(results, indent=2).decode())
        return
    for result in results:
        print(f"{result.workload}: {result.num_chains:,} chains on {result.num_gpus:,} GPUs; ", end="")
        print(f"lower bound of the makespan {result.lower_bound_seconds:,.0f} s")
        headings = ("makespan", "over bound", "busy", "groups", "failures", "decisions/s")
        print(f"  {'policy':20} " + " ".join(f"{heading:>12}" for heading in headings))
        for schedule in result.schedules:
            cells = (
                f"{schedule.makespan_seconds:,.0f} s",
                f"{schedule.ratio:.3f}",
                f"{schedule.utilisation:.0%}",
                str(schedule.num_groups),
                str(schedule.num_failures),
                f"{schedule.decisions_per_second:,.0f}",
            )
            print(f"  {schedule.policy:20} " + " ".join(f"{cell:>12}" for cell in cells))


if __name__ == "__main__":
    typer.run(main)
