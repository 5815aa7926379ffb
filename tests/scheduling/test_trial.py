"""Trials, as Tune makes and ends them, before a dispatcher on real Ray."""

import pytest
import ray
from ray import tune
from w2s_ray.scheduling.messages import CrewCard
from w2s_ray.scheduling.trial import ChainTrial

from tests.scheduling.studies import chains_of, small_study
from w2s_ray.planning.nodes import Node
from w2s_ray.scheduling.dispatcher import Dispatcher
from w2s_ray.store.artifacts import ArtifactStore


@pytest.mark.usefixtures("ray_of_two_cpus")
def test_a_trials_process_that_tune_ends_before_its_first_step_stops_no_stage(store: ArtifactStore) -> None:
    (chain,) = chains_of(small_study(methods={"naive": {}}))
    dispatcher = ray.remote(Dispatcher).options(num_cpus=0).remote(store, "small", "this run", [Node(2)])
    ray.get(dispatcher.submit.remote((chain,), chain.name))
    (request,) = ray.get(dispatcher.visit.remote({}, {}, closing=False, num_heard=0)).requests
    card = CrewCard(request.crew, request.shape, "first start")
    stage = ray.get(dispatcher.next_stage.remote(card)).stage
    trial = tune.with_parameters(ChainTrial, chains={chain.name: ray.put(chain)}, dispatcher=dispatcher)
    unused, used = trial({"chain": chain.name}), trial({"chain": chain.name})
    unused.stop()
    assert not ray.get(dispatcher.beat.remote(card, stage.identity, [])), "another process is about to ask for it"
    assert used.step()["status"] == "running"
    used.stop()
    assert ray.get(dispatcher.beat.remote(card, stage.identity, [])), "nobody wants it any more"
    ray.kill(dispatcher)
