"""Trials, and what ends Tune."""

import asyncio
import time

import pytest
import ray
from ray import tune
from ray.exceptions import OutOfMemoryError

from tests.scheduling.studies import chains_of, small_study
from w2s_ray.planning.nodes import Node
from w2s_ray.scheduling.core.scheduler import GroupEnded
from w2s_ray.scheduling.dispatcher.dispatcher import Dispatcher
from w2s_ray.scheduling.dispatcher.leases import StageLeases
from w2s_ray.scheduling.tune import trials
from w2s_ray.scheduling.tune.trials import BeforeStep, ChainTrial, TuneStopped, Tuning
from w2s_ray.spec.execution import GroupShape
from w2s_ray.store.artifacts import ArtifactStore


def memory_error() -> RuntimeError:
    """What Tune raises where Ray's memory monitor kills a trial's process."""
    error = RuntimeError("Caught unexpected exception: 5 worker(s) were killed due to the node running low on memory")
    error.__cause__ = OutOfMemoryError("5 worker(s) were killed")
    return error


class Tuner:
    """Ends with each of these errors, then well."""

    def __init__(self, errors: list[BaseException]) -> None:
        self.errors = errors

    def fit(self) -> list[tune.Result]:
        if self.errors:
            raise self.errors.pop(0)
        return []


class FailingTuning(Tuning):
    def __init__(self, errors: list[BaseException]) -> None:
        super().__init__()
        self.errors, self.num_starts = errors, 0

    def tuner(self) -> Tuner:  # type: ignore[override]
        self.num_starts += 1
        return Tuner(self.errors)


def ended(errors: list[BaseException]) -> FailingTuning:
    tuning = FailingTuning(errors)
    tuning.start()
    assert tuning.wait(10)
    return tuning


def test_tune_starts_again_if_its_processes_were_killed_for_memory() -> None:
    tuning = ended([memory_error(), memory_error()])
    assert tuning.results == ()
    assert tuning.num_starts == 3


def test_tune_starts_again_a_limited_number_of_times() -> None:
    tuning = ended([memory_error() for _ in range(10)])
    assert tuning.num_starts == trials._MAX_STARTS
    with pytest.raises(RuntimeError):
        _ = tuning.results


def test_other_errors_of_tune_end_the_run_at_once() -> None:
    tuning = ended([RuntimeError("a bug")])
    assert tuning.num_starts == 1
    with pytest.raises(RuntimeError, match="a bug"):
        _ = tuning.results


def test_a_stopped_tuning_ends_at_tunes_next_step() -> None:
    tuning = FailingTuning([])
    tuning.before_step()
    tuning.stop()
    with pytest.raises(TuneStopped):
        tuning.before_step()


class SteppingTuning(Tuning):
    """Takes steps until it is stopped."""

    def tuner(self) -> "SteppingTuning":  # type: ignore[override]
        return self

    def fit(self) -> None:
        while True:
            time.sleep(0.01)
            BeforeStep().on_step_begin(iteration=0, trials=[])


def test_a_stopped_tuning_ends_though_another_one_has_started() -> None:
    before, after = SteppingTuning(), SteppingTuning()
    before.start()
    after.start()
    before.stop()
    assert before.wait(10)
    assert not after.wait(0.1)
    after.stop()
    assert after.wait(10)


class NoGroups:
    """A launcher whose groups stay until the actor is killed."""

    async def run(self, group: str, shape: GroupShape, running: object) -> GroupEnded:
        await asyncio.sleep(1000)
        return GroupEnded(group)

    def cancel(self, group: str) -> None: ...

    async def remove_orphans(self) -> None: ...


@pytest.mark.usefixtures("ray_of_two_cpus")
def test_a_process_that_tune_ends_before_its_first_step_withdraws_nothing(store: ArtifactStore) -> None:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    dispatcher = (
        ray.remote(Dispatcher)
        .options(num_cpus=0)
        .remote(study="small", nodes=[Node(2)], leases=StageLeases(store, "this run"), launcher=NoGroups())
    )
    ray.get(dispatcher.request.remote(chain.name, (chain,)))
    stage = ray.get(dispatcher.next_order.remote("group-1")).stage
    trial = tune.with_parameters(ChainTrial, chains={chain.name: ray.put(chain)}, dispatcher=dispatcher)
    unused, used = trial({"chain": chain.name}), trial({"chain": chain.name})
    unused.stop()
    assert not ray.get(dispatcher.progress.remote("group-1", stage.identity, [])), "another process will request it"
    assert used.step()["status"] == "running"
    used.stop()
    assert ray.get(dispatcher.progress.remote("group-1", stage.identity, [])), "no process wants it any more"
    ray.kill(dispatcher)
