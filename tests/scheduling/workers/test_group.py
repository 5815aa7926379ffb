"""Worker groups: how their ends are reported."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayError, RayTaskError, WorkerCrashedError
from ray.train import ControllerError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError

from tests.scheduling.studies import chains_of, small_study
from w2s_ray.scheduling.core.queue import CrashKind
from w2s_ray.scheduling.core.scheduler import GroupEnded
from w2s_ray.scheduling.ray_adapter import WorkerGroupTrainer
from w2s_ray.scheduling.workers import group as module
from w2s_ray.scheduling.workers.failures import ATTEMPT
from w2s_ray.scheduling.workers.group import NoRoomError, RayGroupLauncher, run_group
from w2s_ray.scheduling.workers.worker import GroupPlan
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.execution import GroupShape
from w2s_ray.store.artifacts import ArtifactStore
from w2s_ray.store.run_status import log_path

PAIR = GroupShape(workers=2, cpus_per_worker=1, gpus_per_worker=0)


def plan_for(folder: Path) -> GroupPlan:
    none: Any = None
    return GroupPlan("group-1", PAIR, none, ArtifactStore(folder), "small", "nowhere:nothing", 1.0)


def failing_with(error: Exception) -> Callable[[WorkerGroupTrainer], None]:
    def fit(_: WorkerGroupTrainer) -> None:
        raise ControllerError(error)

    return fit


def test_workers_that_were_not_placed_in_time_found_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WorkerGroupTrainer, "fit", failing_with(WorkerGroupStartupTimeoutError(2)))
    with pytest.raises(NoRoomError):
        run_group(plan_for(tmp_path))
    failed = WorkerGroupStartupFailedError("no module named torch")
    monkeypatch.setattr(WorkerGroupTrainer, "fit", failing_with(failed))
    with pytest.raises(ControllerError, match="no module named torch"):
        run_group(plan_for(tmp_path))


def end_of_a_group(
    raised: Exception, store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, stage: PlannedStage | None = None
) -> GroupEnded:
    async def fail() -> None:
        raise raised if isinstance(raised, RayError) else RayTaskError("run_group", "", raised).as_instanceof_cause()

    def remote(**_: object) -> Callable[[object], Any]:
        return lambda function: SimpleNamespace(remote=lambda plan: fail())

    monkeypatch.setattr(module.ray, "remote", remote)
    monkeypatch.setattr(module.ray, "nodes", list)
    monkeypatch.setattr(module.ray, "get_runtime_context", lambda: SimpleNamespace(current_actor=None))
    return asyncio.run(RayGroupLauncher(store, "small", "nowhere:nothing", 1.0).run("group-1", PAIR, lambda: stage))


def test_a_launcher_survives_that_ray_does_not_answer(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable() -> int:
        raise RuntimeError("the cluster does not answer")

    monkeypatch.setattr(module.ray_adapter, "remove_orphaned_placement_groups", unreachable)
    asyncio.run(RayGroupLauncher(store, "small", "nowhere:nothing", 1.0).remove_orphans())


def test_a_group_whose_node_does_not_answer_lost_it(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = chains_of(small_study())[0].stages[0]
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_server(("127.0.0.1", 0)) as other:
        ports = [one.getsockname()[1] for one in (server, other)]
        keys = ("NodeID", "NodeManagerAddress", "NodeManagerPort", "Alive")
        nodes = [dict(zip(keys, (f"{port}", "127.0.0.1", port, True), strict=True)) for port in ports]
        monkeypatch.setattr(module.ray, "nodes", lambda: nodes)
        launcher = RayGroupLauncher(store, "small", "nowhere:nothing", 1.0)
        before = [str(node["NodeID"]) for node in nodes]
        assert launcher._why_killed(stage, before) is None
        other.close()
        crash = launcher._why_killed(stage, before)
        assert crash is not None and crash.kind is CrashKind.NODE and "127.0.0.1" in crash.cause
        assert module.lost_nodes(before[:1]) == [], "only nodes that were alive before"


def test_a_group_that_nccls_watchdog_ended_timed_out(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    stage = chains_of(small_study())[0].stages[0]
    log = log_path(store, "small", stage)
    log.parent.mkdir(parents=True)
    log.write_text(f"{ATTEMPT}rank 0\nWatchdog caught collective operation timeout: WorkNCCL")
    ended = end_of_a_group(WorkerCrashedError(), store, monkeypatch, stage)
    assert ended.kind is CrashKind.TIMEOUT
    assert "collective" in ended.cause and str(log) in ended.cause


@pytest.mark.parametrize(("raised", "found_room"), [(NoRoomError("no room"), False), (ValueError("odd"), True)])
def test_the_launcher_reports_whether_a_group_found_room(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, raised: Exception, found_room: bool
) -> None:
    ended = end_of_a_group(raised, store, monkeypatch)
    assert (ended.group, ended.found_room) == ("group-1", found_room)
    assert str(raised) in ended.cause
    assert ended.kind is CrashKind.EXCEPTION
