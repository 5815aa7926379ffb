"""How close the scheduling policy comes to the best possible schedule, simulated on a virtual clock.

    python benchmarks/schedule.py                       # every file of benchmarks/workloads
    python benchmarks/schedule.py sweep_64 --gpus 128 --seeds 4

The simulator stands in for Ray and the crews: it keeps the dispatcher's own state (queue and roster), lets `decide()`
decide at every event, and carries the decisions out in virtual time. Beside the policy it runs first-in-first-out, and
a world in which every trial trains all of its own stages. No schedule can be shorter than the longest chain, or than
the total work over all devices: that is the lower bound, without start-up and failures.
"""

import heapq
import itertools
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from pydantic_core import to_json

from w2s_ray.scheduling.policy import Assign, Decision, OpenCrew, RetireCrew, State, StopStage, decide
from w2s_ray.scheduling.queue import Crash, Entry, Queue, Status
from w2s_ray.scheduling.roster import Roster
from w2s_ray.spec.base import Spec
from w2s_ray.spec.chain import Chain, PlannedStage, distinct_stages
from w2s_ray.spec.identity import seeded_hash
from w2s_ray.spec.labels import LabelledSplit, WeakLabels
from w2s_ray.spec.stage import GroupShape, StageSource
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
    num_crews: int
    """Opened in all."""
    num_failures: int
    num_failed_stages: int
    decisions_per_second: float
    """Of real time, bookkeeping included."""


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

    def _key(self, entry: Entry) -> tuple[float, int, int, str]:
        return (0.0, 0, entry.order, entry.stage.identity)


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
    return _Simulation(name, workload, State(queue, Roster(workload.cluster.all_nodes)), bound).run(chains)


@dataclass(frozen=True)
class _Hand:
    """A stage in a crew's hands."""

    stage: PlannedStage
    began: float


class _Simulation:
    def __init__(self, name: str, workload: Workload, state: State, bound: float) -> None:
        self.name, self.workload, self.state, self.bound = name, workload, state, bound
        self.now = 0.0
        self.events: list[tuple[float, int, Callable[[], None]]] = []
        self.numbers = itertools.count()
        self.chance = random.Random(_SEED)
        self.hands: dict[str, _Hand] = {}
        """By crew."""
        self.kept: dict[str, float] = {}
        """Seconds of training that a stage's last checkpoint holds, by identity."""
        self.useful = 0.0
        """Device seconds."""
        self.num_crews = self.num_failures = self.num_decisions = self.num_left = 0

    def run(self, chains: Sequence[Chain]) -> Schedule:
        for chain in chains:
            self.state.submitted(chain.name, chain.stages, frozenset())
        self._count_left()
        if self.workload.failures is not None:
            self._await_failure(self.workload.failures)
        began = time.perf_counter()
        self._decide()
        while self.num_left:
            self.now, _, happens = heapq.heappop(self.events)
            happens()
            self._decide()
        seconds = time.perf_counter() - began
        entries = self.state.queue.entries.values()
        return Schedule(
            policy=self.name,
            makespan_seconds=self.now,
            ratio=self.now / self.bound,
            utilisation=self.useful / (self.now * self.workload.cluster.num_gpus),
            num_stages=len(entries),
            num_crews=self.num_crews,
            num_failures=self.num_failures,
            num_failed_stages=sum(entry.status is Status.FAILED for entry in entries),
            decisions_per_second=self.num_decisions / seconds,
        )

    def _decide(self) -> None:
        for decision in decide(self.state):
            self.num_decisions += 1
            self._do(decision)

    def _do(self, decision: Decision) -> None:
        device = self.workload.device
        match decision:
            case Assign(crew=crew, identity=identity):
                self.state.started(crew, identity)
                self.state.roster.began(identity)
                hand = self.hands[crew] = _Hand(self.state.queue.entries[identity].stage, self.now)
                left = self.workload.seconds(hand.stage) - self.kept.get(identity, 0.0)
                self._after(left, lambda: self._finish(crew, hand))
            case OpenCrew(shape=shape):
                self.num_crews += 1
                crew = f"crew-{self.num_crews}"
                self.state.roster.opening(crew, shape)
                self._after(device.group_start_seconds, lambda: self._speak(crew, shape))
            case RetireCrew(crew=crew):
                self.state.roster.leaving(crew)
                self._after(device.group_end_seconds, lambda: self.state.crew_ended(crew, Crash("")))
            case StopStage():
                raise AssertionError("every stage is wanted here")

    def _speak(self, crew: str, shape: GroupShape) -> None:
        if crew in self.state.roster.crews:  # and has not failed meanwhile
            self.state.crew_spoke(crew, shape, "first", None, Crash(""))

    def _finish(self, crew: str, hand: _Hand) -> None:
        if self.hands.get(crew) is not hand:
            return  # the crew has failed meanwhile
        del self.hands[crew]
        self.state.ended(crew, hand.stage.identity, error=None, stopped=False)
        self.useful += self.workload.seconds(hand.stage) * hand.stage.execution.workers
        self.num_left -= 1

    def _await_failure(self, failures: Failures) -> None:
        rate = self.workload.cluster.num_gpus / (failures.gpu_hours_between * 3600)
        self._after(self.chance.expovariate(rate), lambda: self._fail(failures))

    def _fail(self, failures: Failures) -> None:
        """One GPU fails; the crew that stands on it, if any, is lost, and its stage falls back to a checkpoint."""
        self._await_failure(failures)
        gpu = self.chance.randrange(self.workload.cluster.num_gpus)
        for crew in self.state.roster.crews.values():
            gpu -= crew.shape.workers
            if gpu < 0:
                break
        else:
            return
        self.num_failures += 1
        hand = self.hands.pop(crew.id, None)
        if hand is not None:
            identity = hand.stage.identity
            done = self.now - hand.began + self.kept.get(identity, 0.0)
            self.kept[identity] = done - done % failures.checkpoint_seconds
        self.state.crew_ended(crew.id, Crash("its GPU failed"))
        self.state.take_lost()
        self._count_left()

    def _count_left(self) -> None:
        entries = self.state.queue.entries.values()
        self.num_left = sum(entry.status not in (Status.DONE, Status.FAILED) for entry in entries)

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
                str(schedule.num_crews),
                str(schedule.num_failures),
                f"{schedule.decisions_per_second:,.0f}",
            )
            print(f"  {schedule.policy:20} " + " ".join(f"{cell:>12}" for cell in cells))


if __name__ == "__main__":
    typer.run(main)
