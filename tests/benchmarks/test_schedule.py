"""The scheduling simulator: its lower bound, its policies, and the committed workloads."""

from pathlib import Path
from typing import Any

import pytest

from schedule import Schedule, bench_schedule, lower_bound, own_stages
from w2s_ray.errors import StudyError
from w2s_ray.spec.chain import distinct_stages
from w2s_ray.spec.load import parse_study
from workload import WORKLOADS, Workload, load_workload


def schedules(workload: Workload) -> dict[str, Schedule]:
    return {schedule.policy: schedule for schedule in bench_schedule("test", workload).schedules}


def test_workloads_have_both_sizes_with_and_without_failures() -> None:
    loaded = [load_workload(path) for path in WORKLOADS.values()]
    kinds = {(workload.cluster.num_gpus, workload.failures is not None) for workload in loaded}
    assert kinds == {(64, False), (64, True), (1024, False), (1024, True)}


def test_no_schedule_beats_the_bound_and_ours_is_within_ten_percent_of_it() -> None:
    found = schedules(load_workload(WORKLOADS["sweep_64"]))
    assert all(schedule.ratio >= 1 for schedule in found.values())
    assert found["w2s"].ratio <= 1.10
    assert found["every trial its own"].ratio > 1.5
    assert {schedule.num_failed_stages for schedule in found.values()} == {0}


def test_failures_cost_worker_groups_and_time_but_no_stage() -> None:
    calm, frail = (schedules(load_workload(WORKLOADS[name]))["w2s"] for name in ("sweep_64", "sweep_64_failures"))
    assert frail.num_failures > 0 == calm.num_failures
    assert frail.num_groups > calm.num_groups
    assert frail.num_failed_stages == 0
    assert calm.ratio <= frail.ratio <= 1.10


def test_the_bound_is_the_longest_chain_or_total_work_over_all_devices() -> None:
    workload = load_workload(WORKLOADS["sweep_64"], num_seeds=1)
    chains = workload.chains()
    path, bound = lower_bound(workload, chains)
    by_hand = max(
        sum(workload.seconds(stage) for stage in chain.stages if stage.arm in ("floor", "chain")) for chain in chains
    )
    assert path == pytest.approx(by_hand)
    assert bound == path, "one seed does not fill the cluster"


def a_workload_of(method: dict[str, Any]) -> Workload:
    """The smallest committed workload, with this method and the plain one."""
    workload = load_workload(WORKLOADS["sweep_64"], num_seeds=1)
    raw = workload.study.model_dump(mode="json", exclude_defaults=True)
    return workload.model_copy(update={"study": parse_study({**raw, "methods": {"plain": {}, "other": method}})})


METHODS: list[dict[str, Any]] = [
    {"arms": ["chain", "direct", "ceiling"]},
    {"generative": {"large": {}}},
    {"supervisors": {"num": 3, "combine": "weighted"}},
]


@pytest.mark.parametrize("method", METHODS)
def test_chains_with_their_own_stages_share_nothing(method: dict[str, Any]) -> None:
    chains = a_workload_of(method).chains()
    own = own_stages(chains)
    assert len(distinct_stages(own)) == sum(len(distinct_stages([chain])) for chain in chains)
    for chain in own:
        made = frozenset[str]().union(*(stage.products for stage in chain.stages))
        assert all(stage.requires <= made for stage in chain.stages)


@pytest.mark.parametrize("method", METHODS)
def test_every_stage_of_a_method_finishes_under_each_policy(method: dict[str, Any]) -> None:
    found = schedules(a_workload_of(method))
    assert all(schedule.ratio >= 1 for schedule in found.values())
    assert found["every trial its own"].num_stages > found["w2s"].num_stages


def test_the_longest_path_includes_a_generative_stage_before_its_student() -> None:
    workload = a_workload_of({"arms": ["chain"], "generative": {"huge": {"epochs": 1000}}})
    path, _ = lower_bound(workload, workload.chains())
    stages = distinct_stages(workload.chains()).values()
    reader = next(stage for stage in stages if stage.arm == "generative")
    student = next(stage for stage in stages if reader.identity in stage.requires)
    assert path == workload.seconds(reader) + workload.seconds(student)


def test_an_invalid_workload_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="nowhere"):
        load_workload(tmp_path / "nowhere.yaml")
    (tmp_path / "odd.yaml").write_text("study: {name: a}\n")
    with pytest.raises(StudyError):
        load_workload(tmp_path / "odd.yaml")
    with pytest.raises(StudyError, match="65 GPUs"):
        load_workload(WORKLOADS["sweep_64"], num_gpus=65)
