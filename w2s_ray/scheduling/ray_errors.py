"""Errors of Ray in the words of this package: what ended a worker group, and what ended a run.

Ray wraps an error several times (a task's error in an actor's, that in Train's or Tune's), and its text is for authors
of Ray programs. Here the innermost cause is found and named; Ray's own text stays in the logs.
"""

import errno
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from ray.exceptions import (
    GetTimeoutError,
    NodeDiedError,
    ObjectStoreFullError,
    OutOfDiskError,
    OutOfMemoryError,
    RayActorError,
    RayError,
    RayTaskError,
    RuntimeEnvSetupError,
    WorkerCrashedError,
)
from ray.train import ControllerError, TrainingFailedError, WorkerGroupError
from ray.tune import TuneError

from w2s_ray.errors import ResourceError, TrainingError, W2SError, first_line
from w2s_ray.scheduling import ray_adapter
from w2s_ray.scheduling.core.queue import Crash, CrashKind
from w2s_ray.scheduling.workers.failures import crash_of
from w2s_ray.training.memory.usage import usage_text

End = Literal["memory", "node", "killed", "silent", "disk", "environment", "raised", "unknown"]
"""How a process of Ray ended, or why it gave no answer; `raised`: by an exception that is not Ray's."""
_LINE_CHARS = 300
_BY_TELLING = (
    CrashKind.NODE,
    CrashKind.MEMORY,
    CrashKind.SMALLER,
    CrashKind.KILLED,
    CrashKind.EXCEPTION,
    CrashKind.TIMEOUT,
)
"""Ends of a group's processes; where several ended, the first of these is the cause of the others."""
_CONTINUES = "the same command continues"
_DETAILS = f"the log has the details; {_CONTINUES}"


def how_it_ended(error: BaseException) -> tuple[End, BaseException]:
    """Return how the process behind an error ended, and the innermost error."""
    inner = _innermost(error)
    text = str(inner)
    match inner:
        case OutOfMemoryError():
            return "memory", inner
        case RayActorError() | WorkerCrashedError() if re.search(r"low on memory|OUT_OF_MEMORY|OutOfMemory", text):
            return "memory", inner
        case RayActorError() if inner.actor_init_failed:  # Ray keeps the text of the exception, not the exception
            return "raised", TrainingError(f"a process of the run failed at its start: {_last_line(inner)}", _DETAILS)
        case NodeDiedError():
            return "node", inner
        case RayActorError() if inner.preempted or "node has died" in text or "node was terminated" in text:
            return "node", inner
        case RayActorError() | WorkerCrashedError():
            return "killed", inner
        case GetTimeoutError():
            return "silent", inner
        case ObjectStoreFullError() | OutOfDiskError():
            return "disk", inner
        case OSError() if inner.errno in (errno.ENOSPC, errno.EDQUOT) and not isinstance(error, W2SError):
            return "disk", inner
        case RuntimeEnvSetupError():
            return "environment", inner
        case TuneError():
            return "raised", TrainingError(f"Tune, which starts the chains, failed: {_last_line(inner)}", _DETAILS)
        case RayError() | TrainingFailedError():
            return "unknown", inner
    return "raised", inner


def group_crash(error: BaseException) -> Crash:
    """Return why a worker group ended, from the error of its Ray task."""
    inner = _innermost(error)
    if isinstance(inner, WorkerGroupError):
        failures = ray_adapter.worker_failures(inner)
        crashes = [_crash_of(f"the process of rank {rank}", failure) for rank, failure in failures.items()]
        known = [crash for crash in crashes if crash is not None]
        alone = Crash(f"{_ranks(failures)} lost the connection to another worker, which was killed or crashed")
        return min(known, key=lambda crash: _BY_TELLING.index(crash.kind), default=alone)
    process = "the process that stays with the group"
    return _crash_of(process, error) or Crash(f"{process} lost its connections")


def _ranks(ranks: Iterable[int]) -> str:
    return " and ".join(f"rank {rank}" for rank in ranks) or "the group"


