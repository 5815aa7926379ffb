"""Worker groups: how their ends are reported."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ray.exceptions import RayTaskError
from ray.train import ControllerError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError

from w2s_ray.scheduling.core.queue import CrashKind
from w2s_ray.scheduling.ray_adapter import WorkerGroupTrainer
from w2s_ray.scheduling.workers import group as module
from w2s_ray.scheduling.workers.group import NoRoomError, RayGroupLauncher, run_group
from w2s_ray.scheduling.workers.worker import GroupPlan
from w2s_ray.spec.stage import GroupShape
from w2s_ray.store.artifacts import ArtifactStore

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


@pytest.mark.parametrize(("raised", "found_room"), [(NoRoomError("no room"), False), (ValueError("odd"), True)])
def test_the_launcher_reports_whether_a_group_found_room(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch, raised: Exception, found_room: bool
) -> None:
    async def fail() -> None:
        raise RayTaskError("run_group", "its traceback", raised).as_instanceof_cause()

    def remote(**_: object) -> Callable[[object], Any]:
        return lambda function: SimpleNamespace(remote=lambda plan: fail())

    monkeypatch.setattr(module.ray, "remote", remote)
    monkeypatch.setattr(module.ray, "get_runtime_context", lambda: SimpleNamespace(current_actor=None))
    ended = asyncio.run(RayGroupLauncher(store, "small", "nowhere:nothing", 1.0).run("group-1", PAIR))
    assert (ended.group, ended.found_room) == ("group-1", found_room)
    assert str(raised) in ended.cause
    assert ended.kind is CrashKind.EXCEPTION
