"""A crew's keeper: what it makes of the ways in which Train gives up."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ray.exceptions import RayTaskError
from ray.train import ControllerError
from ray.train.v2._internal.exceptions import WorkerGroupStartupFailedError, WorkerGroupStartupTimeoutError

from w2s_ray.scheduling import crews as crews_module
from w2s_ray.scheduling.crew import NoRoomError, run_crew
from w2s_ray.scheduling.crews import Crews
from w2s_ray.scheduling.messages import CrewEnd, CrewRequest
from w2s_ray.scheduling.trainer import CrewTrainer
from w2s_ray.scheduling.worker import CrewPlan
from w2s_ray.spec.stage import GroupShape
from w2s_ray.store.artifacts import ArtifactStore

PAIR = GroupShape(workers=2, cpus_per_worker=1, gpus_per_worker=0)


def plan_for(folder: Path) -> CrewPlan:
    none: Any = None
    return CrewPlan("crew", PAIR, none, ArtifactStore(folder), "small", "nowhere:nothing", 1.0, 2.0, 1)


def giving_up(error: Exception) -> Callable[[CrewTrainer], None]:
    def fit(_: CrewTrainer) -> None:
        raise ControllerError(error)

    return fit


def test_workers_that_train_could_not_place_in_time_found_no_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CrewTrainer, "fit", giving_up(WorkerGroupStartupTimeoutError(2)))
    with pytest.raises(NoRoomError, match="no room for 2 workers"):
        run_crew(plan_for(tmp_path))
    monkeypatch.setattr(CrewTrainer, "fit", giving_up(WorkerGroupStartupFailedError("no module named torch")))
    with pytest.raises(ControllerError, match="no module named torch"):
        run_crew(plan_for(tmp_path))


@pytest.mark.parametrize(("raised", "found_room"), [(NoRoomError("no room"), False), (ValueError("odd"), True)])
def test_the_run_tells_the_dispatcher_whether_a_crew_found_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, raised: Exception, found_room: bool
) -> None:
    def get(_: object) -> None:
        raise RayTaskError("run_crew", "its traceback", raised).as_instanceof_cause()

    monkeypatch.setattr(crews_module.ray, "get", get)
    monkeypatch.setattr(crews_module.ray, "wait", lambda tasks, timeout: (tasks, []))
    monkeypatch.setattr(crews_module, "remove_orphans", lambda: 0)
    crews = Crews(lambda _: plan_for(tmp_path))
    crews._open["crew"] = (PAIR, None)  # type: ignore[assignment]
    crews.look_after()
    assert crews.ended == {"crew": CrewEnd(f"{type(raised).__name__}: {raised}", found_room)}
    crews.open(CrewRequest("crew", PAIR))
    assert crews.shapes == {}, "it is not started again under its old name"