def _crash_of(process: str, error: BaseException) -> Crash | None:
    """Return how a process of a group ended; None if it only lost its connection to another one."""
    end, inner = how_it_ended(error)
    address = re.search(r"\bip: (\S+)", str(inner))
    place = f" on {address[1]}" if address else ""
    match end:
        case "node":
            return Crash(f"the node of {process.removeprefix('the process of ')}{place} was lost", CrashKind.NODE)
        case "memory":
            return Crash(f"{process}{place} was killed because its node ran short of memory", CrashKind.MEMORY)
        case "raised":
            return crash_of(inner, f"{process}{place}")
        case "killed":
            return Crash(f"{process}{place} was killed or crashed, without an exception", CrashKind.KILLED)
    words = in_our_words(error)
    kind = CrashKind.EXCEPTION if end in ("disk", "environment") else CrashKind.KILLED
    return Crash(f"{process}{place}: {words.message}", kind, words.hint)


@contextmanager
def translated(dispatcher_log: Path) -> Iterator[None]:
    """Raise one of our errors in place of one of Ray's; other exceptions pass.

    Raises:
        ResourceError: when memory, disk, a node or the connection to the cluster was lost.
        TrainingError: when a process of the run was killed or failed.
    """
    try:
        yield
    except Exception as error:
        is_own = isinstance(error, W2SError) and not isinstance(error, RayTaskError)
        if is_own or not is_of_ray(error):
            raise
        raise in_our_words(error, dispatcher_log) from error


def is_of_ray(error: BaseException | None) -> bool:
    """Return whether Ray raised an error, or the one that caused it."""
    while error is not None:
        if isinstance(error, RayError | TuneError | TrainingFailedError):
            return True
        traceback = error.__traceback__
        while traceback is not None and traceback.tb_next is not None:
            traceback = traceback.tb_next
        if traceback is not None and traceback.tb_frame.f_globals.get("__name__", "").partition(".")[0] == "ray":
            return True
        error = error.__cause__
    return False


def in_our_words(error: BaseException, dispatcher_log: Path | None = None) -> W2SError:
    """Return what ended a run, or a part of it, as one of our own errors."""
    end, inner = how_it_ended(error)
    where = f"{dispatcher_log} may have the reason" if dispatcher_log is not None else "the log has the details"
    match end:
        case "memory":
            return ResourceError(
                f"a process of the run was killed because its machine ran short of memory; {usage_text()}",
                f"free memory on this machine or use a larger one; {_CONTINUES}",
            )
        case "node":
            return ResourceError("a node of the cluster was lost, and with it a process of the run", _CONTINUES)
        case "killed":
            return TrainingError(
                "a process of the run was killed or crashed, without an exception", f"{where}; {_CONTINUES}"
            )
        case "silent":
            return TrainingError(
                "the run's dispatcher did not answer in time: the machine has too much other work, or the connection "
                "is broken",
                f"{where}; {_CONTINUES}",
            )
        case "disk":
            return ResourceError("the disk or shared memory of a node is full", f"free space on it; {_CONTINUES}")
        case "environment":
            return ResourceError(
                f"the cluster could not prepare a process of the run: {_last_line(inner)}",
                "`runtime_env` of the job or cluster names what could not be set up on a node",
            )
        case "raised" if isinstance(inner, W2SError):
            return inner
        case "raised":
            return TrainingError(f"a process of the run failed: {_line(inner)}", f"{where}; {_CONTINUES}")
    return ResourceError("the Ray cluster failed, or the connection to it", f"{where}; {_CONTINUES}")


def _innermost(error: BaseException) -> BaseException:
    """Return the error that Ray's classes wrap."""
    inner: BaseException | None = None
    if isinstance(error, RayTaskError):
        inner = error.cause
    elif isinstance(error, ControllerError):
        inner = error.controller_failure
    elif not isinstance(error, RayError | W2SError):
        inner = error.__cause__ or (error.__context__ if isinstance(error, TuneError) else None)
    return error if not isinstance(inner, BaseException) or inner is error else _innermost(inner)


def _last_line(error: BaseException) -> str:
    return str(error).strip().rpartition("\n")[2][:_LINE_CHARS] or type(error).__name__


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"[:_LINE_CHARS]
