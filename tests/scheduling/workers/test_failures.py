"""What an exception inside a stage means."""

import errno
from pathlib import Path

import numpy as np
import pytest
from torch.distributed import DistNetworkError

from tests.scheduling.studies import chains_of, small_study
from w2s_ray.errors import DeviceFull, OutOfMemory, TrainingError
from w2s_ray.scheduling.core.queue import CrashKind, comparable
from w2s_ray.scheduling.workers.failures import (
    ATTEMPT,
    crash_of,
    in_one_line,
    log_has_timeout,
    may_be_outcome,
    outcome_of,
    remedy,
)
from w2s_ray.spec.own_code import function_from

LOG = Path("logs/stage.log")
STAGE = chains_of(small_study())[0].stages[0]
GLOO_TIMEOUT = RuntimeError("[gloo/transport/tcp/unbound_buffer.cc:81] Timed out waiting 30000ms for recv operation")
GLOO_LOST = RuntimeError("[gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:4242")


@pytest.mark.parametrize(
    ("error", "alone", "of_two"),
    [
        (IndexError("index out of range in self"), True, True),
        (RuntimeError("size mismatch"), True, True),
        (DistNetworkError("the communicator was aborted"), True, False),
        (OSError(errno.ENOSPC, "No space left on device"), True, True),
        (TrainingError("the loss is nan"), True, True),
        (TimeoutError("the hub timed out"), True, True),
        (GLOO_TIMEOUT, True, False),
        (GLOO_LOST, True, False),
        (DeviceFull("full"), True, False),
        (OutOfMemory("too large"), True, False),
        (MemoryError(), False, False),
        (SystemExit(1), True, True),
    ],
)
def test_every_exception_but_a_memory_shortage_may_be_an_outcome(
    error: BaseException, alone: bool, of_two: bool
) -> None:
    assert (may_be_outcome(error, 1), may_be_outcome(error, 2)) == (alone, of_two)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (IndexError("index out of range in self"), CrashKind.EXCEPTION),
        (SystemExit(1), CrashKind.EXCEPTION),
        (GLOO_TIMEOUT, CrashKind.TIMEOUT),
        (DeviceFull("full"), CrashKind.MEMORY),
        (MemoryError(), CrashKind.MEMORY),
        (OutOfMemory("too large"), CrashKind.SMALLER),
    ],
)
def test_a_rank_reports_the_kind_of_its_end_with_its_log(error: BaseException, kind: CrashKind) -> None:
    crash = crash_of(error, "rank 1", LOG)
    assert crash is not None and crash.kind is kind
    assert "rank 1" in crash.cause and str(LOG) in crash.cause


def test_a_process_that_nccls_watchdog_ended_timed_out(tmp_path: Path) -> None:
    log = tmp_path / "stage.log"
    assert not log_has_timeout(log)
    log.write_text("step 1\n" * 20_000 + "[Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)\n")
    assert log_has_timeout(log)
    log.write_text(log.read_text() + f"{ATTEMPT}rank 0\nstep 1\n")
    assert not log_has_timeout(log), "another attempt timed out"


def test_a_rank_that_only_noticed_anothers_end_reports_nothing() -> None:
    assert crash_of(GLOO_LOST, "rank 0") is None


def test_only_exceptions_of_the_input_are_certain_to_come_back() -> None:
    certain = [crash_of(error, "rank 0") for error in (KeyError("a"), ValueError("b"), AssertionError())]
    assert all(crash is not None and crash.is_certain for crash in certain)
    open_ended = [crash_of(error, "rank 0") for error in (RuntimeError("a"), OSError("b"), DeviceFull("c"))]
    assert not any(crash is None or crash.is_certain for crash in open_ended)


def test_an_outcome_has_the_first_line_the_stage_the_log_and_a_remedy() -> None:
    outcome = outcome_of(IndexError("index out of range in self\nand more"), STAGE, LOG)
    assert STAGE.identity[:12] in outcome.message and str(LOG) in outcome.message
    assert "IndexError: index out of range in self" in outcome.message and "and more" not in outcome.message
    assert "vocab_size" in outcome.hint and outcome.exit_code == 1


def test_an_exception_that_fails_to_describe_itself_is_named_by_its_class() -> None:
    class Mute(Exception):
        def __str__(self) -> str:
            raise ValueError("no text")

    assert may_be_outcome(Mute(), 2)
    assert "failed: Mute (log" in outcome_of(Mute(), STAGE, LOG).message


def test_an_error_of_ours_keeps_its_class_and_hint_as_an_outcome() -> None:
    try:
        raise TrainingError("the loss is nan", "lower the rate") from ValueError("inner")
    except TrainingError as error:
        outcome = outcome_of(error, STAGE, LOG)
    assert (type(outcome), outcome.hint) == (TrainingError, "lower the rate")
    assert outcome.message.startswith("the loss is nan") and str(LOG) in str(outcome)
    assert outcome.__traceback__ is None and outcome.__cause__ is None, "frames would keep the model alive"


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'mamba_ssm'"),
        OSError(errno.ENOSPC, "No space left on device"),
        PermissionError(errno.EACCES, "Permission denied", "/models"),
        FileNotFoundError(errno.ENOENT, "No such file", "/models"),
        RuntimeError("Error(s) in loading state_dict: size mismatch for score.weight"),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("something new"),
    ],
)
def test_each_kind_of_exception_has_a_remedy_that_blames_no_memory(error: Exception) -> None:
    hint = outcome_of(error, STAGE, LOG).hint
    assert hint and "memory" not in hint


def test_errors_are_compared_between_ranks_without_their_numbers() -> None:
    first, second = IndexError("index 71 of cuda:0 at 0x7f3a"), IndexError("index 9 of cuda:1 at 0x11")
    assert comparable(in_one_line(first)) == comparable(in_one_line(second))
    assert comparable(in_one_line(first)) != comparable(in_one_line(IndexError("another")))


def test_the_remedy_for_a_fault_in_an_own_function_names_its_line() -> None:
    halved = function_from("def halved(logits):\n    total = 2\n    return logits.shape[total]\n", "halved")
    with pytest.raises(IndexError) as caught:
        halved(np.zeros((1, 2)))
    assert "line 3" in remedy(caught.value) and "return logits.shape[total]" in remedy(caught.value)
