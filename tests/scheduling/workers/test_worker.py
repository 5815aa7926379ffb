"""A worker's connection to the dispatcher."""

from typing import Any

import pytest
from ray.exceptions import ActorUnavailableError, GetTimeoutError

from w2s_ray.scheduling.dispatcher.reports import LEAVE, WAIT
from w2s_ray.scheduling.workers import worker as module
from w2s_ray.scheduling.workers.worker import DispatcherClient
from w2s_ray.training.progress import StageResult


class Method:
    """A method of an actor: called, it returns its name."""

    def __init__(self, name: str) -> None:
        self._name = name

    def remote(self, *_: object) -> str:
        return self._name


class SlowDispatcher:
    """A dispatcher that does not answer progress reports."""

    progress, return_stage, next_order = Method("progress"), Method("return_stage"), Method("next_order")


def test_a_result_is_returned_even_if_the_last_progress_is_not_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    answered: list[str] = []

    def get(called: str, timeout: float) -> None:
        if called == "progress":
            raise GetTimeoutError
        answered.append(called)

    monkeypatch.setattr(module.ray, "get", get)
    dispatcher: Any = SlowDispatcher()
    client = DispatcherClient(dispatcher, "group-1")
    client.return_stage("stage", StageResult("stage", stopped=False, attempts_trained=True), leaves=False)
    assert answered == ["return_stage"]


def test_a_group_whose_result_did_not_arrive_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(called: str, timeout: float) -> object:
        if called == "return_stage":
            raise ActorUnavailableError("the network was down for a moment", None)
        return WAIT

    monkeypatch.setattr(module.ray, "get", get)
    dispatcher: Any = SlowDispatcher()
    client = DispatcherClient(dispatcher, "group-1")
    client.return_stage("stage", StageResult("stage", stopped=False, attempts_trained=True), leaves=False)
    assert client.next_order() == LEAVE, "the dispatcher would wait for the stage forever"
