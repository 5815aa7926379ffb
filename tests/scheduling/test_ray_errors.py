"""Errors of Ray in our words: each kind has its own message, and none of Ray's internals."""

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.exceptions import (
    ActorDiedError,
    ActorUnavailableError,
    GetTimeoutError,
    LocalRayletDiedError,
    NodeDiedError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RaySystemError,
    RayTaskError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import UserExceptionWithTraceback, WorkerHealthCheckFailedError
from ray.tune import TuneError

from w2s_ray.cli import main
from w2s_ray.errors import LeaseHeld, ResourceError, StoreError, TrainingError, W2SError
from w2s_ray.scheduling.core.queue import CrashKind
from w2s_ray.scheduling.ray_errors import group_crash, in_our_words, is_of_ray, translated

LOG = Path("dispatcher.log")
INTERNALS = ("actor", "raylet", "Actor", "object store", "worker(s)", "Caught unexpected", "Traceback")


def caused(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def during(error: Exception, earlier: Exception) -> Exception:
    error.__context__ = earlier
    return error


def actor_died(text: str) -> RayActorError:
    return RayActorError(error_msg=f"The actor died unexpectedly before finishing this task.\n\tip: 10.0.0.7\n{text}")


def task_error(cause: Exception) -> Exception:
    error: Exception = RayTaskError("poll", "Traceback of an actor", cause).as_instanceof_cause()
    return error


KILLED = actor_died("The actor is dead because its worker process has died. Worker exit type: SYSTEM_ERROR")
LOW = actor_died("Worker exit type: NODE_OUT_OF_MEMORY Worker exit detail: Task was killed due to the node running low")
NODE = actor_died("The actor is dead because its node has died. Node Id: 4f")


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (caused(RuntimeError("Caught unexpected exception: 5 worker(s) were killed"), OutOfMemoryError("5")), "memory"),
        (OutOfMemoryError("5 worker(s) were killed due to the node running low on memory"), "memory"),
        (LOW, "memory"),
        (NodeDiedError("node 4f"), "node was lost"),
        (NODE, "node"),
        (KILLED, "killed"),
        (WorkerCrashedError(), "killed"),
        (ActorDiedError(), "killed"),
        (ActorUnavailableError("no answer", None), "killed"),
        (GetTimeoutError("Get timed out"), "answer in time"),
        (OutOfDiskError("The object store is full"), "full"),
        (RuntimeEnvSetupError("pip failed"), "pip failed"),
        (task_error(ValueError("odd")), "ValueError: odd"),
        (
            TuneError("Traceback (most recent call last):\n  File\nValueError: odd"),
            "Tune, which starts the chains, failed",
        ),
        (during(TuneError("Traceback: No space left"), OSError(errno.ENOSPC, "No space left")), "disk"),
        (during(TuneError("Traceback: actor died"), KILLED), "killed"),
        (caused(TuneError("trials did not complete"), KILLED), "killed"),
        (RaySystemError("raylet connection"), "cluster"),
        (LocalRayletDiedError(), "cluster"),
    ],
)
def test_an_error_of_ray_ends_a_run_in_our_words(error: Exception, kind: str) -> None:
    with pytest.raises(W2SError) as raised, translated(LOG):
        raise error
    assert not isinstance(raised.value, RayTaskError)
    assert kind.split()[0] in raised.value.message and raised.value.hint
    assert not [words for words in INTERNALS if words in str(raised.value)]


def test_an_error_of_ours_that_a_process_raised_arrives_as_it_was() -> None:
    with pytest.raises(StoreError) as raised, translated(LOG):
        raise task_error(StoreError("the disk is full", "free some"))
    assert str(raised.value) == str(StoreError("the disk is full", "free some"))
    with pytest.raises(LeaseHeld, match="held"), translated(LOG):
        raise LeaseHeld("held")


