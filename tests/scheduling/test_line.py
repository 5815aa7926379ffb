"""A crew's line: what it says to a dispatcher that was away for a while."""

from typing import Any

import pytest
from ray.exceptions import GetTimeoutError

from w2s_ray.scheduling import line as line_module
from w2s_ray.scheduling.line import Line
from w2s_ray.scheduling.messages import CrewCard
from w2s_ray.spec.stage import GroupShape
from w2s_ray.training.progress import StageResult


class Method:
    """A method of an actor: called, it names itself."""

    def __init__(self, name: str) -> None:
        self._name = name

    def remote(self, *_: object) -> str:
        return self._name


class Away:
    """A dispatcher that answers no beat."""

    beat, stage_finished = Method("beat"), Method("stage_finished")


def test_the_result_is_handed_back_though_the_last_beat_was_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    answered: list[str] = []

    def get(asked: str, timeout: float) -> None:
        if asked == "beat":
            raise GetTimeoutError
        answered.append(asked)

    monkeypatch.setattr(line_module.ray, "get", get)
    dispatcher: Any = Away()
    line = Line(
        dispatcher, CrewCard("crew", GroupShape(workers=2, cpus_per_worker=1, gpus_per_worker=0), "first start")
    )
    line.finished("stage", StageResult("stage", stopped=False, attempts_trained=True), leaving=False)
    assert answered == ["stage_finished"]
