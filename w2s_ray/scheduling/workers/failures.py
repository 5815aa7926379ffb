"""The meaning of an exception inside a stage: an outcome of the stage or a death of its group, with the remedy.

An exception that every rank raises alike is the stage's outcome. One that a single rank raises ends its process,
because the other ranks may be in a collective; what is known of it is reported as a `Crash`. A collective that ends
because another process is gone is not reported: the group's end has the cause (group.py).
"""

import errno
import traceback
from collections.abc import Callable
from pathlib import Path

from w2s_ray.errors import DeviceFull, OutOfMemory, TrainingError, W2SError, first_line, text_of
from w2s_ray.scheduling.core.queue import Crash, CrashKind, name_of
from w2s_ray.spec.chain import PlannedStage
from w2s_ray.spec.own_code import OWN_FILE
from w2s_ray.training.collectives import is_lost_peer, is_of_collective, is_timeout

_LINE_CHARS = 400
_TAIL_BYTES = 64 * 2**10
ATTEMPT = "--- attempt of "
"""Begins the line with which each worker begins an attempt in the stage's log, which all attempts share."""
_WATCHDOG = b"Watchdog caught collective operation timeout"
_CERTAIN = (TypeError, ValueError, LookupError, AttributeError, NameError, ImportError, AssertionError, ArithmeticError)
"""Exceptions that the same input raises again."""


def log_has_timeout(log: Path) -> bool:
    """Return whether a stage's log shows that NCCL's watchdog ended its last attempt, without an exception."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _TAIL_BYTES))
            return _WATCHDOG in file.read().rpartition(ATTEMPT.encode())[2]
    except OSError:
        return False


def may_be_outcome(error: BaseException, num_workers: int) -> bool:
    """Return whether the error is the stage's outcome if every rank raises it.

    Memory can run out anywhere, so ranks that ran out of it may be in different collectives. A fault of the network,
    which torch raises as a DistError, may pass. A single worker has neither.
    """
    if isinstance(error, W2SError):
        return num_workers == 1 or not isinstance(error, DeviceFull)
    if isinstance(error, MemoryError):
        return False
    return num_workers == 1 or not is_of_collective(error)


def in_one_line(error: BaseException) -> str:
    """Return an error's class and the first line of its message; of our own errors the message alone."""
    if isinstance(error, W2SError):
        return error.message
    line = first_line(error)[:_LINE_CHARS]
    return line if line == type(error).__name__ else f"{type(error).__name__}: {line}"


def outcome_of(error: BaseException, stage: PlannedStage, log: Path) -> W2SError:
    """Return the error with which a stage fails: its first line, its log and a remedy."""
    if isinstance(error, OutOfMemory):  # the stage continues with smaller micro-batches
        return _without_frames(error)
    if isinstance(error, W2SError):
        own = _without_frames(error)
        own.message = f"{own.message} (log: {log})"
        own.args = (own.message, own.hint)
        return own
    return TrainingError(f"{name_of(stage)} failed: {in_one_line(error)} (log: {log})", remedy(error))


def crash_of(error: BaseException, where: str, log: Path | None = None, waited: str = "too long") -> Crash | None:
    """Return what an exception shows that ended a process; None if the process only noticed another's end.

    Args:
        error: the exception.
        where: the process, for people.
        log: its stage's log, if it is known.
        waited: how long a collective may wait for other workers.
    """
    in_log = f" (log: {log})" if log is not None else ""
    if isinstance(error, DeviceFull):
        kind = CrashKind.SMALLER if isinstance(error, OutOfMemory) else CrashKind.MEMORY
        return Crash(f"{where}: {error.message}{in_log}", kind)
    if isinstance(error, MemoryError):
        return Crash(f"{where} ran out of memory{in_log}", CrashKind.MEMORY)
    if is_lost_peer(error):
        return None
    if is_timeout(error):
        return Crash(f"{where} waited {waited} for another worker in a collective{in_log}", CrashKind.TIMEOUT)
    hint = error.hint if isinstance(error, W2SError) else remedy(error)
    is_certain = isinstance(error, _CERTAIN)
    return Crash(f"{where}: {in_one_line(error)}{in_log}", CrashKind.EXCEPTION, hint, is_certain)


def remedy(error: BaseException) -> str:
    """Return what to do about an exception that is not one of our own."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(OWN_FILE)]
    if own:
        name = own[-1].filename.removeprefix(OWN_FILE).rstrip(">")
        return f"it was raised in line {own[-1].lineno} of your own function {name}: {own[-1].line}"
    text = text_of(error).lower()
    for applies, advice in _REMEDIES:
        if applies(error, text):
            return advice
    return (
        "the log has the traceback; once the cause is removed, the same command tries the stage again. Report a fault "
        "of w2s_ray with that log"
    )


_REMEDIES: tuple[tuple[Callable[[BaseException, str], bool], str], ...] = (
    (
        lambda error, text: isinstance(error, ImportError),
        "install the package that the log names, on every node, and run the same command again",
    ),
    (
        lambda error, text: isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT),
        "free disk space, and run the same command again",
    ),
    (
        lambda error, text: isinstance(error, PermissionError),
        "give the user of the run access to that path, and run the same command again",
    ),
    (
        lambda error, text: isinstance(error, FileNotFoundError),
        "make the path readable on every node, and run the same command again",
    ),
    (
        lambda error, text: "index out of range in self" in text or "device-side assert" in text,
        "an index is outside the model's tables: compare the tokenizer's size with the model's `vocab_size`, "
        "`context_tokens` with its positions, and its head with the task's classes",
    ),
    (
        lambda error, text: "size mismatch" in text or "shapes cannot be multiplied" in text,
        "the model's weights do not fit its config.json: load the folder with transformers to see which",
    ),
    (
        lambda error, text: "cuda error" in text or "cublas" in text or "cudnn" in text,
        "the GPU reported an error: the log and the node's `dmesg` show which; the same command continues",
    ),
)
"""Whether an advice applies to (error, its message in lower case), and the advice; the first that applies is given."""


def _without_frames(error: W2SError) -> W2SError:
    """Return the error without its frames, which would keep the stage's model alive."""
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