def test_a_bug_of_ours_is_no_error_of_ray() -> None:
    assert not is_of_ray(ValueError("odd"))
    with pytest.raises(KeyError), translated(LOG):
        raise KeyError("odd")


def group_error(**failures: Exception) -> Callable[[], Exception]:
    ranks = {int(name.removeprefix("rank")): failure for name, failure in failures.items()}
    return lambda: task_error(WorkerGroupError("Training failed", ranks))


def died(error: Exception) -> Exception:
    return WorkerHealthCheckFailedError("A worker health check failed.", error)


def raised_by_user(error: Exception) -> Exception:
    return UserExceptionWithTraceback(error, "Traceback")


TIMED_OUT = raised_by_user(RuntimeError("[gloo/unbound_buffer.cc:81] Timed out waiting 30000ms for recv operation"))
LOST_PEER = raised_by_user(RuntimeError("Connection closed by peer"))


@pytest.mark.parametrize(
    ("error", "kind", "text"),
    [
        (group_error(rank0=LOST_PEER, rank1=died(KILLED)), CrashKind.KILLED, "rank 1 on 10.0.0.7"),
        (group_error(rank0=LOST_PEER, rank1=died(NODE)), CrashKind.NODE, "rank 1 on 10.0.0.7"),
        (group_error(rank0=LOST_PEER, rank1=died(LOW)), CrashKind.MEMORY, "rank 1"),
        (group_error(rank0=LOST_PEER), CrashKind.KILLED, "rank 0 lost the connection to another worker"),
        (group_error(rank0=LOST_PEER, rank1=TIMED_OUT), CrashKind.TIMEOUT, "rank 1"),
        (group_error(rank0=LOST_PEER, rank1=raised_by_user(MemoryError())), CrashKind.MEMORY, "rank 1"),
        (group_error(rank1=raised_by_user(ValueError("odd"))), CrashKind.EXCEPTION, "rank 1: ValueError: odd"),
        (WorkerCrashedError, CrashKind.KILLED, "stays with the group"),
        (lambda: NodeDiedError("node"), CrashKind.NODE, "stays with the group"),
        (lambda: OutOfMemoryError("low"), CrashKind.MEMORY, "stays with the group"),
        (lambda: OutOfDiskError("full"), CrashKind.EXCEPTION, "disk or shared memory"),
        (lambda: task_error(ControllerError(OSError(errno.ENOSPC, "full"))), CrashKind.EXCEPTION, "disk"),
        (lambda: RuntimeEnvSetupError("pip failed"), CrashKind.EXCEPTION, "pip failed"),
        (lambda: RaySystemError("connection"), CrashKind.KILLED, "the connection"),
        (
            lambda: task_error(ControllerError(caused(RuntimeError("start failed"), ImportError("no torch")))),
            CrashKind.EXCEPTION,
            "ImportError: no torch",
        ),
    ],
)
def test_the_end_of_a_group_names_its_kind_and_rank(error: Callable[[], Exception], kind: CrashKind, text: str) -> None:
    crash = group_crash(error())
    assert crash.kind is kind and text in crash.cause
    assert not [words for words in INTERNALS if words in crash.cause]


def test_the_command_prints_an_error_of_ray_in_our_words(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown: list[str] = []

    def fail() -> None:
        raise RuntimeError("Caught unexpected exception: 5 worker(s)") from OutOfMemoryError("5 worker(s)")

    monkeypatch.setattr(main, "app", fail)
    monkeypatch.setattr(main.terminal, "log", Path("somewhere"))
    monkeypatch.setattr(main.terminal, "explain", lambda error, text=None: shown.append(str(text)))
    assert main._exit_code() == 2
    assert "unexpected" not in shown[0] and "memory" in shown[0]


def test_words_for_ends_that_no_error_names() -> None:
    assert isinstance(in_our_words(RaySystemError("x")), ResourceError)
    assert isinstance(in_our_words(KILLED), TrainingError)
